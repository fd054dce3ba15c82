# SPDX-License-Identifier: Apache-2.0
"""What the config of a Show-1 network may say, and what those of the published ones do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


TEMPORAL_NORM_GROUPS = 32

# Keys that diffusers' UNet family has and the published checkpoints never use: accepted at these values only.
_FIXED: dict[str, Any] = {
    "dual_cross_attention": False,
    "class_embeddings_concat": False,
    "transformer_layers_per_block": 1,
    "num_attention_heads": None,
    "addition_time_embed_dim": None,
    "projection_class_embeddings_input_dim": None,
    "time_embedding_type": "positional",
    "time_cond_proj_dim": None,
}
_ALLOWED: dict[str, tuple[str | None, ...]] = {
    "mid_block_type": ("UNetMidBlock3DCrossAttn", "UNetMidBlock3DSimpleCrossAttn"),
    "encoder_hid_dim_type": (None, "text_proj"),
    "addition_embed_type": (None, "text"),
    "class_embed_type": (None, "timestep", "identity"),
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "cross_attention_norm": (None, "group_norm", "layer_norm"),
}
_BLOCKS = {
    "down_block_types": (
        "DownBlock3D",
        "CrossAttnDownBlock3D",
        "ResnetDownsampleBlock3D",
        "SimpleCrossAttnDownBlock3D",
    ),
    "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D", "ResnetUpsampleBlock3D", "SimpleCrossAttnUpBlock3D"),
}

_DEEPFLOYD: dict[str, Any] = {
    "out_channels": 6,
    "mid_block_type": "UNetMidBlock3DSimpleCrossAttn",
    "act_fn": "gelu",
    "cross_attention_norm": "group_norm",
    "encoder_hid_dim": 4096,
    "encoder_hid_dim_type": "text_proj",
    "attention_head_dim": 64,
    "addition_embed_type": "text",
    "resnet_time_scale_shift": "scale_shift",
}
_KEYFRAMES: dict[str, Any] = {
    **_DEEPFLOYD,
    "sample_size": 64,
    "in_channels": 3,
    "block_out_channels": [320, 640, 960, 1280],
    "layers_per_block": 3,
    "down_block_types": ["ResnetDownsampleBlock3D", *3 * ["SimpleCrossAttnDownBlock3D"]],
    "up_block_types": [*3 * ["SimpleCrossAttnUpBlock3D"], "ResnetUpsampleBlock3D"],
}
# Of the published networks: what is not `Show1UNet3DConditionModel`'s default.
PUBLISHED: dict[str, dict[str, Any]] = {
    "showlab/show-1-base": _KEYFRAMES,
    "showlab/show-1-interpolation": {**_KEYFRAMES, "in_channels": 7},
    "showlab/show-1-sr1": {
        **_DEEPFLOYD,
        "sample_size": 256,
        "in_channels": 6,
        "block_out_channels": [128, 256, 512, 768, 768],
        "layers_per_block": [2, 2, 3, 4, 2],
        "down_block_types": [*3 * ["ResnetDownsampleBlock3D"], *2 * ["SimpleCrossAttnDownBlock3D"]],
        "up_block_types": [*2 * ["SimpleCrossAttnUpBlock3D"], *3 * ["ResnetUpsampleBlock3D"]],
        "mid_block_scale_factor": 1.4142271248762552,
        "cross_attention_dim": 768,
        "class_embed_type": "timestep",
        "resnet_out_scale_factor": 1.4142271248762552,
        "resnet_skip_time_act": True,
        "time_embedding_act_fn": "gelu",
        "time_embedding_dim": 768,
    },
    "showlab/show-1-sr2": {
        "sample_size": 32,
        "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
        "transfromer_in_opt": True,
    },
}


def check_config(config: Mapping[str, Any]) -> None:
    """Raises `ValueError` for a value that the network would misread, naming the key and what it may be."""
    for key, value in _FIXED.items():
        if config[key] != value:
            raise ValueError(
                f"`{key}` must be {value!r}, got {config[key]!r}: no Show-1 checkpoint uses anything else."
            )
    for key, values in _ALLOWED.items():
        if config[key] not in values:
            raise ValueError(f"`{key}` must be one of {values}, got {config[key]!r}.")
    blocks = len(config["block_out_channels"])
    for key, known in _BLOCKS.items():
        types = config[key]
        if len(types) != blocks or any(t not in known for t in types):
            raise ValueError(
                f"`{key}` must name {blocks} blocks (one a `block_out_channels`) of {known}, got {types}."
            )
    if any(c % TEMPORAL_NORM_GROUPS for c in config["block_out_channels"]):
        raise ValueError(
            f"`block_out_channels` must be multiples of {TEMPORAL_NORM_GROUPS} (temporal convolutions' groups), "
            f"got {config['block_out_channels']}."
        )


def per_block(value: Any, blocks: int, name: str) -> list[Any]:
    """One value for all blocks, or one each."""
    if not isinstance(value, (list, tuple)):
        return [value] * blocks
    if len(value) != blocks:
        raise ValueError(f"`{name}` must be one value or {blocks} of them, one a block; got {list(value)}.")
    return list(value)


def translate(config: dict[str, Any]) -> dict[str, Any]:
    """A config as it is; one of a stock `UNet3DConditionModel` (ModelScope, zeroscope) in our terms.

    A stock config gives the head *size* and has neither `mid_block_type` nor `transfromer_in_opt`.
    """
    head_size = config.get("attention_head_dim")
    if (
        "mid_block_type" in config
        or "transfromer_in_opt" in config
        or config.get("_class_name", "UNet3DConditionModel") != "UNet3DConditionModel"
        or not isinstance(head_size, int)
    ):
        return config
    return {
        **config,
        "cross_attention_dim": config.get("cross_attention_dim", 1024),
        "attention_head_dim": [c // head_size for c in config["block_out_channels"]],
        "transfromer_in_opt": True,
        "transformer_in_head_dim": head_size,
        "use_linear_projection": True,
        "mid_block_type": "UNetMidBlock3DCrossAttn",
    }
