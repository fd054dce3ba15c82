# SPDX-License-Identifier: Apache-2.0
"""Which frames stand beside each other, how large, and with what words: shared by all pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..clips.arrays import from_model_space, to_model_space
from ..clips.frames import to_uint8


PAGE, INK, FAINT = "#f3f3f1", "#1c1c1c", "#8a8a86"  # the page is not white: many a clip's background is
GAP = 6
TEXT = 13
LINE = 20  # the height of a line of text
USUAL = 144  # the height of a frame where nothing else is asked for


def as_clips(stages: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Stages in any form of frames -> arrays (f, h, w, 3) uint8, by name.

    Args:
        stages: name -> one video: what `pipe(..., return_stages=True).stages` holds for a single prompt, with
            `output_type` `"pil"`, `"np"` or `"pt"`; or an array (f, h, w, 3) or a list of images, as of `read_video`.

    Raises:
        TypeError: something that is no frames.
        ValueError: no stages, frames in no known form, or a batch of several videos.
    """
    if not stages:
        raise ValueError("`stages` must hold at least one clip, got none.")
    return {name: _as_clip(frames, f"stages[{name!r}]") for name, frames in stages.items()}


def _as_clip(frames: Any, name: str) -> np.ndarray:
    if isinstance(frames, np.ndarray) and frames.ndim == 4 and frames.dtype == np.uint8:
        return to_uint8(frames)
    video = to_model_space(frames, name=name)
    if len(video) > 1:
        raise ValueError(f"`{name}` must be one video, got a batch of {len(video)}: choose one of them.")
    return to_uint8(from_model_space(video, "np")[0])


def moments(counts: Sequence[int], columns: int) -> tuple[np.ndarray, int]:
    """The moments that a picture with at most `columns` columns shows, for clips of `counts` frames.

    They are frames of the shortest clip that has enough of them, evenly spread from its first to its last: where a
    stage multiplies frames, each moment is then a frame of its own in every clip.

    Returns positions (columns,) among the frames `0 .. length - 1`, and that `length`.
    """
    columns = min(columns, max(counts))
    length = min(count for count in counts if count >= columns)
    return np.linspace(0, length - 1, columns).round().astype(int), length


def nearest(positions: np.ndarray, length: int, count: int) -> np.ndarray:
    """The frames of a clip of `count` that are nearest in time to `positions` in one of `length`; ties: the later.

    First frames are simultaneous, and so are last frames.
    """
    if length == 1:
        return np.zeros_like(positions)
    return (2 * positions * (count - 1) + length - 1) // (2 * (length - 1))


def common_height(clips: Mapping[str, np.ndarray]) -> int:
    """A height for all clips: a whole multiple or fraction of the tallest one's, near 144 pixels.

    All pixels are enlarged evenly then, in cascades whose stages multiply sizes by whole numbers.
    """
    tallest = max(clip.shape[1] for clip in clips.values())
    return tallest * round(USUAL / tallest) if tallest <= USUAL else tallest // round(tallest / USUAL)


def check_height(height: int | None) -> None:
    """ValueError for a height that is no whole number of at least 1."""
    if height is not None and height < 1:
        raise ValueError(f"`height` must be at least 1 pixel or None, got {height!r}.")


def scaled_width(clip: np.ndarray, height: int) -> int:
    """The width of a clip (f, h, w, 3) that is scaled to a height."""
    return max(1, round(clip.shape[2] * height / clip.shape[1]))


def scaled(frame: np.ndarray, width: int, height: int) -> Image.Image:
    """A frame (h, w, 3) uint8 as an image: enlarged by repeating pixels, which stay visible; reduced by averaging."""
    image = Image.fromarray(frame)
    for size in ((width, image.height), (width, height)):
        larger = size[0] >= image.width and size[1] >= image.height
        image = image.resize(size, Image.Resampling.NEAREST if larger else Image.Resampling.BOX)
    return image


def caption(name: str, clip: np.ndarray) -> str:
    """`base: 8 frames of 64x40`."""
    frames, height, width, _ = clip.shape
    return f"{plain(name)}: {frames} frame{'s' * (frames > 1)} of {width}x{height}"


def plain(text: str) -> str:
    """On one line, of what a font can be asked for: a file's name may hold anything."""
    return " ".join(text.encode("utf-8", "replace").decode().split())


def font(size: int = TEXT) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font that is in Pillow."""
    return ImageFont.load_default(size)


def text_width(text: str) -> int:
    """Pixels that a text needs."""
    return int(np.ceil(font().getlength(text)))


def write(draw: ImageDraw.ImageDraw, left: float, top: float, text: str, fill: str = INK, anchor: str = "l") -> None:
    """A line of text in the middle of a strip of height `LINE`; `anchor` is "l", "m" or "r" of the text at `left`."""
    draw.text((left, top + LINE / 2), text, fill=fill, font=font(), anchor=f"{anchor}m")
