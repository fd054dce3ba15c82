# SPDX-License-Identifier: Apache-2.0
"""What every stage is: a diffusers pipeline, video in and video out, that can stand in a cascade.

A stage says of itself what a cascade has to know: what it takes and gives, how it changes a video's extent, how often
it calls its network, and what low memory sets. Its call is its own: checks, text, noise, denoising, frames.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from diffusers import DiffusionPipeline
from diffusers.models.modeling_utils import ModelMixin
from diffusers.schedulers import KarrasDiffusionSchedulers
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.image_processing_utils import BaseImageProcessor

from ..clips.arrays import to_model_space
from ..sampling.call import PIXELS, Call, Extent, Handover
from ..sampling.checks import check_extent, check_generator, check_sampling, check_windows
from ..sampling.guidance import guided_steps
from ..sampling.loop import DenoisingMixin
from ..sampling.outputs import VideoPipelineOutput
from ..sampling.schedule import fresh_scheduler, set_timesteps
from ..sampling.text import PromptMixin, check_prompts, text_width
from .lora import StageLoraMixin, check_lora_scale
from .safety import SafetyMixin


# What a cascade gives its stages itself; everything else in a stage's signature is an option.
HANDED_OVER = frozenset(
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
        "window_store",
        "clean_caption",  # a text is encoded once, for all stages that read it
    }
)


class AnyNetwork(tuple):
    """(ModelMixin,), which by `in` also holds every subclass: what `from_pipe` compares a component's type with."""

    def __contains__(self, kind: object) -> bool:
        return isinstance(kind, type) and issubclass(kind, ModelMixin)


class NetworkTypesMixin:
    """Lets `from_pipe` hand over networks of any class: a stage asks for what a network does, not for its type."""

    @classmethod
    def _get_signature_types(cls) -> dict[str, tuple]:
        types = super()._get_signature_types()
        return {name: AnyNetwork((ModelMixin,)) if ModelMixin in kinds else kinds for name, kinds in types.items()}


