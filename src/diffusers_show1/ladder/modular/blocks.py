# SPDX-License-Identifier: Apache-2.0
"""What a cascade's blocks do. Each runs the cascade's own stage: no mathematics here.

From block to block goes `frames`, a tensor (b, 3, f, h, w) in model space, nominally in [-1, 1], or `latents` of an
autoencoder; a block of one's own changes either. Options are the cascade's: a recipe, the checkpoint's
`stage_defaults`, and `stage_options` over both.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from enum import Enum
from typing import Any, ClassVar, get_args

import torch
from diffusers import SchedulerMixin
from diffusers.guiders.guider_utils import BaseGuidance
from diffusers.modular_pipelines import (
    ComponentSpec,
    ConfigSpec,
    InputParam,
    ModularPipelineBlocks,
    OutputParam,
    PipelineState,
)
from torch import Tensor

from ...clips.arrays import to_model_space
from ...sampling.call import LATENTS, PIXELS, Handover
from ...sampling.checks import check_count, check_generator
from ...sampling.text import check_prompts
from ..cascade import CascadePipeline, Texts
from ..rung import Rung


# What a video is called in a pipeline's state.
STATE = {PIXELS: "frames", LATENTS: "latents"}
_TOLD = {"frames": "(b, 3, f, h, w) in model space.", "latents": "An autoencoder's, (b, c, f, h, w)."}
_INPUTS = {
    param.name: param
    for param in (
        InputParam("prompt", str | list[str], required=True, description="One prompt or a list."),
        InputParam("negative_prompt", str | list[str], description="What guidance leads away from."),
        InputParam("num_videos_per_prompt", int, default=1, description="At least 1."),
        InputParam("generator", torch.Generator, description="One generator, or a list of one a video."),
        InputParam("stage_generators", dict, description="Stage -> its own generators; `generator` where it is None."),
        InputParam("recipe", str, default="default", description="One of the cascade's `recipes`."),
        InputParam("stage_options", dict, description="Stage -> options of its call, over the recipe's."),
        InputParam("num_frames", int, description="Frames of the video; by default what the first stage's give."),
        InputParam("frames", Tensor, required=True, description=_TOLD["frames"]),
        InputParam("latents", Tensor, required=True, description=_TOLD["latents"]),
        InputParam("video", required=True, description="A video in any form of `to_model_space`."),
        InputParam("input_type", str, description="'pt' or 'latent' where a tensor's layout does not tell."),
        InputParam("output_type", str, default="pil", description="'pil', 'np', 'pt' or 'latent'."),
        InputParam("callback_on_step_end", description="As in diffusers; its first argument is the stage."),
        InputParam("callback_on_step_end_tensor_inputs", list[str], description="As in diffusers."),
    )
}
_TEXT = ("prompt", "negative_prompt", "num_videos_per_prompt")
_OPTIONS = ("recipe", "stage_options", "num_frames")
_CALLBACKS = ("callback_on_step_end", "callback_on_step_end_tensor_inputs")


def cascade_over(components: Any, kind: type[CascadePipeline]) -> CascadePipeline:
    """The cascade over a modular pipeline's components, made once a pipeline; components that it has not are None.

    Args:
        components: the modular pipeline.
        kind: the cascade's class.
    """
    names = [name for name in inspect.signature(kind).parameters if name != "stage_defaults"]
    parts = {name: getattr(components, name, None) for name in names}
    cascade = components.__dict__.get("_cascade")
    if cascade is None:
        cascade = components.__dict__["_cascade"] = kind(**parts)
    cascade.register_modules(**{name: part for name, part in parts.items() if getattr(cascade, name) is not part})
    cascade.register_to_config(stage_defaults=components.config.get("stage_defaults"))
    cascade.set_progress_bar_config(**getattr(components, "_progress_bar_config", {}))
    for name in kind.stage_names:
        cascade.stage(name).guider = getattr(components, f"{name}_guider", None)
    return cascade


def component_types(kind: type[CascadePipeline], types: Mapping[str, type]) -> dict[str, type]:
    """The cascade's component -> the class to load it by where no index says another.

    Args:
        kind: the cascade's class.
        types: a stage's component -> its class, before what the stage's `__init__` says.
    """
    found = {name: _class_of(p.annotation) for name, p in inspect.signature(kind).parameters.items()}
    for rung in kind.rungs:
        found |= {part: types[own] for own, part in rung.parts.items() if own in types}
        found[f"{rung.name}_guider"] = BaseGuidance
    return found


def _class_of(annotation: Any) -> type:
    for kind in get_args(annotation) or (annotation,):
        if isinstance(kind, type) and kind is not type(None):
            return SchedulerMixin if issubclass(kind, Enum) else kind  # diffusers lists its schedulers in an Enum
    return object


class CascadeBlock(ModularPipelineBlocks):
    """A block that names its components, inputs and outputs, and does its work in `run`."""

    cascade: ClassVar[type[CascadePipeline]]
    types: ClassVar[Mapping[str, type]] = {}

    @property
    def component_list(self) -> tuple[str, ...]:
        return ()

    @property
    def input_list(self) -> tuple[str, ...]:
        return ()

    @property
    def description(self) -> str:
        return inspect.getdoc(type(self)) or ""

    @property
    def expected_components(self) -> list[ComponentSpec]:
        return [ComponentSpec(name, self.types[name]) for name in self.component_list]

    @property
    def expected_configs(self) -> list[ConfigSpec]:
        return [ConfigSpec("stage_defaults", None, "The checkpoint's own options, stage -> options.")]

    @property
    def inputs(self) -> list[InputParam]:
        return [InputParam(**vars(_INPUTS[name])) for name in self.input_list]

    @torch.no_grad()
    def __call__(self, components: Any, state: PipelineState) -> tuple[Any, PipelineState]:
        block_state = self.get_block_state(state)
        for name, value in self.run(cascade_over(components, self.cascade), block_state).items():
            setattr(block_state, name, value)
        self.set_block_state(state, block_state)
        return components, state

    def run(self, cascade: CascadePipeline, inputs: Any) -> dict[str, Any]:
        """The outputs by name."""
        raise NotImplementedError


class InputStep(CascadeBlock):
    """Checks what can be checked before any model runs, and gives every stage random numbers of its own.

    With it the blocks make what the cascade makes; a stage's block without it draws from `generator`.
    """

    @property
    def input_list(self) -> tuple[str, ...]:
        return (*_TEXT, "generator", *_OPTIONS, _CALLBACKS[1])

    @property
    def inputs(self) -> list[InputParam]:
        return [*super().inputs, InputParam("video", description="Of a composition that starts from a video.")]

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        return [OutputParam("stage_generators", dict, "Stage -> its generators, or None.")]

    def run(self, cascade: CascadePipeline, inputs: Any) -> dict[str, Any]:
        prompts = check_prompts(inputs.prompt, inputs.negative_prompt, None, None)
        check_count(inputs.num_videos_per_prompt, "num_videos_per_prompt")
        batch = prompts * inputs.num_videos_per_prompt
        check_generator(inputs.generator, batch)
        options = cascade.resolve_options(inputs.recipe, inputs.stage_options, inputs.num_frames)
        names = cascade.stage_names
        if inputs.video is None and all(getattr(cascade, rung.network) is not None for rung in cascade.rungs):
            cascade.check_stages(names, options, batch, inputs.num_frames, inputs.callback_on_step_end_tensor_inputs)
        same_seed = cascade.recipes[inputs.recipe].same_seed
        return {"stage_generators": cascade.stage_generators(names, inputs.generator, batch, same_seed)}


class TextEncoderStep(CascadeBlock):
    """A text encoder, once for all stages that read it."""

    reader: ClassVar[str]

    @property
    def component_list(self) -> tuple[str, ...]:
        rung = next(rung for rung in self.cascade.rungs if rung.reader == self.reader)
        return rung.parts["tokenizer"], rung.parts["text_encoder"]

    @property
    def input_list(self) -> tuple[str, ...]:
        return (*_TEXT, "recipe", "stage_options")

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        return [OutputParam(f"{self.reader}{name}", Tensor) for name in ("prompt_embeds", "negative_prompt_embeds")]

    def run(self, cascade: CascadePipeline, inputs: Any) -> dict[str, Any]:
        rungs = [rung for rung in cascade.rungs if rung.reader == self.reader]
        names = tuple(rung.name for rung in rungs if getattr(cascade, rung.network) is not None)
        names = names or tuple(rung.name for rung in rungs)  # by itself it encodes for all of them
        options = cascade.resolve_options(inputs.recipe, inputs.stage_options)
        asked = {name: getattr(inputs, name) for name in _TEXT}
        texts = Texts(cascade, names, inputs.recipe, options, embeds={}, **asked)
        return {f"{self.reader}{name}": value for name, value in texts.of(names[0]).items()}


class RungStep(CascadeBlock):
    """Runs one stage, video in and video out. A guider, if there is one, guides in place of `guidance_scale`."""

    rung: ClassVar[Rung]
    before: ClassVar[Rung | None] = None
    """The rung whose latents it takes; None where it takes pixels, or nothing."""

    @property
    def takes(self) -> tuple[str, ...]:
        if self.before is not None:
            return (STATE[LATENTS],)
        return (STATE[PIXELS],) if self.rung.stage.takes else ()

    @property
    def component_list(self) -> tuple[str, ...]:
        elsewhere = ("tokenizer", "text_encoder", "feature_extractor", "safety_checker")
        own = [part for name, part in self.rung.parts.items() if name not in elsewhere]
        vae = [] if self.before is None else [self.before.parts["vae"]]
        return (*dict.fromkeys([*own, *vae]), f"{self.rung.name}_guider")

    @property
    def input_list(self) -> tuple[str, ...]:
        return (*self.takes, "generator", "stage_generators", *_OPTIONS, *_CALLBACKS)

    @property
    def inputs(self) -> list[InputParam]:
        reader = self.rung.reader
        told = f"Of `{reader}text_encoder`, (videos, tokens, width)"
        embeds = InputParam(f"{reader}prompt_embeds", Tensor, required=True, description=f"{told}.")
        negative = InputParam(f"{reader}negative_prompt_embeds", Tensor, description=f"{told}; for guidance.")
        return [*super().inputs, embeds, negative]

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        name = STATE[self.rung.stage.gives]
        return [OutputParam(name, Tensor, _TOLD[name])]

    def run(self, cascade: CascadePipeline, inputs: Any) -> dict[str, Any]:
        name, reader = self.rung.name, self.rung.reader
        options = cascade.resolve_options(inputs.recipe, inputs.stage_options, inputs.num_frames)
        given = {}
        if self.before is not None:
            call = self.before.call(options[self.before.name])
            given = {"frames": cascade.stage(self.before.name).hand_over(inputs.latents, call)}
        elif self.takes:
            given = {"frames": Handover(inputs.frames)}
        video = cascade.stage(name)(
            **given,
            **options[name],
            prompt_embeds=inputs[f"{reader}prompt_embeds"],
            negative_prompt_embeds=inputs[f"{reader}negative_prompt_embeds"],
            generator=(inputs.stage_generators or {}).get(name) or inputs.generator,
            output_type="latent",
            return_dict=False,
            callback_on_step_end=inputs.callback_on_step_end,
            callback_on_step_end_tensor_inputs=inputs.callback_on_step_end_tensor_inputs,
        )[0]
        if inputs.num_frames is not None:
            video = video[:, :, : cascade.frames_wanted(options, inputs.num_frames)[name]]
        return {STATE[self.rung.stage.gives]: video}


class PixelsStep(CascadeBlock):
    """A stage's latents to frames, for the next stage, which takes pixels."""

    rung: ClassVar[Rung]

    @property
    def component_list(self) -> tuple[str, ...]:
        return (self.rung.parts["vae"],) if self.rung.stage.gives == LATENTS else ()

    @property
    def input_list(self) -> tuple[str, ...]:
        return (STATE[self.rung.stage.gives], "recipe", "stage_options")

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        return [OutputParam("frames", Tensor, _TOLD["frames"])]

    def run(self, cascade: CascadePipeline, inputs: Any) -> dict[str, Any]:
        name = self.rung.name
        call = self.rung.call(cascade.resolve_options(inputs.recipe, inputs.stage_options)[name])
        video = inputs[STATE[self.rung.stage.gives]]
        return {"frames": cascade.stage(name).hand_over(video, call).pixels}


