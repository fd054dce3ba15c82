# SPDX-License-Identifier: Apache-2.0
"""What suits a CPU's caches. The numbers stay what they are, within rounding."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


ROWS = 512  # tokens that a feed-forward takes at once on a CPU
# Positions from which on a CPU is faster with the channels last; below, its group norms are slower than that gains.
CHANNELS_LAST_POSITIONS = 1024


def infers_on_cpu(x: Tensor) -> bool:
    """Whether what helps a CPU's caches applies: not in training, nor in a graph that a compiler lays out itself."""
    return x.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def in_parts(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`function` of each token, (..., C) -> (..., C'); on a CPU of some hundred tokens at a time.

    Inside a feed-forward is eight times as wide as the token: parts that stay in the cache take half the time.
    """
    if not infers_on_cpu(x):
        return function(x)
    return torch.cat([function(part) for part in x.flatten(0, -2).split(ROWS)]).reshape(x.shape)


def channels_last(x_NCHW: Tensor) -> Tensor:
    """Large pictures with the channels last in memory, which all layers keep, temporal ones as well."""
    if x_NCHW.shape[-2] * x_NCHW.shape[-1] >= CHANNELS_LAST_POSITIONS and infers_on_cpu(x_NCHW):
        return x_NCHW.contiguous(memory_format=torch.channels_last)
    return x_NCHW
