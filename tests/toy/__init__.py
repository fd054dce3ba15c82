# SPDX-License-Identifier: Apache-2.0
"""Toy: few frames in latents, two interpolations in pixels with one network, twice the size. See docs/adding.md."""

from __future__ import annotations

from pathlib import Path

from diffusers_show1.ladder.family import Family


FAMILY = Family(
    name="toy",
    title="Toy",
    package=__name__,
    library=__name__.partition(".")[0],
    cascade="ToyCascadePipeline",
    exports={
        "ToyUNet": "unet",
        "ToyFramesPipeline": "frames",
        "ToyBetweenPipeline": "between",
        "ToyUpscalePipeline": "upscale",
        "ToyCascadePipeline": "cascade",
        "ToyBlocks": "modular",
        "ToyModularPipeline": "modular",
    },
    networks=("ToyUNet",),
    stages={
        "frames": "ToyFramesPipeline",
        "between": "ToyBetweenPipeline",
        "between2": "ToyBetweenPipeline",
        "upscale": "ToyUpscalePipeline",
    },
    blocks=("ToyBlocks", "ToyModularPipeline"),
    checkpoints="checkpoints",
    tasks="tasks",
    recipes=Path(__file__).parent / "recipes",
    cards="cards",
    bundles={
        "ToyUNet": "unet_toy",
        "ToyFramesPipeline": "pipeline_toy_frames",
        "ToyBetweenPipeline": "pipeline_toy_between",
        "ToyUpscalePipeline": "pipeline_toy_upscale",
        "ToyCascadePipeline": "pipeline_toy",
    },
)
