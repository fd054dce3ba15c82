# SPDX-License-Identifier: Apache-2.0
"""What all stages do between noise and frames: random numbers, guidance, and the loop over timesteps.

Frames are folded into the batch for `scheduler.step`, so that dynamic thresholding works per frame, and step noise is
drawn as (b·f, c, h, w), as the released code has it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from ..clips.arrays import OUTPUT_TYPES
from .checks import check_count, check_interval, check_number
from .guidance import cache_context, guide, guide_by, guided_steps
from .latents import fold, unfold
from .noise import Generators, draws_split_evenly, per_frame
from .schedule import fresh_scheduler, set_timesteps


# Called as (stage, index, window) when a window is denoised: what `finished_windows` takes to leave it out next time.
WindowCallback = Callable[[Any, int, Tensor], None]


# --- the loop ----------------------------------------------------------------------------------------------------


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


class DenoisingMixin(NetworkTypesMixin):
    """The properties that a diffusers pipeline shows during a call, the common checks, and the denoising loop."""

    _callback_tensor_inputs = ["latents", "prompt_embeds", "negative_prompt_embeds"]

    guider: Any = None
    """One of `diffusers.guiders`, to guide instead of `guidance_scale`; `stage.guider = ...` sets it."""

    @property
    def guidance_scale(self) -> float:
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        return self._guidance_scale > 1 or self.guider is not None

    @property
    def num_timesteps(self) -> int:
        return self._num_timesteps

    @property
    def current_timestep(self) -> Tensor | None:
        return self._current_timestep

    @property
    def timesteps(self) -> Tensor:
        """Of the loop that runs, in order."""
        return self._timesteps

    @property
    def interrupt(self) -> bool:
        return self._interrupt

    def check_sampling(
        self,
        num_inference_steps: int | None,
        timesteps: list[int] | None,
        sigmas: list[float] | None,
        guidance_scale: float,
        guidance_interval: Sequence[float],
        num_videos_per_prompt: int,
        output_type: str,
        callback_on_step_end_tensor_inputs: list[str],
    ) -> None:
        """The checks of the arguments that all stages have.

        Raises:
            ValueError: naming the argument, its value and what is allowed.
        """
        train_steps = self.scheduler.config.num_train_timesteps
        if timesteps is not None and sigmas is not None:
            raise ValueError(f"Only one of `timesteps` or `sigmas` can be passed, got {timesteps!r} and {sigmas!r}.")
        for name, schedule in (("timesteps", timesteps), ("sigmas", sigmas)):
            if schedule is not None and name not in inspect.signature(self.scheduler.set_timesteps).parameters:
                raise ValueError(
                    f"`{name}` must be None with {type(self.scheduler).__name__}, which can't take them, "
                    f"got {schedule!r}."
                )
        if sigmas is not None:
            if not isinstance(sigmas, (list, tuple)) or len(sigmas) < 2:
                raise ValueError(
                    f"`sigmas` must be a list of at least 2 noise levels, where a step begins and where it ends, "
                    f"got {sigmas!r}."
                )
            for sigma in sigmas:
                check_number(sigma, "sigmas", low=0)
            if list(sigmas) != sorted(set(sigmas), reverse=True):
                raise ValueError(f"`sigmas` must fall from each to the next, got {list(sigmas)}.")
            # a scheduler may take them in some of its modes only, and says so
            set_timesteps(fresh_scheduler(self.scheduler), None, None, sigmas, "cpu")
        elif timesteps is None:
            check_count(num_inference_steps, "num_inference_steps", high=train_steps)
        else:
            if not isinstance(timesteps, (list, tuple)) or not timesteps:
                raise ValueError(f"`timesteps` must be a list of integers, got {timesteps!r}.")
            for t in timesteps:
                check_count(t, "timesteps", low=0, high=train_steps - 1)
            if list(timesteps) != sorted(set(timesteps), reverse=True):
                raise ValueError(f"`timesteps` must fall from each to the next, got {list(timesteps)}.")
        check_number(guidance_scale, "guidance_scale", low=0)
        check_interval(guidance_interval, "guidance_interval")
        check_count(num_videos_per_prompt, "num_videos_per_prompt")
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"`output_type` must be one of {OUTPUT_TYPES}, got {output_type!r}.")
        unknown = [k for k in callback_on_step_end_tensor_inputs if k not in self._callback_tensor_inputs]
        if unknown:
            raise ValueError(
                f"`callback_on_step_end_tensor_inputs` must be among {self._callback_tensor_inputs}, got {unknown}."
            )

    def begin(
        self, guidance_scale: float, guidance_interval: Sequence[float] = (0.0, 1.0), split_guidance: bool = False
    ) -> None:
        """Resets the per-call state behind the properties."""
        self._split_guidance = split_guidance
        self._guidance_scale = self._call_guidance_scale = guidance_scale
        self._guidance_interval = guidance_interval
        self._current_timestep: Tensor | None = None
        self._interrupt = False
        self._num_timesteps = 0

    def denoise(
        self,
        latents: Tensor,
        timesteps: Tensor,
        scheduler: Any,
        prompt_embeds: Tensor,
        negative_prompt_embeds: Tensor | None = None,
        condition: Tensor | None = None,
        class_labels: Tensor | None = None,
        generator: Generators = None,
        eta: float | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        unet: nn.Module | None = None,
        guidance_scale: float | None = None,
        progress: Any = None,
        callback_on_step_end: Callable | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ("latents",),
    ) -> Tensor:
        """Runs `scheduler` over `timesteps`, with guidance inside of the call's `guidance_interval`.

        Args:
            latents: noise (b, c, f, h, w), already scaled by `init_noise_sigma`.
            prompt_embeds, negative_prompt_embeds: (b, l, d); the second drives guidance.
            condition: (b, c', f, h, w) behind the noisy channels at every step, for both guidance branches.
            class_labels: (b,) noise level of the condition.
            generator: for schedulers that draw noise in every step.
            unet: the stage's own by default; an image UNet gets the frames as a batch.
            cross_attention_kwargs: `{"scale": ...}` for the network's adapters.
            guidance_scale: the call's by default, which a callback may change for the steps to come
                (`pipe._guidance_scale = ...`); the next loop begins with the call's again.
            progress: a progress bar to advance.

        Returns:
            The denoised (b, c, f, h, w).

        Raises:
            FloatingPointError: a step gave NaN or infinity.
        """
        unet = self.unet if unet is None else unet
        batch, channels, num_frames = latents.shape[:3]
        guider = self.guider if guidance_scale is None else None
        if guidance_scale is None:
            self._guidance_scale = self._call_guidance_scale
        start, stop = guided_steps(self._guidance_interval, len(timesteps))
        is_video_unet = unet.__class__.__name__ != "UNet2DConditionModel"
        # A scheduler's config may carry a `variance_type` that it got from another scheduler and does not know.
        knows_variance = "variance_type" in inspect.signature(type(scheduler).__init__).parameters
        keeps_variance = (
            knows_variance
            and unet.config.out_channels == 2 * channels
            and scheduler.config.variance_type in ("learned", "learned_range")
        )
        step_kwargs = {} if eta is None else {"eta": eta}

        texts: dict[str, tuple[Tensor, Any]] = {}

        def text_of(branch: str) -> tuple[Tensor, Any]:
            """Embeddings of "cond", "uncond" or "all" (both), and the network's cache for them if it has one."""
            if branch not in texts:
                # with guidance there are negative embeddings: encode_prompt sees to it
                parts = {
                    "cond": [prompt_embeds],
                    "uncond": [negative_prompt_embeds],
                    "all": [negative_prompt_embeds, prompt_embeds],
                }[branch]
                cache = unet.text_cache() if hasattr(unet, "text_cache") else None
                texts[branch] = torch.cat(parts), cache
            return texts[branch]

        def predict(sample: Tensor, t: Tensor, text: Tensor, text_cache: Any = None) -> Tensor:
            extra: dict[str, Any] = {} if text_cache is None else {"text_cache": text_cache}
            if class_labels is not None:
                extra["class_labels"] = class_labels.repeat(len(sample) // batch)
            if cross_attention_kwargs is not None:
                extra["cross_attention_kwargs"] = cross_attention_kwargs
            if is_video_unet:
                return unet(sample, t, encoder_hidden_states=text, return_dict=False, **extra)[0]
            images = unet(fold(sample), t, encoder_hidden_states=text, return_dict=False, **extra)[0]
            return unfold(images, len(sample))

        self._num_timesteps, self._timesteps = len(timesteps), timesteps
        guided = None
        finite: list[Tensor] = []
        for i, t in enumerate(timesteps):
            if self.interrupt:
                continue
            self._current_timestep = t
            scale = self.guidance_scale if guidance_scale is None else guidance_scale
            was_guided, guided = guided, scale > 1 and guider is None and start <= i < stop
            if guided != was_guided and getattr(unet, "is_cache_enabled", False):
                unet._reset_stateful_cache()  # before the first step, and where the batch is halved or doubled
            sample = scheduler.scale_model_input(latents, t)
            if condition is not None:
                sample = torch.cat([sample, condition], dim=1)
            if guider is None:
                branches = ["cond"] if not guided else ["uncond", "cond"] if self._split_guidance else ["all"]
                predictions = []
                for branch in branches:
                    with cache_context(unet, branch):
                        batched = torch.cat([sample] * 2) if branch == "all" else sample
                        predictions.append(predict(batched, t, *text_of(branch)))
                prediction = guide(torch.cat(predictions), channels, scale if guided else 1.0, keeps_variance)
            else:
                guider.set_state(step=i, num_inference_steps=len(timesteps), timestep=t)
                embeds = (prompt_embeds, negative_prompt_embeds)
                prediction = guide_by(guider, unet, partial(predict, sample, t), embeds, channels, keeps_variance)
            latents = self.step(scheduler, prediction, t, latents, generator, step_kwargs)
            # Both: clipping in a scheduler makes infinity look like a number. An accelerator's flags are read once,
            # after the loop: reading each would let it wait for the host at every step.
            finite.append(torch.isfinite(prediction).all() & torch.isfinite(latents).all())
            if latents.device.type == "cpu":
                self.check_finite(finite, timesteps, latents.dtype)

            if callback_on_step_end is not None:
                tensors = {
                    "latents": latents,
                    "prompt_embeds": prompt_embeds,
                    "negative_prompt_embeds": negative_prompt_embeds,
                }
                wanted = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
                changed = callback_on_step_end(self, i, t, wanted) or {}
                latents = changed.get("latents", latents)
                prompt_embeds = changed.get("prompt_embeds", prompt_embeds)
                negative_prompt_embeds = changed.get("negative_prompt_embeds", negative_prompt_embeds)
                texts.clear()  # the callback may have changed text, weights or adapters
            if progress is not None:
                progress.update()
        self.check_finite(finite, timesteps, latents.dtype)
        return latents

    def end_window(self, callback: WindowCallback | None, index: int, window: Tensor) -> None:
        """Calls `callback_on_window_end`, except for an interrupted window: that is none to take over."""
        if callback is not None and not self.interrupt:
            callback(self, index, window)

    def check_finite(self, finite: list[Tensor], timesteps: Tensor, dtype: torch.dtype) -> None:
        """Raises FloatingPointError, naming stage and step, for the first False in `finite`, one flag a step."""
        flags = torch.stack(finite).tolist() if finite else []
        if False not in flags:
            return
        step = flags.index(False)
        advice = (
            "bfloat16 and float32 reach further"
            if dtype == torch.float16
            else "its network's weights or its options are to blame"
        )
        raise FloatingPointError(
            f"stage {self.stage_name!r}: step {step + 1} of {len(timesteps)} (timestep {timesteps[step]}) made NaN or "
            f"infinity, in {dtype}: {advice}."
        )

    @staticmethod
    def step(
        scheduler: Any, prediction: Tensor, t: Tensor, latents: Tensor, generator: Generators, kwargs: dict[str, Any]
    ) -> Tensor:
        """One `scheduler.step` on folded frames. Of a list of generators, each draws the noise of its own video.

        diffusers takes one generator an image. Where that would not give the numbers that a video's generator draws
        for all of its frames together, the videos are stepped one after the other (by a scheduler with a memory of
        its steps they can't be: its videos are drawn frame by frame).
        """
        accepted = inspect.signature(scheduler.step).parameters
        kwargs = {name: value for name, value in kwargs.items() if name in accepted}
        batch, num_frames = latents.shape[0], latents.shape[2]

        def run(part: slice, draws_from: Generators) -> Tensor:
            extra = {"generator": draws_from} if "generator" in accepted else {}
            folded = scheduler.step(
                fold(prediction[part]), t, fold(latents[part]), **kwargs, **extra, return_dict=False
            )
            return unfold(folded[0], latents[part].shape[0])

        image_shape = (latents.shape[1], *latents.shape[3:])
        if isinstance(generator, list) and batch == 1:
            return run(slice(None), generator[0])
        if not isinstance(generator, list) or draws_split_evenly(generator, image_shape):
            return run(slice(None), per_frame(generator, num_frames))
        if hasattr(scheduler, "step_index") or "generator" not in accepted:
            return run(slice(None), per_frame(generator, num_frames))
        return torch.cat([run(slice(i, i + 1), generator[i]) for i in range(batch)])
