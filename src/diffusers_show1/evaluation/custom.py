# SPDX-License-Identifier: Apache-2.0
"""Reads the motions and styles that are for customisation only off a clip, with no trained network.

They are those of `tiny.world.custom_scene`. A motion is read off the eight keyframes at 16 x 24, as in `scorer`. A
style is finer than their pixels: it is read at 64 x 96, and with it shape and colour.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..tiny import world
from .scorer import object_mask, read_background, read_colour, read_motion, read_shape, to_scoring_size


STYLE_SCALE = 4  # pixels per unit at which styles are read


@dataclass(frozen=True)
class CustomReading:
    """What a clip shows. `motion` may be one of `world.CUSTOM_MOTIONS`; `style` is None for an ordinary object."""

    colour: str
    shape: str
    background: str
    motion: str | None
    style: str | None


def read_track(mask: torch.Tensor) -> torch.Tensor | None:
    """The mask's centre in each keyframe, (f, 2) as (x, y) in units; None if the object is gone in one of them."""
    area = mask.sum(dim=(1, 2))
    if area.min() < 1:
        return None
    ys, xs = torch.arange(mask.shape[1]) + 0.5, torch.arange(mask.shape[2]) + 0.5
    x = (mask * xs).sum(dim=(1, 2)) / area
    y = (mask * ys[:, None]).sum(dim=(1, 2)) / area
    return torch.stack([x, y], dim=1)


def is_circling(track: torch.Tensor) -> bool:
    """Whether the object goes clockwise, once around a middle, at a fairly steady distance."""
    arm = track - track[:-1].mean(dim=0)  # the last keyframe is where the first was
    length = arm.norm(dim=1)
    angle = torch.atan2(arm[:, 1], arm[:, 0])
    turn = (angle.diff() + torch.pi) % (2 * torch.pi) - torch.pi
    steady = length.min() > 0.35 * length.mean()
    return bool(length.mean() > 1.8 and steady and 4.5 < turn.sum() < 8.0 and turn.min() > -0.2)


def is_zigzagging(track: torch.Tensor) -> bool:
    """Whether the object crosses to the right and goes up and down by turns, two keyframes each."""
    x, y = track.unbind(dim=1)
    time = torch.arange(len(track), dtype=torch.float32)
    wave = 1 - (time % 4 - 2).abs()
    wave = wave - wave.mean()
    level = y - y.mean()
    swing = (level * wave).sum() / wave.square().sum()
    fit = (level * wave).sum() / (level.norm() * wave.norm() + 1e-6)
    return bool(x[-1] - x[0] > 6.0 and swing.abs() > 1.2 and fit.abs() > 0.75)


def read_custom_motion(mask: torch.Tensor) -> str | None:
    """One of `world.CUSTOM_MOTIONS` or of the ordinary motions, or None."""
    track = read_track(mask)
    if track is not None and is_circling(track):
        return "circling"
    if track is not None and is_zigzagging(track):
        return "zigzagging"
    return read_motion(mask)


def read_hue(clip: torch.Tensor, mask: torch.Tensor) -> str:
    """The palette colour with the most votes, whatever the brightness: a dark stripe votes as a light one does."""
    palette = F.normalize(torch.tensor(list(world.COLOURS.values())), dim=1)
    distance = (F.normalize(clip, dim=1)[:, None] - palette[None, :, :, None, None]).square().sum(dim=2)
    votes = (torch.exp(-distance / (2 * 0.1**2)) * mask[:, None]).sum(dim=(0, 2, 3))
    return tuple(world.COLOURS)[votes.argmax()]


