# SPDX-License-Identifier: Apache-2.0
"""Frames and files: a clip as an array `(f, h, w, 3)`, written to and read from video files and folders."""

from __future__ import annotations

import contextlib
import math
import os
import re
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np


if TYPE_CHECKING:
    from PIL.Image import Image

VIDEO_ENDINGS = (".mp4", ".gif", ".webp")
_ALLOWED = ".mp4, .gif or .webp, or be a folder for PNG frames (no ending, or a slash at the end)"
_FRAME_NAME = re.compile(r"\d{3,}\.png")


def output_ending(path: str | os.PathLike[str]) -> str:
    """The kind of output that a path names: `".mp4"`, `".gif"`, `".webp"`, or `""` for a folder of PNG frames.

    A folder is a path without an ending, or one that ends in a slash. Raises `ValueError` for anything else.
    """
    text = os.fspath(path)
    if not text.strip():
        raise ValueError(f"`path` must end in {_ALLOWED}, got {text!r}")
    ending = "" if text.endswith(("/", os.sep)) else Path(text).suffix.lower()
    if ending and ending not in VIDEO_ENDINGS:
        raise ValueError(f"`path` must end in {_ALLOWED}, got {text!r}")
    return ending


def check_output_path(path: str | os.PathLike[str]) -> None:
    """Find out, before any model runs, whether `save_video` will be able to write `path`.

    Nothing is left behind: the nearest folder that exists is tried with an unnamed temporary file.

    Raises:
        ValueError: the ending is none that can be written, or the existing folder `path` holds more than frames
            (`000.png` ...), which replacing it would delete.
        OSError: a folder stands where the file should be or the reverse, or the folder above cannot be written.
    """
    ending = output_ending(path)
    target = Path(path)
    if ending and target.is_dir():
        raise IsADirectoryError(f"`path` must be a file, got the folder {os.fspath(path)!r}")
    if not ending and target.exists():
        if not target.is_dir():
            raise NotADirectoryError(f"`path` must end in {_ALLOWED}, got the file {os.fspath(path)!r}")
        others = sorted(entry.name for entry in target.iterdir() if not _FRAME_NAME.fullmatch(entry.name))
        if others:
            raise ValueError(
                "`path` must be a new folder or one with nothing but frames (000.png, 001.png, ...), "
                f"got {os.fspath(path)!r}, which holds {others[0]!r}"
            )
    parent = target.resolve().parent
    while not parent.exists():
        parent = parent.parent
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise type(error)(
            f"`path` must be in a folder that can be written, got {os.fspath(path)!r} ({parent}: {error.strerror})"
        ) from error


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary name beside `path`; when the block ends well, what was written there takes the place of `path`.

    A reader therefore sees the old content or the new, never a part. Folders above are made. When a folder was
    written, it takes the place of an older one with all that is in that.
    """
    target = Path(path).resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    # The name inside keeps the ending, by which the writers choose their format.
    with tempfile.TemporaryDirectory(prefix=".show1-", dir=target.parent) as folder:
        made = Path(folder) / f"new{target.suffix.lower()}"
        yield made
        if made.is_dir() and target.is_dir():  # a folder cannot be replaced by another in one step unless it is empty
            os.replace(target, Path(folder) / "old")
        os.replace(made, target)


def to_uint8(frames: np.ndarray | Sequence[Image]) -> np.ndarray:
    """A clip as `(f, h, w, 3)` uint8, from floats in 0..1 (rounded, not truncated), from uint8, or from PIL images.

    Raises `ValueError` for another shape or type, no frames, images of different sizes, or values outside 0..1.
    """
    if not isinstance(frames, np.ndarray):
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


def save_video(frames: np.ndarray | Sequence[Image], path: str | os.PathLike[str], fps: float = 8.0) -> Path:
    """Write one clip; the path's ending chooses the format, and an existing file is replaced in one step.

    Args:
        frames: `(f, h, w, 3)` floats in 0..1 or uint8, or a list of PIL images of one size.
        path: `.mp4` (H.264), `.gif` (256 colours a frame), `.webp` (lossless), or a folder of PNG frames
            (`000.png`, `001.png`, ...) when there is no ending or a trailing slash. Folders above are made.
        fps: frames per second, above 0 (a folder has no rate and ignores it). GIF keeps hundredths of a second a
            frame and WebP thousandths, so their rate is the nearest that fits.

    Returns the path written. H.264 as players expect it (yuv420p) has even sizes only: a clip of odd height or width
    gets its last row or column twice, with a warning; sizes are never scaled.

    Raises `ValueError` for bad frames, rate or ending, and `OSError` as `check_output_path` does.
    """
    if not (fps > 0 and math.isfinite(fps)):
        raise ValueError(f"`fps` must be a number above 0, got {fps!r}")
    clip = to_uint8(frames)
    check_output_path(path)
    ending = output_ending(path)
    with replacing(path) as made:
        if ending == ".mp4":
            _write_mp4(clip, made, fps)
        elif ending:
            _write_animation(clip, made, fps)
        else:
            _write_folder(clip, made)
    return Path(path)


def _images(clip: np.ndarray) -> list[Image]:
    from PIL import Image

    return [Image.fromarray(frame) for frame in clip]


def _write_mp4(clip: np.ndarray, path: Path, fps: float) -> None:
    from diffusers.utils import export_to_video

    height, width = clip.shape[1:3]
    if height % 2 or width % 2:
        clip = np.pad(clip, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        warnings.warn(
            f"H.264 needs even sizes: {width}x{height} is written as {clip.shape[2]}x{clip.shape[1]}", stacklevel=3
        )
    # As images: arrays would be taken for floats in 0..1 and truncated. macro_block_size: the default of 16 rescales.
    export_to_video(_images(clip), str(path), fps=fps, quality=8, macro_block_size=2)
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


def _write_animation(clip: np.ndarray, path: Path, fps: float) -> None:
    first, *others = _images(clip)
    unit = 10 if path.suffix == ".gif" else 1  # milliseconds
    first.save(
        path,
        save_all=True,
        append_images=others,
        duration=max(unit, round(1000 / fps / unit) * unit),
        loop=0,
        lossless=True,  # of WebP; GIF knows no such choice
    )


def _write_folder(clip: np.ndarray, path: Path) -> None:
    path.mkdir()
    for index, image in enumerate(_images(clip)):
        image.save(path / f"{index:03d}.png")


def read_video(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a clip as `(f, h, w, 3)` uint8 RGB.

    `path` is a folder of PNG frames, a GIF or WebP animation, or any file that FFmpeg decodes. The encoders of
    animations merge equal neighbours into one longer frame; such frames are repeated by their duration.

    Raises `FileNotFoundError` when there is nothing at `path`, and `ValueError` when there is no video in it.
    """
    source = Path(path)
    if not source.exists():
        raise FileNotFoundError(
            f"`path` must be a video file or a folder of frames, got {os.fspath(path)!r}, which does not exist"
        )
    if source.is_dir():
        return _read_folder(source)
    if source.suffix.lower() in (".gif", ".webp"):
        return _read_animation(source)
    return _read_container(source)


