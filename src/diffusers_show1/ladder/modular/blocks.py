# SPDX-License-Identifier: Apache-2.0
"""One block a stage, and their composition. Each runs the stage itself: no mathematics here.

From block to block goes `frames`, a tensor (b, 3, f, h, w) in model space, nominally in [-1, 1]; a block of one's own
changes that. Options are the cascade's: a recipe, the checkpoint's `stage_defaults`, and `stage_options` over both.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, DPMSolverMultistepScheduler, UNet2DConditionModel
from diffusers.guiders.guider_utils import BaseGuidance
from diffusers.modular_pipelines import (
    AutoPipelineBlocks,
    ComponentSpec,
    ConfigSpec,
    InputParam,
    ModularPipelineBlocks,
    OutputParam,
    PipelineState,
    SequentialPipelineBlocks,
)
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer, PreTrainedModel, T5EncoderModel, T5Tokenizer
from transformers.image_processing_utils import BaseImageProcessor

from ...clips.arrays import to_model_space
from ...families.show1.cascade import Show1CascadePipeline
from ...families.show1.recipe import RECIPES
from ...families.show1.unet import Show1UNet3DConditionModel
from ...sampling.checks import check_count, check_generator
from ...sampling.text import check_prompts


STAGES = Show1CascadePipeline.stage_names
# Types to load by where no index says another.
_TYPES: dict[str, type] = {
    "tokenizer": T5Tokenizer,
    "text_encoder": T5EncoderModel,
    "superres_image_noising_scheduler": DDPMScheduler,
    "first_frame_unet": UNet2DConditionModel,
    "first_frame_scheduler": DPMSolverMultistepScheduler,
    "refine_tokenizer": CLIPTokenizer,
    "refine_text_encoder": CLIPTextModel,
    "refine_vae": AutoencoderKL,
    "feature_extractor": BaseImageProcessor,
    "safety_checker": PreTrainedModel,
}
_TYPES |= {f"{name}_unet": Show1UNet3DConditionModel for name in STAGES}
_TYPES |= {f"{name}_scheduler": DPMSolverMultistepScheduler for name in STAGES}
_TYPES |= {f"{name}_guider": BaseGuidance for name in STAGES}
_COMPONENTS = [name for name in inspect.signature(Show1CascadePipeline).parameters if name != "stage_defaults"]

_INPUTS = {
    param.name: param
    for param in (
        InputParam("prompt", str | list[str], required=True, description="One prompt or a list."),
        InputParam("negative_prompt", str | list[str], description="What guidance leads away from."),
        InputParam("num_videos_per_prompt", int, default=1, description="At least 1."),
        InputParam("prompt_embeds", Tensor, required=True, description="T5's, (videos, tokens, width)."),
        InputParam("negative_prompt_embeds", Tensor, description="T5's, of the same shape."),
        InputParam("refine_prompt_embeds", Tensor, required=True, description="CLIP's, (videos, tokens, width)."),
        InputParam("refine_negative_prompt_embeds", Tensor, description="CLIP's, of the same shape."),
        InputParam("generator", torch.Generator, description="One generator, or a list of one a video."),
        InputParam("stage_generators", dict, description="Stage -> its own generators; `generator` where it is None."),
        InputParam("recipe", str, default="default", description=f"One of {sorted(RECIPES)}."),
        InputParam("stage_options", dict, description="Stage -> options of its call, over the recipe's."),
        InputParam("num_frames", int, description="Frames of the video; by default what the keyframes give."),
        InputParam("frames", Tensor, required=True, description="(b, 3, f, h, w) in model space."),
        InputParam("latents", Tensor, required=True, description="The VAE's, (b, c, f, h/8, w/8)."),
        InputParam("video", required=True, description="A video in any form of `to_model_space`."),
        InputParam("input_type", str, description="'pt' or 'latent' where a tensor's layout does not tell."),
        InputParam("output_type", str, default="pil", description="'pil', 'np', 'pt' or 'latent'."),
        InputParam("callback_on_step_end", description="As in diffusers; its first argument is the stage."),
        InputParam("callback_on_step_end_tensor_inputs", list[str], description="As in diffusers."),
    )
}
_OPTIONS = ("recipe", "stage_options", "num_frames")
_CALLBACKS = ("callback_on_step_end", "callback_on_step_end_tensor_inputs")


def cascade_of(components: Any) -> Show1CascadePipeline:
    """The cascade over a modular pipeline's components; those that it has not are None."""
    cascade = Show1CascadePipeline(
        **{name: getattr(components, name, None) for name in _COMPONENTS},
        stage_defaults=components.config.get("stage_defaults"),
    )
    cascade.set_progress_bar_config(**getattr(components, "_progress_bar_config", {}))
    return cascade


