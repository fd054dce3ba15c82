# SPDX-License-Identifier: Apache-2.0
"""Frames of stages beside each other: over time, along one line of the picture, and as a video."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from .layout import (
    FAINT,
    GAP,
    LINE,
    PAGE,
    as_clips,
    caption,
    check_height,
    common_height,
    moments,
    nearest,
    scaled,
    scaled_width,
    text_width,
    write,
)


def contact_sheet(stages: Mapping[str, Any], columns: int = 8, height: int | None = None) -> Image.Image:
    """A row for each stage and a column for each moment, evenly spread from the first frame to the last.

    Below each frame stands its number. A stage without a frame of its own at a moment shows the nearest one.

    Args:
        stages: name -> one video, in any form that `layout.as_clips` takes.
        columns: at most so many; fewer where no stage has as many frames.
        height: of each frame, in pixels; by default one at which pixels are enlarged evenly, near 144.

    Returns:
        An image as wide as it takes.

    Raises:
        TypeError: something that is no frames.
        ValueError: frames in no known form, no columns, or no height.
    """
    clips = as_clips(stages)
    if columns < 1:
        raise ValueError(f"`columns` must be at least 1, got {columns!r}.")
    check_height(height)
    height = height or common_height(clips)
    positions, length = moments([len(clip) for clip in clips.values()], columns)
    cell = max(scaled_width(clip, height) for clip in clips.values()) + GAP
    captions = [caption(name, clip) for name, clip in clips.items()]
    line = 2 * LINE + height
    width = max(cell * len(positions), *map(text_width, captions)) + GAP
    page = Image.new("RGB", (width, line * len(clips)), PAGE)
    draw = ImageDraw.Draw(page)
    for row, (words, clip) in enumerate(zip(captions, clips.values(), strict=True)):
        top = row * line
        write(draw, GAP, top, words)
        for column, index in enumerate(nearest(positions, length, len(clip))):
            left = GAP + column * cell
            page.paste(scaled(clip[index], scaled_width(clip, height), height), (left, top + LINE))
            words = f"frame {index}" if column == 0 else str(index)
            write(draw, left, top + LINE + height, words, FAINT)
    return page


def temporal_slices(
    stages: Mapping[str, Any], row: float = 0.5, column: float = 0.5, height: int | None = None
) -> Image.Image:
    """For each stage its middle frame, and beside it one column and below it one row of the picture over time.

    Time runs away from the frame: to the right, and downwards. What stands still draws straight lines, what moves
    slanted ones, what flickers stripes across; where a stage has fewer frames than another, each is a band.

    Args:
        stages: name -> one video, in any form that `layout.as_clips` takes.
        row: which one, as a part of the height: 0 is the top, 1 the bottom, of every stage.
        column: likewise, 0 is the left, 1 the right.
        height: of each frame, in pixels; by default one at which pixels are enlarged evenly, near 144.

    Returns:
        An image as wide as it takes.

    Raises:
        TypeError: something that is no frames.
        ValueError: frames in no known form, or a row, column or height that is none.
    """
    clips = as_clips(stages)
    for name, part in (("row", row), ("column", column)):
        if not 0 <= part <= 1:
            raise ValueError(f"`{name}` must be a part of the picture from 0 to 1, got {part!r}.")
    check_height(height)
    height = height or common_height(clips)
    length = max(len(clip) for clip in clips.values())
    duration = length * max(1, round(height / length))  # in pixels
    widths = [max(scaled_width(c, height) + GAP + duration, text_width(caption(n, c))) for n, c in clips.items()]
    page = Image.new("RGB", (sum(widths) + 3 * GAP * len(clips), LINE + height + GAP + duration + GAP), PAGE)
    draw = ImageDraw.Draw(page)
    left = GAP
    for (name, clip), needed in zip(clips.items(), widths, strict=True):
        width = scaled_width(clip, height)
        y, x = (min(int(part * size), size - 1) for part, size in ((row, clip.shape[1]), (column, clip.shape[2])))
        over_time = clip[nearest(np.arange(length), length, len(clip))]
        write(draw, left, 0, caption(name, clip))
        page.paste(scaled(clip[len(clip) // 2], width, height), (left, LINE))
        page.paste(scaled(over_time[:, :, x].swapaxes(0, 1), duration, height), (left + width + GAP, LINE))
        page.paste(scaled(over_time[:, y], width, duration), (left, LINE + height + GAP))
        _mark(draw, left + (x + 0.5) / clip.shape[2] * width, LINE, vertical=True, length=height)
        _mark(draw, left, LINE + (y + 0.5) / clip.shape[1] * height, vertical=False, length=width)
        _time_axes(draw, left + width + GAP, LINE + height + GAP, duration)
        left += needed + 3 * GAP
    return page


def _time_axes(draw: ImageDraw.ImageDraw, left: int, top: int, duration: int) -> None:
    """Two arrows along the slices, in the corner between them, and what they mean."""
    left, top, end, tip = left + GAP, top + GAP, duration - GAP, GAP / 2
    draw.line([(left, top + end), (left, top), (left + end, top)], fill=FAINT)
    draw.line([(left + end - tip, top - tip), (left + end, top), (left + end - tip, top + tip)], fill=FAINT)
    draw.line([(left - tip, top + end - tip), (left, top + end), (left + tip, top + end - tip)], fill=FAINT)
    write(draw, left + GAP, top, "time", FAINT)


def _mark(draw: ImageDraw.ImageDraw, left: float, top: float, vertical: bool, length: int) -> None:
    """A dashed line of black and white, which is seen on any picture."""
    for start in range(0, length, 4):
        at, end, color = start, min(start + 3, length - 1), "black" if start % 8 else "white"
        draw.line(
            [(left, top + at), (left, top + end)] if vertical else [(left + at, top), (left + end, top)], fill=color
        )


def side_by_side(stages: Mapping[str, Any], height: int | None = None) -> np.ndarray:
    """One clip that plays all stages at once, from left to right, each with its caption.

    It has as many frames as the longest stage; of the others, the frame that is nearest in time stands still.

    Args:
        stages: name -> one video, in any form that `layout.as_clips` takes.
        height: of each stage, in pixels; by default that of the tallest, or that of `contact_sheet` if it is more.

    Returns:
        (f, h, w, 3) uint8, with even sizes, as `save_video` needs them for .mp4.

    Raises:
        TypeError: something that is no frames.
        ValueError: frames in no known form, or no height.
    """
    clips = as_clips(stages)
    check_height(height)
    height = height or max(common_height(clips), *(clip.shape[1] for clip in clips.values()))
    length = max(len(clip) for clip in clips.values())
    widths = [max(scaled_width(c, height), text_width(caption(n, c))) + GAP for n, c in clips.items()]
    lefts = GAP + np.cumsum([0, *widths])
    page = Image.new("RGB", (_even(int(lefts[-1])), _even(LINE + height + GAP)), PAGE)
    draw = ImageDraw.Draw(page)
    for (name, clip), left in zip(clips.items(), lefts, strict=False):
        write(draw, left, 0, caption(name, clip))
    video = np.repeat(np.asarray(page)[None], length, axis=0)
    for clip, left in zip(clips.values(), lefts, strict=False):
        width = scaled_width(clip, height)
        for position, index in enumerate(nearest(np.arange(length), length, len(clip))):
            video[position, LINE : LINE + height, left : left + width] = scaled(clip[index], width, height)
    return video


def _even(size: int) -> int:
    return size + size % 2
