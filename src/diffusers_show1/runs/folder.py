# SPDX-License-Identifier: Apache-2.0
"""A job's folder: what was asked for, and every window that is finished, each in a file that is whole or not there.

job.json                          what was asked for, the models' digests, versions
windows/superres-000.safetensors  a window in model space, as the stage made it, bit for bit
superres.webp                     a finished stage's frames, lossless, to look at
lock                              held by the process at work; the system lets go of it when that dies
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..sampling.windows import WindowStore


if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

FORMAT = 1
_LEFT_BEHIND = ".show1-"  # the temporary folders of `frames.replacing`


class JobError(RuntimeError):
    """A job can't begin, go on or be saved. The message says what to do; what was finished before is kept."""


class JobFolder(WindowStore):
    """The files of one job, which stages save their windows in and take them over from.

    Args:
        path: an existing job's folder, an empty one, or one that is made when the job begins.
    """

    def __init__(self, path: str | os.PathLike[str]):
        super().__init__()
        self.path = Path(path)

    def read(self) -> dict[str, Any] | None:
        """What `job.json` holds, or None where no job has begun.

        Raises:
            JobError: the path is no folder, holds something else, or its `job.json` can't be read.
        """
        record = self.path / "job.json"
        if not record.is_file():
            if self.path.exists() and not self.path.is_dir():
                raise JobError(f"a job must have a folder of its own, and {self.path} is a file")
            others = [entry.name for entry in self._entries() if entry.name != "lock" and not _is_left_behind(entry)]
            if others:
                raise JobError(f"a job must have a folder of its own, and {self.path} holds {min(others)!r}")
            return None
        try:
            found = json.loads(record.read_text(encoding="utf-8"))
            if found["show1_job"] != FORMAT:
                raise JobError(f"{record} has the format {found['show1_job']!r}; this version reads {FORMAT}")
            if found.get("sha256", digest(found)) != digest(found):
                raise JobError(f"{record} was changed since the job began: what is finished would not fit to it")
            for key in ("settings", "models", "versions", "about"):
                if not isinstance(found[key], dict):
                    raise TypeError(f"its {key} are a {type(found[key]).__name__}")
            if not all(isinstance(digest, str) for digest in found["models"].values()):
                raise TypeError("its models are not all digests")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise JobError(f"{record} can't be read ({error})") from error
        return found

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes out, and clears away what a killed one was writing.

        Raises:
            JobError: another process is at work here, or nothing can be written here.
        """
        from filelock import FileLock, Timeout

        with self._saving():
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / "lock", timeout=0)
            try:
                lock.acquire()
            except Timeout:
                raise JobError(
                    f"another process is at work in {self.path}: wait for it, or take a new folder"
                ) from None
        try:
            for entry in [*self._entries(), *self._entries("windows")]:
                if _is_left_behind(entry):
                    shutil.rmtree(entry)
            yield
        finally:
            lock.release()

    def write(self, record: dict[str, Any]) -> None:
        """Writes `job.json`: from then on there is a job."""
        whole = json.loads(json.dumps({"show1_job": FORMAT, **record}))
        text = json.dumps({**whole, "sha256": digest(whole)}, indent=2) + "\n"
        self._replace("job.json", text.encode("utf-8"))

    def stages(self) -> list[str]:
        """The stages that have windows here."""
        files = self._entries("windows")
        return sorted({path.stem.rpartition("-")[0] for path in files if path.suffix == ".safetensors"})

    def finished(self, stage: str) -> list[Tensor]:
        """The windows of a stage up to the first that is not finished, on the CPU.

        Raises:
            JobError: a file is damaged, or can't be read.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        found: list[Tensor] = []
        while (path := self._window(stage, len(found))).is_file():
            try:
                window = load_file(path)["window"]
                if not (window.is_floating_point() and window.isfinite().all()):
                    raise ValueError("it holds other things than finite floating-point numbers")
            except (SafetensorError, KeyError, ValueError) as error:
                raise JobError(f"{path} is damaged ({error}): delete it, and it is made again") from error
            found.append(window)
        return found

    def drop_windows(self, stage: str) -> None:
        """Forgets a stage's windows, the last first: what is left is always the first of them."""
        for path in sorted((self.path / "windows").glob(f"{stage}-*.safetensors"), reverse=True):
            path.unlink()

    def add(self, stage: str, index: int, window: Tensor) -> None:
        """Saves one finished window as it is.

        Raises:
            JobError: it can't be written.
        """
        from safetensors.torch import save

        name = str(self._window(stage, index).relative_to(self.path))
        self._replace(name, save({"window": window.detach().cpu().contiguous()}))

    def is_finished(self, stage: str) -> bool:
        """Whether a stage's frames are there: its windows all are, then."""
        return (self.path / f"{stage}.webp").exists()

    def save_frames(self, stage: str, frames: np.ndarray) -> None:
        """Saves a stage's frames (f, h, w, 3) uint8 to look at, once."""
        from ..clips.writing import save_video

        if not self.is_finished(stage):
            with self._saving():
                save_video(frames, self.path / f"{stage}.webp")

    def _window(self, stage: str, index: int) -> Path:
        return self.path / "windows" / f"{stage}-{index:03d}.safetensors"

    def _entries(self, folder: str = "") -> list[Path]:
        inside = self.path / folder
        return list(inside.iterdir()) if inside.is_dir() else []

    def _replace(self, name: str, data: bytes) -> None:
        from ..clips.files import replacing

        with self._saving(), replacing(self.path / name) as made, made.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # a name must not reach the disk before what it names: power fails too

    @contextlib.contextmanager
    def _saving(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise JobError(
                f"{self.path} can't be written to ({error.strerror or error}): what was finished before is kept; "
                "mend that, and resume"
            ) from error


def digest(record: dict[str, Any]) -> str:
    """SHA-256 of what a `job.json` says of the video: settings and models that were edited by hand are told by it."""
    said = [record.get(name) for name in ("settings", "models", "about")]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _is_left_behind(entry: Path) -> bool:
    return entry.name.startswith(_LEFT_BEHIND)
