# SPDX-License-Identifier: Apache-2.0
"""The numbers of a cascade run: one dict of options a stage, each number with its source.

`official` is the released code's run, number for number. `default` is the same models and steps with its defects gone.
A checkpoint adds its own numbers (`stage_defaults` in its `model_index.json`), and a call its `stage_options`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


StageOptions = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Recipe:
    """How a cascade is run.

    Args:
        stages: stage name -> options of that stage's call, in order.
        same_seed: every stage, and every window in it, draws the same random numbers (the released code seeds anew for
            each call) instead of numbers of its own.
        negative_prompt_stages: the stages that get the caller's negative prompt; the others get the empty one.
    """

    stages: StageOptions
    same_seed: bool
    negative_prompt_stages: tuple[str, ...]


# steps, guidance, noise levels, windows, strength: the released inference script; sizes: section 4.1 of the paper.
_PUBLISHED: StageOptions = {
    "base": {
        "num_frames": 8,  # 8x40x64
        "height": 40,
        "width": 64,
        "num_inference_steps": 75,
        "guidance_scale": 9.0,
    },
    "interpolation": {
        "frames_between": 3,  # 29x40x64
        "num_inference_steps": 75,
        "guidance_scale": 4.0,
    },
    "superres": {
        "height": 160,  # 29x160x256
        "width": 256,
        "num_inference_steps": 125,
        "guidance_scale": 7.0,
        "noise_level": 250,
        "window_size": 8,
        "first_frame_num_inference_steps": 70,
        "first_frame_guidance_scale": 4.0,
        "first_frame_noise_level": 150,
    },
    "refine": {
        "height": 320,  # 29x320x576
        "width": 576,
        "strength": 0.8,
        "num_inference_steps": 50,
        "guidance_scale": 15.0,  # not given in the script: the default of the pipeline it used
    },
}


def _with(changes: StageOptions) -> StageOptions:
    return {name: {**options, **changes.get(name, {})} for name, options in _PUBLISHED.items()}


RECIPES = {
    "official": Recipe(
        stages=_with(
            {
                # diffusers 0.19's last DPM-Solver++ step; the same noise in every window; 8 bits before refinement
                "base": {"final_sigmas_type": "sigma_min"},
                "interpolation": {"final_sigmas_type": "sigma_min", "window_noise": "same"},
                "superres": {"final_sigmas_type": "sigma_min", "window_noise": "same"},
                "refine": {"final_sigmas_type": "sigma_min", "resize": "uint8_bicubic"},
            }
        ),
        same_seed=True,
        negative_prompt_stages=("refine",),
    ),
    "default": Recipe(
        stages=_with({"refine": {"resize": "bilinear"}}),
        same_seed=False,
        negative_prompt_stages=("base", "interpolation", "superres", "refine"),
    ),
}