def _read_folder(path: Path) -> np.ndarray:
    from PIL import Image

    names = sorted((entry for entry in path.iterdir() if _FRAME_NAME.fullmatch(entry.name)), key=lambda e: int(e.stem))
    if not names:
        raise ValueError(f"`path` must hold frames (000.png, 001.png, ...), got the folder {str(path)!r} without any")
    frames = []
    for name in names:
        with Image.open(name) as image:
            frames.append(image.convert("RGB"))
    return to_uint8(frames)


def _read_animation(path: Path) -> np.ndarray:
    from PIL import Image, ImageSequence, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            frames, durations = [], []
            for frame in ImageSequence.Iterator(image):
                frame.load()
                frames.append(np.asarray(frame.convert("RGB")))
                durations.append(int(frame.info.get("duration", 0)))
    except UnidentifiedImageError as error:
        raise ValueError(f"`path` must be an animation that Pillow reads, got {str(path)!r}") from error
    unit = math.gcd(*durations) or 1
    return np.repeat(np.stack(frames), [max(1, duration // unit) for duration in durations], axis=0)


def _read_container(path: Path) -> np.ndarray:
    import av

    try:
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    except (av.FFmpegError, IndexError) as error:  # IndexError: a container without a video stream
        raise ValueError(f"`path` must be a video that FFmpeg reads, got {str(path)!r} ({error})") from error
    if not frames:
        raise ValueError(f"`path` must be a video with frames, got {str(path)!r} without any")
    return np.stack(frames)