class DecodeStep(PixelsStep):
    """The last stage's video to frames in the form of `output_type`, checked where there is a safety checker."""

    @property
    def component_list(self) -> tuple[str, ...]:
        return (*super().component_list, "feature_extractor", "safety_checker")

    @property
    def input_list(self) -> tuple[str, ...]:
        return (*super().input_list, "output_type")

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        return [
            OutputParam("videos", description="As `VideoPipelineOutput.frames`."),
            OutputParam("nsfw_detected", list, "As in `VideoPipelineOutput`."),
            OutputParam("watermark_detected", list, "As in `VideoPipelineOutput`."),
        ]

    def run(self, cascade: CascadePipeline, inputs: Any) -> dict[str, Any]:
        if inputs.output_type == "latent":
            videos = inputs[STATE[self.rung.stage.gives]]
            return {"videos": videos, "nsfw_detected": None, "watermark_detected": None}
        cascade.check_safety_parts()
        output = cascade.to_output(super().run(cascade, inputs)["frames"], inputs.output_type)
        found = {name: getattr(output, name) for name in ("nsfw_detected", "watermark_detected")}
        return {"videos": output.frames, **found}


class VideoInputStep(CascadeBlock):
    """A video of any form, in the place of the stages before."""

    @property
    def input_list(self) -> tuple[str, ...]:
        return "video", "input_type"

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        return [OutputParam("frames", Tensor, _TOLD["frames"])]

    def run(self, cascade: CascadePipeline, inputs: Any) -> dict[str, Any]:
        return {"frames": to_model_space(inputs.video, inputs.input_type, "video")}