class _Step(ModularPipelineBlocks):
    """A block that names its components, inputs and outputs, and does its work in `run`."""

    model_name = "show1"
    component_list: tuple[str, ...] = ()
    input_list: tuple[str, ...] = ()
    output_list: tuple[OutputParam, ...] = ()

    @property
    def description(self) -> str:
        return inspect.getdoc(type(self)) or ""

    @property
    def expected_components(self) -> list[ComponentSpec]:
        return [ComponentSpec(name, _TYPES[name]) for name in self.component_list]

    @property
    def expected_configs(self) -> list[ConfigSpec]:
        return [ConfigSpec("stage_defaults", None, "The checkpoint's own options, stage -> options.")]

    @property
    def inputs(self) -> list[InputParam]:
        return [InputParam(**vars(_INPUTS[name])) for name in self.input_list]

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        return list(self.output_list)

    @torch.no_grad()
    def __call__(self, components: Any, state: PipelineState) -> tuple[Any, PipelineState]:
        block_state = self.get_block_state(state)
        for name, value in self.run(components, block_state).items():
            setattr(block_state, name, value)
        self.set_block_state(state, block_state)
        return components, state

    def run(self, components: Any, inputs: Any) -> dict[str, Any]:
        """The outputs by name."""
        raise NotImplementedError


class Show1InputStep(_Step):
    """Checks what can be checked before any model runs, and gives every stage random numbers of its own.

    With it the blocks make what `Show1CascadePipeline` makes; a stage's block without it draws from `generator`.
    """

    input_list = ("prompt", "negative_prompt", "num_videos_per_prompt", "generator", *_OPTIONS, _CALLBACKS[1])
    output_list = (OutputParam("stage_generators", dict, "Stage -> its generators, or None."),)

    @property
    def inputs(self) -> list[InputParam]:
        return [*super().inputs, InputParam("video", description="Of a composition that starts from a video.")]

    def run(self, components: Any, inputs: Any) -> dict[str, Any]:
        cascade = cascade_of(components)
        prompts = check_prompts(inputs.prompt, inputs.negative_prompt, None, None)
        check_count(inputs.num_videos_per_prompt, "num_videos_per_prompt")
        batch = prompts * inputs.num_videos_per_prompt
        check_generator(inputs.generator, batch)
        options = cascade.resolve_options(inputs.recipe, inputs.stage_options, inputs.num_frames)
        whole = all(getattr(components, f"{name}_unet", None) is not None for name in STAGES)
        if whole and inputs.video is None:
            cascade.check_stages(STAGES, options, batch, inputs.num_frames, inputs.callback_on_step_end_tensor_inputs)
        same_seed = RECIPES[inputs.recipe].same_seed
        return {"stage_generators": cascade.stage_generators(STAGES, inputs.generator, batch, same_seed)}


