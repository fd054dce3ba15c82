# SPDX-License-Identifier: Apache-2.0
"""The cascade as modular blocks: diffusers' way to put a step of one's own between two of ours."""

from diffusers.modular_pipelines.modular_pipeline import MODULAR_PIPELINE_MAPPING

from .blocks import (
    Show1Blocks,
    Show1DecodeStep,
    Show1FramesStep,
    Show1InputStep,
    Show1InterpolationStep,
    Show1KeyframeStep,
    Show1PixelBlocks,
    Show1RefinementStep,
    Show1RefineTextEncoderStep,
    Show1SuperResolutionStep,
    Show1TextEncoderStep,
    Show1VideoInputStep,
)
from .pipeline import Show1ModularPipeline


# What `init_pipeline` makes of blocks whose `model_name` is ours.
MODULAR_PIPELINE_MAPPING.setdefault("show1", lambda config=None: "Show1ModularPipeline")

__all__ = [
    "Show1Blocks",
    "Show1DecodeStep",
    "Show1FramesStep",
    "Show1InputStep",
    "Show1InterpolationStep",
    "Show1KeyframeStep",
    "Show1ModularPipeline",
    "Show1PixelBlocks",
    "Show1RefineTextEncoderStep",
    "Show1RefinementStep",
    "Show1SuperResolutionStep",
    "Show1TextEncoderStep",
    "Show1VideoInputStep",
]
