# SPDX-License-Identifier: Apache-2.0
"""Clips to files: .mp4, .gif, .webp, and folders of PNG frames."""

from __future__ import annotations

import numbers
import os
import struct
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .files import check_output_path, output_ending, replacing
from .formats import EXIF_COMMENT, EXIF_NAME, PNG_KEYWORD
from .frames import to_uint8
from .provenance import encode_metadata, tag_container
from .timing import FASTEST, SLOWEST, duration, note, note_in_gif
from .watermark import DEFAULT_KEY, embed_watermark
from .words import shorten


if TYPE_CHECKING:
    from PIL.Image import Image


def save_video(
    frames: np.ndarray | Sequence[Image],
    path: str | os.PathLike[str],
    fps: float = 8.0,
    *,
    watermark: bool | str = False,
    metadata: dict[str, Any] | None = None,
) -> Path:
    """Write one clip; the path's ending chooses the format, and an existing file is replaced in one step.

    Args:
        frames: `(f, h, w, 3)` floats in 0..1 or uint8, or a list of PIL images of one size.
        path: `.mp4` (H.264), `.gif` (256 colours a frame), `.webp` (lossless), or a folder of PNG frames
            (`000.png`, `001.png`, ...) when there is no ending or a trailing slash. Folders above are made.
        fps: frames per second, 0.002 to 1000000 (a folder has no rate and ignores it). GIF keeps hundredths of a
            second a frame and WebP thousandths, so their rate is the nearest that fits; what was asked for is noted
            in the file, for `read_fps`.
        watermark: `True`, or a key of one's own, puts an invisible mark over all frames, for `detect_watermark`.
        metadata: anything for JSON, such as how the clip was made, written into the file for `read_metadata`.

    H.264 as players expect it (yuv420p) has even sizes only: a clip of odd height or width gets its last row or column
    twice, with a warning; sizes are never scaled.

    Returns:
        The path written.

    Raises:
        ValueError: bad frames, rate, ending, key or metadata; a GIF whose frames stand still for over 655 seconds.
        OSError: as `check_output_path` does; the disk is full.
    """
    if not (isinstance(fps, numbers.Real) and SLOWEST <= fps <= FASTEST):  # written so that NaN fails
        raise ValueError(f"`fps` must be a number above 0, from 0.002 to 1000000, got {shorten(repr(fps))}")
    clip = to_uint8(frames)
    comment = None if metadata is None else encode_metadata(metadata)
    check_output_path(path)
    ending = output_ending(path)
    if watermark is not False:
        clip = embed_watermark(clip, DEFAULT_KEY if watermark is True else watermark)
    with replacing(path) as made:
        if ending == ".mp4":
            _write_mp4(clip, made, fps, comment)
        elif ending == ".gif":
            _write_gif(clip, made, fps, comment)
        elif ending == ".webp":
            _write_webp(clip, made, fps, comment)
        else:
            _write_folder(clip, made, comment)
    return Path(path)


def _images(clip: np.ndarray) -> list[Image]:
    from PIL import Image

    return [Image.fromarray(frame) for frame in clip]


def _write_mp4(clip: np.ndarray, path: Path, fps: float, comment: str | None) -> None:
    from diffusers.utils import export_to_video

    height, width = clip.shape[1:3]
    if height % 2 or width % 2:
        clip = np.pad(clip, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        warnings.warn(
            f"H.264 needs even sizes: {width}x{height} is written as {clip.shape[2]}x{clip.shape[1]}", stacklevel=3
        )
    # As images: arrays would be taken for floats in 0..1 and truncated. macro_block_size: the default of 16 rescales.
    export_to_video(_images(clip), str(path), fps=fps, quality=8, macro_block_size=2)
    if comment is not None:
        _check_mp4(path, len(clip))  # what a full disk cut short can't be copied
        plain = path.rename(path.with_name("plain.mp4"))
        tag_container(plain, path, comment)
        plain.unlink()
    _check_mp4(path, len(clip))


def _check_mp4(path: Path, count: int) -> None:
    """Raises `OSError` unless a file holds `count` frames: the encoder, another process, is silent on a full disk."""
    import av

    try:
        with av.open(str(path)) as container:
            written = container.streams.video[0].frames
    except (av.FFmpegError, IndexError):
        written = 0
    if written != count:
        raise OSError(f"the encoder wrote {written} of {count} frames; is the disk full?")


def _write_gif(clip: np.ndarray, path: Path, fps: float, comment: str | None) -> None:
    first, *others = _images(clip)
    extra = {} if comment is None else {"comment": comment}
    try:
        first.save(path, save_all=True, append_images=others, duration=duration(fps, 10), loop=0, **extra)
    except (struct.error, OverflowError) as error:
        raise ValueError(
            "`frames` must change within 655 seconds, the longest that a .gif shows a picture, "
            f"got {len(clip)} at {float(fps):g} fps that stand still for longer"
        ) from error
    note_in_gif(path, note(len(clip), fps))


def _write_webp(clip: np.ndarray, path: Path, fps: float, comment: str | None) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[EXIF_NAME] = note(len(clip), fps)
    if comment is not None:
        exif[EXIF_COMMENT] = comment
    first, *others = _images(clip)
    first.save(path, save_all=True, append_images=others, duration=duration(fps, 1), loop=0, lossless=True, exif=exif)


def _write_folder(clip: np.ndarray, path: Path, comment: str | None) -> None:
    from PIL.PngImagePlugin import PngInfo

    text = None
    if comment is not None:
        text = PngInfo()
        text.add_text(PNG_KEYWORD, comment)
    path.mkdir()
    for index, image in enumerate(_images(clip)):
        image.save(path / f"{index:03d}.png", pnginfo=text)
