# SPDX-License-Identifier: Apache-2.0
"""`show1 train`: any stage, an adapter, or a plan of several trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..runs.refusals import BadInput, Failed


def train(
    stage: Annotated[
        str,
        typer.Argument(
            metavar="STAGE",
            help="base, interpolation, superres, refine; image, autoencoder, text; lora: an adapter for a stage; "
            "tiny: the whole tiny cascade from nothing, or a YAML file with another plan.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The run's folder; an interrupted run goes on.")],
    config: Annotated[
        str | None,
        typer.Option(help="A recipe: a YAML file, or one of the package's such as tiny-base.", show_default=False),
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change a key: run.steps=100; of one part of a plan: vae:run.steps=100."
        ),
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="Of a plan: trainings at the same time.")] = 1,
    scale: Annotated[
        float, typer.Option(min=0, help="Of a plan: every training's steps times this number, at least one step.")
    ] = 1.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only check, estimate the memory, and draw the first batch.")
    ] = False,
) -> None:
    """Train a stage on this process, or on many: accelerate launch -m diffusers_show1 train ..."""
    from ..learning.options import ConfigError
    from ..training import lora, plan, trainer

    try:
        if config is None:
            start = plan.prepare(stage, output, override or (), processes, scale, dry_run, typer.echo)
        elif stage == "lora":
            start = lora.prepare(config, output, override or (), dry_run, typer.echo)
        else:
            start = trainer.prepare(stage, config, output, override or (), dry_run, typer.echo)
    except (ValueError, OSError) as error:
        raise BadInput(error) from error
    try:
        start()
    except ConfigError as error:
        raise BadInput(error) from error
    except plan.PartFailed as error:
        raise Failed(error) from error
