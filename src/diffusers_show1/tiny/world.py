# SPDX-License-Identifier: Apache-2.0
"""The synthetic captioned world that the tiny cascade is trained on and scored against.

One object on a textured background, for example ``a large red circle moving right on a white background``. A clip is
a *scene*: five caption attributes plus a straight line through position and radius over 28 time steps. Everything is
a pure function of the scene, so truth exists at every time and at every resolution.

Units: lengths are in pixels of the smallest frame (16 x 24, height x width); `scale` is the number of pixels per unit
(1 -> 16 x 24, 4 -> 64 x 96, 8 -> 128 x 192). Time runs from 0 to 28; keyframes are t = 0, 4, ..., 28. Frames are
float tensors in [0, 1].
"""

import hashlib
import itertools
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F


HEIGHT, WIDTH = 16, 24
NUM_FRAMES = 29
KEYFRAME_TIMES = tuple(range(0, NUM_FRAMES, 4))

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.88, 0.10, 0.12),
    "green": (0.08, 0.64, 0.20),
    "blue": (0.12, 0.26, 0.90),
    "yellow": (0.96, 0.88, 0.10),
    "purple": (0.52, 0.12, 0.68),
    "orange": (0.98, 0.52, 0.06),
}
SHAPES = ("circle", "square", "triangle", "cross")
MOTIONS = ("moving right", "moving left", "moving up", "moving down", "growing", "shrinking")
BACKGROUNDS: dict[str, tuple[float, float, float]] = {
    "white": (0.91, 0.91, 0.91),
    "black": (0.09, 0.09, 0.09),
    "gray": (0.50, 0.50, 0.50),
    "pink": (0.91, 0.64, 0.74),
}
SIZES: dict[str, float] = {"small": 2.6, "medium": 4.0, "large": 5.5}
# For customisation only: no caption and no clip of training has these.
CUSTOM_MOTIONS = ("circling", "zigzagging")
STYLES = ("striped", "outlined")

TEXTURE_AMPLITUDE = 0.08  # half the contrast of the background pattern; keeps white and black inside [0, 1]
OUTLINE_WIDTH = 0.17  # of the radius
OUTLINE_SHADE = 0.25  # outline colour = this times the body colour
LINE_WIDTH = 0.75  # of an outlined object's white line, in units
STRIPE_PERIOD, STRIPE_SHADE = 1.0, 0.4  # of a striped object's dark bands: in units, and this times its colour
BEND_WAVES = 5  # sine components of a bend
HIGHLIGHT = ((-0.16, -0.08), 0.24, 0.55)  # centre and radius in radii, and how much white is mixed in


@dataclass(frozen=True)
class Attributes:
    """What a caption says. `size` is "medium" when the caption does not mention it."""

    colour: str
    shape: str
    motion: str
    background: str | None
    size: str = "medium"

    def caption(self) -> str:
        """`a [small|large] COLOUR SHAPE MOTION on a BACKGROUND background` (medium is not mentioned)."""
        size = "" if self.size == "medium" else f"{self.size} "
        ground = "" if self.background is None else f" on a {self.background} background"
        return f"a {size}{self.colour} {self.shape} {self.motion}{ground}"


def vocabulary() -> dict[str, object]:
    """What a model of this world says that it knows, in the `vocabulary.json` of its folder (`runs/vocabulary.py`)."""
    return {
        "form": "a [SIZE] COLOUR SHAPE MOTION on a BACKGROUND background",
        "words": {
            "SIZE": list(SIZES),
            "COLOUR": list(COLOURS),
            "SHAPE": list(SHAPES),
            "MOTION": list(MOTIONS),
            "BACKGROUND": [*BACKGROUNDS, "grey"],
        },
        "example": Attributes("red", "circle", "moving right", "white").caption(),
    }


@dataclass(frozen=True)
class Scene:
    """Attributes plus the line (x, y, radius) from t = 0 to t = 28, in units."""

    attributes: Attributes
    start: tuple[float, float, float]
    end: tuple[float, float, float]


@dataclass(frozen=True)
class CustomScene(Scene):
    """A scene for customisation: one of `CUSTOM_MOTIONS` around the line, or one of `STYLES`, or both.

    Args:
        swing: how far the motion leads away from the line, in units.
        style: how the object is painted; None as always.
    """

    swing: float = 0.0
    style: str | None = None


