# SPDX-License-Identifier: Apache-2.0
"""Files that are written: which can be, and how they appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .formats import FRAME_NAME, VIDEO_ENDINGS
from .words import shorten


try:
    import fcntl
except ImportError:  # Windows: what a killed process leaves there stays
    fcntl = None  # type: ignore[assignment]

_ALLOWED = ".mp4, .gif or .webp, or be a folder for PNG frames (no ending, or a slash at the end)"
_PREFIX, _LOCK = ".show1-", "lock"


def output_ending(path: str | os.PathLike[str]) -> str:
    """The kind of output that a path names: `".mp4"`, `".gif"`, `".webp"`, or `""` for a folder of PNG frames.

    A folder is a path without an ending, or one that ends in a slash. Raises `ValueError` for anything else.
    """
    text = os.fspath(path)
    if not text.strip():
        raise ValueError(f"`path` must end in {_ALLOWED}, got {text!r}")
    ending = "" if text.endswith(("/", os.sep)) else Path(text).suffix.lower()
    if ending and ending not in VIDEO_ENDINGS:
        raise ValueError(f"`path` must end in {_ALLOWED}, got {shorten(repr(text))}")
    return ending


def check_output_path(path: str | os.PathLike[str]) -> None:
    """Find out, before any model runs, whether `save_video` will be able to write `path`.

    Nothing is left behind: the nearest folder that exists is tried with an unnamed temporary file.

    Raises:
        ValueError: the ending is none that can be written, `path` is a link to a name with another, or the existing
            folder `path` holds more than frames (`000.png` ...), which replacing it would delete.
        OSError: a folder stands where the file should be or the reverse, something else that is no file does (a pipe,
            a device), a link leads nowhere or in a circle, the name is too long, or the folder above cannot be
            written.
    """
    ending = output_ending(path)
    target, told = _target(path), shorten(repr(os.fspath(path)))
    if ending and target.is_dir():
        raise IsADirectoryError(f"`path` must be a file, got the folder {told}")
    if ending and target.suffix.lower() != ending:
        raise ValueError(f"`path` must, as a link, lead to a {ending}, got {told}, which leads to {target.name!r}")
    if not ending and target.exists():
        if not target.is_dir():
            raise NotADirectoryError(f"`path` must end in {_ALLOWED}, got the file {told}")
        others = sorted(entry.name for entry in target.iterdir() if not FRAME_NAME.fullmatch(entry.name))
        if others:
            raise ValueError(
                "`path` must be a new folder or one with nothing but frames (000.png, 001.png, ...), "
                f"got {told}, which holds {others[0]!r}"
            )
    parent = target.parent
    while not parent.exists():
        parent = parent.parent
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise type(error)(
            f"`path` must be in a folder that can be written, got {told} ({parent}: {error.strerror})"
        ) from error


def _target(path: str | os.PathLike[str]) -> Path:
    """Where a path leads, links followed; `OSError` unless a file or a folder is there, or can be made there."""
    where, told = Path(path).absolute(), f"got {shorten(repr(os.fspath(path)))}"
    missing: list[str] = []
    for place in (where, *where.parents):
        try:
            there = os.stat(place).st_mode
            for name in missing:  # one that is too long is told of only where the folder above exists
                os.lstat(place / name)
            break
        except (FileNotFoundError, NotADirectoryError):
            if missing and place.exists():
                break
            if place.is_symlink():
                raise FileNotFoundError(f"`path` must not lead through a link to nothing, {told}") from None
            missing.append(place.name)
        except OSError as error:  # a circle of links, a name that is too long, a folder that is closed
            raise type(error)(f"`path` must be one that can be written, {told} ({error.strerror})") from error
    if not missing and not stat.S_ISREG(there) and not stat.S_ISDIR(there):
        raise FileExistsError(f"`path` must be a file or a folder, {told}, which is neither")
    return Path(os.path.realpath(where))


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary name beside `path`; when the block ends well, what was written there takes the place of `path`.

    A reader therefore sees the old content or the new, never a part. Folders above are made. When a folder was
    written, it takes the place of an older one with all that is in that. What processes that were killed have left
    under such names in the same folder is removed.

    Raises:
        OSError: something that is no file stands there, a link leads nowhere, or the folder cannot be written.
    """
    target = _target(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_left_behind(target.parent)
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=target.parent) as folder, _marked_alive(Path(folder)):
        # The name inside keeps the ending, by which the writers choose their format.
        made = Path(folder) / f"new{Path(path).suffix.lower()}"
        yield made
        if made.is_dir() and target.is_dir():  # a folder cannot be replaced by another in one step unless it is empty
            os.replace(target, Path(folder) / "old")
        os.replace(made, target)


@contextlib.contextmanager
def _marked_alive(folder: Path) -> Iterator[None]:
    """Hold a lock in a temporary folder: the system lets go of it when the process ends, in whatever way it does."""
    with (folder / "begun").open("wb") as file:
        # Where the file system has no locks, the folder never gets its lock file, and is never taken for left behind.
        # The lock is held before the file has its name: nobody else can take it in between.
        with contextlib.suppress(OSError):
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.rename(file.name, folder / _LOCK)
        yield


def _remove_left_behind(parent: Path) -> None:
    """Delete the temporary folders of `replacing` whose process has ended without doing so."""
    for folder in parent.glob(f"{_PREFIX}*") if fcntl is not None else ():
        try:
            held = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            names = {entry.name.partition(".")[0] for entry in folder.iterdir()}
            # Old and new together: it was killed between two moves, and the only copy of a clip is in here.
            if names <= {_LOCK, "new", "plain"} or names <= {_LOCK, "old"}:
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # somebody holds it
            pass
        finally:
            os.close(held)