class Show1TextEncoderStep(_Step):
    """T5, once for the three pixel stages."""

    component_list = ("tokenizer", "text_encoder")
    input_list = ("prompt", "negative_prompt", "num_videos_per_prompt", "recipe", "stage_options")
    output_list = (OutputParam("prompt_embeds", Tensor), OutputParam("negative_prompt_embeds", Tensor))

    def run(self, components: Any, inputs: Any) -> dict[str, Any]:
        cascade = cascade_of(components)
        options = cascade.resolve_options(inputs.recipe, inputs.stage_options)
        here = {name for name in components.components if getattr(components, name) is not None}
        guided = "first_frame_unet" in here or any(
            f"{name}_guider" in here or options[name]["guidance_scale"] > 1
            for name in STAGES[:3]
            if f"{name}_unet" in here
        )
        negative_prompt = inputs.negative_prompt if "base" in RECIPES[inputs.recipe].negative_prompt_stages else None
        embeds, negative = cascade.base.encode_prompt(
            inputs.prompt, negative_prompt, inputs.num_videos_per_prompt, guided, cascade._execution_device
        )
        return {"prompt_embeds": embeds, "negative_prompt_embeds": negative}


class Show1RefineTextEncoderStep(_Step):
    """CLIP, for refinement."""

    component_list = ("refine_tokenizer", "refine_text_encoder")
    input_list = ("prompt", "negative_prompt", "num_videos_per_prompt", "recipe", "stage_options")
    output_list = (OutputParam("refine_prompt_embeds", Tensor), OutputParam("refine_negative_prompt_embeds", Tensor))

    def run(self, components: Any, inputs: Any) -> dict[str, Any]:
        cascade = cascade_of(components)
        options = cascade.resolve_options(inputs.recipe, inputs.stage_options)["refine"]
        guided = options["guidance_scale"] > 1 or getattr(components, "refine_guider", None) is not None
        embeds, negative = cascade.refine.encode_prompt(
            inputs.prompt, inputs.negative_prompt, inputs.num_videos_per_prompt, guided
        )
        return {"refine_prompt_embeds": embeds, "refine_negative_prompt_embeds": negative}


class _StageStep(_Step):
    """Runs one stage, frames in and frames out. A guider, if there is one, guides in place of `guidance_scale`."""

    stage = ""
    text = ""  # what stands before the names of the stage's text embeddings
    output_list: tuple[OutputParam, ...] = (OutputParam("frames", Tensor, "(b, 3, f, h, w) in model space."),)

    @property
    def component_list(self) -> tuple[str, ...]:  # type: ignore[override]
        own = [name for name in _COMPONENTS if name.startswith((f"{self.stage}_unet", f"{self.stage}_scheduler"))]
        return (*own, *self.more_components, f"{self.stage}_guider")

    more_components: tuple[str, ...] = ()

    @property
    def input_list(self) -> tuple[str, ...]:  # type: ignore[override]
        frames = () if self.stage == "base" else ("frames",)
        text = (f"{self.text}prompt_embeds", f"{self.text}negative_prompt_embeds")
        return (*frames, *text, "generator", "stage_generators", *_OPTIONS, *_CALLBACKS)

    def run(self, components: Any, inputs: Any) -> dict[str, Any]:
        cascade = cascade_of(components)
        stage = getattr(cascade, self.stage)
        stage.guider = getattr(components, f"{self.stage}_guider", None)
        options = cascade.resolve_options(inputs.recipe, inputs.stage_options, inputs.num_frames)[self.stage]
        for name in ("first_frame", "condition_frames"):  # images or arrays beside frames in model space
            if options.get(name) is not None:
                options[name] = to_model_space(options[name], None, name)
        if self.stage != "base":
            options |= {"frames": inputs.frames, "input_type": "latent"}
        generators = inputs.stage_generators or {}
        result = stage(
            **options,
            prompt_embeds=inputs[f"{self.text}prompt_embeds"],
            negative_prompt_embeds=inputs[f"{self.text}negative_prompt_embeds"],
            generator=generators.get(self.stage) or inputs.generator,
            output_type="latent",
            return_dict=False,
            callback_on_step_end=inputs.callback_on_step_end,
            callback_on_step_end_tensor_inputs=inputs.callback_on_step_end_tensor_inputs,
        )[0]
        return {self.output_list[0].name: result}


class Show1KeyframeStep(_StageStep):
    """Text to keyframes at very low resolution, in pixels (paper section 3.3)."""

    stage = "base"


