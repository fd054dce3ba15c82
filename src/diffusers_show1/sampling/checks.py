# SPDX-License-Identifier: Apache-2.0
"""Checks of a call's arguments, each a message with the name, the value and what is allowed."""

from __future__ import annotations

import math
import numbers
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


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
    """`finished_windows`: tensors of the first of `shapes`, which are those of a call's windows, in order."""
    if isinstance(windows, Tensor) or not all(isinstance(window, Tensor) for window in windows):
        raise TypeError(f"`finished_windows` must be a sequence of tensors, one a window, got {windows!r}.")
    given = [tuple(window.shape) for window in windows]
    if given != [tuple(shape) for shape in shapes[: len(given)]]:
        raise ValueError(
            f"`finished_windows` must hold the first of this call's windows, of shapes {list(shapes)}, got {given}."
        )


def size_divisor(unet: nn.Module) -> int:
    """What a network's height and width must be multiples of."""
    return getattr(unet, "size_divisor", None) or 2 ** (len(unet.config.block_out_channels) - 1)
