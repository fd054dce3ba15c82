# SPDX-License-Identifier: Apache-2.0
"""The denoising loop, the same in every stage.

Frames are folded into the batch for `scheduler.step`, so that dynamic thresholding works per frame, and step noise is
drawn as (b·f, c, h, w), as the released code has it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Tensor, nn

from .guidance import Predictor, guide, guide_by, guided_steps
from .latents import fold, unfold
from .noise import Generators, draws_split_evenly, per_frame
from .schedule import HIGHEST_START


class DenoisingMixin:
    """The properties that a diffusers pipeline shows during a call, and the denoising loop."""

    stage_name: str

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
        *,
        condition: Tensor | None = None,
        class_labels: Tensor | None = None,
        generator: Generators = None,
        unet: nn.Module | None = None,
        guidance_scale: float | None = None,
        progress: Any = None,
        eta: float | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        callback_on_step_end: Callable | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> Tensor:
        """Runs `scheduler` over `timesteps`, with guidance inside of the call's `guidance_interval`.

        Args:
            latents: noise (b, c, f, h, w), already scaled by `init_noise_sigma`.
            timesteps: falling.
            scheduler: a copy that only this loop uses.
            prompt_embeds: (b, l, d).
            negative_prompt_embeds: (b, l, d); drives guidance.
            condition: (b, c', f, h, w) behind the noisy channels at every step, for both guidance branches.
            class_labels: (b,) noise level of the condition.
            generator: for schedulers that draw noise in every step.
            unet: the stage's own by default; an image UNet gets the frames as a batch.
            guidance_scale: the call's by default, which a callback may change for the steps to come
                (`pipe._guidance_scale = ...`); the next loop begins with the call's again.
            progress: a progress bar to advance.
            eta: DDIM's noise.
            cross_attention_kwargs: `{"scale": ...}` for the network's adapters.
            callback_on_step_end: as for the call.
            callback_on_step_end_tensor_inputs: likewise.

        Returns:
            The denoised (b, c, f, h, w).

        Raises:
            FloatingPointError: a step gave NaN or infinity.
        """
        unet = self.unet if unet is None else unet
        channels = latents.shape[1]
        guider = self.guider if guidance_scale is None else None
        if guidance_scale is None:
            self._guidance_scale = self._call_guidance_scale
        start, stop = guided_steps(self._guidance_interval, len(timesteps))
        predict = Predictor(
            unet,
            prompt_embeds,
            negative_prompt_embeds,
            condition,
            class_labels,
            cross_attention_kwargs,
            channels=None if takes_variance(scheduler, unet.config.out_channels, channels) else channels,
        )
        self._num_timesteps, self._timesteps = len(timesteps), timesteps
        guided, finite = None, FiniteSteps(self.stage_name, timesteps, scheduler)
        for i, t in enumerate(timesteps):
            if self.interrupt:
                continue
            self._current_timestep = t
            scale = self.guidance_scale if guidance_scale is None else guidance_scale
            was_guided, guided = guided, scale > 1 and guider is None and start <= i < stop
            if guided != was_guided and getattr(unet, "is_cache_enabled", False):
                unet._reset_stateful_cache()  # before the first step, and where the batch is halved or doubled
            sample = scheduler.scale_model_input(latents, t)
            if guider is not None:
                guider.set_state(step=i, num_inference_steps=len(timesteps), timestep=t)
                prediction = guide_by(guider, predict, sample, t, channels)
            elif guided:
                unconditional, conditional = predict.both(sample, t, self._split_guidance)
                prediction = guide(unconditional, conditional, scale, channels)
            else:
                prediction = predict.conditional(sample, t)
            latents = step(scheduler, prediction, t, latents, generator, eta)
            finite.note(prediction, latents)
            if callback_on_step_end is not None:
                tensors = {"latents": latents, **predict.tensors}
                wanted = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
                changed = {**tensors, **(callback_on_step_end(self, i, t, wanted) or {})}
                latents = changed["latents"]
                # read anew: the callback may have changed text, weights or adapters
                predict.read(changed["prompt_embeds"], changed["negative_prompt_embeds"])
            if progress is not None:
                progress.update()
        finite.check(latents.dtype)
        return latents


def takes_variance(scheduler: Any, out_channels: int, channels: int) -> bool:
    """Whether the scheduler takes its variance from a network with twice the channels (DeepFloyd IF's)."""
    # A scheduler's config may carry a `variance_type` that it got from another scheduler and does not know.
    if "variance_type" not in inspect.signature(type(scheduler).__init__).parameters or out_channels != 2 * channels:
        return False
    return scheduler.config.variance_type in ("learned", "learned_range")


class FiniteSteps:
    """Watches a loop for NaN and infinity.

    Args:
        stage: its name, for the message.
        timesteps: of the loop.
        scheduler: of the loop.
    """

    def __init__(self, stage: str, timesteps: Tensor, scheduler: Any):
        self.stage, self.timesteps, self.scheduler = stage, timesteps, scheduler
        self._flags: list[Tensor] = []

    def note(self, prediction: Tensor, latents: Tensor) -> None:
        """Takes a step's tensors down, and on a CPU checks them at once."""
        # Both: clipping in a scheduler makes infinity look like a number. An accelerator's flags are read once, after
        # the loop: reading each would let it wait for the host at every step.
        self._flags.append(torch.isfinite(prediction).all() & torch.isfinite(latents).all())
        if latents.device.type == "cpu":
            self.check(latents.dtype)

    def check(self, dtype: torch.dtype) -> None:
        """Raises FloatingPointError, naming stage and step, for the first step that was not finite."""
        flags = torch.stack(self._flags).tolist() if self._flags else []
        if False not in flags:
            return
        step = flags.index(False)
        advice = "its network's weights or its options are to blame"
        name, start = type(self.scheduler).__name__, self.scheduler.init_noise_sigma
        if start > HIGHEST_START:
            advice = f"{name}, which starts at a noise of {start:.0f}, is to blame"
        elif dtype == torch.float16:
            advice = "bfloat16 and float32 reach further"
        raise FloatingPointError(
            f"stage {self.stage!r}: step {step + 1} of {len(self.timesteps)} (timestep {self.timesteps[step]}) made "
            f"NaN or infinity, in {dtype}: {advice}."
        )


def step(
    scheduler: Any, prediction: Tensor, t: Tensor, latents: Tensor, generator: Generators, eta: float | None = None
) -> Tensor:
    """One `scheduler.step` on folded frames. Of a list of generators, each draws the noise of its own video.

    diffusers takes one generator an image. Where that would not give the numbers that a video's generator draws for
    all of its frames together, the videos are stepped one after the other (by a scheduler with a memory of its steps
    they can't be: its videos are drawn frame by frame).
    """
    accepted = inspect.signature(scheduler.step).parameters
    kwargs = {"eta": eta} if eta is not None and "eta" in accepted else {}
    batch, num_frames = latents.shape[0], latents.shape[2]

    def run(part: slice, draws_from: Generators) -> Tensor:
        extra = {"generator": draws_from} if "generator" in accepted else {}
        folded = scheduler.step(fold(prediction[part]), t, fold(latents[part]), **kwargs, **extra, return_dict=False)
        return unfold(folded[0], latents[part].shape[0])

    image_shape = (latents.shape[1], *latents.shape[3:])
    if isinstance(generator, list) and batch == 1:
        return run(slice(None), generator[0])
    if not isinstance(generator, list) or draws_split_evenly(generator, image_shape):
        return run(slice(None), per_frame(generator, num_frames))
    if hasattr(scheduler, "step_index") or "generator" not in accepted:
        return run(slice(None), per_frame(generator, num_frames))
    return torch.cat([run(slice(i, i + 1), generator[i]) for i in range(batch)])
