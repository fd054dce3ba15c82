# SPDX-License-Identifier: Apache-2.0
"""Guidance: what is made of a network's predictions with and without the text."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from .latents import fold, unfold


class Predictor:
    """A network as the denoising loop calls it: with a prompt's embeddings, its condition, and what it may keep.

    Args:
        unet: the network; an image UNet gets the frames as a batch.
        prompt_embeds: (b, l, d).
        negative_prompt_embeds: (b, l, d), or None without guidance.
        condition: (b, c', f, h, w) behind the noisy channels, or None.
        class_labels: (b,) noise level of the condition, or None.
        cross_attention_kwargs: `{"scale": ...}` for the network's adapters, or None.
        channels: of a prediction that are kept: where a scheduler takes its variance from the schedule, half of those
            of a network that predicts it as well (DeepFloyd IF). None keeps all.
    """

    def __init__(
        self,
        unet: nn.Module,
        prompt_embeds: Tensor,
        negative_prompt_embeds: Tensor | None = None,
        condition: Tensor | None = None,
        class_labels: Tensor | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        channels: int | None = None,
    ):
        self.channels = channels
        self.unet, self.condition, self.class_labels = unet, condition, class_labels
        self.extra = {} if cross_attention_kwargs is None else {"cross_attention_kwargs": cross_attention_kwargs}
        self.takes_images = unet.__class__.__name__ == "UNet2DConditionModel"
        self.read(prompt_embeds, negative_prompt_embeds)

    def read(self, prompt_embeds: Tensor, negative_prompt_embeds: Tensor | None) -> None:
        """Takes other embeddings, or the same after weights or adapters have changed: what was kept is forgotten."""
        self.embeds = {"cond": prompt_embeds, "uncond": negative_prompt_embeds}
        self._kept: dict[str, tuple[Tensor, Any]] = {}

    @property
    def tensors(self) -> dict[str, Tensor | None]:
        """The embeddings by the names that a pipeline's callback asks for them by."""
        return {"prompt_embeds": self.embeds["cond"], "negative_prompt_embeds": self.embeds["uncond"]}

    def text(self, branch: str) -> tuple[Tensor, Any]:
        """Embeddings of "cond", "uncond" or "all" (both), and the network's cache for them if it has one."""
        if branch not in self._kept:
            parts = ["uncond", "cond"] if branch == "all" else [branch]
            cache = self.unet.text_cache() if hasattr(self.unet, "text_cache") else None
            self._kept[branch] = torch.cat([self.embeds[part] for part in parts]), cache
        return self._kept[branch]

    def __call__(self, sample: Tensor, t: Tensor, text: Tensor, text_cache: Any = None) -> Tensor:
        """The prediction (b, c, f, h, w) for noisy frames (b, c, f, h, w) at timestep `t`, under a text (b, l, d)."""
        extra = dict(self.extra) if text_cache is None else {**self.extra, "text_cache": text_cache}
        repeats = len(text) // len(sample)
        if self.condition is not None:
            sample = torch.cat([sample, self.condition], dim=1)
        if self.class_labels is not None:
            extra["class_labels"] = self.class_labels.repeat(repeats)
        sample = torch.cat([sample] * repeats) if repeats > 1 else sample
        if not self.takes_images:
            return self.unet(sample, t, encoder_hidden_states=text, return_dict=False, **extra)[0][:, : self.channels]
        images = self.unet(fold(sample), t, encoder_hidden_states=text, return_dict=False, **extra)[0]
        return unfold(images[:, : self.channels], len(sample))

    def conditional(self, sample: Tensor, t: Tensor) -> Tensor:
        """The prediction under the prompt."""
        with cache_context(self.unet, "cond"):
            return self(sample, t, *self.text("cond"))

    def both(self, sample: Tensor, t: Tensor, split: bool = False) -> tuple[Tensor, Tensor]:
        """The predictions under the negative prompt and under the prompt: of one batch, or with `split` one by one."""
        if not split:
            with cache_context(self.unet, "all"):
                unconditional, conditional = self(sample, t, *self.text("all")).chunk(2)
            return unconditional, conditional
        with cache_context(self.unet, "uncond"):
            unconditional = self(sample, t, *self.text("uncond"))
        return unconditional, self.conditional(sample, t)


def guide(unconditional: Tensor, conditional: Tensor, scale: float, channels: int) -> Tensor:
    """Classifier-free guidance: u + s (c - u).

    Of predictions (b, c or 2c, ...) with a variance in the second half of their channels (DeepFloyd IF), which is not
    guided: it comes from the conditional one as it is.
    """
    mean = unconditional[:, :channels] + scale * (conditional[:, :channels] - unconditional[:, :channels])
    return torch.cat([mean, conditional[:, channels:]], dim=1) if conditional.shape[1] > channels else mean


def guide_by(guider: Any, predict: Predictor, sample: Tensor, t: Tensor, channels: int) -> Tensor:
    """As `guide`, by one of diffusers' guiders, which says how often and with what the network is called."""
    batches = guider.prepare_inputs({"encoder_hidden_states": (predict.embeds["cond"], predict.embeds["uncond"])})
    for batch in batches:
        guider.prepare_models(predict.unet)
        with cache_context(predict.unet, getattr(batch, guider._identifier_key)):
            prediction = predict(sample, t, batch.encoder_hidden_states)
        batch.noise_pred = prediction[:, :channels]
        if guider.is_conditional:
            variance = prediction[:, channels:]
        guider.cleanup_models(predict.unet)
    mean = guider(batches)[0]
    return torch.cat([mean, variance], dim=1) if variance.shape[1] else mean


def guided_steps(interval: Sequence[float], steps: int) -> tuple[int, int]:
    """The first guided step, and the first behind the guided ones: `guidance_interval` in steps."""
    start, stop = interval
    return int(start * steps), int(stop * steps)


def cache_context(unet: Any, name: str) -> AbstractContextManager:
    """Of a network with a cache enabled: which of a step's calls is made, so that each finds its own features."""
    return unet.cache_context(name) if getattr(unet, "is_cache_enabled", False) else nullcontext()
