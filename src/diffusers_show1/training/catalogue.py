# SPDX-License-Identifier: Apache-2.0
"""What can be trained: the tasks and recipes that families declare, and the engine's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..clips.words import shorten
from ..families import all_families
from ..learning.options import ConfigError
from ..learning.task import Task
from .autoencoder import AutoencoderTask
from .image import ImageTask
from .text import TextTask


GENERAL: tuple[type[Task], ...] = (ImageTask, AutoencoderTask, TextTask)


def tasks(family: str | None = None) -> dict[str, type[Task]]:
    """Stage -> its task: those of one family, or of all (a name is the first one's that has it), and the engine's."""
    found: dict[str, type[Task]] = {}
    for each in all_families():
        if each.tasks is not None and family in (None, each.name):
            for task in each.module(each.tasks).TASKS:
                found.setdefault(task.stage, task)
    return found | {task.stage: task for task in GENERAL}


def task_of(stage: Any, family: str | None = None, key: str = "stage") -> type[Task]:
    """The task of a stage; `key` is what an error calls it.

    Raises:
        ConfigError: there is none of that name.
    """
    names = [each.name for each in all_families() if each.tasks is not None]
    if family is not None and family not in names:
        raise ConfigError(f"`family` must be one of {', '.join(names)}, got {shorten(repr(family))}")
    found = tasks(family)
    if not isinstance(stage, str) or stage not in found:
        raise ConfigError(f"`{key}` must be one of {', '.join(found)}, got {shorten(repr(stage))}")
    return found[stage]


def recipes(kind: str = "") -> dict[str, Path]:
    """Name -> file of the families' recipes; `kind` is the subfolder that they are in (`"lora"`, `"plans"`)."""
    folders = [family.recipes / kind for family in all_families() if family.recipes is not None]
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}
