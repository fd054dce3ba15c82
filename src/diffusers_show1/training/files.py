# SPDX-License-Identifier: Apache-2.0
"""Captioned clips from video files: manifests, decoding, and the datasets `VideoFiles` and `Stream`.

A manifest lists files and captions. Its header says which of two layouts it has: WebVid's (`videoid, name, page_dir`:
the file is `<page_dir>/<videoid>.mp4`, the caption `name`) or plain (`file, caption`), as CSV or as JSON lines with
the same keys; other columns are ignored. A manifest that cannot be read is an error before any work starts. A *file*
that cannot be used never is: it is skipped and named (`SkipClip`).
"""

import csv
import io
import itertools
import json
import math
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

import av
import numpy as np
import torch
from av.stream import Disposition
from PIL import Image

from ..clips.formats import VIDEO_FILES_ONLY, picture_format
from ..clips.frames import display_matrix, upright
from ..clips.pictures import picture_timing, read_pictures
from ..clips.words import shorten
from .data import TRIES, Clip, ClipBatch, SkipClip, SkipReport, UnreadableDataError, collate


# ---------------------------------------------------------------------------------------------------------------------
# Manifests


LONGEST_VALUE = csv.field_size_limit()  # in characters, for JSON lines too: 131072
WEBVID, PLAIN = ("videoid", "name", "page_dir"), ("file", "caption")


class ManifestError(ValueError):
    """A manifest that cannot be read; the message names the file, and the line and column where there are any."""


class Manifest:
    """The rows of a manifest, as (file, caption): the file relative to the folder of the videos.

    Rows are kept as one string of bytes, whose memory worker processes share, unlike a list's: the ten million rows of
    WebVid-10M take about a gigabyte, once.

    Args:
        path: the manifest, `.csv` or `.jsonl`, in UTF-8.

    Raises:
        ManifestError: it cannot be read, or lists nothing.
    """

    def __init__(self, path: Path):
        self.path = path
        read = {".csv": _csv_rows, ".jsonl": _json_rows}.get(path.suffix.lower())
        if read is None:
            raise ManifestError(f"a manifest must be a .csv or .jsonl file, got {str(path)!r}")
        if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for
            raise ManifestError(f"a manifest must be a file, got {str(path)!r}, which is none")
        packed, ends = bytearray(), array("q", [0])
        try:
            with open(path, "rb") as lines:
                for row in read(path, lines):
                    packed += b"\0".join(row)
                    ends.append(len(packed))
        except OSError as error:
            raise ManifestError(f"{path}: cannot be read ({error.strerror})") from error
        if len(ends) == 1:
            raise ManifestError(f"{path}: lists no clips")
        self._packed, self._ends = packed, ends

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> tuple[str, str]:
        file, _, caption = self._packed[self._ends[index] : self._ends[index + 1]].partition(b"\0")
        return file.decode(), caption.decode()


def _row(path: Path, line: int, values: dict[str, str]) -> tuple[bytes, bytes]:
    """(file, caption) of a row in either layout, in UTF-8."""
    for name, value in values.items():
        if len(value) > LONGEST_VALUE:
            raise ManifestError(
                f"{path}, line {line}: {name!r} must have at most {LONGEST_VALUE} characters, got {len(value)}"
            )
        empty = name in ("videoid", "file") and not value.strip()
        if empty or (name not in ("name", "caption") and "\0" in value):
            raise ManifestError(f"{path}, line {line}: column {name!r} must name a file, got {shorten(repr(value))}")
    if "videoid" in values:
        file, caption = f"{values['videoid']}.mp4", values["name"]
        if values["page_dir"]:
            file = f"{values['page_dir']}/{file}"
    else:
        file, caption = values["file"], values["caption"]
    try:
        return file.encode(), caption.encode()
    except UnicodeEncodeError as error:  # JSON can spell half a character
        told = shorten(repr(error.object))
        raise ManifestError(f"{path}, line {line}: {told} is not text ({error.reason})") from error


def _text(path: Path, line: int, raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}, line {line}: not UTF-8 (byte {error.start + 1})") from error


