# SPDX-License-Identifier: Apache-2.0
"""What is known of the formats in which clips are kept."""

from __future__ import annotations

import re
from pathlib import Path
from typing import BinaryIO


VIDEO_ENDINGS = (".mp4", ".gif", ".webp")
"""Of the files that `save_video` writes."""

FRAME_NAME = re.compile(r"[0-9]{3,}\.png")
"""Of a frame in a folder of frames."""

PNG_KEYWORD = "Comment"  # where a PNG keeps a comment
EXIF_COMMENT = 0x010E  # ImageDescription: where a WebP does
EXIF_NAME = 0x010D  # DocumentName
EXIF_ORIENTATION = 0x0112

# Options of FFmpeg. Without them it also opens playlists (.m3u8, ffconcat, ...) under any file name, and reads what
# they name. Pictures are not among the formats: it knows them by a mix of content and ending, and refuses a JPEG from
# some size on.
VIDEO_FILES_ONLY = {
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,ogg,flv,asf,"
    "ivf,nut",
    "protocol_whitelist": "file",
}

_PICTURES = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"\xff\xd8\xff": "JPEG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG2000",
    b"\xff\x4f\xff\x51": "JPEG2000",
}


def picture_format(source: Path | BinaryIO) -> str | None:
    """Pillow's name for the format of a picture or an animation, by its first bytes; None for anything else.

    Args:
        source: a file, or an open one, which is left at its beginning.

    Raises:
        OSError: it cannot be read.
    """
    if isinstance(source, Path):
        with source.open("rb") as file:
            return picture_format(file)
    source.seek(0)
    head = source.read(16)
    source.seek(0)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:2] == b"BM" and head[6:10] == bytes(4):
        return "BMP"
    return next((name for magic, name in _PICTURES.items() if head.startswith(magic)), None)
