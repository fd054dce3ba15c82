# SPDX-License-Identifier: Apache-2.0
"""Show-1: four stages in a row, pixels for the layout, latents for the detail (paper section 3, figure 3)."""

from __future__ import annotations

from typing import Any

from diffusers import DiffusionPipeline, IFSuperResolutionPipeline

from ...ladder.cascade import CascadePipeline
from ...ladder.rung import Rung
from .interpolation import Show1InterpolationPipeline
from .keyframes import Show1KeyframePipeline
from .recipe import RECIPES
from .refine import Show1RefinementPipeline
from .superres import Show1SuperResolutionPipeline


_T5 = ("tokenizer", "text_encoder")  # the pixel stages share one
_IMAGE_MODEL = ("first_frame_unet", "first_frame_scheduler")


class Show1CascadePipeline(CascadePipeline):
    r"""Text to video through all four Show-1 stages.

    ```
    base            text -> 8 keyframes, 40x64          pixels
    interpolation   -> 29 frames                        pixels
    superres        -> 160x256                          pixels, windows of 8 frames
    refine          -> 320x576                          latents
    ```

    All components are registered here, flat, with the stage's name in front; the three pixel stages share one T5. A
    stage is a property (`pipe.base`, `pipe.interpolation`, `pipe.superres`, `pipe.refine`) that builds a pipeline over
    the registered components: exchange `pipe.base_unet` and the stage has it.

    Components:
        tokenizer: T5's, for the three pixel stages.
        text_encoder: T5.
        base_unet: the keyframe network.
        base_scheduler: its scheduler.
        interpolation_unet: the interpolation network.
        interpolation_scheduler: its scheduler.
        superres_unet: the super-resolution network.
        superres_scheduler: its scheduler.
        superres_image_noising_scheduler: the schedule of its condition's noise.
        refine_tokenizer: CLIP's.
        refine_text_encoder: CLIP.
        refine_unet: the refinement network.
        refine_vae: applied frame by frame.
        refine_scheduler: the refinement network's scheduler.
        first_frame_unet (*optional*): an image super-resolution model for the first frame.
        first_frame_scheduler (*optional*): its scheduler.
        stage_defaults (`dict`, *optional*): this checkpoint's own options, stage -> options, over the recipe's. Under
            a recipe's name it may hold such a dict for that recipe.
        feature_extractor (`CLIPImageProcessor`, *optional*): prepares frames for the safety checker.
        safety_checker (`IFSafetyChecker`, *optional*): looks at all frames that are handed out: the result, `stages`,
            and what `callback_on_stage_end` gets. Every stage has it.
    """

    rungs = (
        Rung("base", Show1KeyframePipeline, shared=_T5, title="Keyframes"),
        Rung("interpolation", Show1InterpolationPipeline, shared=_T5),
        Rung("superres", Show1SuperResolutionPipeline, shared=(*_T5, *_IMAGE_MODEL), title="Super-resolution"),
        Rung("refine", Show1RefinementPipeline, title="Refinement"),
    )
    recipes = RECIPES

    @classmethod
    def from_stages(cls, *, first_frame: Any = None, **stages: Any) -> Show1CascadePipeline:
        """Makes a cascade of four separately published stages, sharing the base stage's T5.

        Args:
            first_frame: a Hub id, a folder or a loaded pipeline of an image super-resolution model (DeepFloyd
                IF-II) for the first frame; `None` runs without.
            stages: `base`, `interpolation`, `superres` and `refine`, each a Hub id, a folder or a loaded pipeline;
                `stage_defaults`, `feature_extractor` and `safety_checker` as for the class; and arguments for every
                `from_pretrained`, such as `dtype=torch.float16` or `variant="fp16"`.

        Returns:
            The cascade over the stages' components.
        """
        pipe = super().from_stages(**stages)
        if first_frame is not None:
            if not isinstance(first_frame, DiffusionPipeline):
                ours = (*cls.stage_names, "stage_defaults", "feature_extractor", "safety_checker")
                kwargs = {name: value for name, value in stages.items() if name not in ours}
                unused = {"tokenizer": None, "text_encoder": None, "safety_checker": None, "watermarker": None}
                first_frame = IFSuperResolutionPipeline.from_pretrained(first_frame, **unused, **kwargs)
            pipe.register_modules(first_frame_unet=first_frame.unet, first_frame_scheduler=first_frame.scheduler)
        return pipe
