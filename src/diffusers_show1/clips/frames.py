# SPDX-License-Identifier: Apache-2.0
"""A clip as an array `(f, h, w, 3)` uint8: from other forms, turned as it is to be shown, and how large it may be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np


if TYPE_CHECKING:
    from av import VideoFrame
    from PIL.Image import Image

# What is decoded is held in memory, and a small file can claim frames of any size and number.
MAX_PIXELS, MAX_FRAMES, MAX_BYTES = 2**25, 2**16, 2**32
SMALL_ENOUGH = f"at most {MAX_FRAMES} frames of at most {MAX_PIXELS} pixels each and {MAX_BYTES} bytes in all"


def to_uint8(frames: np.ndarray | Sequence[Image]) -> np.ndarray:
    """A clip as `(f, h, w, 3)` uint8, from floats in 0..1 (rounded, not truncated), from uint8, or from PIL images.

    Raises `ValueError` for another shape or type, no frames, images of different sizes, or values outside 0..1.
    """
    if not isinstance(frames, np.ndarray):
        if not hasattr(frames, "__len__"):
            raise ValueError(f"`frames` must be an array or a list of PIL images, got {type(frames).__name__}")
        if not len(frames):
            raise ValueError("`frames` must hold at least one frame, got an empty list")
        if not all(hasattr(frame, "convert") for frame in frames):
            raise ValueError(f"`frames` must be an array or PIL images, got a list of {type(frames[0]).__name__}")
        sizes = {frame.size for frame in frames}
        if len(sizes) > 1:
            raise ValueError(f"`frames` must be images of one size, got (width, height) {sorted(sizes)}")
        return np.stack([np.asarray(frame.convert("RGB")) for frame in frames])
    if frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ValueError(f"`frames` must have shape (frames, h, w, 3), none of them 0, got {frames.shape}")
    if frames.dtype == np.uint8:
        return frames
    if not np.issubdtype(frames.dtype, np.floating):
        raise ValueError(f"`frames` must be uint8 or float in 0..1, got dtype {frames.dtype}")
    low, high = float(frames.min()), float(frames.max())
    # Written so that a NaN fails too; the tolerance is for half precision.
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise ValueError(f"`frames` must be in 0..1, got values from {low:g} to {high:g}")
    return np.rint(frames.astype(np.float32) * 255).clip(0, 255).astype(np.uint8)


Matrix = tuple[float, float, float, float]
"""(a, b, c, d) takes the pixel at (x, y), y downwards, to (a·x + c·y, b·x + d·y)."""

AS_STORED: Matrix = (1, 0, 0, 1)


def upright(pixels: np.ndarray, matrix: Matrix) -> tuple[np.ndarray, bool]:
    """A frame as it is to be shown: cameras write frames as the sensor lies, and how to turn and mirror them.

    Args:
        pixels: (h, w, 3) as stored.
        matrix: what is no turn by quarters is taken for the nearest one.

    Returns:
        The pixels, (h, w, 3) or (w, h, 3), and whether height and width have changed places.
    """
    a, b, c, d = matrix
    turned = abs(b) + abs(c) > abs(a) + abs(d)
    across, down = (c, b) if turned else (a, d)
    pixels = pixels.swapaxes(0, 1) if turned else pixels
    return np.ascontiguousarray(pixels[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]), turned


def display_matrix(frame: VideoFrame) -> Matrix:
    """How a decoded frame is to be shown: the linear part of the matrix in ISO/IEC 14496-12, 8.3.2.

    The container says it once: one frame of a file is enough.
    """
    from av.video.reformatter import VideoReformatter

    # Of a small copy, for PyAV ties a frame whose side data is asked for to itself: the frame would stay, with the
    # threads that convert it, until garbage is collected, which hangs where that happens in a forked process.
    copy = VideoReformatter().reformat(frame, width=16, height=16, format="gray")
    found: Any = copy.side_data.get("DISPLAYMATRIX")
    if found is None:
        return AS_STORED
    a, b, _, c, d, *_ = np.frombuffer(found, np.int32).tolist()  # in the machine's own order of bytes
    return a, b, c, d


def check_pixels(path: str, width: int, height: int) -> None:
    """ValueError for a frame that is too large to be decoded."""
    if width * height > MAX_PIXELS:
        raise ValueError(f"`path` must hold {SMALL_ENOUGH}, got {path!r} with {width}x{height}")


def check_size(path: str, frames: int, size: int) -> None:
    """ValueError for more frames, of `size` bytes each, than are held in memory."""
    if frames > MAX_FRAMES or frames * size > MAX_BYTES:
        raise ValueError(f"`path` must hold {SMALL_ENOUGH}, got {path!r} with at least {frames} of {size} bytes")
