# SPDX-License-Identifier: Apache-2.0
"""The numbers of a toy run: one dict of options a stage."""

from __future__ import annotations

from diffusers_show1.ladder.rung import Recipe


RECIPES = {
    "default": Recipe(
        {
            "frames": {"num_frames": 3, "height": 16, "width": 24, "num_inference_steps": 20, "guidance_scale": 3.0},
            "between": {"num_inference_steps": 8, "guidance_scale": 1.0},
            "between2": {"num_inference_steps": 4, "guidance_scale": 1.0},
            "upscale": {"num_inference_steps": 4, "guidance_scale": 1.0},
        }
    ),
    "fast": Recipe(
        {
            "frames": {"num_frames": 3, "height": 16, "width": 24, "num_inference_steps": 4, "guidance_scale": 3.0},
            "between": {"num_inference_steps": 2, "guidance_scale": 1.0},
            "between2": {"num_inference_steps": 1, "guidance_scale": 1.0},
            "upscale": {"num_inference_steps": 1, "guidance_scale": 1.0},
        }
    ),
}
