# SPDX-License-Identifier: Apache-2.0
"""Its networks: one that inherits Show-1's, and one of its own made of shared parts."""

from __future__ import annotations

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_3d_condition import UNet3DConditionOutput
from torch import Tensor, nn

from diffusers_show1 import Show1UNet3DConditionModel
from diffusers_show1.nn.temporal import TemporalTransformer

from .words import HEADS


class SiblingUNet(Show1UNet3DConditionModel):
    """Show-1's network under another name."""


class SiblingInterpolator(ModelMixin, ConfigMixin):
    """A temporal transformer between two convolutions, which does not look at time and text."""

    size_divisor = 1

    @register_to_config
    def __init__(self, in_channels: int = 7, out_channels: int = 3, cross_attention_dim: int = 32):
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, 16, 3, padding=1)
        self.time = TemporalTransformer(16, HEADS, 8, 4, rotary_size=8)
        self.conv_out = nn.Conv2d(16, out_channels, 3, padding=1)
        nn.init.normal_(self.time.proj_out.weight, std=0.1)

    def forward(
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, return_dict: bool = True
    ) -> UNet3DConditionOutput | tuple[Tensor]:
        x = self.time(self.conv_in(sample.transpose(1, 2).flatten(0, 1)), sample.shape[2])
        out = torch.tanh(self.conv_out(x)).unflatten(0, (sample.shape[0], -1)).transpose(1, 2)
        return UNet3DConditionOutput(sample=out) if return_dict else (out,)
