# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that survive being killed while they are written: a folder per step, complete or not there at all.

A checkpoint is written under another name, flushed to the disk, and then renamed to `step-00000100`. So every folder
of that form is complete, and the newest of them is where a run goes on.
"""

import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch


_NAME = re.compile(r"step-(\d{8,})")
_PARTIAL = ".partial-"


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of every complete checkpoint in `folder`, oldest first; empty if there is no such folder."""
    if not folder.is_dir():
        return []
    found = [(match, entry) for entry in folder.iterdir() if (match := _NAME.fullmatch(entry.name))]
    return sorted((int(match.group(1)), entry) for match, entry in found)


def write_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write `state` as the checkpoint of `step` and delete all but the newest `keep`; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{_PARTIAL}*"):  # by a run that was killed here
        shutil.rmtree(left)
    partial, target = folder / f"{_PARTIAL}{step:08d}", folder / f"step-{step:08d}"
    partial.mkdir()
    with (partial / "state.pt").open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    _sync_folder(partial)
    partial.rename(target)
    _sync_folder(folder)
    for _, old in checkpoints(folder)[:-keep]:
        # Renamed first: a folder that is half deleted must not look like a checkpoint.
        shutil.rmtree(old.rename(folder / f"{_PARTIAL}{old.name}"))
    return target


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The state in a checkpoint's folder, on the CPU."""
    return torch.load(path / "state.pt", map_location="cpu", weights_only=True)


def _sync_folder(folder: Path) -> None:
    """Have the names in a folder reach the disk (POSIX: the file's own fsync does not promise it)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
