# SPDX-License-Identifier: Apache-2.0
"""The network of the toy cascade: a few 3-D convolutions that are told the time and the text."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_3d_condition import UNet3DConditionOutput
from diffusers.utils import apply_lora_scale
from torch import Tensor, nn


class ToyBlock(nn.Module):
    """A convolution over space and time that is told the time, and an attention to the text."""

    def __init__(self, width: int, text_width: int):
        super().__init__()
        self.norm = nn.GroupNorm(4, width)
        self.conv = nn.Conv3d(width, width, 3, padding=1)
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(text_width, width, bias=False)
        self.to_v = nn.Linear(text_width, width, bias=False)
        self.to_out = nn.Linear(width, width)

    def forward(self, x: Tensor, told: Tensor, text: Tensor) -> Tensor:
        """x (b, c, f, h, w), told (b, c), text (b, tokens, text_width) -> (b, c, f, h, w)"""
        x = x + self.conv(nn.functional.silu(self.norm(x + told[:, :, None, None, None])))
        places = x.flatten(2).transpose(1, 2)  # b (f h w) c
        q, k, v = (rows.unsqueeze(2) for rows in (self.to_q(places), self.to_k(text), self.to_v(text)))  # one head
        read = self.to_out(dispatch_attention_fn(q, k, v).squeeze(2))
        return x + read.transpose(1, 2).unflatten(2, x.shape[2:])


class ToyUNet(ModelMixin, ConfigMixin, PeftAdapterMixin):
    """Predicts from (b, in_channels, f, h, w) and text (b, tokens, cross_attention_dim) a (b, out_channels, f, h, w).

    Args:
        in_channels: as many as the prediction, and those of a condition behind them.
        out_channels: channels of the prediction.
        width: channels inside, a multiple of 4.
        cross_attention_dim: width of the text.
    """

    _repeated_blocks = ["ToyBlock"]
    _no_split_modules = ["ToyBlock"]
    size_divisor = 1  # any height and width

    @register_to_config
    def __init__(self, in_channels: int = 4, out_channels: int = 4, width: int = 32, cross_attention_dim: int = 64):
        super().__init__()
        self.time_proj = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(width, width)
        self.text_norm = nn.LayerNorm(cross_attention_dim)
        self.conv_in = nn.Conv3d(in_channels, width, 3, padding=1)
        self.blocks = nn.ModuleList(ToyBlock(width, cross_attention_dim) for _ in range(2))
        self.conv_out = nn.Conv3d(width, out_channels, 3, padding=1)

    @apply_lora_scale("cross_attention_kwargs")
    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        cross_attention_kwargs: dict[str, Any] | None = None,
        return_dict: bool = True,
    ) -> UNet3DConditionOutput | tuple[Tensor]:
        """sample (b, in_channels, f, h, w), timestep one or (b,), text (b, tokens, cross_attention_dim)."""
        steps = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        told = self.time_embedding(self.time_proj(steps).to(sample.dtype))
        text = self.text_norm(encoder_hidden_states)
        x = self.conv_in(sample)
        for block in self.blocks:
            x = block(x, told, text)
        out = self.conv_out(x)
        return UNet3DConditionOutput(sample=out) if return_dict else (out,)
