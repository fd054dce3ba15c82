# SPDX-License-Identifier: Apache-2.0
"""Stages: one rung of a ladder each, a `DiffusionPipeline` from video (or text) to video."""

from .known_frames import KnownFrames
from .pipeline_show1_base import Show1KeyframePipeline
from .pipeline_show1_interpolation import Show1InterpolationPipeline
from .pipeline_show1_refine import Show1RefinementPipeline
from .pipeline_show1_superres import Show1SuperResolutionPipeline


__all__ = [
    "KnownFrames",
    "Show1InterpolationPipeline",
    "Show1KeyframePipeline",
    "Show1RefinementPipeline",
    "Show1SuperResolutionPipeline",
]
