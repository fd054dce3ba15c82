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

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, ClassVar, get_type_hints

import numpy as np
import PIL.Image
import torch
from diffusers import DiffusionPipeline
from diffusers.utils.torch_utils import get_device
from torch import Tensor
from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from ..clips.arrays import to_model_space
from ..clips.words import shorten
from ..sampling.call import PIXELS, Call, Extent, Handover
from ..sampling.checks import check_count, check_generator, check_output_type
from ..sampling.noise import Generators, per_video, replay, spawn
from ..sampling.outputs import VideoPipelineOutput
from ..sampling.text import check_prompts, text_width
from ..sampling.windows import WindowStore
from .known_frames import KnownFrames
from .lora import LoraMixin, check_lora_scale
from .rung import Recipe, Rung, StageOptions
from .safety import SafetyMixin, join_outputs
from .stage import NetworkTypesMixin, StagePipeline, extent_of


Embeds = Mapping[str, Tensor | None]


class CascadePipeline(NetworkTypesMixin, LoraMixin, SafetyMixin, DiffusionPipeline):
    """Stages in a row. A subclass has `rungs` and `recipes`, and no code of its own."""

    rungs: ClassVar[tuple[Rung, ...]] = ()
    recipes: ClassVar[Mapping[str, Recipe]] = {}
    stage_names: ClassVar[tuple[str, ...]] = ()
    low_memory_options: ClassVar[StageOptions] = {}
    """What `enable_low_memory` puts over a checkpoint's options: the same numbers in smaller portions."""
    readers: ClassVar[tuple[str, ...]] = ()
    """What stands before `prompt_embeds` in the call's arguments, for each text encoder; the first rung's first."""

    _callback_tensor_inputs = StagePipeline._callback_tensor_inputs  # of every stage
    _memory_options: StageOptions = {}

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
        cls.__init__ = _initialiser(cls)
        if "__call__" not in cls.__dict__:
            cls.__call__ = _caller(cls)
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

    # --- options -----------------------------------------------------------------------------------------------------

    @classmethod
    def stage_option_names(cls, name: str) -> list[str]:
        """The options that `stage_options[name]` may hold: the stage's own call arguments.

        Args:
            name: one of `stage_names`.

        Returns:
            Names, in the order of the stage's signature.
        """
        return list(cls.rungs[cls.stage_names.index(name)].options)

    def resolve_options(
        self,
        recipe: str = "default",
        stage_options: StageOptions | None = None,
        num_frames: int | None = None,
    ) -> StageOptions:
        """The options a call would run with: the recipe's, the checkpoint's over them, the caller's over those.

        Of the checkpoint's, those that it has for this very recipe go over those that it has for all.

        Args:
            recipe: one of `recipes`.
            stage_options: the caller's, stage name -> options of that stage's call.
            num_frames: frames of the video, at least 1; sets how many the first stage makes. `None`: the recipe's.

        Returns:
            Stage name -> options, of every stage.

        Raises:
            ValueError: an unknown recipe, stage or option, naming what is allowed.
        """
        if recipe not in self.recipes:
            raise ValueError(f"`recipe` must be one of {sorted(self.recipes)}, got {recipe!r}.")
        options = {name: dict(values) for name, values in self.recipes[recipe].stages.items()}
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
                if source is own and name in self.recipes:
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
        first = self.rungs[0]
        if num_frames is not None and "num_frames" in first.options:
            options[first.name]["num_frames"] = self.frames_wanted(options, num_frames)[first.name]
        return options

    @classmethod
    def frames_wanted(cls, options: StageOptions, num_frames: int) -> dict[str, int]:
        """How many frames each stage has to give so that `num_frames` come out in the end.

        Args:
            options: of every stage.
            num_frames: of the video, at least 1.

        Returns:
            Stage name -> frames; what a stage makes beyond that is left out.
        """
        check_count(num_frames, "num_frames", low=1)
        wanted = {}
        for rung in reversed(cls.rungs):
            wanted[rung.name] = num_frames
            num_frames = rung.stage.frames_before(rung.call(options[rung.name]), num_frames)
        return wanted

    @classmethod
    def network_calls(cls, options: StageOptions, parts: Collection[str] = ()) -> dict[str, int]:
        """How often a run of a whole video calls its networks, stage by stage, counted as papers do.

        A guided step is two calls, whether they are made in one batch or not, and each window's steps are its own.

        Args:
            options: of every stage, as `resolve_options` returns them.
            parts: the optional networks that are there, such as `first_frame_unet`.

        Returns:
            Stage name -> calls.
        """
        calls = {}
        for rung, call, given, _ in cls.run_through(options):
            own = [name for name, part in rung.parts.items() if part in parts]
            calls[rung.name] = rung.stage.network_calls(call, given, own)
        return calls

    @classmethod
    def run_through(cls, options: StageOptions) -> Iterator[tuple[Rung, Call, Extent | None, Extent]]:
        """What each stage of a whole run would be called with, without a check and without running anything.

        Args:
            options: of every stage, as `resolve_options` returns them.

        Yields:
            A rung, its call, the extent of the frames that it is given (None for the first), and that of its own; a
            side that only a network knows is None.
        """
        given = None
        for rung in cls.rungs:
            call = rung.call(options[rung.name])
            extent = rung.stage.extent(call, given)
            yield rung, call, given, extent
            given = extent

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
            known = KnownFrames([image] if isinstance(image, PIL.Image.Image) else np.asarray(image)[None])
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

    def check_text(
        self,
        names: tuple[str, ...],
        options: StageOptions,
        prompt: Any,
        negative_prompt: Any,
        embeds: Embeds,
    ) -> int:
        """Checks the prompts and embeddings of all stages against each other and their networks.

        Args:
            names: the stages to run, in their order.
            options: stage -> its call's options.
            prompt: the call's.
            negative_prompt: likewise.
            embeds: the call's, by the names of its arguments; (prompts, tokens, width) or None each.

        Returns:
            How many prompts there are.

        Raises:
            ValueError, TypeError: naming the argument, its value and what is allowed.
        """
        count: int | None = None
        for rung in (rung for rung in self.rungs if rung.name in names):
            reader, stage = rung.reader, self.stage(rung.name)
            given, negative = embeds.get(f"{reader}prompt_embeds"), embeds.get(f"{reader}negative_prompt_embeds")
            if prompt is None and given is None and reader != self.readers[0]:
                raise ValueError(
                    f"`{reader}prompt_embeds` is required with `{self.readers[0]}prompt_embeds`: stage {rung.name!r} "
                    "reads a text encoder of its own, got None."
                )
            # the first reader's embeddings stand in place of the prompt, the others' may stand beside it
            own = reader != self.readers[0]
            text = None if own and given is not None else prompt
            negative_text = None if own and negative is not None else negative_prompt
            here = check_prompts(text, negative_text, given, negative, text_width(stage.unet), reader)
            stage.check_encoder(text, given, negative, stage.needs_negative(rung.call(options[rung.name])), reader)
            if count not in (None, here):
                raise ValueError(f"`{reader}prompt_embeds` must hold {count} rows, one a prompt, got {here}.")
            count = here
        assert count is not None
        return count

    def check_stages(
        self,
        names: tuple[str, ...],
        options: StageOptions,
        batch: int,
        num_frames: int | None = None,
        callback_tensor_inputs: list[str] | None = None,
        given: tuple[int, Extent] | None = None,
    ) -> dict[str, Extent]:
        """Runs every stage's own checks on what it will get, so that a bad option of the last one is told at once.

        Args:
            names: the stages to run, in their order.
            options: stage -> its call's options, from `resolve_options`.
            batch: how many videos.
            num_frames: how many frames the video is to have; None keeps all.
            callback_tensor_inputs: what the step callback asks for, or None.
            given: how many videos the first of them is given, and their extent; None where it takes none.

        Returns:
            Stage -> what it will make.

        Raises:
            ValueError, TypeError: what a stage's checks raise, with the stage's name before it.
        """
        wanted = {} if num_frames is None else self.frames_wanted(options, num_frames)
        extents = {}
        for rung in (rung for rung in self.rungs if rung.name in names):
            call = rung.call({**options[rung.name], "callback_on_step_end_tensor_inputs": callback_tensor_inputs})
            try:
                batch, extent = self.stage(rung.name).check_call(call, batch, given)
            except (ValueError, TypeError) as error:
                raise type(error)(f"stage {rung.name!r}: {error}") from None
            extents[rung.name] = extent._replace(frames=min(extent.frames, wanted.get(rung.name, extent.frames)))
            given = batch, extents[rung.name]
        return extents