@dataclass(frozen=True)
class Bend:
    """A smooth field that bends an object out of its shape, and drifts over time: a sum of sine waves.

    Args:
        waves: of each, the wave vector (x, y) in cycles per radius of the object, the phase in turns, the drift in
            turns from t = 0 to t = 28, and the amplitude (x, y) in units.
    """

    waves: tuple[tuple[float, float, float, float, float, float], ...]

    def shift(self, x: torch.Tensor, y: torch.Tensor, times: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """How far (x, y), in radii from the object's centre, is moved at `times`, in units; all broadcast together."""
        dx, dy = torch.zeros(()), torch.zeros(())
        for kx, ky, phase, drift, across, along in self.waves:
            wave = torch.sin(2 * torch.pi * (kx * x + ky * y + phase + drift * times / (NUM_FRAMES - 1)))
            dx, dy = dx + across * wave, dy + along * wave
        return dx, dy


def sample_bend(rms: float, rng: np.random.Generator) -> Bend:
    """A random bend whose shifts have this root mean square, in units (pixels of the smallest frame)."""
    angle, length = 2 * np.pi * rng.random(BEND_WAVES), rng.uniform(0.3, 1.0, BEND_WAVES)
    phase, drift = rng.random(BEND_WAVES), rng.uniform(-1.5, 1.5, BEND_WAVES)
    amplitude = rng.standard_normal((BEND_WAVES, 2))
    amplitude *= rms * np.sqrt(2 / np.square(amplitude).sum())  # the mean square of a sine is a half
    columns = (length * np.cos(angle), length * np.sin(angle), phase, drift, amplitude[:, 0], amplitude[:, 1])
    return Bend(tuple(zip(*(column.tolist() for column in columns), strict=True)))


def parse_caption(text: str) -> Attributes:
    """Read a caption back. Raises ValueError when colour, shape or motion is missing; background may be absent."""
    text = text.lower().replace("grey", "gray")

    def find(words: Sequence[str]) -> str | None:
        found = [word for word in words if re.search(rf"\b{word}\b", text)]
        return found[0] if found else None

    ground = re.search(r"\b(\w+) background", text)
    background = ground.group(1) if ground and ground.group(1) in BACKGROUNDS else None
    colour, shape, motion = find(tuple(COLOURS)), find(SHAPES), find(MOTIONS)
    if colour is None or shape is None or motion is None:
        raise ValueError(f"not a caption of this world: {text!r}")
    return Attributes(colour, shape, motion, background, find(tuple(SIZES)) or "medium")


def is_held_out(attributes: Attributes) -> bool:
    """Whether this combination of colour, shape, motion and background is kept out of training (about one in five)."""
    key = "|".join((attributes.colour, attributes.shape, attributes.motion, str(attributes.background)))
    return hashlib.sha256(key.encode()).digest()[0] % 5 == 0


def combinations(held_out: bool) -> list[Attributes]:
    """All held-out, or all trained, combinations, with the size left at medium."""
    every = (Attributes(*words) for words in itertools.product(COLOURS, SHAPES, MOTIONS, BACKGROUNDS))
    return [attributes for attributes in every if is_held_out(attributes) == held_out]


def held_out_attributes(count: int, seed: int = 0) -> list[Attributes]:
    """`count` different held-out combinations in a fixed random order, with random sizes.

    Beyond the number of combinations they come again, in other sizes; there are three times as many in all.
    """
    rng = random.Random(seed)
    pool = combinations(held_out=True)
    chosen = [
        replace(attributes, size=rng.choice(tuple(SIZES))) for attributes in rng.sample(pool, min(count, len(pool)))
    ]
    rest = [sized for each in pool for size in SIZES if (sized := replace(each, size=size)) not in chosen]
    return chosen + rng.sample(rest, count - len(chosen))


def held_out_prompts(count: int = 96, seed: int = 0) -> list[str]:
    """Captions of `held_out_attributes`."""
    return [attributes.caption() for attributes in held_out_attributes(count, seed)]


def sample_attributes(rng: np.random.Generator) -> Attributes:
    """A random training combination (never a held-out one)."""
    while True:
        attributes = Attributes(
            colour=tuple(COLOURS)[rng.integers(len(COLOURS))],
            shape=SHAPES[rng.integers(len(SHAPES))],
            motion=MOTIONS[rng.integers(len(MOTIONS))],
            background=tuple(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))],
            size=tuple(SIZES)[rng.integers(len(SIZES))],
        )
        if not is_held_out(attributes):
            return attributes


def vary_caption(attributes: Attributes, rng: np.random.Generator) -> str:
    """A caption as a person might type it: article, period, "medium", "grey" and the background clause vary.

    Without its background clause the caption leaves the background open; the clip keeps the one it has.
    """
    text = attributes.caption()
    if attributes.size == "medium" and rng.random() < 0.3:
        text = text.replace("a ", "a medium ", 1)
    if rng.random() < 0.1:
        text = text.split(" on a ")[0]
    if rng.random() < 0.1:
        text = text.removeprefix("a ")
    if rng.random() < 0.1:
        text = text.replace("gray", "grey")
    if rng.random() < 0.15:
        text += "."
    return text


