# SPDX-License-Identifier: Apache-2.0
"""The numbers of a cascade run: one dict of options a stage, each number with its source.

`official` is the released code's run, number for number. `default` is the same models and steps with its defects gone.
`fast` is `default` with about a tenth of its network calls. A checkpoint adds its own numbers (`stage_defaults` in its
`model_index.json`: stage -> options for every recipe, and recipe -> stage -> options for that one), and a call its
`stage_options`.
"""

from __future__ import annotations

from typing import Any

from ...ladder.rung import Recipe, StageOptions


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


# Fewer steps of the published solver, DPM-Solver++(2M), whose paper (arXiv:2211.01095) runs it in 10 to 20. Behind the
# keyframes, guidance in the first half of them: at low noise it changes little (arXiv:2404.07724). Keyframes are
# guided to the end: on the tiny cascade stopping half-way loses alignment (benchmarks/fewer_calls.py). Nobody has
# measured any of it with the published weights.
_FAST: StageOptions = {
    "base": {"num_inference_steps": 20, "guidance_interval": (0.0, 1.0)},
    "interpolation": {"num_inference_steps": 10},
    "superres": {"num_inference_steps": 10, "first_frame_num_inference_steps": 15},
    "refine": {"num_inference_steps": 15},
}


def _with(changes: StageOptions, **everywhere: Any) -> StageOptions:
    return {name: {**options, **everywhere, **changes.get(name, {})} for name, options in _PUBLISHED.items()}


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
        clean_caption=False,  # the script encodes by `encode_prompt`, whose default that is
    ),
    "default": Recipe(
        stages=_with({"refine": {"resize": "bilinear"}}),
    ),
    "fast": Recipe(
        stages=_with(
            {name: {"resize": "bilinear", **steps} if name == "refine" else steps for name, steps in _FAST.items()},
            guidance_interval=(0.0, 0.5),
        ),
    ),
}