class Texts:
    """The embeddings of a call, made by each text encoder when the first stage that reads it comes."""

    def __init__(
        self,
        pipe: CascadePipeline,
        names: tuple[str, ...],
        recipe: str,
        options: StageOptions,
        prompt: Any,
        negative_prompt: Any,
        embeds: Embeds,
        num_videos_per_prompt: int,
    ):
        self.pipe, self.options, self.embeds = pipe, options, embeds
        self.prompt, self.negative_prompt = prompt, negative_prompt
        self.num_videos_per_prompt = num_videos_per_prompt
        self.rungs = {rung.name: rung for rung in pipe.rungs if rung.name in names}
        self.clean_caption = pipe.recipes[recipe].clean_caption
        told = pipe.recipes[recipe].negative_prompt_stages
        self.gets_negative = {name: told is None or name in told for name in names}
        self._made: dict[tuple[str, bool], dict[str, Tensor | None]] = {}

    def of(self, name: str) -> dict[str, Tensor | None]:
        """`prompt_embeds` and `negative_prompt_embeds` of a stage, one row a video."""
        reader, gets_negative = self.rungs[name].reader, self.gets_negative[name]
        key = (reader, gets_negative)
        if key not in self._made:
            others = [r for r in self.rungs.values() if (r.reader, self.gets_negative[r.name]) == key]
            guided = any(self.pipe.stage(r.name).needs_negative(r.call(self.options[r.name])) for r in others)
            given = self.embeds.get(f"{reader}prompt_embeds")
            negative = self.embeds.get(f"{reader}negative_prompt_embeds")
            made = self.pipe.stage(name).encode_prompt(
                self.prompt if given is None else None,
                self.negative_prompt if gets_negative and negative is None else None,
                self.num_videos_per_prompt,
                guided,
                self.pipe._execution_device,
                given,
                negative,
                self.clean_caption,
            )
            self._made[key] = dict(zip(("prompt_embeds", "negative_prompt_embeds"), made, strict=True))
        return self._made[key]


