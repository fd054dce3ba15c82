# SPDX-License-Identifier: Apache-2.0
"""What changes from frame to frame, as numbers and as small plots."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from ..clips.metrics import flicker
from ..clips.words import shorten
from .layout import FAINT, INK, PAGE, as_clips, caption, plain


PANELS = {  # a line for each key of `frame_statistics`, and its colour
    "mean of each channel": {"red": "#d1352b", "green": "#2f9e44", "blue": "#2b6cb0"},
    "difference from the frame before": {"difference": INK},
    "flicker": {"flicker": INK},
}
PALE = "#c9c9c4"
STYLE = {
    **{"axes.edgecolor": PALE, "axes.spines.right": False, "axes.spines.top": False},
    **{"axes.titlecolor": FAINT, "axes.titlelocation": "left", "axes.titlesize": 8},
    **{"axes.grid": True, "axes.grid.axis": "y", "grid.color": "#e6e6e2"},
    **{"figure.facecolor": PAGE, "font.size": 8, "lines.markersize": 3.5, "text.color": INK},
    **{"xtick.color": PALE, "xtick.labelcolor": FAINT},
    **{"ytick.color": PALE, "ytick.labelcolor": FAINT, "ytick.major.size": 0},
}
WIDTH, HEIGHT = 10.4, 1.9  # of a stage, in inches of 100 pixels
# The same in all rows, whatever numbers stand beside the plots: moments stand above each other.
PLACES = {"left": 0.042, "right": 0.988, "top": 0.76, "bottom": 0.15, "wspace": 0.16}


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
    """A row for each stage, and in it the numbers of `frame_statistics` over its frames, drawn by matplotlib.

    The same moment stands at the same place in all plots. Those of one column have the same scale where stages have
    equally many frames: keyframes differ more, as there is more time from one to the next.

    Args:
        stages: name -> one video, in any form that `layout.as_clips` takes.

    Returns:
        An image.

    Raises:
        TypeError: something that is no frames.
        ValueError: frames in no known form.
        ImportError: matplotlib is not installed.
    """
    canvas = figure_of(stages).canvas
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a file's name may be in any script
        canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def figure_of(stages: Mapping[str, Any]) -> Any:
    """The same as a figure of matplotlib, of which `pyplot` knows nothing."""
    try:
        from matplotlib import style
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need the package `matplotlib`: pip install 'diffusers-show1[inspect]'") from error
    clips = as_clips(stages)
    numbers = {name: frame_statistics(clip) for name, clip in clips.items()}
    with style.context(["default", STYLE]):
        figure = Figure((WIDTH, HEIGHT * len(clips)), 100)
        FigureCanvasAgg(figure)
        rows = figure.subfigures(len(clips), 1, squeeze=False)[:, 0]
        for (name, clip), row in zip(clips.items(), rows, strict=True):
            row.suptitle(shorten(caption(name, clip), 100), x=0.008, y=0.98, ha="left", fontsize=10, parse_math=False)
            alike = [numbers[other] for other in clips if len(clips[other]) == len(clip)]
            places, last = row.subplots(1, len(PANELS), gridspec_kw=PLACES), max(len(clip) - 1, 1)
            for plot, (title, lines) in zip(places, PANELS.items(), strict=True):
                for number, (key, color) in enumerate(lines.items()):
                    values = numbers[name][key]
                    first = (len(clip) - len(values) + 1) // 2  # the frame that the first of them belongs to
                    # Those below are a little wider: where channels are equal, all of them are seen.
                    width = 0.6 + 0.9 * (len(lines) - number)
                    marker = "o" if len(lines) == 1 and last < 40 or len(values) == 1 else None
                    plot.plot(range(first, first + len(values)), values, color=color, lw=width, marker=marker)
                most = 1.0 if len(lines) > 1 else max(n[key].max(initial=1 / 255) for n in alike for key in lines)
                plot.set(title=title, xlim=(-0.03 * last, 1.03 * last), ylim=(-0.07 * most, 1.07 * most))
                plot.set_xticks([0, len(clip) - 1])
                plot.locator_params(axis="y", nbins=3)
    return figure
