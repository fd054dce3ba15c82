# SPDX-License-Identifier: Apache-2.0
"""`show1 demo`: the web page."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import threading
from typing import Annotated

import typer

from .refusals import Failed, refuse


def demo(
    model: Annotated[
        str, typer.Option(help="tiny (ships with the package), a folder, a Hub id, or showlab.")
    ] = "tiny",
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at.")] = 7860,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps, xpu.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, float16, bfloat16.")] = "auto",
    offload: Annotated[str, typer.Option(help="none, model, sequential, as for generate.")] = "none",
    queue: Annotated[int, typer.Option(help="How many requests may wait.")] = 20,
    share: Annotated[bool, typer.Option("--share", help="Open a public address too, by Gradio's tunnel.")] = False,
) -> None:
    """Serve a web page that makes videos; Ctrl-C ends it."""
    serve(model, host, port, device, dtype, offload, queue, share)


def serve(model: str, host: str, port: int, device: str, dtype: str, offload: str, queue: int, share: bool) -> None:
    """As `diffusers_show1.demo.launch`, which says what the arguments are."""
    check_address(host, port)
    if importlib.util.find_spec("gradio") is None:
        raise Failed('the demo needs gradio: pip install "diffusers-show1[demo]"')
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in `generate`
    from ..demo.engine import Engine

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does, cleaned up
    try:
        with (
            contextlib.suppress(KeyboardInterrupt),
            contextlib.closing(Engine(model, device, dtype, offload, queue)) as engine,
        ):
            os.environ["GRADIO_TEMP_DIR"] = str(engine.folder)  # gradio makes a folder there when it is imported
            from ..demo.page import open_page

            try:
                page = open_page(engine, host, port, share)
            except OSError as error:  # somebody else was quicker
                raise Failed(error) from error
            with contextlib.closing(page):
                typer.echo(f"http://{host}:{port} shows the demo of {model}; Ctrl-C ends it.")
                threading.Event().wait()
    finally:
        signal.signal(signal.SIGTERM, before)


def check_address(host: str, port: int) -> None:
    """`BadInput` unless this process may listen at the address."""
    if not 1 <= port <= 65535:
        refuse("--port", port, "a whole number from 1 to 65535")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        refuse("--host", host, "an address of this machine", error)
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            refuse("--port", port, f"a port that is free at {host}", error.strerror)
