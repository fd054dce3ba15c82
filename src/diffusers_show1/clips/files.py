# SPDX-License-Identifier: Apache-2.0
"""Frames and files: a clip as an array `(f, h, w, 3)`, written to and read from video files and folders."""

from __future__ import annotations

import contextlib
import math
import os
import re
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .provenance import EXIF_TAG, PNG_KEYWORD, encode_metadata, tag_container


if TYPE_CHECKING:
    from PIL.Image import Image

VIDEO_ENDINGS = (".mp4", ".gif", ".webp")
_ALLOWED = ".mp4, .gif or .webp, or be a folder for PNG frames (no ending, or a slash at the end)"
_FRAME_NAME = re.compile(r"[0-9]{3,}\.png")

# What is decoded is held in memory, and a small file can claim frames of any size and number.
_MAX_PIXELS, _MAX_FRAMES, _MAX_BYTES = 2**25, 2**16, 2**32
_SMALL_ENOUGH = f"at most {_MAX_FRAMES} frames of at most {_MAX_PIXELS} pixels each and {_MAX_BYTES} bytes in all"

# Options of FFmpeg. Without them it also opens playlists (.m3u8, ffconcat, ...) under any file name, and reads what
# they name.
VIDEO_FILES_ONLY = {
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,ogg,flv,asf,"
    "ivf,nut,gif,png_pipe,jpeg_pipe,webp_pipe",
    "protocol_whitelist": "file",
}


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
            second a frame and WebP thousandths, so their rate is the nearest that fits.
        watermark: `True`, or a key of one's own, puts an invisible mark over all frames, for `detect_watermark`.
        metadata: anything for JSON, such as how the clip was made, written into the file for `read_metadata`.

    H.264 as players expect it (yuv420p) has even sizes only: a clip of odd height or width gets its last row or column
    twice, with a warning; sizes are never scaled.

    Returns:
        The path written.

    Raises:
        ValueError: bad frames, rate, ending, key or metadata.
        OSError: as `check_output_path` does; the disk is full.
    """
    if not 0.002 <= fps <= 1e6:  # written so that NaN fails; GIF cannot show a frame for longer
        raise ValueError(f"`fps` must be a number above 0, from 0.002 to 1000000, got {fps!r}")
    clip = to_uint8(frames)
    comment = None if metadata is None else encode_metadata(metadata)
    check_output_path(path)
    ending = output_ending(path)
    if watermark is not False:
        from .watermark import DEFAULT_KEY, embed_watermark

        clip = embed_watermark(clip, DEFAULT_KEY if watermark is True else watermark)
    with replacing(path) as made:
        if ending == ".mp4":
            _write_mp4(clip, made, fps, comment)
        elif ending:
            _write_animation(clip, made, fps, comment)
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


def _write_animation(clip: np.ndarray, path: Path, fps: float, comment: str | None) -> None:
    from PIL import Image

    first, *others = _images(clip)
    unit = 10 if path.suffix == ".gif" else 1  # milliseconds
    extra: dict[str, Any] = {}
    if comment is not None and path.suffix == ".gif":
        extra["comment"] = comment
    elif comment is not None:
        extra["exif"] = Image.Exif()
        extra["exif"][EXIF_TAG] = comment
    first.save(
        path,
        save_all=True,
        append_images=others,
        duration=max(unit, round(1000 / fps / unit) * unit),
        loop=0,
        lossless=True,  # of WebP; GIF knows no such choice
        **extra,
    )


def _write_folder(clip: np.ndarray, path: Path, comment: str | None) -> None:
    from PIL.PngImagePlugin import PngInfo

    text = None
    if comment is not None:
        text = PngInfo()
        text.add_text(PNG_KEYWORD, comment)
    path.mkdir()
    for index, image in enumerate(_images(clip)):
        image.save(path / f"{index:03d}.png", pnginfo=text)


def read_video(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a clip.

    The encoders of animations merge equal neighbours into one longer frame; such frames are repeated by their
    duration. Transparency is dropped: the colour under it is what is read. Sixteen bits a channel become eight.

    Args:
        path: a folder of PNG frames, a GIF or WebP animation, or any video file that FFmpeg decodes. Playlists and
            other files that only name files are none. At most 65536 frames, 33 million pixels a frame (8K), 4 GiB of
            frames.

    Returns:
        `(f, h, w, 3)` uint8 RGB.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: there is no video in it, a part of it is damaged, its frames are of different sizes, or it is
            larger than that.
        OSError: the file system refuses to read it.
    """
    source = os.fspath(path)
    if not os.path.exists(source):
        raise FileNotFoundError(
            f"`path` must be a video file or a folder of frames, got {source!r}, which does not exist"
        )
    if os.path.isdir(source):
        return _read_folder(source)
    if not os.path.isfile(source):
        raise ValueError(f"`path` must be a video file or a folder of frames, got {source!r}, which is neither")
    if Path(source).suffix.lower() in (".gif", ".webp"):
        return _read_animation(source)
    return _read_container(source)


