# SPDX-License-Identifier: Apache-2.0
"""`show1 watermark`: does a clip carry the invisible mark?"""

from __future__ import annotations

from typing import Annotated

import typer

from ..runs.refusals import BadInput, refuse
from .say import say


def watermark(
    clip: Annotated[str, typer.Argument(metavar="CLIP", help="A video file, or a folder of PNG frames.")],
    key: Annotated[
        str | None, typer.Option(help="What --watermark-key was. [default: that of --watermark]", show_default=False)
    ] = None,
) -> None:
    """Look for the mark of --watermark in a clip; exit code 0 if it is there, 1 if it is not."""
    if key == "":
        refuse("--key", key, "a text that is not empty")
    from ..clips.watermark import DEFAULT_KEY, detect_watermark

    try:
        result = detect_watermark(clip, DEFAULT_KEY if key is None else key)
    except (ValueError, OSError) as error:
        raise BadInput(" ".join(str(error).replace("`path`", "CLIP", 1).split())) from error
    size = f", at {result.scale:.0%} of the size at which it was marked" if result.scale != 1 else ""
    if result.found:
        say(f"{clip}: marked (another key would fit as well with p < {result.p_value:.1e}{size})")
    else:
        say(f"{clip}: no mark of this key found (score {result.score:.1f})")
        raise typer.Exit(1)