def sample_scene(attributes: Attributes, rng: np.random.Generator) -> Scene:
    """A random clip for a caption: objects cross the frame from one side to the other, or triple their radius."""
    if attributes.background is None:
        attributes = replace(attributes, background=tuple(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))])
    radius = SIZES[attributes.size] * rng.uniform(0.92, 1.08)

    def across(length: int) -> tuple[float, float]:
        """Near one side to near the other; the centre stays inside, part of the object may be cut off."""
        return radius * rng.uniform(0.1, 0.7), length - radius * rng.uniform(0.1, 0.7)

    def along(length: int) -> float:
        """A place where the whole object is visible."""
        margin = min(radius, length / 2)
        return rng.uniform(margin, length - margin)

    if attributes.motion in ("growing", "shrinking"):
        x = WIDTH / 2 + rng.uniform(-4.5, 4.5)
        y = HEIGHT / 2 + rng.uniform(-1.5, 1.5)
        small, big = (x, y, 0.4 * radius), (x, y, 1.3 * radius)
        start, end = (small, big) if attributes.motion == "growing" else (big, small)
    else:
        if attributes.motion in ("moving right", "moving left"):
            (x0, x1), y = across(WIDTH), along(HEIGHT)
            start, end = (x0, y, radius), (x1, y, radius)
        else:
            (y0, y1), x = across(HEIGHT), along(WIDTH)
            start, end = (x, y0, radius), (x, y1, radius)
        if attributes.motion in ("moving left", "moving up"):
            start, end = end, start
    return Scene(attributes, start, end)


def custom_scene(attributes: Attributes, rng: np.random.Generator, style: str | None = None) -> CustomScene:
    """A clip for customisation. `attributes.motion` is one of `CUSTOM_MOTIONS`, or an ordinary one (for a style).

    A circling object goes once around the middle, clockwise from the right; a zigzagging one crosses the frame from
    left to right and turns at every second keyframe, downwards first.

    Raises:
        ValueError: an unknown motion or style.
    """
    if attributes.motion not in MOTIONS + CUSTOM_MOTIONS:
        raise ValueError(f"`attributes.motion` must be one of {MOTIONS + CUSTOM_MOTIONS}, got {attributes.motion!r}.")
    if style not in (None, *STYLES):
        raise ValueError(f"`style` must be one of {STYLES} or None, got {style!r}.")
    if attributes.motion in MOTIONS:
        scene = sample_scene(attributes, rng)
        return CustomScene(scene.attributes, scene.start, scene.end, style=style)
    radius = SIZES[attributes.size] * rng.uniform(0.92, 1.08)
    x, y = WIDTH / 2 + rng.uniform(-2.0, 2.0), HEIGHT / 2 + rng.uniform(-0.5, 0.5)
    if attributes.motion == "circling":
        return CustomScene(attributes, (x, y, radius), (x, y, radius), rng.uniform(3.8, 4.4), style)
    margin, swing = radius * rng.uniform(0.3, 0.7), rng.uniform(2.3, 2.7)  # as fast up and down as across
    return CustomScene(attributes, (margin, y, radius), (WIDTH - margin, y, radius), swing, style)


def _path(scene: Scene, times: torch.Tensor) -> torch.Tensor:
    """Centre and radius (f, 3) at the times (f,)."""
    path = torch.lerp(torch.tensor(scene.start), torch.tensor(scene.end), times[:, None] / (NUM_FRAMES - 1))
    if isinstance(scene, CustomScene) and scene.swing:
        if scene.attributes.motion == "circling":
            angle = 2 * torch.pi * times / (NUM_FRAMES - 1)
            path[:, 0] += scene.swing * angle.cos()
            path[:, 1] += scene.swing * angle.sin()
        else:
            path[:, 1] += scene.swing * ((times / 4 % 4 - 2).abs() - 1).neg()  # a triangle wave of four keyframes
    return path


def signed_distance(shape: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Signed distance to a shape of radius 1 at the origin; y points down."""
    if shape == "circle":
        return torch.sqrt(x * x + y * y) - 1.0
    x = x.abs()
    if shape == "triangle":  # equilateral, tip up
        return torch.maximum(y, 0.866 * x - 0.5 * y) - 0.60
    y = y.abs()
    if shape == "square":
        return torch.maximum(x, y) - 0.88
    long, short = torch.maximum(x, y), torch.minimum(x, y)
    return torch.maximum(long - 1.05, short - 0.38)  # cross: the longer coordinate runs along a bar


def _texture(background: str, scale: int) -> torch.Tensor:
    """One period of a background pattern, (scale, scale), zero mean: exactly its area average at that resolution."""
    fine = 16  # samples per unit; scale divides it
    y, x = torch.meshgrid(*(2 * [(torch.arange(fine) + 0.5) / fine]), indexing="ij")
    pattern = {
        "white": -((x - 0.5).square() + (y - 0.5).square() < 0.34**2).float(),  # dark dots
        "black": ((x < 0.25) | (y < 0.25)).float(),  # light grid lines
        "gray": (((x + y) % 1.0) < 0.5).float(),  # diagonals
        "pink": ((x < 0.5) ^ (y < 0.5)).float(),  # checks
    }[background]
    pattern = 2 * TEXTURE_AMPLITUDE * (pattern - pattern.mean())
    return F.avg_pool2d(pattern[None], fine // scale)[0]


def render(
    scenes: Sequence[Scene],
    times: Sequence[float] | torch.Tensor,
    scale: int = 1,
    window: tuple[int, int, int, int] | None = None,
    bend: Sequence[Bend | None] | None = None,
) -> torch.Tensor:
    """Draw clips, (scenes, times, 3, height * scale, width * scale) in [0, 1].

    `times` is one list for all scenes or a (scenes, times) tensor; `window` = (top, left, height, width) in units
    draws only that part. `bend` has a bend for each scene, or None: the object is drawn out of its shape, and the
    ground as it is. Edges are anti-aliased; a scale below 4 is the area average of a drawing at scale 4.
    """
    if scale < 4:
        return F.avg_pool3d(render(scenes, times, 4, window, bend), (1, 4 // scale, 4 // scale))
    top, left, height, width = window or (0, 0, HEIGHT, WIDTH)
    times = torch.as_tensor(times, dtype=torch.float32).expand(len(scenes), -1)
    ys = top + (torch.arange(height * scale) + 0.5) / scale
    xs = left + (torch.arange(width * scale) + 0.5) / scale
    clips = torch.empty(*times.shape, 3, len(ys), len(xs))
    bends = [None] * len(scenes) if bend is None else bend
    for clip, scene, clip_times, bent in zip(clips, scenes, times, bends, strict=True):
        cx, cy, radius = (column[:, None, None] for column in _path(scene, clip_times).unbind(1))  # (f, 1, 1)
        x, y = (xs[None, None, :] - cx) / radius, (ys[None, :, None] - cy) / radius
        if bent is not None:
            dx, dy = bent.shift(x, y, clip_times[:, None, None])
            x, y = x + dx / radius, y + dy / radius
        sharpness = radius * scale  # pixels per radius: a distance becomes a coverage over one pixel
        distance = signed_distance(scene.attributes.shape, x, y)
        inside = (0.5 - distance * sharpness).clamp(0, 1)
        body = (0.5 - (distance + OUTLINE_WIDTH) * sharpness).clamp(0, 1)
        (hx, hy), h_radius, h_amount = HIGHLIGHT
        spot = (0.5 - (torch.sqrt((x - hx) ** 2 + (y - hy) ** 2) - h_radius) * sharpness).clamp(0, 1) * body

        line, shade = torch.zeros_like(body), torch.ones(len(ys), 1)
        style = scene.style if isinstance(scene, CustomScene) else None
        if style == "outlined":  # a white line within the dark outline
            inner = OUTLINE_WIDTH + LINE_WIDTH / radius
            line = body - (0.5 - (distance + inner) * sharpness).clamp(0, 1)
        elif style == "striped":  # dark bands that stay where they are in the frame
            wave = ((ys / STRIPE_PERIOD) % 1 - 0.5).abs() - 0.25  # a signed distance in periods
            shade = 1 - (1 - STRIPE_SHADE) * (0.5 - wave * STRIPE_PERIOD * scale).clamp(0, 1)[:, None]

        background = scene.attributes.background
        if background is None:
            raise ValueError(f"a scene needs a background to be drawn, got {scene.attributes}")
        texture = _texture(background, scale).repeat(height, width)
        for channel in range(3):
            colour = COLOURS[scene.attributes.colour][channel]
            ground = BACKGROUNDS[background][channel] + texture
            light = h_amount * (1 - colour) * spot
            thing = colour * (OUTLINE_SHADE + (1 - OUTLINE_SHADE) * body) + light
            if style is not None:
                thing = torch.lerp(thing * shade, torch.ones_like(thing), line)
            clip[:, channel] = torch.lerp(ground.expand_as(inside), thing, inside)
    return clips