def read_look(clip: torch.Tensor, mask: torch.Tensor, colour: str, background: str) -> tuple[str, str | None]:
    """Shape and style of a clip (f, 3, 64, 96): the best match, in squared error, of drawings of all of them.

    The two frames in which most of an object shows far from the border decide together. Size is searched first, in the
    middle of the mask; then the three best looks are drawn at places around it, too.
    """
    touching = mask[:, 0].sum(1) + mask[:, -1].sum(1) + mask[..., 0].sum(1) + mask[..., -1].sum(1)
    frames = (mask.sum(dim=(1, 2)) - 2.5 * STYLE_SCALE * touching).topk(2).indices.tolist()
    frames = [index for index in frames if (mask[index] > 0.4).any()]
    looks: list[tuple[str, str | None]] = [(shape, style) for shape in world.SHAPES for style in (None, *world.STYLES)]
    for offsets in ((0.0,), (-0.25, 0.0, 0.25)):
        errors = {
            look: sum(_match(clip[index], mask[index], *look, colour, background, offsets) for index in frames)
            for look in looks
        }
        looks = sorted(looks, key=lambda look: errors[look])[:3]
    return looks[0]


def _match(
    frame: torch.Tensor,
    mask: torch.Tensor,
    shape: str,
    style: str | None,
    colour: str,
    background: str,
    offsets: Sequence[float],
) -> float:
    """The smallest squared error of drawings of one look at the mask's extent, moved by `offsets` both ways."""
    rows, columns = (mask > 0.4).nonzero().unbind(dim=1)
    (top, bottom), (left, right) = (
        (side.min().item() / STYLE_SCALE, (side.max().item() + 1) / STYLE_SCALE) for side in (rows, columns)
    )
    # Half of the larger side at radius 1; a triangle's origin lies below the middle of its height.
    half = {"circle": 1.0, "square": 0.88, "triangle": 1.0, "cross": 1.05}[shape]
    x, y = (left + right) / 2, (top + bottom) / 2 + (0.17 * (bottom - top) if shape == "triangle" else 0)
    radius = max(bottom - top, right - left) / 2 / half
    attributes = world.Attributes(colour, shape, "growing", background)
    scenes = [
        world.CustomScene(attributes, place, place, style=style)
        for dx in offsets
        for dy in offsets
        for scale in (0.9, 0.95, 1.0, 1.06, 1.12, 1.2)  # upwards: a dark outline on black is not in the mask
        for place in [(x + dx, y + dy, radius * scale)]
    ]
    drawings = world.render(scenes, [0.0], STYLE_SCALE)[:, 0]
    return (drawings - frame).square().mean(dim=(1, 2, 3)).min().item()


def read_custom_clip(clip: torch.Tensor) -> CustomReading:
    """Everything about one clip (8, 3, h, w) in [0, 1]; of one smaller than 64 x 96 the style is None."""
    clip = clip.float().cpu()
    (keyframes,) = to_scoring_size(clip[None])
    background, ground = read_background(keyframes)
    mask = object_mask(keyframes, ground)
    motion = read_custom_motion(mask)
    size = (STYLE_SCALE * world.HEIGHT, STYLE_SCALE * world.WIDTH)
    if clip.shape[-2] < size[0]:
        colour = read_colour(keyframes, mask)
        return CustomReading(colour, read_shape(keyframes, mask, colour, background), background, motion, None)
    clip = F.adaptive_avg_pool2d(clip, size)
    # The ground's pattern is in the fine mask and not in the coarse one.
    mask = object_mask(clip, ground) * F.interpolate(mask[:, None], size, mode="bilinear")[:, 0]
    colour = read_hue(clip, mask)
    shape, style = read_look(clip, mask, colour, background)
    return CustomReading(colour, shape, background, motion, style)


def read_custom_clips(frames: torch.Tensor) -> list[CustomReading]:
    """Clips (b, f, 3, h, w) in [0, 1] with 8 or 29 frames; of clips smaller than 64 x 96 the style is None."""
    if frames.shape[1] == world.NUM_FRAMES:
        frames = frames[:, list(world.KEYFRAME_TIMES)]
    return [read_custom_clip(clip) for clip in frames]


def share(readings: Sequence[CustomReading], **wanted: str | None) -> float:
    """The share of clips that show all of what is wanted, as `motion="circling"`."""
    return sum(all(getattr(r, name) == value for name, value in wanted.items()) for r in readings) / len(readings)
