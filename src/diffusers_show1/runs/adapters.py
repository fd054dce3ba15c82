# SPDX-License-Identifier: Apache-2.0
"""Adapters (LoRA) of a run: written as `[STAGE=]FILE[:SCALE]`, and loaded into a cascade."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

from .refusals import BadInput, refuse


if TYPE_CHECKING:
    from ..ladder.cascade import CascadePipeline

FORM = "[STAGE=]FILE[:SCALE], such as motion.safetensors:0.8"


class Adapter(NamedTuple):
    """One adapter: a file, a folder or a Hub id; whose its layers are, where it does not say; and how much of it."""

    source: str
    stage: str | None = None
    scale: float = 1.0

    def __str__(self) -> str:
        return f"{self.stage + '=' if self.stage else ''}{self.source}:{self.scale:g}"


def read_adapter(text: str) -> Adapter:
    """What `--lora` says; `BadInput` for anything of another form."""
    found = re.fullmatch(r"(?:(\w+)=)?(.+?)(?::([-+]?\d+(?:\.\d*)?(?:e[-+]?\d+)?))?", text)
    if found is None or "\0" in text:
        refuse("--lora", text, FORM)
    stage, source, scale = found.groups()
    number = float(scale or 1)
    if not abs(number) <= 1000:
        refuse("--lora", text, FORM, "its scale is from -1000 to 1000")
    return Adapter(source, stage, number)


def resolved(text: str) -> str:
    """The same for another working folder, and with its scale."""
    adapter = read_adapter(text)
    there = os.path.exists(adapter.source)
    return str(adapter._replace(source=os.path.realpath(adapter.source)) if there else adapter)


def load_adapters(pipe: CascadePipeline, texts: list[str]) -> None:
    """Loads all adapters of a run, each with its scale.

    Raises:
        BadInput: one can't be found or does not fit, named; none is loaded then.
    """
    from ..hub.remote import answered

    scales: dict[str, float] = {}
    for text in texts:
        adapter, name = read_adapter(text), f"adapter_{len(scales)}"
        try:
            with answered(adapter.source):
                pipe.load_lora_weights(adapter.source, adapter_name=name, stage=adapter.stage)
        except (ValueError, OSError) as error:
            pipe.unload_lora_weights()
            raise BadInput(f"--lora must be an adapter that fits, got {text!r} ({error})") from error
        scales[name] = adapter.scale
    if scales:
        pipe.set_adapters(list(scales), list(scales.values()))
