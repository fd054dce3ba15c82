# SPDX-License-Identifier: Apache-2.0
"""How well a clip of the synthetic world is drawn: the outline's form, and colours that belong to nothing in it.

The scorer tells which shape a clip shows; a circle like a shield is still nearest to a circle. Here each frame's
object is compared with the *best-fitting true drawing* of every shape: place, width and height are free, so that only
the outline counts. No trained network takes part.

Clips are (f, 3, h, w) in [0, 1]; lengths are in pixels of 128 x 192, and other sizes are resized to that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F

from ..tiny import world
from .scorer import object_mask, read_background


SCALE = 8  # pixels per unit of the world
MIN_AREA = 250  # pixels of the smallest object that is measured
MOST_ON_BORDER = 2  # pixels of a whole object that may lie on the frame's border
WRONG_COLOUR = 0.15  # RGB distance from every colour of a true drawing; the palette's nearest two are 0.37 apart
ANGLES = 90  # directions in which a circle's radius is measured
SPECK = 5  # pixels; what is narrower everywhere, 5 x 5 fitting in nowhere, is no object
CROP_SIZE = 56  # about this many samples across an object find the fit; all pixels finish it


@dataclass(frozen=True)
class Form:
    """Means over the frames that show a whole object; all but `frames` are None when there are none.

    Args:
        frames: how many frames were measured: those whose object has `MIN_AREA` pixels and is not cut by the border.
        iou: intersection over union of the object with the best drawing of the prompted shape, 0..1.
        best: share of frames in which no other shape fits better, 0..1.
        roundness: of circles only: deviation of the outline's radius over its mean, 0 for a true circle.
        wrong_in_object: share of the object's pixels whose colour no true drawing has, 0..1.
        wrong_in_frame: share of the frame's pixels, likewise.
    """

    frames: int
    iou: float | None = None
    best: float | None = None
    roundness: float | None = None
    wrong_in_object: float | None = None
    wrong_in_frame: float | None = None


FIGURES = ("iou", "best", "roundness", "wrong_in_object", "wrong_in_frame")


def mean_form(forms: Sequence[Form]) -> Form:
    """Each clip counts once, however many of its frames were measured; clips without any do not count."""

    def mean(name: str) -> float | None:
        values = [value for form in forms if (value := getattr(form, name)) is not None]
        return sum(values) / len(values) if values else None

    return Form(sum(form.frames for form in forms), **{name: mean(name) for name in FIGURES})


def forms_by_shape(forms: Sequence[Form], attributes: Sequence[world.Attributes]) -> dict[str, Form]:
    """`mean_form` of the clips of each prompted shape, and under "all" the mean of those, each shape counting once."""
    shapes = {
        shape: mean_form([form for form, asked in zip(forms, attributes, strict=True) if asked.shape == shape])
        for shape in world.SHAPES
    }
    return {**shapes, "all": mean_form(list(shapes.values()))}


def measure_form(clip: torch.Tensor, attributes: world.Attributes) -> Form:
    """The form of one clip.

    Args:
        clip: (f, 3, h, w) in [0, 1], any number of frames in any order, of the world's aspect.
        attributes: what the clip's caption says; an open background is read off the clip.

    Returns:
        Its `Form`.

    Raises:
        ValueError: a clip of another layout.
    """
    if clip.ndim != 4 or clip.shape[1] != 3:
        raise ValueError(f"`clip` must be (frames, 3, height, width), got {tuple(clip.shape)}.")
    size = (world.HEIGHT * SCALE, world.WIDTH * SCALE)
    clip = clip.float().cpu()
    if clip.shape[2:] != size:
        clip = F.interpolate(clip, size, mode="bilinear", antialias=True)
    background, _ = read_background(F.avg_pool2d(clip, SCALE))
    masks = silhouettes(clip, attributes.colour, background)
    border = masks.clone()
    border[:, 1:-1, 1:-1] = False
    whole = (masks.sum(dim=(1, 2)) >= MIN_AREA) & (border.sum(dim=(1, 2)) <= MOST_ON_BORDER)
    if not whole.any():
        return Form(0)
    clip, masks = clip[whole], masks[whole]
    rim = hidden_rim(attributes.colour, background)
    ious = {shape: fit_shape(masks, shape, rim)[0] for shape in world.SHAPES}
    others = torch.stack([iou for shape, iou in ious.items() if shape != attributes.shape]).amax(dim=0)
    wrong = wrong_colours(clip, attributes.colour, attributes.background or background)
    return Form(
        frames=len(masks),
        iou=ious[attributes.shape].mean().item(),
        best=(ious[attributes.shape] >= others).float().mean().item(),
        roundness=roundness(masks).mean().item() if attributes.shape == "circle" else None,
        wrong_in_object=((wrong & masks).sum(dim=(1, 2)) / masks.sum(dim=(1, 2))).mean().item(),
        wrong_in_frame=wrong.float().mean().item(),
    )


# ---------------------------------------------------------------------------------------------------------------------
# The object


def hidden_rim(colour: str, background: str) -> float:
    """How wide a rim of an object does not show against its ground, in radii: on black, the dark outline."""
    body, ground = torch.tensor(world.COLOURS[colour]), torch.tensor(world.BACKGROUNDS[background])
    shows = (world.OUTLINE_SHADE * body - ground).norm() > 0.5 * (body - ground).norm()
    return 0.0 if shows else world.OUTLINE_WIDTH


def silhouettes(clip: torch.Tensor, colour: str, background: str) -> torch.Tensor:
    """Hard masks (f, h, w) of the object in a clip (f, 3, h, w) at `SCALE`, without holes and without specks.

    An edge is where the colour has come half-way from the ground's to the outline's; where the outline does not show,
    half-way from the outline's to the body's.
    """
    body = torch.tensor(world.COLOURS[colour])[:, None, None]
    inner, outer = world.OUTLINE_SHADE * body, ground_pattern(clip)
    if hidden_rim(colour, background):
        inner, outer = body, inner
    thing = (clip - outer).norm(dim=1) >= 0.5 * (inner - outer).norm(dim=0)
    border = F.pad(torch.zeros_like(thing)[:, 1:-1, 1:-1], (1, 1, 1, 1), value=True)
    thing = ~_joined(border, ~thing)  # a highlight may look like the ground, and spots are counted as colours
    outside = F.pad((~thing)[:, None].float(), [SPECK // 2] * 4, value=1.0)
    cores = F.max_pool2d(outside, SPECK, stride=1)[:, 0] == 0
    return _joined(cores, thing)


def ground_pattern(clip: torch.Tensor) -> torch.Tensor:
    """The clip's own ground (3, h, w): for each place in the pattern's period the median of what is no object."""
    _, plain = read_background(F.avg_pool2d(clip, SCALE))  # where the pattern vanishes
    ground = clip.masked_fill((object_mask(clip, plain) >= 0.5)[:, None], torch.nan)
    ground = ground.unflatten(3, (-1, SCALE)).unflatten(2, (-1, SCALE))  # (f, 3, rows, place, columns, place)
    ground = ground.permute(1, 3, 5, 0, 2, 4).flatten(3).nanmedian(dim=3).values
    return torch.where(ground.isnan(), plain[:, None, None], ground).repeat(1, world.HEIGHT, world.WIDTH)


def _joined(seeds: torch.Tensor, free: torch.Tensor) -> torch.Tensor:
    """The free pixels (f, h, w) that are joined to a free seed through free pixels, side by side."""
    reached = seeds & free
    while True:
        before = reached.sum()
        for dim in (1, 2):
            for flipped in (False, True):
                reached = _swept(reached, free, dim, flipped)
        if reached.sum() == before:
            return reached


def _swept(reached: torch.Tensor, free: torch.Tensor, dim: int, flipped: bool) -> torch.Tensor:
    """`reached`, and along one direction all that follows it without a wall between."""
    if flipped:
        return _swept(reached.flip(dim), free.flip(dim), dim, False).flip(dim)
    places = torch.arange(free.shape[dim]).view([-1 if d == dim else 1 for d in range(3)])
    last_wall = torch.where(free, -1, places).cummax(dim).values
    last_reached = torch.where(reached, places, -1).cummax(dim).values
    return last_reached > last_wall


# ---------------------------------------------------------------------------------------------------------------------
# The outline


@lru_cache
def _unit_spread(shape: str, rim: float) -> tuple[float, float]:
    """Standard deviations in x and y of a drawing of radius 1. The centre of mass of each full shape is the origin."""
    line = (torch.arange(512) + 0.5) / 512 * 3 - 1.5
    y, x = torch.meshgrid(line, line, indexing="ij")
    inside = world.signed_distance(shape, x, y) + rim < 0
    return x[inside].std().item(), y[inside].std().item()


def _covered(place: torch.Tensor, shape: str, rim: float, x: torch.Tensor, y: torch.Tensor, soft: float):
    """Share of each pixel (n, h, w) that drawings at (n, 4) cover; edges are `soft` pixels wide."""
    cx, cy, rx, ry = (column[:, None, None] for column in place.unbind(1))
    distance = world.signed_distance(shape, (x - cx) / rx, (y - cy) / ry) + rim
    return (0.5 - distance * (rx * ry).sqrt() / soft).clamp(0, 1)


def fit_shape(masks: torch.Tensor, shape: str, rim: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """The drawing of a shape that fits each object best: from the object's moments, by least squares of coverage.

    Args:
        masks: (n, h, w), true in the object.
        shape: one of `world.SHAPES`.
        rim: how much of the drawing's rim does not show, in radii.

    Returns:
        Intersections over union (n,), and the drawings' (x, y, horizontal radius, vertical radius), (n, 4), in pixels.
    """
    crops, x, y = _crops(masks)
    place = _moments(crops, x, y) / torch.tensor([1.0, 1.0, *_unit_spread(shape, rim)])
    stride = max(1, round(crops.shape[-1] / CROP_SIZE))
    coarse, coarse_x, coarse_y = (F.avg_pool2d(each.expand_as(crops), stride) for each in (crops, x, y))
    place = _refined(place, coarse, coarse_x, coarse_y, shape, rim, soft=2.0 * stride, steps=6)
    place = _refined(place, coarse, coarse_x, coarse_y, shape, rim, soft=1.0 * stride, steps=6)
    place = _refined(place, crops, x, y, shape, rim, soft=1.0, steps=4)
    drawn, inside = _covered(place, shape, rim, x, y, 1.0) >= 0.5, crops >= 0.5
    return (drawn & inside).sum(dim=(1, 2)) / (drawn | inside).sum(dim=(1, 2)), place


def _crops(masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Windows of one size around the objects, (n, s, s), and their pixels' x (n, 1, s) and y (n, s, 1)."""
    rows, columns = masks.any(dim=2).float(), masks.any(dim=1).float()
    firsts, extents = [], []
    for line in (rows, columns):
        first = line.argmax(dim=1)
        firsts.append(first)
        extents.append(line.shape[1] - line.flip(1).argmax(dim=1) - first)
    size = int(torch.stack(extents).max() * 1.3) + 4  # a worse shape's drawing sticks out
    top, left = (first + extent // 2 - size // 2 for first, extent in zip(firsts, extents, strict=True))
    padded = F.pad(masks.float(), [size] * 4)
    crops = torch.stack(
        [
            image[t + size : t + 2 * size, x + size : x + 2 * size]
            for image, t, x in zip(padded, top.tolist(), left.tolist(), strict=True)
        ]
    )
    line = torch.arange(size) + 0.5
    return crops, (left[:, None] + line)[:, None, :], (top[:, None] + line)[:, :, None]


def _moments(crops: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Mean and standard deviation of the covered places, (n, 4) as (x, y, in x, in y)."""
    area = crops.sum(dim=(1, 2))

    def mean(values: torch.Tensor) -> torch.Tensor:
        return (crops * values).sum(dim=(1, 2)) / area

    cx, cy = mean(x), mean(y)
    variances = mean((x - cx[:, None, None]).square()), mean((y - cy[:, None, None]).square())
    return torch.stack([cx, cy, *(variance.sqrt() for variance in variances)], dim=1)


def _refined(
    place: torch.Tensor,
    crops: torch.Tensor,
    x: torch.Tensor,
    y: torch.Tensor,
    shape: str,
    rim: float,
    soft: float,
    steps: int,
) -> torch.Tensor:
    """Levenberg-Marquardt: `place` (n, 4) with less squared difference between drawings and `crops` (n, h, w)."""

    def residual(at: torch.Tensor) -> torch.Tensor:
        return (_covered(at, shape, rim, x, y, soft) - crops).flatten(1)

    here, damping = residual(place), torch.full((len(place), 1), 1e-2)
    for _ in range(steps):
        shift = 0.25 * soft
        slopes = torch.stack([(residual(place + shift * axis) - here) / shift for axis in torch.eye(4)], dim=2)
        square = slopes.transpose(1, 2) @ slopes
        square = square + torch.diag_embed(damping * square.diagonal(dim1=1, dim2=2) + 1e-6)
        step = torch.linalg.solve(square, slopes.transpose(1, 2) @ -here[..., None])[..., 0]
        tried = place + step.clamp(-8 * soft, 8 * soft)
        tried[:, 2:] = tried[:, 2:].clamp(min=2.0)
        there = residual(tried)
        better = there.square().sum(dim=1, keepdim=True) < here.square().sum(dim=1, keepdim=True)
        place, here = torch.where(better, tried, place), torch.where(better, there, here)
        damping = torch.where(better, damping / 5, damping * 5)
    return place


def roundness(masks: torch.Tensor) -> torch.Tensor:
    """Deviation of the outlines' radius over its mean, (n,), seen from the centre of mass; 0 for circles.

    The radius in a direction is what a ray from the centre covers of the object, to a fraction of a pixel.
    """
    crops, x, y = _crops(masks)
    centre = _moments(crops, x, y)[:, :2] - torch.stack([x[:, 0, 0], y[:, 0, 0]], dim=1) + 0.5  # in the crop
    size = crops.shape[-1]
    angles = torch.arange(ANGLES) / ANGLES * 2 * torch.pi
    reach = (torch.arange(2 * size) + 0.5) / 2  # half pixels; a ray ends outside the object
    rays = torch.stack([angles.cos(), angles.sin()], dim=1)[:, None] * reach[:, None]  # (angles, reach, 2)
    grid = (centre[:, None, None] + rays) * 2 / size - 1
    along = F.grid_sample(crops[:, None], grid, padding_mode="zeros", align_corners=False)[:, 0]
    radius = along.sum(dim=2) / 2
    return radius.std(dim=1, correction=0) / radius.mean(dim=1)


# ---------------------------------------------------------------------------------------------------------------------
# Colours


@lru_cache
def _known_colours(colour: str, background: str, cells: int = 32) -> torch.Tensor:
    """Which of cells x cells x cells colours in [0, 1] are within `WRONG_COLOUR` of one that true drawings have."""
    middle = (world.WIDTH / 2, world.HEIGHT / 2)
    scenes = [
        world.Scene(world.Attributes(colour, shape, "growing", background), (*middle, 1.0), (*middle, 7.0))
        for shape in world.SHAPES
    ]
    drawn = torch.zeros(16, 16, 16, dtype=torch.bool)
    drawn[_cells(world.render(scenes, range(0, world.NUM_FRAMES, 4), SCALE).flatten(0, 1), 16)] = True
    line = torch.linspace(0, 1, cells)
    distance = torch.cdist(torch.cartesian_prod(line, line, line), drawn.nonzero() / 15)
    return (distance.amin(dim=1) <= WRONG_COLOUR).view(cells, cells, cells)


def _cells(clip: torch.Tensor, count: int) -> tuple[torch.Tensor, ...]:
    """The cell of each pixel (f, h, w) in a table of count x count x count colours."""
    return tuple((clip * (count - 1)).round().long().unbind(dim=1))


def wrong_colours(clip: torch.Tensor, colour: str, background: str) -> torch.Tensor:
    """Which pixels (f, h, w) of a clip (f, 3, h, w) have a colour that no drawing of these two has anywhere.

    Outline, highlight, the ground's pattern and the edges between them are colours of a true drawing.
    """
    known = _known_colours(colour, background)
    return ~known[_cells(clip.clamp(0, 1), len(known))]