def _layout(columns: Any) -> tuple[str, ...] | None:
    return next((layout for layout in (WEBVID, PLAIN) if set(layout) <= set(columns)), None)


def _csv_rows(path: Path, lines: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    reader = csv.reader((_text(path, number, raw) for number, raw in enumerate(lines, 1)), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        layout = _layout(header)
        if layout is None or len(set(header)) < len(header):
            raise ManifestError(
                f"{path}, line 1: the columns must include {', '.join(WEBVID)} or {', '.join(PLAIN)}, each once, "
                f"got {shorten(', '.join(header)) or 'nothing'}"
            )
        places = {name: header.index(name) for name in layout}
        for row in reader:
            if not row:  # an empty line
                continue
            if len(row) != len(header):
                raise ManifestError(f"{path}, line {reader.line_num}: {len(header)} columns expected, got {len(row)}")
            yield _row(path, reader.line_num, {name: row[place] for name, place in places.items()})
    except csv.Error as error:
        raise ManifestError(f"{path}, line {reader.line_num}: {error}") from error


def _json_rows(path: Path, lines: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    for number, raw in enumerate(lines, 1):
        text = _text(path, number, raw)
        if not text.strip():
            continue
        try:
            row = json.loads(text, object_pairs_hook=_each_once)
        except json.JSONDecodeError as error:
            raise ManifestError(f"{path}, line {number}, column {error.colno}: {error.msg}") from error
        except (ValueError, RecursionError) as error:  # a key twice, thousands of digits, a thousand brackets
            raise ManifestError(f"{path}, line {number}: {error}") from error
        layout = _layout(row) if isinstance(row, dict) else None
        if layout is None:
            raise ManifestError(
                f"{path}, line {number}: must be an object with the keys {', '.join(WEBVID)} or {', '.join(PLAIN)}, "
                f"got {text.strip()[:80]!r}"
            )
        values = {
            name: str(row[name]) if name == "videoid" and type(row[name]) is int else row[name] for name in layout
        }
        for name, value in values.items():
            if not isinstance(value, str):
                raise ManifestError(f"{path}, line {number}: {name!r} must be a string, got {shorten(repr(value))}")
        yield _row(path, number, values)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {shorten(repr(next(n for n in names if names.count(n) > 1)))} stands twice")
    return found


def find_manifest(path: str | Path) -> Path:
    """The manifest that `path` is, or the only one in the folder that it is.

    Raises:
        ManifestError: there is none, or there are several.
    """
    path = Path(path)
    if not os.path.isdir(path):
        if not os.path.exists(path):  # `Path.exists` raises for a name that is too long
            raise ManifestError(
                f"`path` must be a manifest or a folder with one, got {shorten(repr(str(path)))}, which is not there"
            )
        return path
    found = sorted(entry.name for entry in path.iterdir() if entry.suffix.lower() in (".csv", ".jsonl"))
    if len(found) != 1:
        names = ", ".join(found) or "none"
        raise ManifestError(f"`path` must be a folder with one .csv or .jsonl file, or that file; {path} has {names}")
    return path / found[0]


# ---------------------------------------------------------------------------------------------------------------------
# Geometry and times


def pick_frames(times: np.ndarray, count: int, fps: float, draw: float) -> np.ndarray | None:
    """Which frames of a file make a clip of `count` frames at `fps`.

    The clip starts at any frame that leaves room for it; frame i is the one nearest to start + i / fps, the earlier of
    two. A file slower than `fps` gives frames twice; times may be uneven.

    Args:
        times: when each frame is shown, in seconds, ascending, at least one.
        draw: 0 <= draw < 1: which of the possible starts.

    Returns the frames' numbers (count,), or None if the file is too short: if the last wanted time lies further past
    the last frame than half of the usual distance between frames.
    """
    slack = np.median(np.diff(times)) / 2 if len(times) > 1 else 0.0
    starts = int(np.sum(times <= times[-1] + slack - (count - 1) / fps + 1e-9))
    if not starts:
        return None
    wanted = times[int(draw * starts)] + np.arange(count) / fps
    after = np.searchsorted(times, wanted).clip(0, len(times) - 1)
    before = (after - 1).clip(0)
    return np.where(times[after] - wanted < wanted - times[before] - 1e-6, after, before)  # 1e-6: rounding is no tie


def crop_box(
    size: tuple[int, int], target: tuple[int, int], pixel_aspect: float = 1.0, at: tuple[float, float] = (0.5, 0.5)
) -> tuple[float, float, float, float]:
    """The largest part of a frame that has the target's shape: scaled to the target it keeps the aspect ratio.

    Args:
        size: (height, width) of the frame, in pixels.
        target: (height, width) wanted.
        pixel_aspect: width / height of a pixel as it is shown.
        at: 0 to 1, where the part lies between top and bottom, and between left and right.

    Returns (left, top, right, bottom) in pixels, not rounded.
    """
    height, width = size
    shape = target[1] / target[0] / pixel_aspect  # width / height of the part, in stored pixels
    box_height, box_width = min(height, width / shape), min(width, height * shape)
    top, left = at[0] * (height - box_height), at[1] * (width - box_width)
    return left, top, min(width, left + box_width), min(height, top + box_height)


# ---------------------------------------------------------------------------------------------------------------------
# Decoding


def _open(source: Path | BinaryIO, name: str) -> tuple[av.container.InputContainer, av.VideoStream]:
    if not isinstance(source, Path):
        source.seek(0)
    try:
        container = av.open(source, "r", options=VIDEO_FILES_ONLY, metadata_errors="replace")
    except av.FFmpegError as error:
        raise SkipClip(f"cannot be opened ({error.strerror})", name) from error
    # The cover of a piece of music is no video.
    videos = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if videos and videos[0].codec_context is not None:
        videos[0].codec_context.thread_count = 1  # clips are read side by side, not frames
        return container, videos[0]
    container.close()
    raise SkipClip("in an unknown codec" if videos else "without a video stream", name)


def _timestamps(source: Path | BinaryIO, name: str) -> tuple[list[int] | None, np.ndarray]:
    """The timestamps of a file's frames in the order in which they are shown, and the same in seconds.

    Without timestamps in the file (a bare H.264 stream) the first is None, and frames are taken to be evenly spaced.
    """
    container, stream = _open(source, name)
    with container:
        # A packet without data ends the stream; one to discard is cut off by the file's edit list.
        packets = [p for p in container.demux(stream) if p.size and not p.is_corrupt and not p.is_discard]
        stamps = sorted({packet.pts for packet in packets if packet.pts is not None})
        if any(packet.pts is None for packet in packets):
            return None, np.arange(len(packets)) / float(stream.average_rate or 25)
        return stamps, np.array(stamps, dtype=np.float64) * float(stream.time_base)


@dataclass(frozen=True)
class ClipFormat:
    """What is read from a video file.

    Args:
        frames: number of frames; 1 gives single images.
        height: of a frame, in pixels. The largest part of the frame that has the right shape is cut out and scaled:
            down by a filter that is close to the mean over the area that a pixel covers, up bilinearly.
        width: likewise.
        fps: frames per second, whatever the file's own rate.
        crop: where the part lies that is cut out, `"random"` (the same for all frames) or `"center"`.

    Raises:
        ValueError: a number out of range, or another `crop`.
    """

    frames: int
    height: int
    width: int
    fps: float
    crop: Literal["random", "center"] = "random"

    def __post_init__(self) -> None:
        for name in ("frames", "height", "width"):
            if not (isinstance(getattr(self, name), int) and getattr(self, name) >= 1):
                raise ValueError(f"`{name}` must be a whole number above 0, got {getattr(self, name)!r}")
        if not (self.fps > 0 and math.isfinite(self.fps)):
            raise ValueError(f"`fps` must be a number above 0, got {self.fps!r}")
        if self.crop not in ("random", "center"):
            raise ValueError(f"`crop` must be 'random' or 'center', got {self.crop!r}")

    def read(self, source: Path | BinaryIO, name: str, rng: np.random.Generator) -> torch.Tensor:
        """A random clip of a video file.

        Two passes: the first reads the packets of the whole file without decoding them, for the true times of its
        frames; the second decodes from the last key frame before the clip's start to the clip's end. A file of F bytes
        with a key frame every K frames costs F bytes of reading, and on average K / 2 more decoded frames than the
        clip spans. (A clip at a quarter of the file's rate spans four times its frames: all are decoded, and those
        that are kept converted and scaled.) Memory: the clip at its final size, and one frame of the file.

        Args:
            source: a file, or its content.
            name: what it is called in a report.
            rng: chooses the start and the crop.

        Returns:
            (frames, 3, height, width) float32 in [-1, 1].

        Raises:
            SkipClip: the file cannot be used.
        """
        when, across, down = rng.random(3)  # always three, so that the start does not depend on the kind of crop
        at = (down, across) if self.crop == "random" else (0.5, 0.5)
        try:
            if picture_format(source):
                return _to_model_space(self._read_pictures(source, name, when, at))
            stamps, times = _timestamps(source, name)
            if not len(times):
                raise SkipClip("without frames", name)
            picked = self._pick(times, name, when)
            if stamps is None:
                images = self._decode(source, name, picked.tolist(), at, by_number=True)
            else:
                wanted = [stamps[number] for number in picked]
                images = self._decode(source, name, wanted, at, seek=True)
                if len(images) < len(set(wanted)):  # some files cannot be searched: from the start, then
                    images = self._decode(source, name, wanted, at)
                picked = np.array(wanted)
        except av.FFmpegError as error:
            raise SkipClip(f"damaged ({error.strerror})", name) from error
        except OSError as error:
            raise SkipClip(f"cannot be opened ({error.strerror})", name) from error
        if len(images) < len(set(picked.tolist())):
            raise SkipClip("damaged (frames are missing)", name)
        return _to_model_space([images[key] for key in picked.tolist()])

    def _pick(self, times: np.ndarray, name: str, draw: float) -> np.ndarray:
        picked = pick_frames(times, self.frames, self.fps, draw)
        if picked is None:
            raise SkipClip(f"shorter than {self.frames} frames at {self.fps:g} fps", name)
        return picked

    def _read_pictures(
        self, source: Path | BinaryIO, name: str, draw: float, at: tuple[float, float]
    ) -> list[np.ndarray]:
        """The frames of a picture or an animation, which is decoded twice: for its times, and for its pixels."""
        try:
            repeats, fps = picture_timing(source, name)
            shown = np.repeat(np.arange(len(repeats)), repeats)  # the picture of each frame
            picked = shown[self._pick(np.arange(len(shown)) / (fps or 1), name, draw)].tolist()
            images = {
                number: self._fit(pixels, 1.0, at)
                for number, (pixels, _) in enumerate(read_pictures(source, name))
                if number in picked
            }
        except ValueError as error:
            raise SkipClip("damaged (no whole picture, or too large)", name) from error
        return [images[number] for number in picked]

    def _decode(
        self,
        source: Path | BinaryIO,
        name: str,
        wanted: Sequence[int],
        at: tuple[float, float],
        seek: bool = False,
        by_number: bool = False,
    ) -> dict[int, np.ndarray]:
        """Those of the wanted frames that could be decoded, (height, width, 3) uint8, by timestamp or by number."""
        images: dict[int, np.ndarray] = {}
        container, stream = _open(source, name)
        with container:
            if seek:
                try:
                    container.seek(wanted[0], stream=stream)
                except av.FFmpegError:
                    return images
            # The packets that `_timestamps` left out stay out: one that is cut short stops the decoder.
            packets = (packet for packet in container.demux(stream) if not packet.is_corrupt)
            frames = (frame for packet in packets for frame in packet.decode())
            matrix = None
            for number, frame in enumerate(frames):
                matrix = matrix or display_matrix(frame)
                key = number if by_number else frame.pts
                if key is not None and key in wanted and not frame.is_corrupt:
                    pixels, turned = upright(frame.to_ndarray(format="rgb24"), matrix)
                    aspect = float(stream.sample_aspect_ratio or 1)
                    images[key] = self._fit(pixels, 1 / aspect if turned else aspect, at)
                    if key == wanted[-1]:
                        break
        return images

    def _fit(self, pixels: np.ndarray, aspect: float, at: tuple[float, float]) -> np.ndarray:
        box = crop_box(pixels.shape[:2], (self.height, self.width), aspect, at)
        shrinks = (box[2] - box[0]) * (box[3] - box[1]) > self.width * self.height
        # Hamming, because a plain box filter is uneven by up to half a pixel where the factor is no whole number.
        resampling = Image.Resampling.HAMMING if shrinks else Image.Resampling.BILINEAR
        return np.asarray(Image.fromarray(pixels).resize((self.width, self.height), resampling, box))


def _to_model_space(images: Sequence[np.ndarray]) -> torch.Tensor:
    clip = torch.from_numpy(np.stack(images))
    return clip.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0).contiguous()


# ---------------------------------------------------------------------------------------------------------------------
# Datasets


class VideoFiles:
    """The files of a manifest as a `ClipDataset`.

    Args:
        path: a folder with one manifest in it, or the manifest itself: CSV or JSON lines, `videoid,name,page_dir` or
            `file,caption`.
        frames: of a clip, see `ClipFormat`.
        height: of a frame, in pixels.
        width: likewise.
        fps: frames per second.
        crop: `"random"` or `"center"`.
        videos: the folder that the manifest's files are relative to, by default the manifest's own. Nothing outside it
            is ever read.

    Raises:
        ManifestError: the manifest cannot be found or read.
        ValueError: a size or rate is not allowed, or `videos` is no folder.
    """

    def __init__(
        self,
        path: str | Path,
        frames: int,
        height: int,
        width: int,
        fps: float,
        crop: Literal["random", "center"] = "random",
        videos: str | Path | None = None,
    ):
        self.format = ClipFormat(frames, height, width, fps, crop)
        self.manifest = Manifest(find_manifest(path))
        videos = self.manifest.path.parent if videos is None else videos
        if not Path(videos).is_dir():
            raise ValueError(f"`videos` must be a folder, got {str(videos)!r}")
        self.videos = Path(videos).resolve()

    def __len__(self) -> int:
        return len(self.manifest)

    def stills(self) -> "VideoFiles":
        """The same files, a single frame of each: for batches of images among those of clips.

        Returns:
            A dataset with `frames=1`.
        """
        other = copy(self)
        other.format = replace(self.format, frames=1)
        return other

    def clip(self, index: int, rng: np.random.Generator) -> Clip:
        """A random clip of a file.

        Args:
            index: of the file in the manifest, from 0.
            rng: chooses the start and the crop.

        Returns:
            `frames` (frames, 3, height, width) float32 in [-1, 1], and `caption`.

        Raises:
            SkipClip: missing, outside the folder, too short, or not readable.
        """
        name, caption = self.manifest[index]
        try:
            path = (self.videos / name).resolve()
            if not path.is_relative_to(self.videos):
                raise SkipClip("outside the folder", name)
            if not path.exists():
                raise SkipClip("missing", name)
            if not path.is_file():
                raise SkipClip("not a file", name)
        except (OSError, RuntimeError) as error:  # a name too long for the file system, links in a circle
            raise SkipClip("missing", name) from error
        return Clip(frames=self.format.read(path, name, rng), caption=caption)


class Stream:
    """Clips of a dataset that is streamed by Hugging Face `datasets` (`pip install "diffusers-show1[streaming]"`).

    A stream has no items to choose by number, so it is not a `ClipDataset`, and promises less: the clips that a
    process sees depend on `seed`, on `process` and `processes`, and on the files of the dataset being the same, and on
    nothing else. With another number of processes the clips are distributed differently, so the global batch is not
    the same. Shuffling mixes the order of the dataset's files, and samples within a buffer.

    To go on where a run stopped, give its `position`: the stream passes over that many samples. They are fetched
    again, though not decoded; what follows equals the run that was not interrupted.

    Args:
        dataset: a name or folder for `datasets.load_dataset`, or an `IterableDataset`.
        format: what is read from each video.
        seed: of order, starts and crops.
        process: number of this process, from 0.
        processes: how many there are; each gets its own part of the samples.
        split: of the dataset, if it is given by name.
        video: the column of videos: bytes, a path, or `datasets`' pair of the two.
        caption: the column of captions.
        buffer: samples that are shuffled at a time, all in memory; 0 keeps the dataset's order.
        position: samples to pass over, epochs included.

    Attributes:
        position: samples taken up to now, the skipped ones included.
        skips: the samples that could not be used.

    Raises:
        ImportError: `datasets` is not installed.
        ValueError: an argument is not allowed, or the dataset has not these columns.
    """

    def __init__(
        self,
        dataset: Any,
        format: ClipFormat,
        seed: int = 0,
        process: int = 0,
        processes: int = 1,
        split: str = "train",
        video: str = "video",
        caption: str = "caption",
        buffer: int = 256,
        position: int = 0,
    ):
        try:
            import datasets
            from datasets.distributed import split_dataset_by_node
        except ImportError as error:
            raise ImportError(
                "streaming needs the package `datasets`: pip install 'diffusers-show1[streaming]'"
            ) from error
        if not 0 <= process < processes:
            raise ValueError(f"`process` must be 0 to {processes - 1}, got {process}")
        if isinstance(dataset, str):
            dataset = datasets.load_dataset(dataset, split=split, streaming=True)
        self.format, self.seed, self.process, self.video, self.caption = format, seed, process, video, caption
        self.position = position
        self.skips = SkipReport(None)
        if dataset.features is not None:  # else the first sample shows
            self._check_columns(dataset.features)
        if isinstance((dataset.features or {}).get(video), datasets.Video):
            dataset = dataset.cast_column(video, datasets.Video(decode=False))  # decoded here, and only in part
        if buffer:
            dataset = dataset.shuffle(seed=seed, buffer_size=buffer)
        self.dataset = split_dataset_by_node(dataset, rank=process, world_size=processes)

    def _check_columns(self, columns: Iterable[str]) -> None:
        for name, column in (("video", self.video), ("caption", self.caption)):
            if column not in columns:
                raise ValueError(f"`{name}` must be one of the dataset's columns, {list(columns)}, got {column!r}")

    def _samples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """(number, sample), epoch after epoch, each in an order of its own."""
        number = 0
        for epoch in itertools.count():
            self.dataset.set_epoch(epoch)
            before = number
            for sample in self.dataset:
                self._check_columns(sample)
                yield number, sample
                number += 1
            if number == before:
                raise UnreadableDataError(f"the stream has no samples for process {self.process}")

    def __iter__(self) -> Iterator[Clip]:
        """Endless, from `position` on.

        Raises:
            UnreadableDataError: the stream is empty, or 64 samples in a row were skipped.
            ValueError: a sample has not the columns `video` and `caption`.
        """
        failed = 0
        for number, sample in itertools.islice(self._samples(), self.position, None):
            self.position = number + 1
            rng = np.random.default_rng((self.seed, self.process, number, 0, 3))
            try:
                source, name = _source(sample[self.video], f"sample {number} of process {self.process}")
                clip = Clip(frames=self.format.read(source, name, rng), caption=str(sample[self.caption]).strip())
            except SkipClip as skip:
                self.skips.add(skip)
                failed += 1
                if failed == TRIES:
                    raise UnreadableDataError(f"{TRIES} samples in a row could not be read: {self.skips}") from skip
                continue
            failed = 0
            yield clip

    def batches(self, size: int) -> Iterator[ClipBatch]:
        """Endless batches.

        Args:
            size: clips of a batch.

        Returns:
            `frames` (size, frames, 3, height, width) float32 in [-1, 1], and `captions`.
        """
        clips = iter(self)
        while True:
            yield collate(list(itertools.islice(clips, size)))


def _source(value: Any, name: str) -> tuple[BinaryIO, str]:
    """A sample's video as a file in memory, and what to call it."""
    content, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
    if isinstance(content, str):
        content, path = None, content
    if content is None and path is not None:
        from datasets.utils.file_utils import xopen  # reads from the Hub and out of archives as well

        try:
            with xopen(path, "rb") as file:
                content = file.read()
        except OSError as error:
            raise SkipClip("missing", path) from error
    if not isinstance(content, bytes):
        raise SkipClip("without a video", name)
    return io.BytesIO(content), path or name
