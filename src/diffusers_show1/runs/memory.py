# SPDX-License-Identifier: Apache-2.0
"""Out of memory: which stage it was, and which switch of this pipeline saves how much."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn


if TYPE_CHECKING:
    from ..ladder.cascade import CascadePipeline
    from ..ladder.rung import StageOptions


@contextlib.contextmanager
def memory_told(pipe: CascadePipeline, options: StageOptions, stage: Callable[[], str]) -> Iterator[None]:
    """Names the stage that runs out of memory, and what would help.

    Args:
        pipe: the cascade.
        options: its options, all of them, by stage.
        stage: tells the stage at work.

    Raises:
        torch.OutOfMemoryError: for an accelerator's, and for the RuntimeError or MemoryError that a CPU's is.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # the CPU's allocator has no error class of its own
        if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and "DefaultCPUAllocator" not in str(error):
            raise
        name = stage()
        advice = "; ".join(memory_advice(pipe, name, options))
        raise torch.OutOfMemoryError(
            f"stage {name!r} ran out of memory on {pipe._execution_device}. What would save some: {advice}."
        ) from error


def memory_advice(pipe: CascadePipeline, stage: str, options: StageOptions) -> list[str]:
    """The switches that are still off and would help this stage, each with what it saves, the strongest first."""
    networks = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    sizes = {name: sum(p.numel() * p.element_size() for p in part.parameters()) for name, part in networks.items()}
    total, largest = sum(sizes.values()), max(sizes.values())
    parameters = [p for part in networks.values() for p in part.parameters()]
    by_layer = bool(pipe._memory_options) or any(p.device.type == "meta" for p in parameters)
    by_network = bool(getattr(pipe, "_all_hooks", None))
    advice = []
    if pipe._execution_device.type != "cpu" and not by_layer:
        if not by_network:
            advice.append(
                "enable_model_cpu_offload() (--offload model) keeps one network at a time on the accelerator, "
                f"{_gib(largest)} at most instead of {_gib(total)} of weights"
            )
        advice.append(
            "enable_low_memory() or enable_sequential_cpu_offload() (--offload sequential) keep a layer at a time "
            f"there: {_gib(largest if by_network else total)} of weights less"
        )
    if any(p.dtype == torch.float32 for p in parameters):
        wide = sum(p.numel() * 4 for p in parameters if p.dtype == torch.float32)
        advice.append(
            "dtype=torch.bfloat16 or torch.float16 (--dtype) takes half for weights and for all else, "
            f"{_gib(wide // 2)} less for weights alone"
        )
    return advice + _stage_advice(pipe, stage, options)


def _stage_advice(pipe: CascadePipeline, stage: str, options: StageOptions) -> list[str]:
    """Of the options that do the same in smaller portions, those that are not set, and what a smaller video saves."""
    rung, call, given, _ = next(found for found in pipe.run_through(options) if found[0].name == stage)
    own = rung.defaults | options[stage]
    advice = []
    if "window_batch_size" in rung.stage.low_memory:
        windows = rung.stage.windows(call, given)
        at_once = min(own["window_batch_size"] or windows, windows)
        if at_once > 1:
            advice.append(
                f"the option window_batch_size=1 denoises one window at a time instead of {at_once}: "
                f"about 1/{at_once} of what the stage needs beside weights, for the same video"
            )
    if "split_guidance" in rung.stage.low_memory and own["guidance_scale"] > 1 and not own["split_guidance"]:
        advice.append(
            "the option split_guidance=True gives the network one branch of guidance at a time instead of both: "
            "about half of what it needs beside weights, for the same video"
        )
    if "vae_batch_size" in rung.stage.low_memory and own["vae_batch_size"] != 1:
        advice.append(
            "the option vae_batch_size=1 encodes and decodes one frame at a time instead of "
            f"{own['vae_batch_size'] or 'all'}, for the same video"
        )
    for name, value in rung.stage.low_memory.items():
        if name not in ("window_batch_size", "split_guidance", "vae_batch_size") and own[name] != value:
            advice.append(f"the option {name}={value!r} works in smaller portions, for the same video")
    return [*advice, rung.stage.shrink.format_map(own)]


def _gib(size: int) -> str:
    return f"{size / 2**30:.2g} GiB"
