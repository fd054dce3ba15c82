# SPDX-License-Identifier: Apache-2.0
"""Clips from files: video files by FFmpeg, pictures and animations by Pillow, folders of frames."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .formats import FRAME_NAME, VIDEO_FILES_ONLY, picture_format
from .frames import check_pixels, check_size, display_matrix, upright
from .pictures import picture_timing, read_pictures


if TYPE_CHECKING:
    from av import VideoFrame, VideoStream
    from av.container import InputContainer


def read_video(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a clip, turned and mirrored as its file says that it is to be shown.

    What it is is told by its content, whatever its ending. The encoders of animations merge equal neighbours into one
    picture that is shown longer: a file that `save_video` wrote gives as many frames as it was given; in one from
    elsewhere such pictures are repeated by their duration. Transparency is dropped: the colour under it is what is
    read. Sixteen bits a channel become eight.

    Args:
        path: a folder of PNG frames, an animation (GIF, WebP, APNG), a picture (PNG, JPEG, BMP, TIFF, JPEG 2000), or
            any video file that FFmpeg decodes. Playlists and other files that only name files are none. At most 65536
            frames, 33 million pixels a frame (8K), 4 GiB of frames.

    Returns:
        `(f, h, w, 3)` uint8 RGB.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: there is no video in it, a part of it is damaged, its frames are of different sizes, or it is
            larger than that.
        OSError: the file system refuses to read it.
    """
    source = _existing(path)
    if source.is_dir():
        return _stack(str(source), (next(read_pictures(file, str(file)))[0] for file in _frames_of(source)))
    if picture_format(source):
        return _read_pictures(source)
    with _video(source) as (container, stream):
        check_pixels(str(source), stream.width, stream.height)
        return _stack(str(source), _shown(container.decode(stream)))


def read_fps(path: str | os.PathLike[str]) -> float | None:
    """The rate of a clip, for `save_video(..., fps=...)`.

    Args:
        path: as for `read_video`.

    Returns:
        Frames per second: what `save_video` was given, where it wrote the file; else the mean over the clip. None for
        a folder of frames or a picture, which have none.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: there is no video in it, it is damaged, or larger than `read_video` allows.
        OSError: the file system refuses to read it.
    """
    source = _existing(path)
    if source.is_dir():
        _frames_of(source)
        return None
    if picture_format(source):
        return picture_timing(source, str(source)).fps
    with _video(source) as (_, stream):
        rate = stream.average_rate or stream.base_rate
        return float(rate) if rate else None


def _existing(path: str | os.PathLike[str]) -> Path:
    source = os.fspath(path)
    if not os.path.exists(source):
        raise FileNotFoundError(
            f"`path` must be a video file or a folder of frames, got {source!r}, which does not exist"
        )
    if not os.path.isdir(source) and not os.path.isfile(source):
        raise ValueError(f"`path` must be a video file or a folder of frames, got {source!r}, which is neither")
    return Path(source)


def _frames_of(folder: Path) -> list[Path]:
    entries = (entry for entry in folder.iterdir() if FRAME_NAME.fullmatch(entry.name))
    files = sorted(entries, key=lambda entry: (int(entry.stem), entry.name))
    if not files:
        raise ValueError(
            f"`path` must hold frames (000.png, 001.png, ...), got the folder {str(folder)!r} without any"
        )
    for file in files:
        if not file.is_file():
            raise ValueError(f"`path` must hold frames, got the folder {str(folder)!r}, whose {file.name} is no file")
    return files


def _read_pictures(source: Path) -> np.ndarray:
    durations: list[int] = []

    def frames() -> Iterator[np.ndarray]:
        for frame, duration in read_pictures(source, str(source)):
            durations.append(duration)
            yield frame

    clip = _stack(str(source), frames())
    repeats = picture_timing(source, str(source), durations).repeats
    check_size(str(source), sum(repeats), clip[0].nbytes)
    return np.repeat(clip, repeats, axis=0)


@contextlib.contextmanager
def _video(source: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """A video file, open, and its video; whatever FFmpeg raises within is a ValueError."""
    import av
    from av.stream import Disposition

    path = str(source)
    try:
        # An absolute path: FFmpeg takes `concat:a` for a protocol.
        with av.open(os.path.abspath(path), options=VIDEO_FILES_ONLY, metadata_errors="replace") as container:
            # The cover of a piece of music is no video.
            videos = [one for one in container.streams.video if not one.disposition & Disposition.attached_pic]
            if not videos or videos[0].codec_context is None:
                raise ValueError(f"`path` must be a video that FFmpeg reads, got {path!r} without a video stream")
            yield container, videos[0]
    except av.FFmpegError as error:
        raise ValueError(f"`path` must be a video that FFmpeg reads, got {path!r} ({error.strerror})") from error


def _shown(frames: Iterable[VideoFrame]) -> Iterator[np.ndarray]:
    matrix = None
    for frame in frames:
        matrix = matrix or display_matrix(frame)
        yield upright(frame.to_ndarray(format="rgb24"), matrix)[0]


def _stack(path: str, frames: Iterable[np.ndarray]) -> np.ndarray:
    """One array of all frames; ValueError as soon as they are too many, or of another size than the first."""
    clip: list[np.ndarray] = []
    for frame in frames:
        if clip and frame.shape != clip[0].shape:
            sizes = " and ".join(f"{width}x{height}" for height, width, _ in (clip[0].shape, frame.shape))
            raise ValueError(f"`path` must hold frames of one size, got {path!r} with {sizes}")
        check_size(path, len(clip) + 1, frame.nbytes)
        clip.append(frame)
    if not clip:
        raise ValueError(f"`path` must be a video with frames, got {path!r} without any")
    return np.stack(clip)