class StagePipeline(NetworkTypesMixin, DenoisingMixin, PromptMixin, StageLoraMixin, SafetyMixin, DiffusionPipeline):
    """One rung of a ladder.

    A subclass has a `__call__` with the arguments that all stages have and its own, says below what a cascade asks,
    and registers what it needs besides these components.

    Args:
        tokenizer: may be `None` when `prompt_embeds` are passed.
        text_encoder: likewise.
        unet: the network that denoises.
        scheduler: any of diffusers' schedulers for discrete timesteps.
        feature_extractor (*optional*): prepares frames for the safety checker.
        safety_checker (*optional*): looks at every frame before it is returned.
    """

    stage_name: str
    """What its own cascade calls it."""
    takes: ClassVar[tuple[str, ...]] = (PIXELS,)
    """What `frames` may be: `"pixels"`, `"latents"` or both; nothing for a stage that starts from text alone."""
    gives: ClassVar[str] = PIXELS
    """What it denoises: `"pixels"`, or `"latents"` of its `vae`."""
    low_memory: ClassVar[Mapping[str, Any]] = {"split_guidance": True}
    """The options that do the same in smaller portions."""
    shrink: ClassVar[str] = "smaller frames (height, width) need less in proportion beside weights"
    """What else saves memory, at the price of another video."""

    _callback_tensor_inputs = ["latents", "prompt_embeds", "negative_prompt_embeds"]
    _optional_components = ["tokenizer", "text_encoder", "feature_extractor", "safety_checker"]

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None,
        text_encoder: PreTrainedModel | None,
        unet: ModelMixin,
        scheduler: KarrasDiffusionSchedulers,
        feature_extractor: BaseImageProcessor | None = None,
        safety_checker: PreTrainedModel | None = None,
    ):
        super().__init__()
        self.register_modules(
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            unet=unet,
            scheduler=scheduler,
            feature_extractor=feature_extractor,
            safety_checker=safety_checker,
        )

    # --- what a cascade asks -----------------------------------------------------------------------------------------

    @classmethod
    def extent(cls, call: Any, given: Extent | None) -> Extent:
        """The result's extent.

        Args:
            call: the call's options.
            given: the extent of `frames`; None for a stage that takes none.
        """
        raise NotImplementedError

    @classmethod
    def frames_before(cls, call: Any, frames: int) -> int:
        """How many frames it has to be given so that at least `frames` come out."""
        return frames

    @classmethod
    def windows(cls, call: Any, given: Extent | None) -> int:
        """How many windows a video is denoised in."""
        return 1

    @classmethod
    def loops(cls, call: Any, given: Extent | None) -> int:
        """How often one video goes through the steps: once for each of the windows that a `WindowStore` gets."""
        return cls.windows(call, given)

    @classmethod
    def steps_run(cls, call: Any) -> int:
        """Steps of each window's loop."""
        if call.sigmas is not None:
            return len(call.sigmas) - 1
        return call.num_inference_steps if call.timesteps is None else len(call.timesteps)

    @classmethod
    def network_calls(cls, call: Any, given: Extent | None, parts: Collection[str] = ()) -> int:
        """How often a run calls its networks.

        A guided step is two calls, whether they are made in one batch or not, and each window's steps are its own.

        Args:
            call: the call's options, all of them.
            given: the extent of `frames`.
            parts: the optional components that are there.
        """
        return cls.windows(call, given) * calls_of_loop(cls.steps_run(call), call.guidance_scale, call)

    def needs_negative(self, call: Any) -> bool:
        """Whether a call needs the negative prompt's embeddings."""
        return call.guidance_scale > 1 or self.guider is not None

    def decode(self, video: Tensor, call: Any = None) -> Tensor:
        """What it `gives` -> pixels (b, 3, f, h, w) in model space.

        Args:
            video: the stage's result in the model's own range.
            call: options such as `vae_batch_size`.
        """
        return video

    def hand_over(self, video: Tensor, call: Any = None) -> Handover:
        """The result as the next stage takes it.

        Args:
            video: the stage's result in the model's own range.
            call: options for decoding.
        """
        if self.gives == PIXELS:
            return Handover(video)
        return Handover(video, self.vae, lambda latents: self.decode(latents, call))

    # --- a view over a cascade's components --------------------------------------------------------------------------

    def bind(self, cascade: DiffusionPipeline, parts: Mapping[str, str]) -> None:
        """Makes it a view: what is set on it is set on the cascade, too.

        Args:
            cascade: whose components these are.
            parts: the stage's names -> the cascade's.
        """
        object.__setattr__(self, "_bound", (weakref.ref(cascade), dict(parts)))

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        owner, parts = self.__dict__.get("_bound", (None, {}))
        if name in parts and owner() is not None and getattr(owner(), parts[name]) is not value:
            setattr(owner(), parts[name], value)

    # --- a call, step by step ----------------------------------------------------------------------------------------

    def check_inputs(self, call: Call, given: tuple[int, Extent] | None = None) -> tuple[int, Extent]:
        """Checks a call's arguments.

        Args:
            call: all of them.
            given: how many videos `frames` holds, and their extent.

        Returns:
            How many videos are made, and their extent.

        Raises:
            ValueError, TypeError: naming the argument, its value and what is allowed.
        """
        return self.check_call(call, check_prompts(**call.text, width=text_width(self.unet)), given)

    def check_call(self, call: Call, prompts: int, given: tuple[int, Extent] | None = None) -> tuple[int, Extent]:
        """The checks of all arguments but the text: those of all stages, then the stage's own.

        Args:
            call: all of them; sides that were left out are filled in.
            prompts: how many there are.
            given: how many videos `frames` holds, and their extent.

        Returns:
            How many videos are made, and their extent.
        """
        check_sampling(call, self.scheduler, self._callback_tensor_inputs)
        batch = prompts * call.num_videos_per_prompt
        if given is not None and given[0] not in (1, prompts, batch):
            raise ValueError(
                f"`frames` must hold 1, {prompts} (one a prompt) or {batch} (one a video) videos, got {given[0]}."
            )
        extent = self.check_options(call, batch, None if given is None else given[1])
        check_extent(batch, *extent)
        check_generator(call.generator, batch)
        self.check_drawn(call, batch, extent, None if given is None else given[1])
        check_lora_scale(call.cross_attention_kwargs)
        self.check_safety_parts()
        return batch, extent

    def check_options(self, call: Call, batch: int, given: Extent | None) -> Extent:
        """Checks the stage's own options, fills in the sides that were left out, and returns the result's extent."""
        raise NotImplementedError

    def check_drawn(self, call: Call, batch: int, extent: Extent, given: Extent | None) -> None:
        """Checks `latents` and the finished windows against the shapes that the call will have."""
        raise NotImplementedError

    def finished_windows(self, call: Call, shapes: list[tuple[int, ...]]) -> list[Tensor]:
        """The windows that an earlier run of this call has finished, checked against the shapes of all of them."""
        found = [] if call.window_store is None else call.window_store.finished(self.stage_name)
        check_windows(found, shapes)
        return list(found)

    def take(self, frames: Any, input_type: str | None = None, name: str = "frames") -> Tensor:
        """A stage's input in the model's own range: what another stage hands over, or frames of any form.

        Args:
            frames: a `Handover`, or a video in any form of `to_model_space`.
            input_type: as for `to_model_space`.
            name: the argument's name in messages.
        """
        return frames.pixels if isinstance(frames, Handover) else to_model_space(frames, input_type, name)

    def encode(self, call: Call) -> tuple[Tensor, Tensor | None]:
        """The call's text as embeddings, one row a video, and the negative prompt's where they are needed."""
        return self.encode_prompt(
            **call.text,
            num_videos_per_prompt=call.num_videos_per_prompt,
            do_classifier_free_guidance=self.needs_negative(call),
            device=self._execution_device,
            clean_caption=getattr(call, "clean_caption", None),
        )

    def schedule(self, call: Call) -> tuple[Any, Tensor]:
        """A copy of the scheduler for one loop, and its timesteps."""
        scheduler = fresh_scheduler(self.scheduler, call.final_sigmas_type)
        return scheduler, set_timesteps(scheduler, *call.schedule, self._execution_device)

    def end_window(self, call: Call, index: int, window: Tensor) -> None:
        """Notes a finished window, except for an interrupted one: that is none to take over."""
        if call.window_store is not None and not self.interrupt:
            call.window_store.add(self.stage_name, index, window)

    def finish(self, video: Tensor, call: Call) -> VideoPipelineOutput | tuple:
        """The result in the form that was asked for."""
        if call.output_type != "latent":
            video = self.decode(video, call)
        output = self.to_output(video, call.output_type)
        self.maybe_free_model_hooks()
        return output if call.return_dict else output.to_tuple()


def calls_of_loop(steps: int, guidance_scale: float, call: Any) -> int:
    """Network calls of one loop: two in a guided step."""
    start, stop = guided_steps(call.guidance_interval, steps)
    return steps + (stop - start if guidance_scale > 1 else 0)


def match_batch(frames: Tensor, batch: int, num_videos_per_prompt: int) -> Tensor:
    """Frames for every video: of one for all prompts, one a prompt, or one a video."""
    if len(frames) == batch:
        return frames
    if len(frames) == 1:
        return frames.expand(batch, *frames.shape[1:])
    return frames.repeat_interleave(num_videos_per_prompt, dim=0)


def extent_of(video: Tensor) -> tuple[int, Extent]:
    """How many videos (b, c, f, h, w) are, and the extent of each."""
    return video.shape[0], Extent(*video.shape[2:])


def check_frames(frames: Any, what: str) -> None:
    """`frames` was given, else a ValueError that says what is wanted."""
    if frames is None:
        raise ValueError(f"`frames` is required: {what}.")


def check_choice(value: Any, options: tuple[str, ...], name: str) -> None:
    """One of `options`, else a ValueError that says so."""
    if value not in options:
        raise ValueError(f"`{name}` must be {' or '.join(map(repr, options))}, got {value!r}.")
