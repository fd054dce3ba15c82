# SPDX-License-Identifier: Apache-2.0
"""Checks of a call's arguments, each a message with the name, the value and what is allowed."""

from __future__ import annotations

import inspect
import math
import numbers
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..clips.arrays import OUTPUT_TYPES
from .schedule import fresh_scheduler, set_timesteps


MAX_NUMBERS = 2**32  # of the videos of a call: 16 GiB in float32


def check_count(value: Any, name: str, low: int = 1, high: int | None = None) -> None:
    """An integer of at least `low` (and at most `high`), else a ValueError that says so."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):
        limits = f"an integer of at least {low}" if high is None else f"an integer in {low}..{high}"
        raise ValueError(f"`{name}` must be {limits}, got {value!r}.")


def check_number(value: Any, name: str, low: float, high: float = math.inf, above: bool = False) -> None:
    """A finite number from `low` (exclusive with `above`) to `high`, else a ValueError that says so."""
    good = isinstance(value, numbers.Real) and not isinstance(value, bool)
    # Compared and not converted: a whole number of 400 digits is no float. NaN fails too.
    good = good and -sys.float_info.max <= value <= sys.float_info.max
    if not good or value < low or value > high or (above and value == low):
        limits = f"above {low}" if above else f"of at least {low}"
        upper = "" if math.isinf(high) else f" and at most {high}"
        raise ValueError(f"`{name}` must be a finite number {limits}{upper}, got {value!r}.")


def check_size(height: Any, width: Any, divisor: int) -> None:
    for name, value in (("height", height), ("width", width)):
        check_count(value, name, high=2**14)
        if value % divisor:
            raise ValueError(
                f"`{name}` must be a multiple of {divisor} (the network halves it that often), got {value}; "
                f"the nearest are {value // divisor * divisor or divisor} and {(value // divisor + 1) * divisor}."
            )


def check_extent(batch: int, num_frames: int, height: int, width: int) -> None:
    """A ValueError for videos of more numbers than any machine holds, before memory is taken for them."""
    if batch * 3 * num_frames * height * width > MAX_NUMBERS:
        raise ValueError(
            f"`num_frames`, `height` and `width` must make videos of at most {MAX_NUMBERS} numbers "
            f"(16 GiB in float32), got {batch} of {num_frames} frames of {height}x{width}."
        )


def check_interval(value: Any, name: str) -> None:
    """Two numbers 0 <= start <= stop <= 1, else a ValueError that says so."""
    numeric = isinstance(value, (list, tuple)) and all(
        isinstance(bound, numbers.Real) and not isinstance(bound, bool) for bound in value
    )
    if not numeric or len(value) != 2 or not 0 <= value[0] <= value[1] <= 1:
        raise ValueError(f"`{name}` must be (start, stop) with 0 <= start <= stop <= 1, got {value!r}.")


def check_generator(generator: Any, batch: int) -> None:
    if generator is None or isinstance(generator, torch.Generator):
        return
    if not isinstance(generator, list) or not all(isinstance(g, torch.Generator) for g in generator):
        raise TypeError(f"`generator` must be a torch.Generator or a list of them, got {generator!r}.")
    if len(generator) != batch:
        raise ValueError(
            f"`generator` must be one generator or {batch} (one a video), got a list of {len(generator)}."
        )


def check_latents(latents: Any, shapes: list[tuple[int, ...]]) -> None:
    """None, or a tensor of one of `shapes`."""
    if latents is None:
        return
    if not isinstance(latents, Tensor) or tuple(latents.shape) not in shapes:
        got = tuple(latents.shape) if isinstance(latents, Tensor) else repr(latents)
        raise ValueError(f"`latents` must be a tensor of shape {' or '.join(map(str, shapes))}, got {got}.")


def check_windows(windows: Any, shapes: Sequence[tuple[int, ...]]) -> None:
    """A stage's finished windows: tensors of the first of `shapes`, which are those of a call's windows, in order."""
    if isinstance(windows, Tensor) or not all(isinstance(window, Tensor) for window in windows):
        raise TypeError(f"`window_store` must hold a sequence of tensors, one a window, got {windows!r}.")
    given = [tuple(window.shape) for window in windows]
    if given != [tuple(shape) for shape in shapes[: len(given)]]:
        raise ValueError(
            f"`window_store` must hold the first of this call's windows, of shapes {list(shapes)}, got {given}."
        )


def check_sampling(call: Any, scheduler: Any, tensor_inputs: Sequence[str]) -> None:
    """The checks of the arguments that all stages have.

    Args:
        call: a stage's `Call`.
        scheduler: the stage's.
        tensor_inputs: what a step callback may ask for.

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """
    train_steps = scheduler.config.num_train_timesteps
    timesteps, sigmas = call.timesteps, call.sigmas
    if timesteps is not None and sigmas is not None:
        raise ValueError(f"Only one of `timesteps` or `sigmas` can be passed, got {timesteps!r} and {sigmas!r}.")
    for name, schedule in (("timesteps", timesteps), ("sigmas", sigmas)):
        if schedule is not None and name not in inspect.signature(scheduler.set_timesteps).parameters:
            raise ValueError(
                f"`{name}` must be None with {type(scheduler).__name__}, which can't take them, got {schedule!r}."
            )
    if sigmas is not None:
        if not isinstance(sigmas, (list, tuple)) or len(sigmas) < 2:
            raise ValueError(
                f"`sigmas` must be a list of at least 2 noise levels, where a step begins and where it ends, "
                f"got {sigmas!r}."
            )
        for sigma in sigmas:
            check_number(sigma, "sigmas", low=0)
        if list(sigmas) != sorted(set(sigmas), reverse=True):
            raise ValueError(f"`sigmas` must fall from each to the next, got {list(sigmas)}.")
        # a scheduler may take them in some of its modes only, and says so
        set_timesteps(fresh_scheduler(scheduler), None, None, sigmas, "cpu")
    elif timesteps is None:
        check_count(call.num_inference_steps, "num_inference_steps", high=train_steps)
    else:
        if not isinstance(timesteps, (list, tuple)) or not timesteps:
            raise ValueError(f"`timesteps` must be a list of integers, got {timesteps!r}.")
        for t in timesteps:
            check_count(t, "timesteps", low=0, high=train_steps - 1)
        if list(timesteps) != sorted(set(timesteps), reverse=True):
            raise ValueError(f"`timesteps` must fall from each to the next, got {list(timesteps)}.")
    check_number(call.guidance_scale, "guidance_scale", low=0)
    check_interval(call.guidance_interval, "guidance_interval")
    check_count(call.num_videos_per_prompt, "num_videos_per_prompt")
    if call.eta is not None:
        check_number(call.eta, "eta", low=0)
    check_output_type(call.output_type)
    if unknown := [name for name in call.callback_on_step_end_tensor_inputs if name not in tensor_inputs]:
        raise ValueError(f"`callback_on_step_end_tensor_inputs` must be among {list(tensor_inputs)}, got {unknown}.")


def check_output_type(output_type: Any) -> None:
    """One of `OUTPUT_TYPES`, else a ValueError that says so."""
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"`output_type` must be one of {OUTPUT_TYPES}, got {output_type!r}.")


def size_divisor(unet: nn.Module) -> int:
    """What a network's height and width must be multiples of."""
    return getattr(unet, "size_divisor", None) or 2 ** (len(unet.config.block_out_channels) - 1)
