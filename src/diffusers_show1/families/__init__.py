# SPDX-License-Identifier: Apache-2.0
"""The cascades: a folder each, and the list of them. Adding one adds its name here, and edits nothing else."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from ..ladder.family import Family

NAMES = ("show1",)

_added: dict[str, Family] = {}
_listeners: list[Callable[[Family], None]] = []


def add(family: Family) -> None:
    """Makes a family known that lives in another package. Adding it again changes nothing.

    Args:
        family: its entry.

    Raises:
        ValueError: its name, or that of one of its classes, is taken.
    """
    taken = {name: other.name for other in all_families() if other != family for name in other.names}
    for name in family.names:
        if name in taken:
            raise ValueError(f"`family` must have names of its own, got {name!r}, which is {taken[name]}'s.")
    _added[family.name] = family
    for listener in _listeners:
        listener(family)


def all_families() -> tuple[Family, ...]:
    """Every family, in order."""
    own = tuple(importlib.import_module(f"{__name__}.{name}").FAMILY for name in NAMES)
    return (*own, *_added.values())


def family_of(class_name: str) -> Family | None:
    """The family that exports a class of this name; None where none does."""
    return next((family for family in all_families() if class_name in family.exports), None)


def short_names() -> dict[str, Family]:
    """What `--model` takes instead of a folder or a Hub id -> the family that it is of."""
    return {name: family for family in all_families() for name in family.short_names}


def tell(listener: Callable[[Family], None]) -> None:
    """Calls `listener` with every family: those that there are, and those that are added later."""
    for family in all_families():
        listener(family)
    if listener not in _listeners:
        _listeners.append(listener)
