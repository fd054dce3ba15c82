# SPDX-License-Identifier: Apache-2.0
"""How a clip was made, inside its file: one JSON object, where each format keeps comments.

.mp4    the comment tag (©cmt)          .webp   EXIF, ImageDescription
.gif    a comment block                 folder  a text chunk "Comment" in every PNG

Every such JSON is ASCII. Other programs read it too (ffprobe, exiftool), and anyone can change or remove it.
"""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

from .formats import EXIF_COMMENT, PNG_KEYWORD, VIDEO_FILES_ONLY, picture_format


MAX_METADATA = 2**20
"""Characters of JSON that a file may carry."""


def encode_metadata(metadata: dict[str, Any]) -> str:
    """The JSON of a dict, in ASCII.

    Args:
        metadata: what JSON can say; what it says otherwise (tuples, keys that are numbers) comes back otherwise.

    Returns:
        The text.

    Raises:
        ValueError: no dict, something that JSON can't say (NaN and infinity among it), or more than `MAX_METADATA`
            characters.
    """
    if not isinstance(metadata, dict):
        raise ValueError(f"`metadata` must be a dict, got {_short(metadata)}")
    try:
        text = json.dumps(metadata, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"`metadata` must be a dict that JSON can say, got one that it can't: {error}") from error
    if len(text) > MAX_METADATA:
        raise ValueError(f"`metadata` must be at most {MAX_METADATA} characters of JSON, got {len(text)}")
    return text


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What `save_video(..., metadata=...)` wrote into a clip.

    Args:
        path: a video file, a folder of PNG frames (its first one is read), or one of those.

    Returns:
        The metadata. Anyone can write such: it is to be read as a claim, not as a proof.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: that is no clip, or carries no such metadata, or something else in its place.
    """
    source = Path(path)
    if not source.exists():
        raise FileNotFoundError(f"`path` must be a clip, got {os.fspath(path)!r}, which does not exist")
    allowed = f"`path` must be a clip with metadata that save_video wrote, got {os.fspath(path)!r}"
    try:
        with warnings.catch_warnings(action="error"):  # what Pillow warns of, it has skipped
            text = _comment_of_container(source) if _is_container(source) else _comment_of_image(source)
    except Exception as error:  # FFmpeg and Pillow raise many kinds for a damaged file, SyntaxError among them
        raise ValueError(f"{allowed} ({error})") from error
    if text is None:
        raise ValueError(f"{allowed}, which has none")
    if len(text) > MAX_METADATA:
        raise ValueError(f"{allowed}, whose comment has {len(text)} characters; {MAX_METADATA} are allowed")
    try:
        metadata = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{allowed}, whose comment is something else: {_short(text)}") from error
    if not isinstance(metadata, dict):
        raise ValueError(f"{allowed}, whose comment is something else: {_short(text)}")
    return metadata


def tag_container(source: Path, target: Path, text: str) -> None:
    """Copies an mp4 with `text` as its comment; its packets stay as they are."""
    import av

    with av.open(str(source)) as read, av.open(str(target), "w", format="mp4") as written:
        video = read.streams.video[0]
        copy = written.add_stream_from_template(video)
        written.metadata.update({**read.metadata, "comment": text})
        for packet in read.demux(video):
            if packet.dts is not None:  # the last one only says that there are no more
                packet.stream = copy
                written.mux(packet)


def _is_container(path: Path) -> bool:
    return path.is_file() and picture_format(path) is None


def _comment_of_container(path: Path) -> str | None:
    import av

    with av.open(os.path.abspath(path), options=VIDEO_FILES_ONLY, metadata_errors="replace") as container:
        return container.metadata.get("comment")


def _comment_of_image(path: Path) -> str | None:
    from PIL import Image

    if path.is_dir():
        first = min((entry for entry in path.iterdir() if entry.suffix.lower() == ".png"), default=None)
        if first is None:
            raise ValueError("a folder without frames")
        path = first
    with Image.open(path, formats=("PNG", "GIF", "WEBP")) as image:
        if image.format == "WEBP":
            found = image.getexif().get(EXIF_COMMENT)
        elif image.format == "PNG":
            found = image.info.get(PNG_KEYWORD)
        else:
            found = image.info.get("comment")
    return found.decode("utf-8", "replace") if isinstance(found, bytes) else None if found is None else str(found)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
