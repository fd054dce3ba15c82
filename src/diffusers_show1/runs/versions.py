# SPDX-License-Identifier: Apache-2.0
"""The versions that decide what a run makes."""

from __future__ import annotations

from importlib import metadata


def versions() -> dict[str, str | None]:
    """Versions of this package and of those that decide its numbers; None for one that is not installed."""
    found: dict[str, str | None] = {}
    libraries = ("torch", "diffusers", "transformers", "accelerate", "safetensors", "huggingface_hub", "numpy")
    for name in ("diffusers_show1", *libraries, "xformers", "peft"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found
