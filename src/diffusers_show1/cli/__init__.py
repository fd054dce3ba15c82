# SPDX-License-Identifier: Apache-2.0
"""The `show1` command, a module for each verb. Torch and diffusers load when one runs: help answers at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from .. import __version__
from ..runs.refusals import Refusal
from . import convert, demo, env, generate, inspection, publish, train, watermark


app = typer.Typer(
    help="Text-to-video cascades for diffusers.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for verb in (
    generate.generate,
    inspection.inspect,
    watermark.watermark,
    convert.convert,
    publish.publish,
    train.train,
    demo.demo,
    env.env,
):
    app.command()(verb)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"show1 {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command on `arguments` (the process's own by default); returns the exit code, 2 for bad input."""
    try:
        return app(arguments, prog_name="show1", standalone_mode=False) or 0
    except Refusal as error:
        typer.echo(f"show1: {error}", err=True)
        return error.exit_code
    except typer.TyperException as error:  # a flag that there is not, say
        typer.echo(f"show1: {error.format_message()}", err=True)
        return error.exit_code
