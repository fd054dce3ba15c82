# SPDX-License-Identifier: Apache-2.0
"""The demo from start to end: its address, its engine, its page, and how it stops."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import threading
from collections.abc import Callable

from ..runs.refusals import Failed, refuse


def serve(
    model: str,
    host: str,
    port: int,
    device: str,
    dtype: str,
    offload: str,
    queue: int,
    share: bool,
    tell: Callable[[str], object] = print,
) -> None:
    """As `diffusers_show1.demo.launch`, which says what the arguments are; `tell` gets the line with the address."""
    check_address(host, port)
    if importlib.util.find_spec("gradio") is None:
        raise Failed('the demo needs gradio: pip install "diffusers-show1[demo]"')
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in `generate`
    from .engine import Engine

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does, cleaned up
    try:
        with (
            contextlib.suppress(KeyboardInterrupt),
            contextlib.closing(Engine(model, device, dtype, offload, queue)) as engine,
        ):
            os.environ["GRADIO_TEMP_DIR"] = str(engine.folder)  # gradio makes a folder there when it is imported
            os.environ.setdefault("MPLCONFIGDIR", str(engine.folder))  # so does matplotlib, which gradio imports
            from .page import open_page

            try:
                page = open_page(engine, host, port, share)
            except OSError as error:  # somebody else was quicker
                raise Failed(error) from error
            with contextlib.closing(page):
                tell(f"http://{host}:{port} shows the demo of {model}; Ctrl-C ends it.")
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
