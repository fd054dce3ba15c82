# SPDX-License-Identifier: Apache-2.0
"""An invisible mark over all frames of a clip, and how to find it again. Off unless it is asked for.

Spread spectrum: a square of 64x64 luminance values, made of a key and repeated over the frame, is added to every
frame, one to two grey levels strong. Finding it adds up all frames and all squares, which cancels the picture and
leaves the mark. What it survives is measured in docs/safety.md; it stops no one who wants to remove it.
"""

from __future__ import annotations

import hashlib
import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .frames import to_uint8
from .reading import read_video


if TYPE_CHECKING:
    from PIL.Image import Image

DEFAULT_KEY = "show1"
FALSE_POSITIVE_RATE = 1e-6
"""Of the clips without the mark, at most this part is said to have it."""

_TILE = 64
_BAND = (0.08, 0.25)  # cycles a pixel: above most of a picture's energy, below what H.264 drops first
_FLAT, _TEXTURED, _GAIN = 1.0, 2.2, 0.3  # grey levels (rms) where nothing hides the mark, at most, per level of detail
# What counts at most, in grey levels. The first keeps edges that move from drowning the mark, the second is for a
# texture that stands still: cut off by the first, it would hide the mark.
_LIMITS = (4.0, 32.0)
_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)
_SCALES = [1.0, *sorted((1.005**step for step in range(-138, 139) if step), key=lambda scale: abs(math.log(scale)))]


@dataclass(frozen=True)
class WatermarkDetection:
    """What `detect_watermark` found.

    Args:
        found: whether the clip carries the key's mark: `p_value` is below `FALSE_POSITIVE_RATE`.
        p_value: an upper bound of the probability that a key which has nothing to do with the clip fits it this well.
        score: how well it fits, in standard deviations of a key that does not; 26 at most.
        scale: the clip's size over that at which it was marked.
    """

    found: bool
    p_value: float
    score: float
    scale: float


