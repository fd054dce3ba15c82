# SPDX-License-Identifier: Apache-2.0
"""Show-1: four stages in a row, pixels for the layout, latents for the detail (paper section 3, figure 3)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from diffusers.models.modeling_utils import ModelMixin
from diffusers.schedulers import DDPMScheduler, KarrasDiffusionSchedulers
from diffusers.utils import logging
from diffusers.utils.torch_utils import get_device
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer, PreTrainedModel, T5EncoderModel, T5Tokenizer
from transformers.image_processing_utils import BaseImageProcessor

from ...clips.arrays import OUTPUT_TYPES, to_model_space
from ...clips.words import shorten
from ...ladder.lora import LoraMixin, check_lora_scale
from ...ladder.safety import SafetyMixin, join_outputs
from ...sampling.checks import check_count, check_generator, check_number
from ...sampling.loop import NetworkTypesMixin, WindowCallback
from ...sampling.noise import Generators, per_video, replay, spawn
from ...sampling.outputs import VideoPipelineOutput
from ...sampling.text import check_prompts, text_width
from .interpolation import Show1InterpolationPipeline
from .keyframes import Show1KeyframePipeline
from .recipe import RECIPES, StageOptions
from .refine import Show1RefinementPipeline
from .superres import Show1SuperResolutionPipeline


logger = logging.get_logger(__name__)

# What the cascade itself hands to its stages; everything else in a stage's signature is an option.
_HANDED_OVER = frozenset(
    {
        "self",
        "frames",
        "prompt",
        "negative_prompt",
        "prompt_embeds",
        "negative_prompt_embeds",
        "num_videos_per_prompt",
        "generator",
        "input_type",
        "output_type",
        "return_dict",
        "callback_on_step_end",
        "callback_on_step_end_tensor_inputs",
        "callback_on_window_end",
        "finished_windows",
        "clean_caption",  # the text of the pixel stages is encoded here, once
    }
)
# What `enable_low_memory` puts over a checkpoint's options: the same numbers in smaller portions.
LOW_MEMORY: StageOptions = {
    "base": {"split_guidance": True},
    "interpolation": {"split_guidance": True, "window_batch_size": 1},
    "superres": {"split_guidance": True},
    "refine": {"split_guidance": True, "vae_batch_size": 1},
}


class Show1CascadePipeline(NetworkTypesMixin, LoraMixin, SafetyMixin, DiffusionPipeline):
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

    Args:
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

    stage_names = ("base", "interpolation", "superres", "refine")
    _lora_networks = [f"{name}_unet" for name in stage_names]
    _callback_tensor_inputs = ["latents", "prompt_embeds", "negative_prompt_embeds"]  # of every stage
    model_cpu_offload_seq = (
        "text_encoder->base_unet->interpolation_unet->first_frame_unet->superres_unet"
        "->refine_text_encoder->refine_unet->refine_vae->safety_checker"
    )
    _optional_components = [
        "tokenizer",
        "text_encoder",
        "refine_tokenizer",
        "refine_text_encoder",
        "first_frame_unet",
        "first_frame_scheduler",
        "feature_extractor",
        "safety_checker",
    ]

    def __init__(
        self,
        tokenizer: T5Tokenizer | None,
        text_encoder: T5EncoderModel | None,
        base_unet: ModelMixin,
        base_scheduler: KarrasDiffusionSchedulers,
        interpolation_unet: ModelMixin,
        interpolation_scheduler: KarrasDiffusionSchedulers,
        superres_unet: ModelMixin,
        superres_scheduler: KarrasDiffusionSchedulers,
        superres_image_noising_scheduler: DDPMScheduler,
        refine_tokenizer: CLIPTokenizer | None,
        refine_text_encoder: CLIPTextModel | None,
        refine_unet: ModelMixin,
        refine_vae: AutoencoderKL,
        refine_scheduler: KarrasDiffusionSchedulers,
        first_frame_unet: ModelMixin | None = None,
        first_frame_scheduler: KarrasDiffusionSchedulers | None = None,
        stage_defaults: dict | None = None,
        feature_extractor: BaseImageProcessor | None = None,
        safety_checker: PreTrainedModel | None = None,
    ):
        super().__init__()
        self.register_modules(
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            base_unet=base_unet,
            base_scheduler=base_scheduler,
            interpolation_unet=interpolation_unet,
            interpolation_scheduler=interpolation_scheduler,
            superres_unet=superres_unet,
            superres_scheduler=superres_scheduler,
            superres_image_noising_scheduler=superres_image_noising_scheduler,
            refine_tokenizer=refine_tokenizer,
            refine_text_encoder=refine_text_encoder,
            refine_unet=refine_unet,
            refine_vae=refine_vae,
            refine_scheduler=refine_scheduler,
            first_frame_unet=first_frame_unet,
            first_frame_scheduler=first_frame_scheduler,
            feature_extractor=feature_extractor,
            safety_checker=safety_checker,
        )
        self.register_to_config(stage_defaults=stage_defaults)

    # --- stages: views over the registered components ------------------------------------------------------------

    @property
    def base(self) -> Show1KeyframePipeline:
        return self._view(
            "base",
            Show1KeyframePipeline(
                self.tokenizer, self.text_encoder, self.base_unet, self.base_scheduler, **self._safety_parts
            ),
        )

    @property
    def interpolation(self) -> Show1InterpolationPipeline:
        return self._view(
            "interpolation",
            Show1InterpolationPipeline(
                self.tokenizer,
                self.text_encoder,
                self.interpolation_unet,
                self.interpolation_scheduler,
                **self._safety_parts,
            ),
        )

    @property
    def superres(self) -> Show1SuperResolutionPipeline:
        return self._view(
            "superres",
            Show1SuperResolutionPipeline(
                self.tokenizer,
                self.text_encoder,
                self.superres_unet,
                self.superres_scheduler,
                self.superres_image_noising_scheduler,
                self.first_frame_unet,
                self.first_frame_scheduler,
                **self._safety_parts,
            ),
        )

    @property
    def refine(self) -> Show1RefinementPipeline:
        return self._view(
            "refine",
            Show1RefinementPipeline(
                self.refine_tokenizer,
                self.refine_text_encoder,
                self.refine_unet,
                self.refine_vae,
                self.refine_scheduler,
                **self._safety_parts,
            ),
        )

    @property
    def _safety_parts(self) -> dict[str, Any]:
        return {"feature_extractor": self.feature_extractor, "safety_checker": self.safety_checker}

    def _view(self, name: str, stage: DiffusionPipeline) -> Any:
        stage.set_progress_bar_config(**{"desc": name, **getattr(self, "_progress_bar_config", {})})
        return stage

    # --- other ways in -------------------------------------------------------------------------------------------

    @classmethod
    def from_stages(
        cls,
        base: Any,
        interpolation: Any,
        superres: Any,
        refine: Any,
        first_frame: Any = None,
        stage_defaults: StageOptions | None = None,
        feature_extractor: BaseImageProcessor | None = None,
        safety_checker: PreTrainedModel | None = None,
        **kwargs: Any,
    ) -> Show1CascadePipeline:
        """Makes a cascade of four separately published stages, sharing the base stage's T5.

        Args:
            base: the keyframe stage, a Hub id, a folder, or a loaded pipeline.
            interpolation: the interpolation stage, likewise.
            superres: the super-resolution stage, likewise.
            refine: the refinement stage, likewise.
            first_frame: a Hub id, a folder or a loaded pipeline of an image super-resolution model (DeepFloyd
                IF-II) for the first frame; `None` runs without.
            stage_defaults: as for the class.
            feature_extractor: as for the class; loaded stages' own are not taken over.
            safety_checker: likewise.
            kwargs: for every `from_pretrained`, such as `dtype=torch.float16` or `variant="fp16"`.

        Returns:
            The cascade over the stages' components.
        """

        def load(stage_class: type[DiffusionPipeline], source: Any, **without: None) -> DiffusionPipeline:
            return (
                source
                if isinstance(source, DiffusionPipeline)
                else stage_class.from_pretrained(source, **without, **kwargs)
            )

        base = load(Show1KeyframePipeline, base)
        interpolation = load(Show1InterpolationPipeline, interpolation, tokenizer=None, text_encoder=None)
        superres = load(Show1SuperResolutionPipeline, superres, tokenizer=None, text_encoder=None)
        refine = load(Show1RefinementPipeline, refine)
        image: dict[str, Any] = {}
        if first_frame is not None:
            from diffusers import IFSuperResolutionPipeline

            unused = {"tokenizer": None, "text_encoder": None, "safety_checker": None, "watermarker": None}
            source = load(IFSuperResolutionPipeline, first_frame, **unused)
            image = {"first_frame_unet": source.unet, "first_frame_scheduler": source.scheduler}
        return cls(
            tokenizer=base.tokenizer,
            text_encoder=base.text_encoder,
            base_unet=base.unet,
            base_scheduler=base.scheduler,
            interpolation_unet=interpolation.unet,
            interpolation_scheduler=interpolation.scheduler,
            superres_unet=superres.unet,
            superres_scheduler=superres.scheduler,
            superres_image_noising_scheduler=superres.image_noising_scheduler,
            refine_tokenizer=refine.tokenizer,
            refine_text_encoder=refine.text_encoder,
            refine_unet=refine.unet,
            refine_vae=refine.vae,
            refine_scheduler=refine.scheduler,
            stage_defaults=stage_defaults,
            feature_extractor=feature_extractor,
            safety_checker=safety_checker,
            **image,
        )

    # --- memory ------------------------------------------------------------------------------------------------------

    _memory_options: StageOptions = {}

    def enable_low_memory(self, device: torch.device | str | None = None, **kwargs: Any) -> None:
        """Runs in the least memory of `device`, without another result: weights and frames visit it in small portions.

        Every network is offloaded leaf by leaf (`enable_group_offload`), with streams where the device has them, so
        that the next layer's weights arrive while one computes; guidance takes one branch after the other,
        interpolation pair by pair, the VAE frame by frame. `enable_model_cpu_offload` is faster, where the largest
        network fits beside its activations.

        Args:
            device: where the networks run; by default the accelerator at hand.
            kwargs: for `enable_group_offload`, such as `low_cpu_mem_usage=True`, which pins no weights beforehand.

        Raises:
            RuntimeError: no `device` was given and there is no accelerator.
        """
        if device is None and get_device() == "cpu":
            raise RuntimeError("`device` is required: no accelerator was found.")
        device = torch.device(device or get_device())
        streams = {"use_stream": device.type in ("cuda", "xpu")}
        self.enable_group_offload(device, **{"offload_type": "leaf_level", **streams, **kwargs})
        self._memory_options = LOW_MEMORY

    # --- options -------------------------------------------------------------------------------------------------

    def stage_option_names(self, name: str) -> list[str]:
        """The options that `stage_options[name]` may hold: the stage's own call arguments.

        Args:
            name: one of `stage_names`.

        Returns:
            Names, in the order of the stage's signature.
        """
        return [p for p in inspect.signature(type(getattr(self, name)).__call__).parameters if p not in _HANDED_OVER]

    def resolve_options(
        self,
        recipe: str = "default",
        stage_options: StageOptions | None = None,
        num_frames: int | None = None,
    ) -> StageOptions:
        """The options a call would run with: the recipe's, the checkpoint's over them, the caller's over those.

        Of the checkpoint's, those that it has for this very recipe go over those that it has for all.

        Args:
            recipe: `"default"`, `"official"` or `"fast"`.
            stage_options: the caller's, stage name -> options of that stage's call.
            num_frames: frames of the video, at least 1; sets the number of keyframes. `None`: the recipe's.

        Returns:
            Stage name -> options, of every stage.

        Raises:
            ValueError: an unknown recipe, stage or option, naming what is allowed.
        """
        if recipe not in RECIPES:
            raise ValueError(f"`recipe` must be one of {sorted(RECIPES)}, got {recipe!r}.")
        options = {name: dict(values) for name, values in RECIPES[recipe].stages.items()}
        given = {} if stage_options is None else stage_options
        own = self.config.stage_defaults or {}
        own_for_recipe = own.get(recipe, {}) if isinstance(own, dict) else {}
        for source in (own, own_for_recipe, self._memory_options, given):
            name_of = "stage_options" if source is given else "stage_defaults"
            if not isinstance(source, dict) or not all(isinstance(values, dict) for values in source.values()):
                raise ValueError(
                    f"`{name_of}` must be a dict of stage name -> dict of options, got {shorten(repr(source))}."
                )
            for name, values in source.items():
                if source is own and name in RECIPES:
                    continue
                if name not in self.stage_names:
                    raise ValueError(f"`{name_of}` must name stages of {self.stage_names}, got {shorten(repr(name))}.")
                allowed = self.stage_option_names(name)
                for key in values:
                    if key not in allowed:
                        raise ValueError(
                            f"`{name_of}[{name!r}]` has no option {shorten(repr(key))}; it may hold {allowed}."
                        )
                options[name].update(values)
        if num_frames is not None:
            check_count(num_frames, "num_frames", low=1)
            check_count(options["interpolation"]["frames_between"], "frames_between")
            gap = options["interpolation"]["frames_between"] + 1
            options["base"]["num_frames"] = max(-(-(num_frames - 1) // gap) + 1, 2)
        return options

    # --- the cascade ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        num_frames: int | None = None,
        recipe: str = "default",
        stage_options: StageOptions | None = None,
        num_videos_per_prompt: int = 1,
        generator: Generators = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        refine_prompt_embeds: Tensor | None = None,
        refine_negative_prompt_embeds: Tensor | None = None,
        stop_after: str | None = None,
        return_stages: bool = False,
        output_type: str = "pil",
        return_dict: bool = True,
        cross_attention_kwargs: dict[str, Any] | None = None,
        callback_on_stage_end: Callable[[Show1CascadePipeline, str, Tensor], None] | None = None,
        callback_on_step_end: Callable | None = None,
        callback_on_step_end_tensor_inputs: list[str] | None = None,
        callback_on_window_end: WindowCallback | None = None,
        finished_windows: dict[str, Sequence[Tensor]] | None = None,
    ) -> VideoPipelineOutput | tuple:
        r"""Makes a video.

        Args:
            prompt: one prompt or a list; not with `prompt_embeds`.
            negative_prompt: what guidance leads away from (`None`: the empty prompt).
            num_frames: frames of the video, at least 1; as many keyframes are made as that takes. By default what
                follows from the base stage's `num_frames`: 29.
            recipe: `"default"`, `"official"` for the released code's run number for number, or `"fast"` for a run
                with about a tenth of the network calls (`docs/performance.md`).
            stage_options: stage name -> options of that stage's call over the recipe's, for example
                `{"base": {"num_inference_steps": 30}, "refine": {"strength": 0.6}}`.
            num_videos_per_prompt: at least 1.
            generator: one generator, or a list of one a video.
            prompt_embeds: T5's (prompts, tokens, width), from `pipe.base.encode_prompt`.
            negative_prompt_embeds: likewise, of the negative prompts.
            refine_prompt_embeds: CLIP's (prompts, tokens, width), from `pipe.refine.encode_prompt`; needed with
                `prompt_embeds`.
            refine_negative_prompt_embeds: likewise, of the negative prompts.
            stop_after: the last stage to run, one of `pipe.stage_names`.
            return_stages: also return every stage's frames.
            output_type: `"pil"`, `"np"`, `"pt"`, or `"latent"` (the last stage's own space).
            return_dict: a `VideoPipelineOutput` rather than a tuple.
            cross_attention_kwargs: `{"scale": number}`, how much of their adapters (LoRA) the networks use; a stage's
                own, in `stage_options`, goes before it.
            callback_on_stage_end: called as `(pipe, stage name, frames)` after each stage, with frames in the form of
                `output_type`, checked if there is a safety checker.
            callback_on_step_end: handed to every stage, which calls it as `(stage, step, timestep, tensors)`.
            callback_on_step_end_tensor_inputs: which of `latents`, `prompt_embeds`, `negative_prompt_embeds` it gets.
            callback_on_window_end: handed to every stage, which calls it as `(stage, index, window)`: what a stage has
                finished so far, in model space. `stage.stage_name` tells which it is.
            finished_windows: stage name -> the first of its windows, as that callback got them in an earlier run of
                this call. A stage all of whose windows are there runs no network; the result is that of an undisturbed
                run, bit for bit.

        Returns:
            `VideoPipelineOutput`, or `(frames,)`, or with `return_stages` `(frames, stages)`: b videos as the last
            stage that ran makes them; b is the number of prompts times `num_videos_per_prompt`.

        Raises:
            ValueError, TypeError: before any model runs, naming the argument, its value and what is allowed.
        """
        # 1. Check the arguments, of all stages
        if stop_after is not None and stop_after not in self.stage_names:
            raise ValueError(f"`stop_after` must be one of {self.stage_names}, got {stop_after!r}.")
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"`output_type` must be one of {OUTPUT_TYPES}, got {output_type!r}.")
        prompts = check_prompts(prompt, negative_prompt, prompt_embeds, negative_prompt_embeds)
        check_count(num_videos_per_prompt, "num_videos_per_prompt")
        batch = prompts * num_videos_per_prompt
        check_generator(generator, batch)
        self.check_safety_parts()
        options = self.resolve_options(recipe, stage_options, num_frames)
        finished_windows = finished_windows or {}
        if unknown := [name for name in finished_windows if name not in self.stage_names]:
            raise ValueError(f"`finished_windows` must name stages of {self.stage_names}, got {unknown}.")
        names = self.stage_names[: self.stage_names.index(stop_after) + 1 if stop_after else None]
        for given in (cross_attention_kwargs, *(options[name].get("cross_attention_kwargs") for name in names)):
            check_lora_scale(given)
        for name in ("first_frame", "condition_frames"):  # images or arrays, as a stage takes them
            if options["superres"].get(name) is not None:
                options["superres"][name] = to_model_space(options["superres"][name], None, name)
        clip = {
            "prompt": None if refine_prompt_embeds is not None else prompt,
            "negative_prompt": None if refine_negative_prompt_embeds is not None else negative_prompt,
            "num_videos_per_prompt": num_videos_per_prompt,
            "prompt_embeds": refine_prompt_embeds,
            "negative_prompt_embeds": refine_negative_prompt_embeds,
        }
        if "refine" in names:
            self._check_clip(clip, prompts, options["refine"]["guidance_scale"])
        embeds = {"prompt_embeds": prompt_embeds, "negative_prompt_embeds": negative_prompt_embeds}
        self.check_stages(names, options, batch, num_frames, embeds, callback_on_step_end_tensor_inputs)

        # 2. Random numbers and text
        generators = self.stage_generators(names, generator, batch, RECIPES[recipe].same_seed)
        negative_stages = RECIPES[recipe].negative_prompt_stages
        try:
            prompt_embeds, negative_prompt_embeds = self.base.encode_prompt(  # once for the three pixel stages
                prompt,
                negative_prompt if "base" in negative_stages else None,
                num_videos_per_prompt,
                any(options[name]["guidance_scale"] > 1 for name in names if name != "refine")
                or self.first_frame_unet is not None,
                self._execution_device,
                prompt_embeds,
                negative_prompt_embeds,
            )
            text = {"prompt_embeds": prompt_embeds, "negative_prompt_embeds": negative_prompt_embeds}

            # 3. The stages, in model space from one to the next
            outputs: dict[str, VideoPipelineOutput] = {}
            video = None
            for name in names:
                is_last = name == names[-1]
                inputs: dict[str, Any] = {**(clip if name == "refine" else text), **options[name]}
                inputs.setdefault("cross_attention_kwargs", cross_attention_kwargs)
                if video is not None:
                    inputs.update(frames=video, input_type="latent")
                stage_output = "latent" if name != "refine" else output_type
                output = getattr(self, name)(
                    **inputs,
                    generator=generators[name],
                    output_type=stage_output,
                    callback_on_step_end=callback_on_step_end,
                    callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
                    callback_on_window_end=callback_on_window_end,
                    finished_windows=finished_windows.get(name, ()),
                )
                self._offload_stages()
                video = output.frames
                if name == "interpolation" and num_frames is not None:
                    video = video[:, :, :num_frames]
                if return_stages or callback_on_stage_end is not None or is_last:
                    if name != "refine":
                        output = self.to_output(video, output_type)
                        self._offload_stages()
                    if return_stages or is_last:
                        outputs[name] = output
                    if callback_on_stage_end is not None:
                        callback_on_stage_end(self, name, output.frames)
        finally:  # after an error, too, no network stays on the accelerator
            self.maybe_free_model_hooks()
        result = join_outputs(outputs) if return_stages else outputs[names[-1]]
        return result if return_dict else result.to_tuple()

    def _offload_stages(self) -> None:
        """Takes what `enable_model_cpu_offload` has on the device off it.

        By itself a network waits for the next one in `model_cpu_offload_seq` to push it out, and stays where that one
        is not called: super-resolution where CLIP's embeddings are given, interpolation where the first frame is.
        """
        for hook in getattr(self, "_all_hooks", []):
            hook.offload()

    @staticmethod
    def stage_generators(
        names: tuple[str, ...], generator: Generators, batch: int, same_seed: bool
    ) -> dict[str, Generators]:
        """For each stage the generators of its videos: all in the same state, or independent of each other.

        Args:
            names: the stages.
            generator: one generator, `batch` of them, or None.
            batch: how many videos.
            same_seed: every stage gets the same random numbers, as in the official script; else its own.

        Returns:
            Stage -> a generator, a list of `batch` of them, or None.
        """
        if generator is None:
            return dict.fromkeys(names)
        videos = per_video(generator, batch)
        if same_seed:
            streams = [[replay(g) for _ in names] for g in videos]
        else:
            # always four streams a video, so that stopping earlier changes nothing before
            streams = [spawn(g, len(Show1CascadePipeline.stage_names)) for g in videos]
        by_stage = {name: [video[i] for video in streams] for i, name in enumerate(names)}
        return {name: gs[0] if batch == 1 else gs for name, gs in by_stage.items()}

    def _check_clip(self, clip: dict[str, Any], prompts: int, guidance_scale: float) -> None:
        """The checks of refinement's text, whose arguments have names of their own here."""
        if clip["prompt"] is None and clip["prompt_embeds"] is None:
            raise ValueError(
                "`refine_prompt_embeds` is required with `prompt_embeds`: refinement reads CLIP's, got None."
            )
        try:
            count = check_prompts(
                clip["prompt"],
                clip["negative_prompt"],
                clip["prompt_embeds"],
                clip["negative_prompt_embeds"],
                text_width(self.refine_unet),
            )
            self.refine.check_encoder(clip["prompt"], clip["negative_prompt_embeds"], guidance_scale > 1)
        except (ValueError, TypeError) as error:
            message = str(error).replace("`prompt_embeds`", "`refine_prompt_embeds`")
            message = message.replace("`negative_prompt_embeds`", "`refine_negative_prompt_embeds`")
            message = message.replace("`text_encoder`", "`refine_text_encoder`").replace(
                "`tokenizer`", "`refine_tokenizer`"
            )
            raise type(error)(message) from None
        if count != prompts:
            raise ValueError(f"`refine_prompt_embeds` must hold {prompts} rows, one a prompt, got {count}.")

    def check_stages(
        self,
        names: tuple[str, ...],
        options: StageOptions,
        batch: int,
        num_frames: int | None,
        embeds: dict[str, Tensor | None],
        callback_tensor_inputs: list[str] | None,
    ) -> None:
        """Runs every stage's own checks on what it will get, so that a bad option of the last one is told at once.

        Args:
            names: the stages to run, in their order.
            options: stage -> its call's arguments, from `resolve_options`.
            batch: how many videos.
            num_frames: how many frames leave interpolation; None keeps all.
            embeds: the call's `prompt_embeds` and `negative_prompt_embeds`, (prompts, tokens, width) or None each.
            callback_tensor_inputs: what the step callback asks for, or None.

        Raises:
            ValueError, TypeError: what a stage's `check_inputs` raises, with the stage's name before it.
        """
        frames: Tensor | None = None
        for name in names:
            stage = getattr(self, name)
            call = inspect.signature(type(stage).__call__).parameters
            arguments = {key: p.default for key, p in call.items() if key != "self"} | options[name]
            if name != "refine" and embeds["prompt_embeds"] is not None:
                count = batch // embeds["prompt_embeds"].shape[0]
                arguments |= embeds
                arguments["num_videos_per_prompt"] = count
            else:
                arguments["prompt"] = ["checked before"] * batch
            if frames is not None:
                arguments.update(frames=frames, input_type="latent")
            arguments["callback_on_step_end_tensor_inputs"] = callback_tensor_inputs or ["latents"]
            wanted = inspect.signature(stage.check_inputs).parameters
            try:
                batch_size, count, height, width = stage.check_inputs(**{k: arguments[k] for k in wanted})
                if arguments["eta"] is not None:
                    check_number(arguments["eta"], "eta", low=0)
            except (ValueError, TypeError) as error:
                raise type(error)(f"stage {name!r}: {error}") from None
            if name == "interpolation" and num_frames is not None:
                count = num_frames
            # one number seen as a whole video: the checks look at shapes
            frames = torch.zeros(1, 1, 1, 1, 1).expand(batch_size, 3, count, height, width)
