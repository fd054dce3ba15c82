# SPDX-License-Identifier: Apache-2.0
"""What changes from frame to frame, as numbers and as small plots."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from .layout import FAINT, GAP, INK, LINE, PAGE, as_clips, caption, font, plain, text_width, write


WIDTH, HEIGHT = 300, 110  # of one plot's area
LEFT, RIGHT = 44, 14  # room for numbers beside it
EDGE = 6  # room for the first and last points within it
SHARP = 3  # lines are drawn so many times as large, then reduced
GRID, FIELD = "#dcdcd8", "#ffffff"
COLORS = {"red": "#d1352b", "green": "#2f9e44", "blue": "#2b6cb0", "difference": INK, "flicker": INK}
PANELS = {
    "mean of each channel": ("red", "green", "blue"),
    "difference from the frame before": ("difference",),
    "flicker": ("flicker",),
}


def frame_statistics(frames: Any) -> dict[str, np.ndarray]:
    """Numbers for each frame of one video, all of them of values in 0..1.

    Args:
        frames: one video, in any form that `layout.as_clips` takes.

    Returns:
        `red`, `green`, `blue` (f,): the mean of each channel. `difference` (f - 1,): the mean distance of frames
        1, 2, ... from the frame before. `flicker` (f - 2,): the mean distance of frames 1, 2, ... from the mean of
        their two neighbours; the mean of these is `metrics.flicker` of the video.

    Raises:
        TypeError: something that is no frames.
        ValueError: frames in no known form.
    """
    import torch

    from ..clips.metrics import flicker

    clip = as_clips({"frames": frames})["frames"]

    def video(start: int, stop: int) -> torch.Tensor:  # a few frames at a time: a long clip is large in float32
        return torch.tensor(clip[start:stop]).permute(0, 3, 1, 2) / 255

    means = clip.mean(axis=(1, 2), dtype=np.float64) / 255
    return {
        **{name: means[:, channel] for channel, name in enumerate(("red", "green", "blue"))},
        "difference": np.array([video(i, i + 2).diff(dim=0).abs().mean().item() for i in range(len(clip) - 1)]),
        "flicker": np.array([flicker(video(i, i + 3)) for i in range(len(clip) - 2)]),
    }


def summary(stages: Mapping[str, Any]) -> str:
    """A line for each stage: its frames, and the means of `difference` and `flicker` over them.

    Args:
        stages: name -> one video, in any form that `layout.as_clips` takes.

    Returns:
        A table under a line of headings; "-" where a clip is too short for a number.

    Raises:
        TypeError: something that is no frames.
        ValueError: frames in no known form.
    """
    table = [("", "frames", "size", "difference", "flicker")]
    for name, clip in as_clips(stages).items():
        numbers = frame_statistics(clip)
        means = [f"{numbers[key].mean():.4f}" if len(numbers[key]) else "-" for key in ("difference", "flicker")]
        table.append((plain(name), str(len(clip)), f"{clip.shape[2]}x{clip.shape[1]}", means[0], means[1]))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(n) for cell, n in zip(row[1:], widths[1:], strict=True))])
        for row in table
    )


def frame_plots(stages: Mapping[str, Any]) -> Image.Image:
    """A row for each stage, and in it the numbers of `frame_statistics` over its frames.

    The same moment stands at the same place in all plots. Those of one column have the same scale where stages have
    equally many frames: keyframes differ more, as there is more time from one to the next.

    Args:
        stages: name -> one video, in any form that `layout.as_clips` takes.

    Returns:
        An image.

    Raises:
        TypeError: something that is no frames.
        ValueError: frames in no known form.
    """
    clips = as_clips(stages)
    numbers = {name: frame_statistics(clip) for name, clip in clips.items()}
    captions = {name: caption(name, clip) for name, clip in clips.items()}
    cell, line = LEFT + WIDTH + RIGHT, LINE + GAP + HEIGHT + LINE + GAP
    width = max(cell * len(PANELS), *(text_width(words) + 2 * GAP for words in captions.values()))
    page = Image.new("RGB", (width, LINE + line * len(clips)), PAGE)
    draw = ImageDraw.Draw(page)
    for row, name in enumerate(clips):
        write(draw, GAP, LINE + row * line, captions[name])
    for panel, (title, keys) in enumerate(PANELS.items()):
        left = LEFT + panel * cell
        write(draw, left, 0, title, FAINT)
        for row, (name, clip) in enumerate(clips.items()):
            alike = [numbers[other] for other in clips if len(clips[other]) == len(clip)]
            top_value = 1.0 if panel == 0 else round_up(max(n[key].max(initial=0) for n in alike for key in keys))
            top = LINE + row * line + LINE + GAP
            _plot(page, left, top, {key: numbers[name][key] for key in keys}, top_value, len(clip))
    return page


def round_up(value: float) -> float:
    """The next of 1, 2, 5 times a power of ten, from the least that eight bits tell apart."""
    value = max(value, 1 / 255)
    power = 10.0 ** math.floor(math.log10(value))
    return next((step * power for step in (1, 2, 5) if step * power >= value), 10 * power)


def _plot(
    page: Image.Image, left: int, top: int, lines: Mapping[str, np.ndarray], top_value: float, count: int
) -> None:
    """One plot, its area at (left, top). A line of n values belongs to the frames from `(count - n + 1) // 2` on."""
    area = Image.new("RGB", (WIDTH * SHARP, HEIGHT * SHARP), FIELD)
    draw, labels = ImageDraw.Draw(area), ImageDraw.Draw(page)

    def place(frame: float, value: float) -> tuple[float, float]:
        across = EDGE + frame / max(count - 1, 1) * (WIDTH - 2 * EDGE)
        return across * SHARP, (HEIGHT - EDGE - value / top_value * (HEIGHT - 2 * EDGE)) * SHARP

    for part in (0, 0.5, 1):
        height = place(0, part * top_value)[1]
        draw.line([(0, height), (area.width, height)], fill=GRID, width=SHARP)
        words = f"{part * top_value:g}"
        labels.text((left - 6, top + height / SHARP), words, fill=FAINT, font=font(11), anchor="rm")
    for key, values in lines.items():
        first = (count - len(values) + 1) // 2
        points = [place(first + i, value) for i, value in enumerate(values)]
        if len(points) > 1:
            draw.line(points, fill=COLORS[key], width=2 * SHARP, joint="curve")
        if len(points) * 8 <= WIDTH:
            for x, y in points:
                radius = 2.5 * SHARP
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=COLORS[key])
    page.paste(area.resize((WIDTH, HEIGHT), Image.Resampling.BOX), (left, top))
    for frame in {0, count - 1}:
        across = left + place(frame, 0)[0] / SHARP
        labels.text((across, top + HEIGHT + 3), str(frame), fill=FAINT, font=font(11), anchor="mt")