def _read_folder(path: str) -> np.ndarray:
    entries = (entry for entry in Path(path).iterdir() if _FRAME_NAME.fullmatch(entry.name))
    files = sorted(entries, key=lambda entry: (int(entry.stem), entry.name))
    if not files:
        raise ValueError(f"`path` must hold frames (000.png, 001.png, ...), got the folder {path!r} without any")
    for file in files:
        if not file.is_file():
            raise ValueError(f"`path` must hold frames, got the folder {path!r}, whose {file.name} is no file")
    return _stack(path, (next(_decoded(file))[0] for file in files))


def _read_animation(path: str) -> np.ndarray:
    durations: list[int] = []

    def frames() -> Iterator[np.ndarray]:
        for frame, duration in _decoded(Path(path)):
            durations.append(duration)
            yield frame

    clip = _stack(path, frames())
    # 24 frames a second are 41, 42, 42, ... thousandths, which are no multiples of each other
    rounding = 10 if path.lower().endswith(".gif") else 1
    unit = math.gcd(*durations) if max(durations) - min(durations) > rounding else 0
    repeats = [max(1, duration // unit) if unit else 1 for duration in durations]
    _check_size(path, sum(repeats), clip[0].nbytes)
    return np.repeat(clip, repeats, axis=0)


def _decoded(file: Path) -> Iterator[tuple[np.ndarray, int]]:
    """The pictures in a file, (h, w, 3) uint8, and how long each is shown, in milliseconds."""
    from PIL import Image, ImageSequence

    with file.open("rb") as content:
        with _damage_told(file):
            # Without this list Pillow tries all that it knows, Ghostscript among it.
            image = Image.open(content, formats=("PNG", "GIF", "WEBP", "JPEG"))
        _check_pixels(str(file), *image.size)
        frames = ImageSequence.Iterator(image)
        while True:
            with _damage_told(file):
                frame = next(frames, None)
                if frame is None:
                    return
                frame.load()
                if frame.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut off at 255
                    grey = np.rint(np.asarray(frame) / 257).clip(0, 255).astype(np.uint8)
                    pixels = np.repeat(grey[..., None], 3, axis=2)
                else:
                    pixels = np.asarray(frame.convert("RGB"))
                duration = int(frame.info.get("duration", 0))
            yield pixels, duration


@contextlib.contextmanager
def _damage_told(file: Path) -> Iterator[None]:
    """ValueError for whatever Pillow raises for a damaged file; it may be anything."""
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        raise ValueError(f"`path` must be an animation or frames that Pillow reads, got {str(file)!r}") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"`path` must hold {_SMALL_ENOUGH}, got {str(file)!r} ({error})") from error
    except Exception as error:
        raise ValueError(f"`path` must hold pictures that are whole, got {str(file)!r} ({error})") from error


def _read_container(path: str) -> np.ndarray:
    import av
    from av.stream import Disposition

    try:
        # An absolute path: FFmpeg takes `concat:a` for a protocol.
        with av.open(os.path.abspath(path), options=VIDEO_FILES_ONLY, metadata_errors="replace") as container:
            # The cover of a piece of music is no video.
            videos = [one for one in container.streams.video if not one.disposition & Disposition.attached_pic]
            if not videos or videos[0].codec_context is None:
                raise ValueError(f"`path` must be a video that FFmpeg reads, got {path!r} without a video stream")
            _check_pixels(path, videos[0].width, videos[0].height)
            return _stack(path, (frame.to_ndarray(format="rgb24") for frame in container.decode(videos[0])))
    except av.FFmpegError as error:
        raise ValueError(f"`path` must be a video that FFmpeg reads, got {path!r} ({error.strerror})") from error


def _stack(path: str, frames: Iterable[np.ndarray]) -> np.ndarray:
    """One array of all frames; ValueError as soon as they are too many, or of another size than the first."""
    clip: list[np.ndarray] = []
    for frame in frames:
        if clip and frame.shape != clip[0].shape:
            sizes = " and ".join(f"{width}x{height}" for height, width, _ in (clip[0].shape, frame.shape))
            raise ValueError(f"`path` must hold frames of one size, got {path!r} with {sizes}")
        _check_size(path, len(clip) + 1, frame.nbytes)
        clip.append(frame)
    if not clip:
        raise ValueError(f"`path` must be a video with frames, got {path!r} without any")
    return np.stack(clip)


def _check_pixels(path: str, width: int, height: int) -> None:
    if width * height > _MAX_PIXELS:
        raise ValueError(f"`path` must hold {_SMALL_ENOUGH}, got {path!r} with {width}x{height}")


def _check_size(path: str, frames: int, size: int) -> None:
    if frames > _MAX_FRAMES or frames * size > _MAX_BYTES:
        raise ValueError(f"`path` must hold {_SMALL_ENOUGH}, got {path!r} with at least {frames} of {size} bytes")
