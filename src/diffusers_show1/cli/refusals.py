# SPDX-License-Identifier: Apache-2.0
"""How the command says no: one line, which for bad input names the argument, what is allowed, and what was given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import typer


class BadInput(typer.TyperException):
    """What the user gave cannot be used: one line on stderr, exit code 2."""

    exit_code = 2


class Failed(typer.TyperException):
    """What the user gave is good, and yet it cannot be done here and now: one line on stderr, exit code 1."""

    exit_code = 1

    def __init__(self, error: object):
        super().__init__(" ".join(str(error).split()))


def refuse(argument: str, value: object, allowed: str, note: object = "") -> NoReturn:
    """Raise `BadInput` with the argument, what is allowed, the value, and a note about it, on one line.

    A value or note of more than 200 characters is cut.
    """
    message = f"{argument} must be {allowed}, got {_cut(repr(value))}" + (f" ({_cut(str(note))})" if note else "")
    raise BadInput(" ".join(message.split()))


def _cut(text: str, most: int = 200) -> str:
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"


def one_of(argument: str, value: str, allowed: Sequence[str]) -> str:
    """`value` if it is among `allowed`; `BadInput` otherwise."""
    if value not in allowed:
        refuse(argument, value, f"one of {', '.join(allowed)}")
    return value
