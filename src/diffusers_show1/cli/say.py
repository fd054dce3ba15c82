# SPDX-License-Identifier: Apache-2.0
"""What a verb prints. It is told to whoever listens, and nobody who has left may end the work."""

from __future__ import annotations

import contextlib
import os
import sys

import typer


def say(text: str) -> None:
    """Prints a line. Where that can't be done (the reader has left, the disk is full), says so once and goes on."""
    try:
        typer.echo(text)
    except OSError as error:
        with contextlib.suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
            # also for what is still in the buffer, which Python would try to write again at its end
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        with contextlib.suppress(OSError):
            reason = error.strerror or error
            typer.echo(f"show1: nothing can be printed any more ({reason}); the work goes on", err=True)
