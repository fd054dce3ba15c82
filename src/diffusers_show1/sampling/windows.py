# SPDX-License-Identifier: Apache-2.0
"""The windows that stages cut videos into: which they are, what is kept of them, and how predictions are blended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .guidance import cache_context


def interpolated_length(keyframes: int, frames_between: int = 3) -> int:
    """Frames after `frames_between` new ones are put between each two keyframes: n -> 4(n-1)+1 with three."""
    return (frames_between + 1) * (keyframes - 1) + 1


def chained_windows(num_frames: int, window_size: int) -> list[tuple[int, int]]:
    """Cuts `num_frames` frames into windows (start, stop) of at most `window_size` that share one frame with the next.

    All frames are covered, and the windows are as even as possible: 29 frames in windows of 8 give the paper's four
    (stride 7), 17 give 0-6, 6-11, 11-16 rather than a last window of three frames.
    """
    if num_frames == 1:
        return [(0, 1)]
    new = num_frames - 1
    count = -(-new // (window_size - 1))
    edges = [-(-new * i // count) for i in range(count + 1)]
    return [(edges[i], edges[i + 1] + 1) for i in range(count)]


def overlapping_windows(num_frames: int, window_size: int, overlap: int) -> list[tuple[int, int]]:
    """Cuts `num_frames` frames into windows (start, stop) of one size, spread evenly, neighbours sharing `overlap`.

    They share more where the frames do not divide: 57 frames in windows of 29 with an overlap of 8 give 0-28, 14-42,
    28-56. All windows have `window_size` frames, or there is one window of them all.
    """
    if num_frames <= window_size:
        return [(0, num_frames)]
    count = -(-(num_frames - overlap) // (window_size - overlap))
    starts = [i * (num_frames - window_size) // (count - 1) for i in range(count)]
    return [(start, start + window_size) for start in starts]


class WindowStore:
    """What the stages of a call have finished, window by window. Handed to the same call again, it is taken over.

        store = WindowStore()
        pipe(prompt, generator=torch.Generator().manual_seed(0), window_store=store)  # stopped half-way
        pipe(prompt, generator=torch.Generator().manual_seed(0), window_store=store)  # goes on

    A stage all of whose windows are there runs no network; the result is that of an undisturbed run, bit for bit.
    A subclass that keeps them elsewhere, such as a job's folder, has the three methods.

    Args:
        windows: stage name -> its first windows, in order, (b, c, f, h, w) in the model's own range: what an earlier
            run has finished.
    """

    def __init__(self, windows: Mapping[str, Sequence[Tensor]] | None = None):
        self.windows: dict[str, list[Tensor]] = {name: list(given) for name, given in (windows or {}).items()}

    def stages(self) -> Sequence[str]:
        """The stages that it holds windows of.

        Returns:
            Their names.
        """
        return list(self.windows)

    def finished(self, stage: str) -> Sequence[Tensor]:
        """The first windows of a stage, in order.

        Args:
            stage: its name.

        Returns:
            Tensors (b, c, f, h, w), as they were added.
        """
        return self.windows.get(stage, [])

    def add(self, stage: str, index: int, window: Tensor) -> None:
        """Called by a stage when it has finished a window.

        Args:
            stage: its name.
            index: of the window, from 0.
            window: (b, c, f, h, w) in the model's own range.
        """
        self.windows.setdefault(stage, []).append(window)


class WindowedUNet:
    """A video UNet that sees a long video in overlapping windows of frames; shared frames get a blend of predictions.

    MultiDiffusion (Bar-Tal et al. 2023) along time: every step predicts each window by itself, weighs the predictions
    by weights that rise from a window's ends to its middle, and steps the video as a whole.

    Args:
        unet: the video UNet.
        windows: (start, stop) frames, together all of the video.
    """

    def __init__(self, unet: nn.Module, windows: list[tuple[int, int]]):
        self.unet, self.windows, self.config = unet, windows, unet.config
        self.is_cache_enabled = getattr(unet, "is_cache_enabled", False)
        self._context = ""
        weights = torch.zeros(len(windows), windows[-1][1])
        for row, (start, stop) in zip(weights, windows, strict=True):
            rising = torch.arange(1, stop - start + 1)
            row[start:stop] = torch.minimum(rising, rising.flip(0))
        self.weights = weights / weights.sum(dim=0)  # a frame's weights add up to 1

    @contextmanager
    def cache_context(self, name: str) -> Iterator[None]:
        """As a network's own; within it each window has a context to itself."""
        self._context = name
        yield

    def text_cache(self) -> Any:
        """The network's own, if it has one: all windows read one text."""
        return self.unet.text_cache() if hasattr(self.unet, "text_cache") else None

    def _reset_stateful_cache(self) -> None:
        self.unet._reset_stateful_cache()

    def __call__(self, sample: Tensor, timestep: Any, return_dict: bool = False, **kwargs: Any) -> tuple[Tensor]:
        """As the UNet's own: sample (b, c, f, h, w) -> prediction (b, c', f, h, w) in a tuple."""
        self.weights = self.weights.to(sample.device)
        out: Tensor | None = None
        for (start, stop), weights in zip(self.windows, self.weights, strict=True):
            with cache_context(self.unet, f"{self._context}, frames {start}"):
                part = self.unet(sample[:, :, start:stop], timestep, return_dict=False, **kwargs)[0]
            if out is None:
                out = torch.zeros(*part.shape[:2], *sample.shape[2:], device=part.device)
            out[:, :, start:stop] += part * weights[start:stop, None, None]
        return (out.to(part.dtype),)
