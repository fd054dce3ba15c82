# SPDX-License-Identifier: Apache-2.0
"""What tells one loaded pipeline from another: a digest of each component, of the numbers that it really holds."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn


def fingerprint(pipe: DiffusionPipeline) -> dict[str, str]:
    """Component -> `"dtype sha256"` for a network, `"sha256"` for a scheduler or tokenizer.

    Weights are read where they are, in memory: adapters, quantisation and edits count; the device and its offloading
    don't. Takes as long as hashing the weights does, some seconds for 20 GB.
    """
    return {name: _digest(part) for name, part in sorted(pipe.components.items()) if part is not None}


def changes(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """The components that differ, in words."""
    told = []
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        if old != new:
            kinds = ["missing" if digest is None else digest.rpartition(" ")[0] or "there" for digest in (old, new)]
            told.append(f"{name} ({kinds[0]}, now {kinds[1]})" if kinds[0] != kinds[1] else name)
    return told


def _digest(part: Any) -> str:
    sha = hashlib.sha256(type(part).__name__.encode())
    if isinstance(part, nn.Module):
        _add_weights(sha, part)
        return f"{str(next(part.parameters()).dtype).removeprefix('torch.')} {sha.hexdigest()}"
    if hasattr(part, "get_vocab"):
        sha.update(json.dumps(part.get_vocab(), sort_keys=True).encode())
    else:
        config = part.config if hasattr(part, "config") else part.to_dict()  # an image processor has none
        config = {key: value for key, value in dict(config).items() if not key.startswith("_")}
        sha.update(json.dumps(config, sort_keys=True, default=str).encode())
    return sha.hexdigest()


def _add_weights(sha: Any, network: nn.Module) -> None:
    from accelerate.utils import align_module_device

    for name, module in network.named_modules():
        # an adapter's strength is no weight
        adapter = [getattr(module, key, None) for key in ("scaling", "_active_adapter", "_disable_adapters")]
        sha.update(f"{name} {adapter}".encode())
        with align_module_device(module):  # brings in what sequential offloading keeps away
            for key, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
                sha.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
                sha.update(_bytes(tensor))


def _bytes(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
