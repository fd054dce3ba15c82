# SPDX-License-Identifier: Apache-2.0
"""`show1 demo`: the web page."""

from __future__ import annotations

from typing import Annotated

import typer

from ..runs.settings import DEFAULT_MODEL
from .texts import MODEL


def demo(
    model: Annotated[str, typer.Option(help=f"{MODEL}.")] = DEFAULT_MODEL,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at.")] = 7860,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps, xpu.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, float16, bfloat16.")] = "auto",
    offload: Annotated[str, typer.Option(help="none, model, sequential, as for generate.")] = "none",
    queue: Annotated[int, typer.Option(help="How many requests may wait.")] = 20,
    share: Annotated[bool, typer.Option("--share", help="Open a public address too, by Gradio's tunnel.")] = False,
) -> None:
    """Serve a web page that makes videos; Ctrl-C ends it."""
    from ..demo.server import serve

    serve(model, host, port, device, dtype, offload, queue, share, typer.echo)
