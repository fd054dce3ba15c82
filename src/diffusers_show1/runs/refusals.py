# SPDX-License-Identifier: Apache-2.0
"""How command and page say no: in one line, which names the argument, what is allowed, and what was given."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import NoReturn


class Refusal(Exception):
    """What is told in one line: of the command on stderr, of the page in its status field."""

    exit_code = 1

    def __init__(self, error: object):
        super().__init__(" ".join(str(error).split()))


class BadInput(Refusal):
    """What the user gave cannot be used: exit code 2."""

    exit_code = 2


class Failed(Refusal):
    """What the user gave is good, and yet it cannot be done here and now: exit code 1."""


def refuse(argument: str, value: object, allowed: str, note: object = "") -> NoReturn:
    """Raise `BadInput` with the argument, what is allowed, the value, and a note about it, on one line.

    A value or note of more than 200 characters is cut.
    """
    message = f"{argument} must be {allowed}, got {_cut(repr(value))}" + (f" ({_cut(str(note))})" if note else "")
    raise BadInput(message)


def _cut(text: str, most: int = 200) -> str:
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"


def one_of(argument: str, value: str, allowed: Sequence[str]) -> str:
    """`value` if it is among `allowed`; `BadInput` otherwise."""
    if value not in allowed:
        refuse(argument, value, f"one of {', '.join(allowed)}")
    return value


@contextlib.contextmanager
def faults(go_on: str = "") -> Iterator[None]:
    """Says in one line what went wrong in making a clip.

    Args:
        go_on: how to go on with it, in a sentence; empty where there is nothing to go on with.

    Raises:
        Failed: for what the machine could not do.
        BadInput: for what the cascade refuses, such as numbers that do not fit together.
    """
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, FloatingPointError, OSError, _job_error()) as error:
        raise Failed(f"{str(error).rstrip('.')}. {go_on}".strip()) from error
    except (ValueError, TypeError) as error:
        raise BadInput(error) from error


def _job_error() -> type[Exception]:
    from .folder import JobError

    return JobError