def embed_watermark(frames: np.ndarray | Sequence[Image], key: str = DEFAULT_KEY) -> np.ndarray:
    """The clip with the key's mark in it: each pixel some grey levels brighter or darker, alike in R, G and B.

    Args:
        frames: as for `save_video`: an array (f, h, w, 3), or images.
        key: any text that is not empty; only who has it finds the mark.

    Warns where the mark can't be found even in the frames as returned: they are too small, or too noisy.

    Returns:
        (f, h, w, 3) uint8.

    Raises:
        ValueError: bad frames, or an empty key.
    """
    clip = to_uint8(frames)
    height, width = clip.shape[1:3]
    spectrum, _ = _spectrum(key)
    tile = np.fft.irfft2(spectrum, s=(_TILE, _TILE))
    mark = np.tile(tile / tile.std(), (-(-height // _TILE), -(-width // _TILE)))[:height, :width]
    marked = np.empty_like(clip)
    for index, frame in enumerate(clip):
        detail = _blur(np.abs(_detail(frame)))
        strength = np.minimum(_FLAT + _GAIN * detail, _TEXTURED)
        marked[index] = np.rint(frame + (strength * mark)[..., None]).clip(0, 255)
    if not _search(marked, key, scales=_SCALES[:1]).found:
        warnings.warn(
            f"the watermark can't be found again in {len(clip)} frames of {width}x{height} of this content",
            stacklevel=2,
        )
    return marked


def detect_watermark(
    clip: str | os.PathLike[str] | np.ndarray | Sequence[Image], key: str = DEFAULT_KEY
) -> WatermarkDetection:
    """Looks for the key's mark in a clip, at any offset (cropped) and at half to twice the size (resized).

    The mark is compared by phase only: for a key that has nothing to do with the clip, the phases of the `n`
    frequencies differ by independent angles, uniform on the circle, whatever the clip shows. The sum `s` of their
    cosines then exceeds `t` with a probability of at most exp(-t²/n) (Chernoff's bound; a cosine's moments are below
    those of a normal number of variance 1/2), times the number of offsets, sizes and limits that are tried. `score` is
    s·√(2/n).

    Args:
        clip: a file or folder as `read_video` reads it, or frames as for `save_video`, (f, h, w, 3).
        key: what the clip was marked with.

    Returns:
        Whether the mark is there, and how sure that is.

    Raises:
        ValueError: no clip, or an empty key.
        FileNotFoundError: there is nothing at the path.
    """
    frames = read_video(clip) if isinstance(clip, (str, os.PathLike)) else to_uint8(clip)
    return _search(frames, key, _SCALES)


def _search(clip: np.ndarray, key: str, scales: Sequence[float]) -> WatermarkDetection:
    spectrum, count = _spectrum(key)
    totals = [np.zeros(clip.shape[1:3], np.float32) for _ in _LIMITS]
    for frame in clip:
        detail = _detail(frame)
        for total, limit in zip(totals, _LIMITS, strict=True):
            total += np.clip(detail, -limit, limit)
    trials = len(_SCALES) * len(_LIMITS) * _TILE**2
    best = (-math.inf, 1.0)
    for scale in scales:
        for total in totals:
            found = np.fft.rfft2(_fold(total, scale))
            phases = found / np.maximum(np.abs(found), np.finfo(np.float32).tiny)
            # the sum of cosines at each offset; the transform counts every frequency and its mirror image
            cosines = np.fft.irfft2(phases * spectrum.conj(), s=(_TILE, _TILE)) * (_TILE**2 / 2)
            best = max(best, (float(cosines.max()) * math.sqrt(2 / count), scale), key=lambda pair: pair[0])
        p_value = min(1.0, trials * math.exp(-(best[0] ** 2) / 2))
        if scale == 1 and p_value < FALSE_POSITIVE_RATE:
            break
    return WatermarkDetection(p_value < FALSE_POSITIVE_RATE, p_value, best[0], best[1])


def _spectrum(key: str) -> tuple[np.ndarray, int]:
    """The tile's spectrum (64, 33): phases that the key decides, in the band alone; and the number of frequencies."""
    if not key:
        raise ValueError("`key` must be a text that is not empty, got ''")
    # Words of a hash and not a library's random numbers: those may change with its version, and the mark must not.
    words = hashlib.shake_256(key.encode("utf-8", "surrogatepass")).digest(8 * _TILE * (_TILE // 2 + 1))
    angles = np.frombuffer(words, "<u8").reshape(_TILE, -1) * (2 * math.pi / 2**64)
    radius = np.hypot(np.fft.fftfreq(_TILE)[:, None], np.fft.rfftfreq(_TILE)[None])
    band = (radius >= _BAND[0]) & (radius <= _BAND[1])
    band[:, 0] = False  # a column that is its own mirror image: its phases would not be independent
    return np.where(band, np.exp(1j * angles), 0), int(band.sum())


def _detail(frame: np.ndarray) -> np.ndarray:
    """A frame's luminance (h, w) without what is coarser than nine pixels."""
    luminance = frame.astype(np.float32) @ _LUMINANCE
    return luminance - _blur(luminance)


def _blur(image: np.ndarray, radius: int = 4) -> np.ndarray:
    """The mean over squares of `2·radius + 1`, edges repeated."""
    size = 2 * radius + 1
    for _ in range(2):
        sums = np.cumsum(np.pad(image, ((radius + 1, radius), (0, 0)), mode="edge"), axis=0, dtype=np.float64)
        image = ((sums[size:] - sums[:-size]) / size).T
    return image.astype(np.float32)


def _fold(image: np.ndarray, scale: float) -> np.ndarray:
    """An image (h, w), brought to the size at which it was marked, as the sum of its tiles (64, 64)."""
    from PIL import Image

    if scale != 1:
        height, width = (max(1, round(side / scale)) for side in image.shape)
        image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
    height, width = image.shape
    tiles = np.pad(image, ((0, -height % _TILE), (0, -width % _TILE)))
    return tiles.reshape(-(-height // _TILE), _TILE, -(-width // _TILE), _TILE).sum(axis=(0, 2))
