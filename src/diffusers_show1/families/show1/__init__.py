# SPDX-License-Identifier: Apache-2.0
"""Show-1 (arXiv 2309.15818): keyframes, interpolation and super-resolution in pixels, refinement in latents."""

from __future__ import annotations

from pathlib import Path

from ...ladder.family import Family, Repository
from ...tiny import TINY_PATH


FAMILY = Family(
    name="show1",
    title="Show-1",
    package=__name__,
    cascade="Show1CascadePipeline",
    exports={
        "Show1UNet3DConditionModel": "unet",
        "Show1KeyframePipeline": "keyframes",
        "Show1InterpolationPipeline": "interpolation",
        "Show1SuperResolutionPipeline": "superres",
        "Show1RefinementPipeline": "refine",
        "Show1CascadePipeline": "cascade",
        "Show1Blocks": "modular",
        "Show1ModularPipeline": "modular",
    },
    networks=("Show1UNet3DConditionModel",),
    stages={
        "base": "Show1KeyframePipeline",
        "interpolation": "Show1InterpolationPipeline",
        "superres": "Show1SuperResolutionPipeline",
        "refine": "Show1RefinementPipeline",
    },
    blocks=("Show1Blocks", "Show1ModularPipeline"),
    published={
        "base": Repository("showlab/show-1-base", "TextToVideoIFPipeline"),
        "interpolation": Repository("showlab/show-1-interpolation", "TextToVideoIFInterpPipeline"),
        "superres": Repository("showlab/show-1-sr1", "TextToVideoIFSuperResolutionPipeline_Cond"),
        "refine": Repository("showlab/show-1-sr2", "VideoToVideoSDPipeline", alias=False),
    },
    published_network=("showone.models.unet_3d_condition", "UNet3DConditionModel"),
    short_names={"tiny": TINY_PATH, "showlab": None},
    loader="checkpoints:load_published",
    checkpoints="checkpoints",
    tasks="tasks",
    recipes=Path(__file__).parent / "recipes",
    cards="cards",
    bundles={
        "Show1UNet3DConditionModel": "unet_show1",
        "Show1KeyframePipeline": "pipeline_show1_base",
        "Show1InterpolationPipeline": "pipeline_show1_interpolation",
        "Show1SuperResolutionPipeline": "pipeline_show1_superres",
        "Show1RefinementPipeline": "pipeline_show1_refine",
        "Show1CascadePipeline": "pipeline_show1",
    },
    components={
        "scheduler": "diffusers.DPMSolverMultistepScheduler",
        "Show1KeyframePipeline.feature_extractor": "transformers.CLIPImageProcessor",
        "Show1InterpolationPipeline.feature_extractor": "transformers.CLIPImageProcessor",
        "Show1SuperResolutionPipeline.feature_extractor": "transformers.CLIPImageProcessor",
    },
    licence="CC BY-NC 4.0, by their authors: no commercial use",
)
