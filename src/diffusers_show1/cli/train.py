# SPDX-License-Identifier: Apache-2.0
"""`show1 train`: any stage, or an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..families import all_families
from ..runs.refusals import BadInput, one_of


def train(
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="A stage, by its name, or lora: an adapter for one.")],
    config: Annotated[
        str, typer.Option(help="A recipe: a YAML file, or one of the package's such as tiny-base.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The run's folder; an interrupted run goes on.")],
    override: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key: run.steps=100.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only check, estimate the memory, and draw the first batch.")
    ] = False,
) -> None:
    """Train a stage on this process, or on many: accelerate launch -m diffusers_show1 train ..."""
    from ..training import lora, trainer
    from ..training.config import ConfigError

    stages = dict.fromkeys(name for family in all_families() for name in family.stages)
    one_of("STAGE", stage, (*stages, "lora"))
    try:
        if stage == "lora":
            start = lora.prepare(config, output, override or (), dry_run, typer.echo)
        else:
            start = trainer.prepare(stage, config, output, override or (), dry_run, typer.echo)
    except (ValueError, OSError) as error:
        raise BadInput(error) from error
    try:
        start()
    except ConfigError as error:
        raise BadInput(error) from error
