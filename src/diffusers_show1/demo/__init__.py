# SPDX-License-Identifier: Apache-2.0
"""The web demo: `engine` makes videos for many visitors, one at a time; `page` shows it with Gradio.

from diffusers_show1.demo import launch

launch()  # the cascade in the package, on http://127.0.0.1:7860
"""

from __future__ import annotations


def launch(
    model: str = "tiny",
    host: str = "127.0.0.1",
    port: int = 7860,
    device: str = "auto",
    dtype: str = "auto",
    offload: str = "none",
    queue: int = 20,
    share: bool = False,
) -> None:
    """Serve the demo until the process gets SIGINT or SIGTERM; then its work folder is removed.

    Args:
        model: a family's short name (`tiny`, `showlab`, ...), a folder that holds a cascade, or a Hub id.
        host: the address to listen at; `0.0.0.0` lets other machines in.
        port: 1 to 65535.
        device: `auto`, `cpu`, `cuda`, `cuda:N`, `mps` or `xpu`.
        dtype: `auto`, `float32`, `float16` or `bfloat16`.
        offload: `none`, `model` or `sequential`, as for `show1 generate`.
        queue: how many requests may wait, at least 1; who comes later is told that it is full.
        share: also open a public address, by Gradio's tunnel.

    Raises:
        BadInput: an argument cannot be used, the port is taken, or the model cannot be loaded.
        Failed: Gradio is not installed.
    """
    from .server import serve

    serve(model, host, port, device, dtype, offload, queue, share)


__all__ = ["launch"]
