# SPDX-License-Identifier: Apache-2.0
"""The toy cascade: four rungs, of which two share a network."""

from __future__ import annotations

from diffusers_show1.ladder.cascade import CascadePipeline
from diffusers_show1.ladder.rung import Rung

from .between import ToyBetweenPipeline
from .frames import ToyFramesPipeline
from .recipe import RECIPES
from .upscale import ToyUpscalePipeline


_T5 = ("tokenizer", "text_encoder")  # all stages share one
_FIRST = {"unet": "between_unet", "scheduler": "between_scheduler"}


class ToyCascadePipeline(CascadePipeline):
    """Text to nine frames.

    ```
    frames     text -> 3 frames, 16x24      latents
    between    -> 5 frames                  pixels
    between2   -> 9 frames                  pixels, by the network of `between`
    upscale    -> 32x48                     pixels, windows of 4 frames
    ```

    Args:
        tokenizer: T5's, for all stages.
        text_encoder: T5.
        frames_unet: the first stage's network.
        frames_vae: its autoencoder.
        frames_scheduler: its scheduler.
        between_unet: the network of `between` and `between2`.
        between_scheduler: their scheduler.
        upscale_unet: the last stage's network.
        upscale_scheduler: its scheduler.
        stage_defaults (`dict`, *optional*): this checkpoint's own options, stage -> options, over the recipe's.
        feature_extractor (*optional*): prepares frames for the safety checker.
        safety_checker (*optional*): looks at all frames that are handed out.
    """

    rungs = (
        Rung("frames", ToyFramesPipeline, shared=_T5),
        Rung("between", ToyBetweenPipeline, shared=_T5),
        Rung("between2", ToyBetweenPipeline, shared=_T5, components=_FIRST),
        Rung("upscale", ToyUpscalePipeline, shared=_T5),
    )
    recipes = RECIPES
