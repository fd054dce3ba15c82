# SPDX-License-Identifier: Apache-2.0
"""The cascades: a folder each, and the list of them. Adding one adds its name here, and edits nothing else."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from ..ladder.family import Family

NAMES = ("show1",)

_added: dict[str, Family] = {}


def add(family: Family) -> None:
    """Makes a family known that lives in another package.

    Raises:
        ValueError: its name, or that of one of its classes, is taken.
    """
    others = [other for other in all_families() if other is not family]
    taken = {name: other.name for other in others for name in (other.name, *other.exports, *other.short_names)}
    for name in (family.name, *family.exports, *family.short_names):
        if name in taken:
            raise ValueError(f"`family` must have names of its own, got {name!r}, which is {taken[name]}'s.")
    _added[family.name] = family


def all_families() -> tuple[Family, ...]:
    """Every family, in order."""
    own = tuple(importlib.import_module(f"{__name__}.{name}").FAMILY for name in NAMES)
    return (*own, *_added.values())


def family_of(class_name: str) -> Family | None:
    """The family that exports a class of this name; None where none does."""
    return next((family for family in all_families() if class_name in family.exports), None)
