# SPDX-License-Identifier: Apache-2.0
"""How much of an adapter a network uses: one number, or one for each of its blocks and layers."""

from __future__ import annotations

import numbers
import sys
from typing import Any

from torch import nn


def weights_by_layer(network: nn.Module, weights: dict[str, Any], name: str) -> dict[str, float]:
    """Weights by block, as weights by parts of layers' names, of which diffusers takes the first that a name has.

    diffusers itself does this for image networks, and knows no other attentions in a block than `attentions`.
    """
    found: dict[str, float] = {}
    _check_keys(weights, ["down", "mid", "up"], name)
    for part, of_part in weights.items():
        blocks = [network.mid_block] if part == "mid" else getattr(network, f"{part}_blocks")
        keys = [f"block_{i}" for i in range(len(blocks))]
        by_block = of_part if isinstance(of_part, dict) and part != "mid" else dict.fromkeys(keys, of_part)
        _check_keys(by_block, keys, f"{name}['{part}']")
        for key, of_block in by_block.items():
            index = keys.index(key)
            prefix = "mid_block." if part == "mid" else f"{part}_blocks.{index}."
            count = 1 if part == "mid" else len(blocks[index].resnets)
            values = of_block if isinstance(of_block, list) else [of_block]
            if len(values) not in (1, count):
                raise ValueError(
                    f"`{name}['{part}']` must have {count} weights for {key}, one a layer, got {of_block}."
                )
            for value in values:
                check_weight(value, f"{name}['{part}']")
            if len(values) == 1:
                found[prefix] = values[0]
                continue
            for layer, value in enumerate(values):
                for kind in ("resnets", "temp_convs", "attentions", "temp_attentions"):
                    found[f"{prefix}{kind}.{layer}."] = value
    return {**found, "": 1.0}  # what every name has: all other layers


def _check_keys(given: dict[str, Any], allowed: list[str], name: str) -> None:
    if unknown := [key for key in given if key not in allowed]:
        raise ValueError(f"`{name}` must have keys among {allowed}, got {unknown}.")


def check_weight(value: Any, name: str) -> None:
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not abs(value) <= sys.float_info.max:
        raise ValueError(f"`{name}` must be a finite number, got {value!r}.")
