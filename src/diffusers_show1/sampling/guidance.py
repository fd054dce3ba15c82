# SPDX-License-Identifier: Apache-2.0
"""Guidance: what is made of a network's predictions with and without the text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def guide(prediction: Tensor, channels: int, guidance_scale: float, keeps_variance: bool) -> Tensor:
    """Classifier-free guidance over a batch of [unconditional, conditional] predictions (b, c or 2c, ...).

    A learned variance (the second half of the channels, DeepFloyd IF) is not guided: it comes from the conditional
    half as it is, or is dropped when the scheduler takes its variance from the schedule.
    """
    if guidance_scale > 1:
        unconditional, conditional = prediction.chunk(2)
        mean = unconditional[:, :channels] + guidance_scale * (conditional[:, :channels] - unconditional[:, :channels])
    else:
        conditional, mean = prediction, prediction[:, :channels]
    if keeps_variance:
        return torch.cat([mean, conditional[:, channels:]], dim=1)
    return mean


def guide_by(
    guider: Any,
    unet: Any,
    predict: Callable[[Tensor], Tensor],
    embeds: tuple[Tensor, Tensor],
    channels: int,
    keeps_variance: bool,
) -> Tensor:
    """As `guide`, by one of diffusers' guiders, which says how often and with what the network is called.

    `predict` takes text embeddings to a prediction; `embeds` are the conditional and the unconditional ones.
    """
    batches = guider.prepare_inputs({"encoder_hidden_states": embeds})
    for batch in batches:
        guider.prepare_models(unet)
        with cache_context(unet, getattr(batch, guider._identifier_key)):
            prediction = predict(batch.encoder_hidden_states)
        batch.noise_pred = prediction[:, :channels]
        if guider.is_conditional:
            variance = prediction[:, channels:]
        guider.cleanup_models(unet)
    mean = guider(batches)[0]
    return torch.cat([mean, variance], dim=1) if keeps_variance else mean


def guided_steps(interval: Sequence[float], steps: int) -> tuple[int, int]:
    """The first guided step, and the first behind the guided ones: `guidance_interval` in steps."""
    start, stop = interval
    return int(start * steps), int(stop * steps)


def cache_context(unet: Any, name: str) -> AbstractContextManager:
    """Of a network with a cache enabled: which of a step's calls is made, so that each finds its own features."""
    return unet.cache_context(name) if getattr(unet, "is_cache_enabled", False) else nullcontext()
