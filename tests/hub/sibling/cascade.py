# SPDX-License-Identifier: Apache-2.0
"""Keyframes, and frames between them twice, with one network."""

from __future__ import annotations

from diffusers_show1.ladder.cascade import CascadePipeline
from diffusers_show1.ladder.rung import Recipe, Rung

from .stages import SiblingInterpolationPipeline, SiblingKeyframePipeline


_TEXT = ("tokenizer", "text_encoder")
_BETWEEN = {"unet": "between_unet", "scheduler": "between_scheduler"}
_FEW = {"num_inference_steps": 2}


class SiblingCascadePipeline(CascadePipeline):
    """2 frames, 5, 17."""

    rungs = (
        Rung("first", SiblingKeyframePipeline, shared=_TEXT),
        Rung("second", SiblingInterpolationPipeline, shared=_TEXT, components=_BETWEEN),
        Rung("third", SiblingInterpolationPipeline, shared=_TEXT, components=_BETWEEN),
    )
    recipes = {
        "default": Recipe({"first": {**_FEW, "height": 8, "width": 12}, "second": _FEW, "third": _FEW}),
    }