def check_rungs(rungs: tuple[Rung, ...]) -> None:
    """Rungs that can stand on each other.

    Raises:
        ValueError: two of one name, or one that can't take what the one before it gives, named.
    """
    names = [rung.name for rung in rungs]
    if len(set(names)) < len(names):
        raise ValueError(f"`rungs` must have names of their own, got {names}.")
    for before, rung in zip(rungs, rungs[1:], strict=False):
        gives = {before.stage.gives, PIXELS}  # latents are decoded for a stage that takes pixels
        if not gives & set(rung.stage.takes):
            raise ValueError(
                f"`rungs`: {rung.name!r} takes {' or '.join(rung.stage.takes) or 'no frames'}, and {before.name!r} "
                f"gives {before.stage.gives}."
            )


def _initialiser(cls: type[CascadePipeline]) -> Callable[..., None]:
    """`__init__` with every rung's components as arguments: those that are required, then the others.

    diffusers reads the components of a pipeline off that signature, names, types and all.
    """
    self_ = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    found: dict[str, inspect.Parameter] = {}
    for rung in cls.rungs:
        hints = get_type_hints(rung.stage.__init__)
        for own, parameter in list(inspect.signature(rung.stage.__init__).parameters.items())[1:]:
            name = rung.parts[own]
            found.setdefault(name, parameter.replace(name=name, annotation=hints.get(own, Any)))
    always = [found.pop("feature_extractor"), found.pop("safety_checker")]
    defaults = self_.replace(name="stage_defaults", default=None, annotation=dict | None)
    required = [p for p in found.values() if p.default is inspect.Parameter.empty]
    optional = [p for p in found.values() if p.default is not inspect.Parameter.empty]
    signature = inspect.Signature([self_, *required, *optional, defaults, *always])

    def __init__(self: CascadePipeline, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        components = {name: part for name, part in bound.arguments.items() if name not in ("self", "stage_defaults")}
        DiffusionPipeline.__init__(self)
        self.register_modules(**components)
        self.register_to_config(stage_defaults=bound.arguments["stage_defaults"])

    __init__.__signature__ = signature
    __init__.__annotations__ = {p.name: p.annotation for p in signature.parameters.values() if p.name != "self"}
    __init__.__qualname__, __init__.__module__ = f"{cls.__qualname__}.__init__", cls.__module__
    return __init__


def _caller(cls: type[CascadePipeline]) -> Callable[..., Any]:
    """`__call__` with the embeddings of every reader among its arguments, by name and in the docstring."""
    general = inspect.signature(CascadePipeline.__call__)
    ends = {
        "prompt_embeds": "(prompts, tokens, width), from `pipe.{stage}.encode_prompt`; needed with `prompt_embeds`.",
        "negative_prompt_embeds": "likewise, (prompts, tokens, width), of the negative prompts.",
    }
    told: dict[str, str] = {}
    for reader in cls.readers[1:]:
        stage = next(rung.name for rung in cls.rungs if rung.reader == reader)
        told |= {f"{reader}{end}": text.format(stage=stage) for end, text in ends.items()}
    embeds = general.parameters["prompt_embeds"]
    own = [embeds.replace(name=name, kind=inspect.Parameter.KEYWORD_ONLY) for name in told]
    kept = [p for p in general.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]

    def __call__(self: CascadePipeline, *args: Any, **kwargs: Any) -> VideoPipelineOutput | tuple:
        return CascadePipeline.__call__(self, *args, **kwargs)

    doc = inspect.cleandoc(CascadePipeline.__call__.__doc__ or "")
    before, after = doc[: doc.index("    embeds: ")], doc[doc.index("\nReturns:") :]
    __call__.__doc__ = before + "".join(f"    {name}: {text}\n" for name, text in told.items()) + after
    __call__.__signature__ = general.replace(parameters=[*kept, *own])
    __call__.__qualname__, __call__.__module__ = f"{cls.__qualname__}.__call__", cls.__module__
    return __call__
