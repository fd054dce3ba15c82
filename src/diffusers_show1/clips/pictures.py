# SPDX-License-Identifier: Apache-2.0
"""Pictures and animations of pictures (PNG, APNG, GIF, WebP, JPEG, BMP, TIFF, JPEG 2000), by Pillow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from .formats import EXIF_NAME, EXIF_ORIENTATION, picture_format
from .frames import AS_STORED, SMALL_ENOUGH, Matrix, check_pixels, check_size, upright
from .timing import Timing, noted_in_gif, timing


if TYPE_CHECKING:
    from PIL.Image import Image

# The eight values of EXIF's orientation as the matrices of `upright`.
_MATRICES: dict[int, Matrix] = {
    2: (-1, 0, 0, 1),
    3: (-1, 0, 0, -1),
    4: (1, 0, 0, -1),
    5: (0, 1, 1, 0),
    6: (0, 1, -1, 0),
    7: (0, -1, -1, 0),
    8: (0, -1, 1, 0),
}
_SMALLER_COPY = 0x00FE  # NewSubfileType of a TIFF's page


def read_pictures(source: Path | BinaryIO, name: str) -> Iterator[tuple[np.ndarray, int]]:
    """The pictures in a file, one after the other, turned as they are to be shown.

    The pages of a TIFF are pictures; what a camera puts beside a JPEG, and smaller copies, are none. Transparency is
    dropped: the colour under it is what is read. Sixteen bits a channel become eight.

    Args:
        source: a file that `picture_format` knows, or an open one.
        name: what it is called in an error.

    Returns:
        Of each picture its pixels, (h, w, 3) uint8, and how long it is shown, in milliseconds; 0 where that is not
        said.

    Raises:
        ValueError: it is damaged, too large, or has pixels without a range (floating-point numbers).
    """
    for image in _loaded(source, name):
        with _damage_told(name):
            if image.mode == "F":
                raise ValueError("its pixels are floating-point numbers, of no known range")
            if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut off at 255
                grey = np.rint(np.asarray(image) / 257).clip(0, 255).astype(np.uint8)
                pixels = np.repeat(grey[..., None], 3, axis=2)
            else:
                pixels = np.asarray(image.convert("RGB"))
            shown, _ = upright(pixels, _MATRICES.get(_tag(image, EXIF_ORIENTATION), AS_STORED))
        yield shown, _duration(image)


def picture_timing(source: Path | BinaryIO, name: str, durations: Sequence[int] | None = None) -> Timing:
    """How many frames the pictures in a file make, and their rate.

    Args:
        source: a file that `picture_format` knows, or an open one.
        name: what it is called in an error.
        durations: what `read_pictures` has said of them. Without it the file is decoded for it.

    Raises:
        ValueError: as for `read_pictures`, or there are too many frames.
    """
    if durations is None:
        durations = [_duration(image) for image in _loaded(source, name)]
    found = timing(durations, *_unit_and_note(source, name))
    check_size(name, sum(found.repeats), 0)
    return found


def _unit_and_note(source: Path | BinaryIO, name: str) -> tuple[int, str]:
    """The step of the durations in milliseconds, and what `save_video` has noted, if it has."""
    with _opened(source, name) as (file, image):
        if image.format == "GIF":
            return 10, noted_in_gif(file)
        return 1, str(_tag(image, EXIF_NAME)) if image.format == "WEBP" else ""


def _loaded(source: Path | BinaryIO, name: str) -> Iterator[Image]:
    """A file's image, again and again: each of its pictures, decoded."""
    with _opened(source, name) as (_, image):
        with _damage_told(name):
            count = 1 if image.format in ("JPEG", "MPO") else getattr(image, "n_frames", 1)
        # The first picture of an APNG may be there only for programs that do not know the format.
        for index in range(int(count > 1 and getattr(image, "default_image", False)), count):
            with _damage_told(name):
                image.seek(index)
                if index and image.format == "TIFF" and image.tag_v2.get(_SMALLER_COPY, 0) & 1:  # type: ignore[attr-defined]
                    continue
                check_pixels(name, *image.size)
                image.load()
            yield image


@contextlib.contextmanager
def _opened(source: Path | BinaryIO, name: str) -> Iterator[tuple[BinaryIO, Image]]:
    from PIL import Image

    kind = picture_format(source)
    with source.open("rb") if isinstance(source, Path) else contextlib.nullcontext(source) as file:
        with _damage_told(name):
            # One format: Pillow would else try all that it knows, Ghostscript among it.
            image = Image.open(file, formats=(kind,) if kind else ())
        yield file, image


def _duration(image: Image) -> int:
    return int(image.info.get("duration", 0))


def _tag(image: Image, tag: int) -> Any:
    """A value of the EXIF; None where there is none, or where it is damaged: the picture may be whole."""
    try:
        return image.getexif().get(tag)
    except Exception:  # Pillow raises many kinds
        return None


@contextlib.contextmanager
def _damage_told(name: str) -> Iterator[None]:
    """ValueError for whatever Pillow raises for a damaged file; it may be anything."""
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        raise ValueError(f"`path` must be an animation or frames that Pillow reads, got {name!r}") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"`path` must hold {SMALL_ENOUGH}, got {name!r} ({error})") from error
    except Exception as error:
        raise ValueError(f"`path` must hold pictures that are whole, got {name!r} ({error})") from error
