# SPDX-License-Identifier: Apache-2.0
"""`show1 convert`: other checkpoints to this package's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..runs.refusals import BadInput
from .say import say


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A Hub id or folder (a published stage, DeepFloyd IF, ModelScope, zeroscope), showlab for all "
            "published stages, or a file with a state dict.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write; begun ones are finished.")],
    dtype: Annotated[str | None, typer.Option(help="float32, float16, bfloat16. [default: as stored]")] = None,
    variant: Annotated[str | None, typer.Option(help="Also write weights of this kind beside: fp16 or bf16.")] = None,
    max_shard_size: Annotated[str, typer.Option(help="Larger weights are cut into several files.")] = "5GB",
    stage: Annotated[
        str | None, typer.Option(help="What to make of a model that can become more than one stage (DeepFloyd IF-I).")
    ] = None,
    config: Annotated[
        str | None, typer.Option(help="For a state dict: a stage's name, or its config.json.", show_default=False)
    ] = None,
    without: Annotated[list[str] | None, typer.Option(help="A component to leave out, such as text_encoder.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub id.")] = None,
) -> None:
    """Convert a checkpoint to this package's layout, in safetensors, and read it again to verify it."""
    from ..hub.convert import convert as run

    try:
        report = run(
            source,
            output,
            dtype=dtype,
            variant=variant,
            max_shard_size=max_shard_size,
            stage=stage,
            config=config,
            without=without or (),
            revision=revision,
            progress=say,
        )
    except (ValueError, OSError) as error:
        raise BadInput(error) from error
    for line in report.lines():
        say(line)
