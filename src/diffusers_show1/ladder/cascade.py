# SPDX-License-Identifier: Apache-2.0
"""The cascade engine: everything that a cascade does, read off its rungs.

    class MyCascadePipeline(CascadePipeline):
        rungs = (Rung("keyframes", KeyframePipeline), Rung("upscale", UpscalePipeline))
        recipes = {"default": Recipe({"keyframes": {...}, "upscale": {...}})}

All components are registered flat, with the rung's name in front (`keyframes_unet`, `upscale_unet`, ...) unless the
rung says otherwise, so that `to`, `save_pretrained`, offloading and `device_map` are diffusers' own. A stage is a
property (`pipe.keyframes`): a pipeline over the registered components. What is set on one is set on the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import PIL.Image
import torch
from diffusers import DiffusionPipeline
from diffusers.utils.torch_utils import get_device
from torch import Tensor
from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from ..clips.arrays import to_model_space
from ..sampling.call import Handover
from ..sampling.checks import check_count, check_generator, check_output_type
from ..sampling.noise import Generators, per_video, replay, spawn
from ..sampling.outputs import VideoPipelineOutput
from ..sampling.windows import WindowStore
from .checks import ChecksMixin
from .known_frames import KnownFrames
from .lora import LoraMixin, check_lora_scale
from .options import OptionsMixin
from .rung import Recipe, Rung, StageOptions
from .safety import SafetyMixin, join_outputs
from .signatures import caller, check_rungs, initialiser
from .stage import NetworkTypesMixin, StagePipeline, extent_of
from .texts import Texts


class CascadePipeline(OptionsMixin, ChecksMixin, NetworkTypesMixin, LoraMixin, SafetyMixin, DiffusionPipeline):
    """Stages in a row. A subclass has `rungs` and `recipes`, and no code of its own."""

    rungs: ClassVar[tuple[Rung, ...]] = ()
    recipes: ClassVar[Mapping[str, Recipe]] = {}
    stage_names: ClassVar[tuple[str, ...]] = ()
    low_memory_options: ClassVar[StageOptions] = {}
    """What `enable_low_memory` puts over a checkpoint's options: the same numbers in smaller portions."""
    readers: ClassVar[tuple[str, ...]] = ()
    """What stands before `prompt_embeds` in the call's arguments, for each text encoder; the first rung's first."""

    _callback_tensor_inputs = StagePipeline._callback_tensor_inputs  # of every stage

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "rungs" not in cls.__dict__:
            return
        check_rungs(cls.rungs)
        cls.stage_names = tuple(rung.name for rung in cls.rungs)
        cls.readers = tuple(dict.fromkeys(rung.reader for rung in cls.rungs))
        cls.low_memory_options = {rung.name: dict(rung.stage.low_memory) for rung in cls.rungs}
        cls._lora_networks = list(dict.fromkeys(rung.network for rung in cls.rungs))
        order = [r.parts[name] for r in cls.rungs for name in r.stage.model_cpu_offload_seq.split("->")]
        order = [name for name in dict.fromkeys(order) if name != "safety_checker"]
        cls.model_cpu_offload_seq = "->".join([*order, "safety_checker"])
        optional = [r.parts[name] for r in cls.rungs for name in r.stage._optional_components]
        cls._optional_components = list(dict.fromkeys(optional))
        cls.__init__ = initialiser(cls)
        if "__call__" not in cls.__dict__:
            cls.__call__ = caller(cls, CascadePipeline.__call__)
        for name in cls.stage_names:
            setattr(cls, name, property(lambda self, name=name: self.stage(name), doc=f"The stage {name!r}."))

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self.__dict__ and not hasattr(type(self), name):
            own = dict.fromkeys(rung.parts[name] for rung in self.rungs if name in rung.parts)
            if own and name not in own:
                raise AttributeError(f"`{name}` is a stage's: set {' or '.join(f'`{part}`' for part in own)}.")
        super().__setattr__(name, value)

    # --- stages: views over the registered components ----------------------------------------------------------------

    def stage(self, name: str) -> StagePipeline:
        """A stage: a pipeline over this cascade's components, the same one whenever it is asked for.

        Args:
            name: one of `stage_names`.

        Returns:
            The pipeline.
        """
        rung = self.rungs[self.stage_names.index(name)]
        views = self.__dict__.setdefault("_views", {})
        parts = {own: getattr(self, part) for own, part in rung.parts.items()}
        view = views.get(name)
        if view is None:
            view = views[name] = rung.stage(**parts)
            view.stage_name = name
        else:
            view.register_modules(**{own: part for own, part in parts.items() if getattr(view, own) is not part})
        view.bind(self, rung.parts)
        view.set_progress_bar_config(**{"desc": name, **getattr(self, "_progress_bar_config", {})})
        return view

    # --- other ways in -----------------------------------------------------------------------------------------------

    @classmethod
    def from_stages(
        cls,
        *,
        stage_defaults: StageOptions | None = None,
        feature_extractor: BaseImageProcessor | None = None,
        safety_checker: PreTrainedModel | None = None,
        **stages: Any,
    ) -> CascadePipeline:
        """Makes a cascade of stages that were published one by one. What rungs share comes from the first of them.

        Args:
            stage_defaults: as for the class.
            feature_extractor: as for the class; loaded stages' own are not taken over.
            safety_checker: likewise.
            stages: each of `stage_names`, a Hub id, a folder, or a loaded pipeline; and arguments for every
                `from_pretrained`, such as `dtype=torch.float16` or `variant="fp16"`.

        Returns:
            The cascade over the stages' components.

        Raises:
            TypeError: a stage is missing.
        """
        if missing := [name for name in cls.stage_names if stages.get(name) is None]:
            raise TypeError(f"`from_stages` needs {list(cls.stage_names)}, got none for {missing}.")
        kwargs = {name: value for name, value in stages.items() if name not in cls.stage_names}
        components: dict[str, Any] = {}
        for rung in cls.rungs:
            source = stages[rung.name]
            if not isinstance(source, DiffusionPipeline):
                there = [own for own, part in rung.parts.items() if part in components]
                without = {own: None for own in there if own in rung.stage._optional_components}
                source = rung.stage.from_pretrained(source, **without, **kwargs)
            for own, part in rung.parts.items():
                components.setdefault(part, getattr(source, own))
        components |= {"feature_extractor": feature_extractor, "safety_checker": safety_checker}
        return cls(**components, stage_defaults=stage_defaults)

    # --- memory ------------------------------------------------------------------------------------------------------

    def enable_low_memory(self, device: torch.device | str | None = None, **kwargs: Any) -> None:
        """Runs in the least memory of `device`, without another result: weights and frames visit it in small portions.

        Every network is offloaded leaf by leaf (`enable_group_offload`), with streams where the device has them, so
        that the next layer's weights arrive while one computes; guidance takes one branch after the other, windows and
        the VAE's frames one by one. `enable_model_cpu_offload` is faster, where the largest network fits beside its
        activations.

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
        self._memory_options = self.low_memory_options

    def _offload_stages(self) -> None:
        """Takes what `enable_model_cpu_offload` has on the device off it.

        By itself a network waits for the next one in `model_cpu_offload_seq` to push it out, and stays where that one
        is not called: where a text's embeddings are given, say.
        """
        for hook in getattr(self, "_all_hooks", []):
            hook.offload()

    # --- the cascade -------------------------------------------------------------------------------------------------

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
        stop_after: str | None = None,
        return_stages: bool = False,
        output_type: str = "pil",
        return_dict: bool = True,
        cross_attention_kwargs: dict[str, Any] | None = None,
        callback_on_stage_end: Callable[[CascadePipeline, str, Tensor], None] | None = None,
        callback_on_step_end: Callable | None = None,
        callback_on_step_end_tensor_inputs: list[str] | None = None,
        window_store: WindowStore | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        image: Any = None,
        video: Any = None,
        start_at: str | None = None,
        **embeds: Tensor | None,
    ) -> VideoPipelineOutput | tuple:
        r"""Makes a video.

        Args:
            prompt: one prompt or a list; not with `prompt_embeds`.
            negative_prompt: what guidance leads away from (`None`: the empty prompt).
            num_frames: frames of the video, at least 1; the first stage makes as many as that takes. By default what
                follows from its own `num_frames`.
            recipe: one of `pipe.recipes`: `"default"`; `"official"`, for the released code's run number for number,
                where there is one; `"fast"`, for a run with about a tenth of the network calls.
            stage_options: stage name -> options of that stage's call over the recipe's, for example
                `{"base": {"num_inference_steps": 30}}`.
            num_videos_per_prompt: at least 1.
            generator: one generator, or a list of one a video.
            prompt_embeds: the first stage's (prompts, tokens, width), from its `encode_prompt`.
            negative_prompt_embeds: likewise, of the negative prompts.
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
            window_store: a `WindowStore`, which is given what each stage has finished, window by window; handed to
                the same call again, the run goes on behind it, with the result of an undisturbed run, bit for bit.
            num_inference_steps: of every stage, at least 1; a stage's own, in `stage_options`, goes before it.
            guidance_scale: likewise, at least 0; guidance is off up to 1.
            image: the video's first frame, a PIL image or an array (h, w, 3), resized to the first stage's size; the
                other frames go on from it (`KnownFrames`, which costs a gradient a step).
            video: a video in any form of `to_model_space`, in place of what the stages before `start_at` would make.
            start_at: with `video`, the first stage to run: by default the last of the cascade, which makes the video
                anew with the prompt as far as its options say.
            embeds: where stages read other text encoders than the first, `<reader>_prompt_embeds` and
                `<reader>_negative_prompt_embeds` for each, (prompts, tokens, width), needed with `prompt_embeds`.

        Returns:
            `VideoPipelineOutput`, or `(frames,)`, or with `return_stages` `(frames, stages)`: b videos as the last
            stage that ran makes them; b is the number of prompts times `num_videos_per_prompt`.

        Raises:
            ValueError, TypeError: before any model runs, naming the argument, its value and what is allowed.
        """
        # 1. Check the arguments, of all stages
        self._check_names(embeds)
        if stop_after is not None and stop_after not in self.stage_names:
            raise ValueError(f"`stop_after` must be one of {self.stage_names}, got {stop_after!r}.")
        names, given = self._entry(image, video, start_at, stop_after)
        check_output_type(output_type)
        check_count(num_videos_per_prompt, "num_videos_per_prompt")
        self.check_safety_parts()
        everywhere = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
        everywhere = {name: value for name, value in everywhere.items() if value is not None}
        if everywhere and isinstance(stage_options or {}, dict):
            own = stage_options or {}
            stage_options = {**own, **{name: {**everywhere, **own.get(name, {})} for name in self.stage_names}}
        options = self.resolve_options(recipe, stage_options, num_frames)
        check_lora_scale(cross_attention_kwargs)
        for name in names:
            options[name].setdefault("cross_attention_kwargs", cross_attention_kwargs)
        embeds = {"prompt_embeds": prompt_embeds, "negative_prompt_embeds": negative_prompt_embeds, **embeds}
        batch = self.check_text(names, options, prompt, negative_prompt, embeds) * num_videos_per_prompt
        check_generator(generator, batch)
        if window_store is not None and (strangers := set(window_store.stages()) - set(self.stage_names)):
            raise ValueError(f"`window_store` must name stages of {self.stage_names}, got {sorted(strangers)}.")
        tensor_inputs = callback_on_step_end_tensor_inputs
        extent = None if given is None else extent_of(given.video)
        self.check_stages(names, options, batch, num_frames, tensor_inputs, extent)
        if image is not None:
            frames = [image] if isinstance(image, PIL.Image.Image) else np.asarray(image)[None]
            known = KnownFrames(to_model_space(frames, None, "image"))
            callback_on_step_end, tensor_inputs = known.beside(callback_on_step_end, tensor_inputs)

        # 2. Random numbers; text, as each encoder's first stage comes
        generators = self.stage_generators(names, generator, batch, self.recipes[recipe].same_seed)
        texts = Texts(self, names, recipe, options, prompt, negative_prompt, embeds, num_videos_per_prompt)
        wanted = {} if num_frames is None else self.frames_wanted(options, num_frames)

        # 3. The stages, in the model's own range from one to the next
        outputs: dict[str, VideoPipelineOutput] = {}
        handed = given
        try:
            for name in names:
                stage, call = self.stage(name), self.rungs[self.stage_names.index(name)].call(options[name])
                frames = {} if handed is None else {"frames": handed}
                video = stage(
                    **frames,
                    **options[name],
                    **texts.of(name),
                    generator=generators[name],
                    output_type="latent",
                    callback_on_step_end=callback_on_step_end,
                    callback_on_step_end_tensor_inputs=tensor_inputs,
                    window_store=window_store,
                ).frames
                self._offload_stages()
                handed = stage.hand_over(video, call).first(wanted.get(name, video.shape[2]))
                is_last = name == names[-1]
                if return_stages or callback_on_stage_end is not None or is_last:
                    output = self.to_output(handed.video if output_type == "latent" else handed.pixels, output_type)
                    self._offload_stages()
                    if return_stages or is_last:
                        outputs[name] = output
                    if callback_on_stage_end is not None:
                        callback_on_stage_end(self, name, output.frames)
        finally:  # after an error, too, no network stays on the accelerator
            self.maybe_free_model_hooks()
        result = join_outputs(outputs) if return_stages else outputs[names[-1]]
        return result if return_dict else result.to_tuple()

    def _entry(
        self, image: Any, video: Any, start_at: str | None, stop_after: str | None
    ) -> tuple[tuple[str, ...], Handover | None]:
        """The stages of a call, and the video that the first of them is given, if any."""
        if start_at is not None and start_at not in self.stage_names:
            raise ValueError(f"`start_at` must be one of {self.stage_names}, got {start_at!r}.")
        if (start_at is not None and video is None) or (image is not None and video is not None):
            wanted = "`video` is required with `start_at`" if video is None else "Pass `image` or `video`"
            raise ValueError(f"{wanted}, got {'None' if video is None else 'both'}.")
        first = 0 if video is None else self.stage_names.index(start_at or self.stage_names[-1])
        names = self.stage_names[first : self.stage_names.index(stop_after) + 1 if stop_after else None]
        if not names:
            raise ValueError(f"`stop_after` must not come before `start_at`, got {stop_after!r} before {start_at!r}.")
        if video is None:
            return names, None
        if not self.rungs[first].stage.takes:
            raise ValueError(
                f"`start_at` must be a stage that takes frames, got {names[0]!r}, which starts from text."
            )
        return names, Handover(to_model_space(video, None, "video"))

    def _check_names(self, given: Iterable[str]) -> None:
        """Of the call's arguments that not every cascade has: this one's readers, or a TypeError that helps."""
        ends = ("prompt_embeds", "negative_prompt_embeds")
        allowed = {f"{reader}{end}" for reader in self.readers[1:] for end in ends}
        for name in given:
            if name in allowed:
                continue
            told = f"{type(self).__name__} takes no `{name}`"
            if stages := [rung.name for rung in self.rungs if name in rung.options]:
                told += f": give it to a stage, as in stage_options={{{stages[0]!r}: {{{name!r}: ...}}}}"
            raise TypeError(f"{told}.")

    @classmethod
    def stage_generators(
        cls, names: tuple[str, ...], generator: Generators, batch: int, same_seed: bool
    ) -> dict[str, Generators]:
        """For each stage the generators of its videos: all in the same state, or independent of each other.

        Args:
            names: the stages.
            generator: one generator, `batch` of them, or None.
            batch: how many videos.
            same_seed: every stage gets the same random numbers, as in released code; else its own.

        Returns:
            Stage -> a generator, a list of `batch` of them, or None.
        """
        if generator is None:
            return dict.fromkeys(names)
        videos = per_video(generator, batch)
        if same_seed:
            streams = [[replay(g) for _ in names] for g in videos]
        else:
            # a stream for every stage of the cascade, so that those that don't run change nothing for the others
            places = [cls.stage_names.index(name) for name in names]
            spawned = [spawn(g, len(cls.stage_names)) for g in videos]
            streams = [[of_stages[place] for place in places] for of_stages in spawned]
        by_stage = {name: [video[i] for video in streams] for i, name in enumerate(names)}
        return {name: gs[0] if batch == 1 else gs for name, gs in by_stage.items()}
