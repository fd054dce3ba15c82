# SPDX-License-Identifier: Apache-2.0
"""Small toy pipelines with random weights, made anew for each caller."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler
from torch import nn

from diffusers_show1 import TINY_PATH, Show1CascadePipeline

from .cascade import ToyCascadePipeline
from .unet import ToyUNet


# The smallest run: 2 frames of 8x12, 3, 5, 16x24
SMALL_RUN: dict[str, dict[str, Any]] = {
    "frames": {"num_frames": 2, "height": 8, "width": 12, "num_inference_steps": 2},
    "between": {"num_inference_steps": 2},
    "between2": {"num_inference_steps": 1},
    "upscale": {"num_inference_steps": 2, "window_size": 3},
}


@cache
def _shared() -> dict[str, Any]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tiny = Show1CascadePipeline.from_pretrained(TINY_PATH, dtype=torch.float32)  # its T5 knows the words
        vae = AutoencoderKL(
            block_out_channels=(8, 16),
            down_block_types=2 * ("DownEncoderBlock2D",),
            up_block_types=2 * ("UpDecoderBlock2D",),
            norm_num_groups=4,
            latent_channels=4,
            scaling_factor=0.5,
        )
        noise = {"beta_schedule": "scaled_linear", "prediction_type": "sample", "clip_sample": False}
        return {
            "tokenizer": tiny.tokenizer,
            "text_encoder": tiny.text_encoder,
            "frames_unet": ToyUNet(4, 4),
            "frames_vae": vae,
            "frames_scheduler": DDIMScheduler(**noise),
            "between_unet": ToyUNet(6, 3),
            "between_scheduler": DDIMScheduler(**noise),
            "upscale_unet": ToyUNet(6, 3),
            "upscale_scheduler": DDIMScheduler(**noise),
        }


def components(name: str = "cascade") -> dict[str, Any]:
    """Fresh copies of all components of a stage or of the cascade."""
    parts = _shared()
    if name != "cascade":
        rung = next(rung for rung in ToyCascadePipeline.rungs if rung.name == name)
        parts = {own: parts[part] for own, part in rung.parts.items() if part in parts}
    return copy.deepcopy(parts)


def pipeline(name: str = "cascade", **changes: Any) -> Any:
    """A stage or the cascade over fresh components, without a progress bar."""
    parts = {**components(name), **changes}
    if name == "cascade":
        parts.setdefault("stage_defaults", copy.deepcopy(SMALL_RUN))
        pipe = ToyCascadePipeline(**parts)
    else:
        pipe = next(rung for rung in ToyCascadePipeline.rungs if rung.name == name).stage(**parts)
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe
