# SPDX-License-Identifier: Apache-2.0
"""The numbers of a cascade run: one dict of options a stage, each number with its source.

`official` is the released code's run, number for number. `default` is the same models and steps with its defects gone.
`fast` is `default` with about a tenth of its network calls. A checkpoint adds its own numbers (`stage_defaults` in its
`model_index.json`: stage -> options for every recipe, and recipe -> stage -> options for that one), and a call its
`stage_options`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...sampling.guidance import guided_steps
from ...sampling.windows import chained_windows, interpolated_length, overlapping_windows


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
    ),
    "default": Recipe(
        stages=_with({"refine": {"resize": "bilinear"}}),
        same_seed=False,
        negative_prompt_stages=("base", "interpolation", "superres", "refine"),
    ),
    "fast": Recipe(
        stages=_with(
            {name: {"resize": "bilinear", **steps} if name == "refine" else steps for name, steps in _FAST.items()},
            guidance_interval=(0.0, 0.5),
        ),
        same_seed=False,
        negative_prompt_stages=("base", "interpolation", "superres", "refine"),
    ),
}


def network_calls(options: StageOptions, first_frame: bool = False) -> dict[str, int]:
    """How often a run of a whole video calls its networks, stage by stage, counted as the paper's authors do.

    A guided step is two calls, whether they are made in one batch or not, and each window's steps are its own.

    Args:
        options: of every stage, as `Show1CascadePipeline.resolve_options` returns them.
        first_frame: whether an image model makes the first super-resolved frame.

    Returns:
        Stage name -> calls.
    """

    def loop(stage: dict[str, Any], steps: int, guidance_scale: float) -> int:
        start, stop = guided_steps(stage.get("guidance_interval", (0.0, 1.0)), steps)
        return steps + (stop - start if guidance_scale > 1 else 0)

    base, interpolation, superres, refine = options.values()
    frames = interpolated_length(base["num_frames"], interpolation["frames_between"])
    windows = {
        "base": 1,
        "interpolation": base["num_frames"] - 1,
        "superres": len(chained_windows(frames, superres["window_size"])),
        "refine": 1,
    }
    if refine.get("window_size") is not None:
        overlap = refine.get("window_overlap", 8)
        windows["refine"] = len(overlapping_windows(frames, refine["window_size"], overlap))
    calls = {}
    for name, stage in options.items():
        steps = stage["num_inference_steps"] if stage.get("timesteps") is None else len(stage["timesteps"])
        if stage.get("sigmas") is not None:
            steps = len(stage["sigmas"]) - 1
        if name == "refine":
            steps = int(steps * stage["strength"])
        calls[name] = windows[name] * loop(stage, steps, stage["guidance_scale"])
    if first_frame:
        scale = superres["first_frame_guidance_scale"]
        calls["superres"] += loop(superres, superres["first_frame_num_inference_steps"], scale)
    return calls
