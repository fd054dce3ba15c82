# SPDX-License-Identifier: Apache-2.0
"""`show1 publish`: a stage or cascade to the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..runs.refusals import BadInput, Failed, refuse
from ..runs.settings import model_folder
from .say import say


def publish(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A folder that a pipeline was saved to, or tiny.")],
    repo_id: Annotated[str, typer.Argument(metavar="REPO_ID", help="The repository, owner/name.")],
    card: Annotated[str | None, typer.Option(help="A card of model_cards/ by name, or a file of your own.")] = None,
    revision: Annotated[
        list[str] | None, typer.Option(help="main or remote-code. [default: both]", show_default=False)
    ] = None,
    media: Annotated[
        list[str] | None, typer.Option(metavar="PROMPT=FILE", help="An example clip for the card.", show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Build into --output and list what would go up.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Keep what was built in this folder.")] = None,
    private: Annotated[
        bool | None, typer.Option("--private/--public", help="For a new repository. [default: the owner's setting]")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Delete what the repository holds besides.")] = False,
    message: Annotated[str | None, typer.Option(help="Of the commits.", show_default=False)] = None,
) -> None:
    """Put a stage or cascade on the Hub, in two revisions: for this package, and with its own code."""
    from ..hub.publish import REVISIONS, PublishError, UploadError
    from ..hub.publish import publish as run

    clips = {}
    for pair in media or []:
        prompt, equals, file = pair.rpartition("=")
        if not equals or not prompt.strip():
            refuse("--media", pair, "PROMPT=FILE")
        clips[prompt] = file
    folder = model_folder(source)
    if folder is None:
        refuse("SOURCE", source, "a folder that a pipeline was saved to, or tiny", "there is no folder of this name")
    try:
        publication = run(
            folder,
            repo_id,
            revisions=tuple(revision or REVISIONS),
            card=card,
            media=clips or None,
            dry_run=dry_run,
            output=output,
            replace=replace,
            private=private,
            message=message,
        )
    except PublishError as error:
        raise BadInput(error) from error
    except UploadError as error:
        raise Failed(error) from error
    say(publication.listing())
