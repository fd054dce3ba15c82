# SPDX-License-Identifier: Apache-2.0
"""Reads colour, shape, background and motion off a clip of the synthetic world, with no trained network.

Input is a clip of the eight keyframes at 16 x 24, (f, 3, 16, 24) in [0, 1]; larger or longer clips go through
`to_scoring_size` first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..tiny import world


SCORED = ("colour", "shape", "background", "motion")


@dataclass(frozen=True)
class Reading:
    """What a clip shows. `motion` is None when nothing moves or grows enough."""

    colour: str
    shape: str
    background: str
    motion: str | None


def to_scoring_size(frames: torch.Tensor) -> torch.Tensor:
    """(b, f, 3, h, w) with f = 8 or 29 -> keyframes at 16 x 24, (b, 8, 3, 16, 24), by area average."""
    if frames.shape[1] == world.NUM_FRAMES:
        frames = frames[:, list(world.KEYFRAME_TIMES)]
    small = F.adaptive_avg_pool2d(frames.flatten(0, 1).float(), (world.HEIGHT, world.WIDTH))
    return small.unflatten(0, frames.shape[:2])


def _nearest(colour: torch.Tensor, palette: dict[str, tuple[float, float, float]]) -> str:
    distances = (torch.tensor(list(palette.values())) - colour).norm(dim=1)
    return tuple(palette)[distances.argmin()]


def read_background(clip: torch.Tensor) -> tuple[str, torch.Tensor]:
    """Name and measured colour (3,): the median over the border pixels of all frames."""
    border = torch.cat([clip[..., 0, :], clip[..., -1, :], clip[..., 1:-1, 0], clip[..., 1:-1, -1]], dim=-1)
    colour = border.transpose(0, 1).flatten(1).median(dim=1).values
    return _nearest(colour, world.BACKGROUNDS), colour


def object_mask(clip: torch.Tensor, ground: torch.Tensor) -> torch.Tensor:
    """Soft mask (f, h, w): how far a pixel is from the background, as a share of a clear difference."""
    distance = (clip - ground[:, None, None]).norm(dim=1)
    return ((distance - 0.10) / 0.25).clamp(0, 1)


def read_colour(clip: torch.Tensor, mask: torch.Tensor) -> str:
    """The palette colour with the most votes; outline and highlight pixels are far from all of them."""
    palette = torch.tensor(list(world.COLOURS.values()))
    distance = (clip[:, None] - palette[None, :, :, None, None]).square().sum(dim=2)  # (f, colours, h, w)
    votes = (torch.exp(-distance / (2 * 0.18**2)) * mask[:, None]).sum(dim=(0, 2, 3))
    return tuple(world.COLOURS)[votes.argmax()]


def read_motion(mask: torch.Tensor) -> str | None:
    """From the straight-line trends of the mask's centre and of the square root of its area over the clip.

    Each trend is measured in units of a fraction of what true clips do; the largest one wins, if it reaches 1.
    """
    area = mask.sum(dim=(1, 2))
    seen = area > 1.0
    if seen.sum() < 4:
        return None
    ys, xs = torch.arange(mask.shape[1]) + 0.5, torch.arange(mask.shape[2]) + 0.5
    x = (mask * xs).sum(dim=(1, 2)) / area
    y = (mask * ys[:, None]).sum(dim=(1, 2)) / area
    time = torch.linspace(0, 1, len(mask))[seen]
    centred = time - time.mean()

    def trend(values: torch.Tensor) -> float:
        """Slope of the least-squares line: change over the whole clip."""
        return ((values[seen] * centred).sum() / centred.square().sum()).item()

    right, down, grow = trend(x) / 6.0, trend(y) / 4.5, trend(area.sqrt()) / 1.6
    name, strength = max(
        (("moving right" if right > 0 else "moving left"), abs(right)),
        (("moving down" if down > 0 else "moving up"), abs(down)),
        (("growing" if grow > 0 else "shrinking"), abs(grow)),
        key=lambda pair: pair[1],
    )
    return name if strength >= 1 else None


def read_shape(clip: torch.Tensor, mask: torch.Tensor, colour: str, background: str) -> str:
    """Best match, in squared error, of drawings of each shape near the mask's centre and size.

    The three frames in which most of an object shows far from the border decide together.
    """
    ys, xs = torch.arange(mask.shape[1]) + 0.5, torch.arange(mask.shape[2]) + 0.5
    area = mask.sum(dim=(1, 2))
    cx = (mask * xs).sum(dim=(1, 2)) / area.clamp(min=1e-6)
    cy = (mask * ys[:, None]).sum(dim=(1, 2)) / area.clamp(min=1e-6)
    touching = mask[:, 0].sum(1) + mask[:, -1].sum(1) + mask[..., 0].sum(1) + mask[..., -1].sum(1)
    frames = (area - 2.5 * touching).topk(3).indices
    # Area of each shape at radius 1, for a first guess of the radius.
    unit_area = {"circle": 3.14, "square": 3.10, "triangle": 1.87, "cross": 2.61}
    offsets, scales = (-0.35, 0.0, 0.35), (0.82, 0.91, 1.0, 1.1, 1.21)
    errors = dict.fromkeys(world.SHAPES, 0.0)
    for index in frames.tolist():
        if area[index] < 1:
            continue
        for shape in world.SHAPES:
            attributes = world.Attributes(colour, shape, "growing", background)
            radius = (area[index].item() / unit_area[shape]) ** 0.5
            # the triangle's centre of mass is its centre already; all shapes share the origin
            places = [
                (cx[index].item() + dx, cy[index].item() + dy, radius * scale)
                for dx in offsets
                for dy in offsets
                for scale in scales
            ]
            drawings = world.render([world.Scene(attributes, place, place) for place in places], [0.0])[:, 0]
            errors[shape] += (drawings - clip[index]).square().mean(dim=(1, 2, 3)).min().item()
    return min(errors, key=lambda shape: errors[shape])


def read_clip(clip: torch.Tensor) -> Reading:
    """Everything about one clip of the tiny world.

    Args:
        clip: (8, 3, 16, 24) in [0, 1]; `to_scoring_size` brings other clips to that size.

    Returns:
        Colour, shape, background and motion; what cannot be told is `None`.
    """
    clip = clip.float().cpu()
    background, ground = read_background(clip)
    mask = object_mask(clip, ground)
    colour = read_colour(clip, mask)
    return Reading(colour, read_shape(clip, mask, colour, background), background, read_motion(mask))


@dataclass(frozen=True)
class Score:
    """Shares of clips that show what their caption says."""

    colour: float
    shape: float
    background: float
    motion: float
    all: float
    count: int

    def __str__(self) -> str:
        parts = (f"{name} {getattr(self, name):.1%}" for name in (*SCORED, "all"))
        return ", ".join(parts) + f" of {self.count}"


def score_readings(readings: Sequence[Reading], captions: Sequence[str]) -> Score:
    """Compare readings with captions; an attribute that the caption leaves open is always right."""
    right = torch.ones(len(readings), len(SCORED), dtype=torch.bool)
    for row, (reading, caption) in enumerate(zip(readings, captions, strict=True)):
        wanted = world.parse_caption(caption)
        for column, name in enumerate(SCORED):
            right[row, column] = getattr(wanted, name) in (None, getattr(reading, name))
    shares = right.float().mean(dim=0).tolist()
    return Score(
        **dict(zip(SCORED, shares, strict=True)), all=right.all(dim=1).float().mean().item(), count=len(readings)
    )


def score_clips(frames: torch.Tensor, captions: Sequence[str]) -> Score:
    """Compare clips with their captions.

    Args:
        frames: (b, f, 3, h, w) in [0, 1] of any native size, with 8 or 29 frames.
        captions: b sentences of the tiny world.

    Returns:
        Shares of the clips that show what their captions say.
    """
    return score_readings([read_clip(clip) for clip in to_scoring_size(frames)], captions)
