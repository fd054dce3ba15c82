# SPDX-License-Identifier: Apache-2.0
"""The windows that stages cut videos into. Pure functions."""

from __future__ import annotations


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
