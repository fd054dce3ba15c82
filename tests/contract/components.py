# SPDX-License-Identifier: Apache-2.0
"""Small real components for tests: the networks, encoders and schedulers of `golden/cases/models`."""

import copy
from functools import cache
from typing import Any

import torch
from diffusers import DDPMScheduler, DiffusionPipeline, UNet2DConditionModel
from torch import nn

from diffusers_show1 import (
    Show1CascadePipeline,
    Show1InterpolationPipeline,
    Show1KeyframePipeline,
    Show1RefinementPipeline,
    Show1SuperResolutionPipeline,
    Show1UNet3DConditionModel,
)

from ..golden import cases


PIPELINES = {
    "base": Show1KeyframePipeline,
    "interpolation": Show1InterpolationPipeline,
    "superres": Show1SuperResolutionPipeline,
    "refine": Show1RefinementPipeline,
    "cascade": Show1CascadePipeline,
}
FOLDERS = {
    "base": "show-1-base",
    "interpolation": "show-1-interpolation",
    "superres": "show-1-sr1",
    "refine": "show-1-sr2",
}
# The smallest run of the whole cascade: 2 keyframes of 8x12, 5 frames, 16x24, 16x24.
SMALL_RUN = {
    "base": {"num_frames": 2, "height": 8, "width": 12, "num_inference_steps": 2},
    "interpolation": {"num_inference_steps": 2},
    "superres": {
        "height": 16,
        "width": 24,
        "num_inference_steps": 2,
        "window_size": 3,
        "first_frame_num_inference_steps": 2,
    },
    "refine": {"height": 16, "width": 24, "num_inference_steps": 3},
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clip(frames: int = 3, height: int = 8, width: int = 12, seed: int = 0, videos: int = 1) -> torch.Tensor:
    """Videos (b, 3, f, h, w) in model space, no two frames alike."""
    return torch.rand(videos, 3, frames, height, width, generator=seeded(seed)) * 2 - 1


@cache
def _stage(name: str) -> DiffusionPipeline:
    """A stage with all its components: those whose folder has no text encoder get the base stage's."""
    variant = "fp16" if name in ("base", "interpolation") else None
    extra: dict[str, Any] = {}
    if name in ("interpolation", "superres"):
        extra = {key: getattr(_stage("base"), key) for key in ("tokenizer", "text_encoder")}
    if name == "superres":
        folder = cases.MODELS / "if-ii"
        extra["first_frame_unet"] = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", variant="fp16")
        extra["first_frame_scheduler"] = DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
    return PIPELINES[name].from_pretrained(cases.MODELS / FOLDERS[name], dtype=torch.float32, variant=variant, **extra)


def _shared(name: str) -> dict[str, Any]:
    if name != "cascade":
        return dict(_stage(name).components)
    stages = {stage: _stage(stage).components for stage in FOLDERS}
    components = {key: stages["base"][key] for key in ("tokenizer", "text_encoder")}
    for key in ("first_frame_unet", "first_frame_scheduler"):
        components[key] = stages["superres"][key]
    own = {
        "base": ("unet", "scheduler"),
        "interpolation": ("unet", "scheduler"),
        "superres": ("unet", "scheduler", "image_noising_scheduler"),
        "refine": ("tokenizer", "text_encoder", "unet", "vae", "scheduler"),
    }
    for stage, keys in own.items():
        components.update({f"{stage}_{key}": stages[stage][key] for key in keys})
    return components


def components(name: str) -> dict[str, Any]:
    """Fresh copies of all components of a stage or of the cascade."""
    return copy.deepcopy(_shared(name))


def pipeline(name: str, **changes: Any) -> Any:
    """A stage or the cascade over fresh components, without a progress bar."""
    parts = {**components(name), **changes}
    if name == "cascade":
        parts.setdefault("stage_defaults", copy.deepcopy(SMALL_RUN))
    pipe = PIPELINES[name](**parts)
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def own_refinement_network() -> Show1UNet3DConditionModel:
    """Refinement's network in the class that takes adapters: its folder, as published, names diffusers' own."""
    return Show1UNet3DConditionModel.from_pretrained(cases.MODELS / FOLDERS["refine"], subfolder="unet")


class Calls:
    """Records the calls of a network: `with Calls(unet) as calls: ...; calls[0]["sample"]`."""

    def __init__(self, network: nn.Module):
        self.network, self.calls = network, []

    def __enter__(self) -> list[dict[str, Any]]:
        def hook(module, args, kwargs):
            names = ("sample", "timestep", "encoder_hidden_states")
            call = {**dict(zip(names, args, strict=False)), **kwargs}
            self.calls.append({k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in call.items()})

        self.handle = self.network.register_forward_pre_hook(hook, with_kwargs=True)
        return self.calls

    def __exit__(self, *_):
        self.handle.remove()