class Show1InterpolationStep(_StageStep):
    """Keyframes to all frames, in pixels (paper section 3.4)."""

    stage = "interpolation"

    def run(self, components: Any, inputs: Any) -> dict[str, Any]:
        frames = super().run(components, inputs)["frames"]
        return {"frames": frames if inputs.num_frames is None else frames[:, :, : inputs.num_frames]}


class Show1SuperResolutionStep(_StageStep):
    """Four times the height and width, in pixels (paper section 3.5)."""

    stage = "superres"
    more_components = ("superres_image_noising_scheduler", "first_frame_unet", "first_frame_scheduler")


class Show1RefinementStep(_StageStep):
    """Frames to a VAE's latents of the final size, refined (paper section 3.6)."""

    stage = "refine"
    text = "refine_"
    more_components = ("refine_vae",)
    output_list = (OutputParam("latents", Tensor, "The VAE's, (b, c, f, h/8, w/8)."),)


class Show1DecodeStep(_Step):
    """Latents to frames in the form of `output_type`, checked where there is a safety checker."""

    component_list = ("refine_vae", "feature_extractor", "safety_checker")
    input_list = ("latents", "output_type", "recipe", "stage_options")
    output_list = (
        OutputParam("videos", description="As `VideoPipelineOutput.frames`."),
        OutputParam("nsfw_detected", list, "As in `VideoPipelineOutput`."),
        OutputParam("watermark_detected", list, "As in `VideoPipelineOutput`."),
    )

    def run(self, components: Any, inputs: Any) -> dict[str, Any]:
        if inputs.output_type == "latent":
            return {"videos": inputs.latents, "nsfw_detected": None, "watermark_detected": None}
        cascade = cascade_of(components)
        stage = cascade.refine
        options = cascade.resolve_options(inputs.recipe, inputs.stage_options)["refine"]
        size = options.get(
            "vae_batch_size", inspect.signature(type(stage).__call__).parameters["vae_batch_size"].default
        )
        stage.check_safety_parts()
        output = stage.to_output(stage.decode_latents(inputs.latents, size), inputs.output_type)
        return {
            "videos": output.frames,
            "nsfw_detected": output.nsfw_detected,
            "watermark_detected": output.watermark_detected,
        }


class Show1VideoInputStep(_Step):
    """A video of any form, in the place of the pixel stages."""

    input_list = ("video", "input_type")
    output_list = (OutputParam("frames", Tensor, "(b, 3, f, h, w) in model space."),)

    def run(self, components: Any, inputs: Any) -> dict[str, Any]:
        return {"frames": to_model_space(inputs.video, inputs.input_type, "video")}


class Show1PixelBlocks(SequentialPipelineBlocks):
    """Text to a video of low resolution: the three stages that work on pixels."""

    model_name = "show1"
    block_classes = [Show1TextEncoderStep, Show1KeyframeStep, Show1InterpolationStep, Show1SuperResolutionStep]
    block_names = ["text_encoder", "keyframes", "interpolation", "superres"]
    description = inspect.cleandoc(__doc__)


class Show1FramesStep(AutoPipelineBlocks):
    """Frames to refine: those of `video` where it is given, or the pixel stages' by the prompt."""

    block_classes = [Show1VideoInputStep, Show1PixelBlocks]
    block_names = ["video", "text"]
    block_trigger_inputs = ["video", None]
    description = inspect.cleandoc(__doc__)


class Show1Blocks(SequentialPipelineBlocks):
    """Show-1: text to video through all four stages, or a given video through the last."""

    model_name = "show1"
    block_classes = [
        Show1InputStep,
        Show1FramesStep,
        Show1RefineTextEncoderStep,
        Show1RefinementStep,
        Show1DecodeStep,
    ]
    block_names = ["input", "frames", "refine_text_encoder", "refine", "decode"]
    description = inspect.cleandoc(__doc__)
    _workflow_map = {"text2video": {"prompt": True}, "video2video": {"prompt": True, "video": True}}
