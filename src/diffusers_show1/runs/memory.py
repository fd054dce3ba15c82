# SPDX-License-Identifier: Apache-2.0
"""Out of memory: which stage it was, and which switch of this pipeline saves how much."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn


@contextlib.contextmanager
def memory_told(
    pipe: DiffusionPipeline, options: dict[str, dict[str, Any]], stage: Callable[[], str]
) -> Iterator[None]:
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


def memory_advice(pipe: DiffusionPipeline, stage: str, options: dict[str, dict[str, Any]]) -> list[str]:
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
    return advice + _stage_advice(stage, options)


def _stage_advice(stage: str, options: dict[str, dict[str, Any]]) -> list[str]:
    own, advice = options[stage], []
    if stage == "interpolation":
        pairs = options["base"]["num_frames"] - 1
        at_once = own.get("window_batch_size") or pairs
        if at_once > 1:
            advice.append(
                f"the option window_batch_size=1 denoises one pair of keyframes at a time instead of {at_once}: "
                f"about 1/{at_once} of what the stage needs beside weights, for the same video"
            )
    if own["guidance_scale"] > 1 and not own.get("split_guidance"):
        advice.append(
            "the option split_guidance=True gives the network one branch of guidance at a time instead of both: "
            "about half of what it needs beside weights, for the same video"
        )
    if stage == "refine" and (at_once := own.get("vae_batch_size", 8)) != 1:
        advice.append(
            f"the option vae_batch_size=1 encodes and decodes one frame at a time instead of {at_once or 'all'}, "
            "for the same video"
        )
    if stage == "base":
        advice.append("fewer frames (num_frames, --frames) need less in proportion beside weights")
    elif stage == "interpolation" and not advice:
        advice.append("smaller frames (height and width of the stage 'base') need less, and are another video")
    elif stage != "interpolation":
        size = own.get("window_size", 8 if stage == "superres" else 29)
        advice.append(
            f"a smaller window_size than {size} needs less in proportion beside weights, and is another video"
        )
    return advice


def _gib(size: int) -> str:
    return f"{size / 2**30:.2g} GiB"
