# SPDX-License-Identifier: Apache-2.0
"""diffusers' promises, kept by the video UNet in both of its dialects."""

import torch

from diffusers_show1 import Show1UNet3DConditionModel

from .components import seeded
from .models import (
    AttentionTesterMixin,
    BaseModelTesterConfig,
    ModelTesterMixin,
    RegionalCompileTesterMixin,
    TorchCompileTesterMixin,
    TrainingTesterMixin,
    UNetTesterMixin,
)


class PixelUNetTesterConfig(BaseModelTesterConfig):
    """DeepFloyd IF's blocks, as in the super-resolution network: text in the time embedding, noise level, variance."""

    model_class = Show1UNet3DConditionModel
    output_shape = (2, 6, 3, 8, 12)
    # down 1, middle 1, up 2: one spatial and two temporal each
    attention_modules = 4 * 3
    repeated_blocks = ("TemporalConvLayer", "AddedKVAttention", "TemporalTransformer")

    def get_init_dict(self):
        return {
            "sample_size": 8,
            "in_channels": 6,
            "out_channels": 6,
            "block_out_channels": (32, 64),
            "layers_per_block": 1,
            "down_block_types": ("ResnetDownsampleBlock3D", "SimpleCrossAttnDownBlock3D"),
            "mid_block_type": "UNetMidBlock3DSimpleCrossAttn",
            "up_block_types": ("SimpleCrossAttnUpBlock3D", "ResnetUpsampleBlock3D"),
            "act_fn": "gelu",
            "cross_attention_dim": 32,
            "cross_attention_norm": "group_norm",
            "encoder_hid_dim": 48,
            "encoder_hid_dim_type": "text_proj",
            "attention_head_dim": 8,
            "addition_embed_type": "text",
            "addition_embed_type_num_heads": 4,
            "class_embed_type": "timestep",
            "resnet_time_scale_shift": "scale_shift",
            "resnet_skip_time_act": True,
            "resnet_out_scale_factor": 1.4142,
            "mid_block_scale_factor": 1.4142,
            "time_embedding_act_fn": "gelu",
        }

    def get_dummy_inputs(self, seed=0):
        generator = seeded(seed)
        return {
            "sample": torch.randn(2, 6, 3, 8, 12, generator=generator),
            "timestep": torch.tensor([651, 12]),
            "encoder_hidden_states": torch.randn(2, 7, 48, generator=generator),
            "class_labels": torch.tensor([250, 100]),
        }


class LatentUNetTesterConfig(BaseModelTesterConfig):
    """ModelScope's blocks, as in the refinement network: a temporal transformer behind the first convolution."""

    model_class = Show1UNet3DConditionModel
    output_shape = (2, 4, 3, 8, 12)
    # behind the first convolution 2; down 1, middle 1, up 2: two spatial and two temporal each
    attention_modules = 2 + 4 * 4
    repeated_blocks = ("TemporalConvLayer", "SpatialTransformer", "TemporalTransformer")

    def get_init_dict(self):
        return {
            "sample_size": 8,
            "in_channels": 4,
            "out_channels": 4,
            "block_out_channels": (32, 64),
            "layers_per_block": 1,
            "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
            "mid_block_type": "UNetMidBlock3DCrossAttn",
            "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
            "cross_attention_dim": 32,
            "attention_head_dim": (2, 4),
            "use_linear_projection": True,
            "transfromer_in_opt": True,
            "transformer_in_head_dim": 8,
        }

    def get_dummy_inputs(self, seed=0):
        generator = seeded(seed)
        return {
            "sample": torch.randn(2, 4, 3, 8, 12, generator=generator),
            "timestep": torch.tensor([651, 12]),
            "encoder_hidden_states": torch.randn(2, 7, 32, generator=generator),
        }


class TestPixelUNet(PixelUNetTesterConfig, ModelTesterMixin, UNetTesterMixin):
    pass


class TestPixelUNetTraining(PixelUNetTesterConfig, TrainingTesterMixin):
    pass


class TestPixelUNetAttention(PixelUNetTesterConfig, AttentionTesterMixin):
    pass


class TestPixelUNetCompile(PixelUNetTesterConfig, TorchCompileTesterMixin, RegionalCompileTesterMixin):
    pass


class TestLatentUNet(LatentUNetTesterConfig, ModelTesterMixin, UNetTesterMixin):
    pass


class TestLatentUNetTraining(LatentUNetTesterConfig, TrainingTesterMixin):
    pass


class TestLatentUNetAttention(LatentUNetTesterConfig, AttentionTesterMixin):
    pass


class TestLatentUNetCompile(LatentUNetTesterConfig, TorchCompileTesterMixin):
    pass
