# SPDX-License-Identifier: Apache-2.0
"""How many bytes of tensors are alive at once while a piece of code runs, on any device, `meta` included."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the storages that operations make inside the context, and when they die.

    What was there before (weights, inputs) is not counted, nor what a kernel takes for itself and gives back before it
    ends (workspaces). Views share their storage and count once. On `meta` the numbers are exact for the sequence of
    operations and cost no memory, so that a network of any size can be asked.

    Attributes:
        live: bytes alive now.
        peak: the most bytes that were alive at once.
        peaks: the same by label, see `label`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.peaks: dict[str, int] = {}
        self._label: str | None = None
        self._paused = False
        self._seen: dict[weakref.ref, int] = {}

    def label(self, name: str, added: int = 0) -> None:
        """From here on, `peaks[name]` records the peak as well; `added` bytes beside those alive came and went."""
        self._label = name
        self._record(self.live + added)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """What is made inside is not counted."""
        self._paused = True
        yield
        self._paused = False

    def _record(self, live: int) -> None:
        self.peak = max(self.peak, live)
        if self._label is not None:
            self.peaks[self._label] = max(self.peaks.get(self._label, 0), live)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if self._paused:
            return func(*args, **kwargs)
        for leaf in tree_leaves((args, kwargs)):
            self._see(leaf, counts=False)
        out = func(*args, **kwargs)
        for leaf in tree_leaves(out):
            self._see(leaf, counts=True)
        self._record(self.live)
        return out

    def _see(self, leaf: Any, counts: bool) -> None:
        if not isinstance(leaf, torch.Tensor):
            return
        storage = weakref.ref(leaf.untyped_storage(), self._forget)
        if storage not in self._seen:
            self._seen[storage] = leaf.untyped_storage().nbytes() if counts else 0
            self.live += self._seen[storage]

    def _forget(self, storage: weakref.ref) -> None:
        self.live -= self._seen.pop(storage, 0)


class FlashAttention(TorchFunctionMode):
    """Attention as a fused GPU kernel has it, for `meta`: no matrix of all queries by all keys.

    The kernel keeps the output and a float32 number a query, and pads heads whose size is no multiple of 8.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        query, key, value = args[:3] if len(args) >= 3 else (kwargs["query"], kwargs["key"], kwargs["value"])
        size = -(-value.shape[-1] // 8) * 8
        padded = [t.new_empty(*t.shape[:-1], size) for t in (query, key, value) if t.shape[-1] != size]
        out = query.new_empty(*query.shape[:-1], size)
        sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        del padded, sums
        return out[..., : value.shape[-1]]


def allocated_peak(run: Callable[[], Any]) -> int:
    """The most bytes that PyTorch's CPU allocator had given out at once, as its profiler saw them."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    now = peak = 0
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak
