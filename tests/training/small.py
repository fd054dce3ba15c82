# SPDX-License-Identifier: Apache-2.0
"""A recipe for tests: the smallest network of every kind, on the synthetic world."""

from pathlib import Path
from typing import Any

import yaml


NETWORK = {
    "in_channels": 3,
    "out_channels": 3,
    "sample_size": [16, 24],
    "block_out_channels": [32],
    "act_fn": "gelu",
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "attention_head_dim": 16,
    "cross_attention_dim": 32,
    "cross_attention_norm": "group_norm",
    "encoder_hid_dim": 64,
    "encoder_hid_dim_type": "text_proj",
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 4,
    "resnet_time_scale_shift": "scale_shift",
    "down_block_types": ["SimpleCrossAttnDownBlock3D"],
    "mid_block_type": "UNetMidBlock3DSimpleCrossAttn",
    "up_block_types": ["SimpleCrossAttnUpBlock3D"],
}
LATENT_NETWORK = {
    "in_channels": 6,
    "out_channels": 6,
    "sample_size": [4, 6],
    "block_out_channels": [32],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 32,
    "attention_head_dim": 4,
    "down_block_types": ["CrossAttnDownBlock3D"],
    "mid_block_type": "UNetMidBlock3DCrossAttn",
    "up_block_types": ["CrossAttnUpBlock3D"],
    "transfromer_in_opt": False,
}


def recipe(stage: str = "base", **sections: dict[str, Any]) -> dict[str, Any]:
    """Two frames of 16 x 24, four clips a step, four steps; `sections` change keys of sections."""
    values: dict[str, Any] = {
        "stage": stage,
        "data": {"kind": "world", "frames": 2, "height": 16, "width": 24, "fps": 8},
        "model": {"start": "scratch", "components": "tiny", "config": NETWORK},
        "objective": {"prediction_type": "v_prediction"},
        "optimizer": {"learning_rate": 1e-3, "warmup_steps": 2, "ema_decay": 0.9},
        "run": {"steps": 4, "batch_size": 4, "log_every": 1, "checkpoint_every": 2, "validate_every": 0},
        "validation": {"clips": 0},
    }
    for section, changes in sections.items():
        values[section] = {**values[section], **changes}
    return values


def write_recipe(folder: Path, stage: str = "base", **sections: dict[str, Any]) -> Path:
    """`recipe` as a file in `folder`."""
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe(stage, **sections)), encoding="utf-8")
    return path
