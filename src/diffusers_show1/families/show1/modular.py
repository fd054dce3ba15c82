# SPDX-License-Identifier: Apache-2.0
"""Show-1 as modular blocks: one a stage, made from the cascade's rungs, and their composition."""

from __future__ import annotations

from diffusers import DPMSolverMultistepScheduler, UNet2DConditionModel

from ...ladder.modular import CascadeModularPipeline, blocks_of
from .cascade import Show1CascadePipeline
from .unet import Show1UNet3DConditionModel


_BLOCKS = blocks_of(
    Show1CascadePipeline,
    __name__,
    model_name="show1",
    types={
        "unet": Show1UNet3DConditionModel,
        "scheduler": DPMSolverMultistepScheduler,
        "first_frame_unet": UNet2DConditionModel,
        "first_frame_scheduler": DPMSolverMultistepScheduler,
    },
    block_names={"base": "keyframes"},
)
Show1InputStep = _BLOCKS["Show1InputStep"]
Show1TextEncoderStep = _BLOCKS["Show1TextEncoderStep"]
Show1KeyframeStep = _BLOCKS["Show1KeyframeStep"]
Show1InterpolationStep = _BLOCKS["Show1InterpolationStep"]
Show1SuperResolutionStep = _BLOCKS["Show1SuperResolutionStep"]
Show1RefineTextEncoderStep = _BLOCKS["Show1RefineTextEncoderStep"]
Show1RefinementStep = _BLOCKS["Show1RefinementStep"]
Show1DecodeStep = _BLOCKS["Show1DecodeStep"]
Show1VideoInputStep = _BLOCKS["Show1VideoInputStep"]
Show1PixelBlocks = _BLOCKS["Show1PixelBlocks"]
Show1SourceStep = _BLOCKS["Show1SourceStep"]
Show1Blocks = _BLOCKS["Show1Blocks"]
"""Text to video through all four stages, or a given video through refinement, as diffusers' modular blocks."""


class Show1ModularPipeline(CascadeModularPipeline):
    """A pipeline of Show-1's blocks, by default `Show1Blocks`: the whole cascade.

    Component names are those of `Show1CascadePipeline`, so a cascade's repository serves as it is:

        pipe = Show1ModularPipeline.from_pretrained(TINY_PATH)
        pipe.load_components(dtype=torch.float32)
        videos = pipe(prompt="a red circle moving right on a white background", output="videos")

    Args:
        blocks: the blocks to run; by default those that the repository names, or `Show1Blocks`.
        pretrained_model_name_or_path: a folder or Hub id that components are loaded from.
        config_dict: a cascade's index, where it has been read already.
        kwargs: diffusers' own.
    """

    default_blocks_name = "Show1Blocks"


__all__ = [
    "Show1Blocks",
    "Show1DecodeStep",
    "Show1InputStep",
    "Show1InterpolationStep",
    "Show1KeyframeStep",
    "Show1ModularPipeline",
    "Show1PixelBlocks",
    "Show1RefineTextEncoderStep",
    "Show1RefinementStep",
    "Show1SourceStep",
    "Show1SuperResolutionStep",
    "Show1TextEncoderStep",
    "Show1VideoInputStep",
]
