# SPDX-License-Identifier: Apache-2.0
"""A stand-in for an accelerator: a second device that computes on the CPU, to see what is where, and when.

Its tensors say that they are on `meta`, hold their numbers on the CPU, and refuse to meet tensors of the CPU, as an
accelerator's do. diffusers and accelerate move networks there with their own hooks.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map


STAND_IN = torch.device("meta")


class StandInTensor(torch.Tensor):
    """A tensor on the stand-in device; `held` has its numbers."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> StandInTensor:
        return torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), dtype=held.dtype, device=STAND_IN
        )

    def __init__(self, held: torch.Tensor):
        self.held = held

    def tolist(self) -> Any:
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return _run(func, args, kwargs or {})


class StandInDevice(TorchDispatchMode):
    """Inside, `device="meta"` is the stand-in device."""

    def __enter__(self) -> StandInDevice:
        # what diffusers asks of every device's module
        module = ModuleType("torch.meta")
        module.empty_cache = lambda: None
        torch._register_device_module("meta", module)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        del torch.meta, sys.modules["torch.meta"]

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: tuple, kwargs: dict) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    there = [isinstance(tensor, StandInTensor) for tensor in tensors]
    others = [tensor for tensor, is_there in zip(tensors, there, strict=True) if not is_there]
    assert all(t.device != STAND_IN for t in others), f"{func} got a tensor that PyTorch made beside the dispatcher"
    # an accelerator takes the CPU's numbers in copies, and as scalars and indices
    if any(there) and "copy" not in func.__name__ and "index" not in func.__name__:
        assert all(t.ndim == 0 for t in others), f"{func} got tensors of both devices, {[t.shape for t in tensors]}"
    device = kwargs.get("device")
    if device is not None:
        kwargs = {**kwargs, "device": "cpu"}
    stays = any(there) if device is None else torch.device(device).type == STAND_IN.type
    out = func(*tree_map(_held, args), **tree_map(_held, kwargs))
    if func.__name__.split(".")[0].endswith("_"):  # in place
        return args[0]
    return tree_map(lambda x: StandInTensor(x) if isinstance(x, torch.Tensor) else x, out) if stays else out


def _held(value: Any) -> Any:
    return value.held if isinstance(value, StandInTensor) else value


def is_there(network: nn.Module) -> bool:
    """Whether a network is on the stand-in device."""
    places = {p.device.type for p in network.parameters()}
    assert len(places) == 1, places
    return places == {STAND_IN.type}
