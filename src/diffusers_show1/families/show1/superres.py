# SPDX-License-Identifier: Apache-2.0
"""Stage 3: four times the height and width, in pixels (paper section 3.5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.models.modeling_utils import ModelMixin
from diffusers.schedulers import DDPMScheduler, KarrasDiffusionSchedulers
from torch import Tensor
from transformers import PreTrainedModel, T5EncoderModel, T5Tokenizer
from transformers.image_processing_utils import BaseImageProcessor

from ...clips.arrays import to_model_space
from ...ladder.lora import StageLoraMixin, check_lora_scale
from ...ladder.safety import SafetyMixin
from ...sampling.checks import (
    check_count,
    check_extent,
    check_generator,
    check_latents,
    check_number,
    check_size,
    check_windows,
    size_divisor,
)
from ...sampling.latents import fold, unfold
from ...sampling.loop import DenoisingMixin, WindowCallback
from ...sampling.noise import Generators, draw, per_video, replay, spawn
from ...sampling.outputs import VideoPipelineOutput
from ...sampling.schedule import count_steps, fresh_scheduler, set_timesteps
from ...sampling.text import PromptMixin, check_prompts, text_width
from ...sampling.windows import chained_windows
from .interpolation import match_batch


class Show1SuperResolutionPipeline(DenoisingMixin, PromptMixin, StageLoraMixin, SafetyMixin, DiffusionPipeline):
    r"""Upscales a low-resolution video in pixels, window by window, each window chained to the one before.

    Section 3.5 of the Show-1 paper. The network sees the bilinearly upscaled video in three extra channels, with noise
    of a level that it is told as class label. A long video is cut into windows of eight frames that share a frame: the
    condition of a window's first frame is the last frame of the window before, at full resolution and without noise.
    For the first window that frame comes from `first_frame`, or from an image super-resolution model (DeepFloyd IF-II)
    when the pipeline has one, or else the window starts like any other frame.

    Args:
        tokenizer: T5's. May be `None` when `prompt_embeds` are passed.
        text_encoder: T5. Likewise.
        unet (`Show1UNet3DConditionModel`): 6 input channels; 3 output channels, or 6 with a predicted variance.
        scheduler: any of diffusers' schedulers for discrete timesteps.
        image_noising_scheduler (`DDPMScheduler`): the schedule of the condition's noise.
        first_frame_unet (`UNet2DConditionModel`, *optional*): an image super-resolution model for frame 0.
        first_frame_scheduler (*optional*): its scheduler.
        feature_extractor: prepares frames for the safety checker, and is unused without one; part of the published
            repository.
        safety_checker (`IFSafetyChecker`, *optional*): looks at every frame before it is returned.
    """

    stage_name = "superres"
    model_cpu_offload_seq = "text_encoder->first_frame_unet->unet->safety_checker"
    _optional_components = [
        "tokenizer",
        "text_encoder",
        "first_frame_unet",
        "first_frame_scheduler",
        "feature_extractor",
        "safety_checker",
    ]

    def __init__(
        self,
        tokenizer: T5Tokenizer | None,
        text_encoder: T5EncoderModel | None,
        unet: ModelMixin,
        scheduler: KarrasDiffusionSchedulers,
        image_noising_scheduler: DDPMScheduler,
        first_frame_unet: ModelMixin | None = None,
        first_frame_scheduler: KarrasDiffusionSchedulers | None = None,
        feature_extractor: BaseImageProcessor | None = None,
        safety_checker: PreTrainedModel | None = None,
    ):
        super().__init__()
        self.register_modules(
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            unet=unet,
            scheduler=scheduler,
            image_noising_scheduler=image_noising_scheduler,
            first_frame_unet=first_frame_unet,
            first_frame_scheduler=first_frame_scheduler,
            feature_extractor=feature_extractor,
            safety_checker=safety_checker,
        )

    @torch.no_grad()
    def __call__(
        self,
        frames: Any = None,
        prompt: str | list[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 125,
        timesteps: list[int] | None = None,
        sigmas: list[float] | None = None,
        guidance_scale: float = 7.0,
        guidance_interval: Sequence[float] = (0.0, 1.0),
        split_guidance: bool = False,
        noise_level: int = 250,
        negative_prompt: str | list[str] | None = None,
        num_videos_per_prompt: int = 1,
        eta: float | None = None,
        generator: Generators = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        first_frame: Any = None,
        condition_frames: Any = None,
        first_frame_num_inference_steps: int = 70,
        first_frame_guidance_scale: float = 4.0,
        first_frame_noise_level: int = 150,
        window_size: int = 8,
        window_noise: str = "independent",
        input_type: str | None = None,
        clean_caption: bool = True,
        final_sigmas_type: str | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        cross_attention_kwargs: dict[str, Any] | None = None,
        callback_on_step_end: Callable | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: list[str] | None = None,
        callback_on_window_end: WindowCallback | None = None,
        finished_windows: Sequence[Tensor] = (),
    ) -> VideoPipelineOutput | tuple:
        r"""Upscales.

        Args:
            frames: low-resolution video, one or one a prompt, any number of frames, in any form of `to_model_space`.
            prompt: one prompt or a list; not with `prompt_embeds`.
            height: of the result, a multiple of 2^(blocks-1) (16 for the published network); by default four times
                the input's.
            width: likewise.
            num_inference_steps: of each window, at least 1, at most the scheduler's training timesteps.
            timesteps: falling diffusion timesteps, to be used in place of `num_inference_steps`.
            sigmas: falling noise levels (sigma, 0 for none), likewise, for schedulers that take them, as
                `EulerDiscreteScheduler` does: one more than steps, the last is where the result is.
            guidance_scale: at least 0; guidance is off up to 1.
            guidance_interval: (start, stop), fractions of the steps: the first int(start·steps) and those from
                int(stop·steps) on are not guided and cost half as much. 0 is the noisiest end, 1 the cleanest. A
                `guider` has a start and a stop of its own. It holds for the image model as well.
            split_guidance: the network takes the two branches of guidance one after the other, not as one batch: half
                the activations, the same result.
            noise_level: 0 to 999, the timestep of the condition's noise. More hides more artefacts of the stage before
                and keeps less of its structure.
            negative_prompt: what guidance leads away from (`None`: the empty prompt).
            num_videos_per_prompt: at least 1; `frames` then holds one video for each of them, or one a prompt.
            eta: DDIM's noise, for schedulers that know it.
            generator: one generator for everything, or a list of one a video.
            latents: initial noise (b, 3, f, h, w) instead of drawn noise: each window takes that of its frames.
            prompt_embeds: (prompts, tokens, width) from `encode_prompt`.
            negative_prompt_embeds: likewise, of the negative prompts.
            first_frame: frame 0 at full resolution, as a video of one frame in any form of `to_model_space`.
            condition_frames: a video of the full size to condition on instead of the upscaled `frames`.
            first_frame_num_inference_steps: the image model's steps, at least 1.
            first_frame_guidance_scale: the image model's, at least 0.
            first_frame_noise_level: of the image model's condition, 0 to 999.
            window_size: frames denoised at once, at least 2.
            window_noise: `"independent"`: every window has noise of its own. `"same"`: all windows have the same, as
                in the released code.
            input_type: `"pt"` or `"latent"` where the layout of a tensor does not tell.
            clean_caption: DeepFloyd IF's caption cleaning before encoding.
            final_sigmas_type: `"sigma_min"` for the last DPM-Solver++ step of the released code.
            output_type: `"pil"`, `"np"`, `"pt"` or `"latent"`, see `VideoPipelineOutput`.
            return_dict: a `VideoPipelineOutput` rather than a tuple.
            cross_attention_kwargs: `{"scale": number}`, how much of its adapters (LoRA) the network uses.
            callback_on_step_end: called as `(pipe, step, timestep, tensors)` after each step; `latents` holds one
                window.
            callback_on_step_end_tensor_inputs: which of `latents`, `prompt_embeds`, `negative_prompt_embeds` it gets.
            callback_on_window_end: called as `(pipe, index, window)` after each window, (b, 3, f, height, width) in
                model space; a window begins with the last frame of the one before.
            finished_windows: the first of these windows, in order, as that callback got them in an earlier run of this
                call: the rest is denoised, with the result of an undisturbed run bit for bit.

        Returns:
            `VideoPipelineOutput` with as many frames as `frames`, of height x width, or a tuple.

        Raises:
            ValueError, TypeError: before any model runs, naming the argument, its value and what is allowed.
        """
        # 1. Check the arguments
        if callback_on_step_end_tensor_inputs is None:
            callback_on_step_end_tensor_inputs = getattr(callback_on_step_end, "tensor_inputs", ["latents"])
        if frames is None:
            raise ValueError("`frames` is required: the low-resolution video.")
        low = to_model_space(frames, input_type)
        if first_frame is not None:
            first_frame = to_model_space(first_frame, _tensor_type(first_frame, input_type), "first_frame")
        if condition_frames is not None:
            condition_frames = to_model_space(
                condition_frames, _tensor_type(condition_frames, input_type), "condition_frames"
            )
        batch, num_frames, height, width = self.check_inputs(
            low,
            prompt,
            negative_prompt,
            prompt_embeds,
            negative_prompt_embeds,
            height,
            width,
            num_inference_steps,
            timesteps,
            sigmas,
            guidance_scale,
            guidance_interval,
            noise_level,
            num_videos_per_prompt,
            generator,
            latents,
            first_frame,
            condition_frames,
            first_frame_num_inference_steps,
            first_frame_guidance_scale,
            first_frame_noise_level,
            window_size,
            window_noise,
            output_type,
            callback_on_step_end_tensor_inputs,
        )
        low = match_batch(low, batch // num_videos_per_prompt, num_videos_per_prompt)
        if first_frame is not None:
            first_frame = first_frame.expand(batch, -1, -1, -1, -1)
        if condition_frames is not None:
            condition_frames = condition_frames.expand(batch, -1, -1, -1, -1)
        windows = chained_windows(num_frames, window_size)
        check_windows(finished_windows, [(batch, 3, stop - start, height, width) for start, stop in windows])
        check_lora_scale(cross_attention_kwargs)
        self.check_safety_parts()
        self.begin(guidance_scale, guidance_interval, split_guidance)
        device = self._execution_device

        # 2. Encode the prompt
        makes_first_frame = first_frame is None and self.first_frame_unet is not None
        prompt_embeds, negative_prompt_embeds = self.encode_prompt(
            prompt,
            negative_prompt,
            num_videos_per_prompt,
            self.do_classifier_free_guidance or (makes_first_frame and first_frame_guidance_scale > 1),
            device,
            prompt_embeds,
            negative_prompt_embeds,
            clean_caption,
        )
        embeds = {"prompt_embeds": prompt_embeds, "negative_prompt_embeds": negative_prompt_embeds}

        # 3. The windows' random numbers and conditions
        image_generator, generators = self._window_generators(
            generator, batch, len(windows), window_noise, makes_first_frame
        )
        low = low.to(prompt_embeds)
        if condition_frames is None:
            condition_frames = unfold(self.upsample(fold(low), height, width), batch)
        condition_frames = condition_frames.to(prompt_embeds)

        # 4. The first frame, by the image model
        if makes_first_frame and not finished_windows:
            first_frame = self.upscale_first_frame(
                low[:, :, :1],
                height,
                width,
                num_inference_steps=first_frame_num_inference_steps,
                guidance_scale=first_frame_guidance_scale,
                noise_level=first_frame_noise_level,
                generator=image_generator,
                final_sigmas_type=final_sigmas_type,
                **embeds,
            )

        # 5. Denoise window by window, each led by the last frame of the one before
        count = count_steps(self.scheduler, num_inference_steps, timesteps, sigmas)
        video = torch.empty(batch, 3, num_frames, height, width, device=device, dtype=prompt_embeds.dtype)
        for (start, stop), window in zip(windows, finished_windows, strict=False):
            video[:, :, start:stop] = window
            first_frame = video[:, :, stop - 1 : stop].clone()
        remaining = list(enumerate(zip(windows, generators, strict=True)))[len(finished_windows) :]
        with self.progress_bar(total=count * len(remaining)) as progress:
            for index, ((start, stop), window_generator) in remaining:
                scheduler = fresh_scheduler(self.scheduler, final_sigmas_type)
                steps = set_timesteps(scheduler, num_inference_steps, timesteps, sigmas, device)
                shape = (batch, 3, stop - start, height, width)
                if latents is None:
                    noise = draw(shape, window_generator, like=prompt_embeds)
                else:
                    noise = latents[:, :, start:stop].to(prompt_embeds)
                condition = self.prepare_condition(
                    condition_frames[:, :, start:stop], first_frame, noise_level, window_generator
                )
                window = self.denoise(
                    noise * scheduler.init_noise_sigma,
                    steps,
                    scheduler,
                    **embeds,
                    condition=condition,
                    class_labels=torch.full((batch,), noise_level, device=device),
                    generator=window_generator,
                    eta=eta,
                    cross_attention_kwargs=cross_attention_kwargs,
                    progress=progress,
                    callback_on_step_end=callback_on_step_end,
                    callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
                )
                video[:, :, start:stop] = window  # the shared frame is taken from the later window
                first_frame = window[:, :, -1:]
                self.end_window(callback_on_window_end, index, window)

        # 6. Frames
        output = self.to_output(video, output_type)
        self.maybe_free_model_hooks()
        return output if return_dict else output.to_tuple()

    def check_inputs(
        self,
        frames: Tensor,
        prompt: str | list[str] | None,
        negative_prompt: str | list[str] | None,
        prompt_embeds: Tensor | None,
        negative_prompt_embeds: Tensor | None,
        height: int | None,
        width: int | None,
        num_inference_steps: int | None,
        timesteps: list[int] | None,
        sigmas: list[float] | None,
        guidance_scale: float,
        guidance_interval: Sequence[float],
        noise_level: int,
        num_videos_per_prompt: int,
        generator: Generators,
        latents: Tensor | None,
        first_frame: Tensor | None,
        condition_frames: Tensor | None,
        first_frame_num_inference_steps: int,
        first_frame_guidance_scale: float,
        first_frame_noise_level: int,
        window_size: int,
        window_noise: str,
        output_type: str,
        callback_on_step_end_tensor_inputs: list[str],
    ) -> tuple[int, int, int, int]:
        """Checks a call's arguments, videos in model space; returns the result's (batch, frames, height, width)."""
        prompts = check_prompts(prompt, negative_prompt, prompt_embeds, negative_prompt_embeds, text_width(self.unet))
        self.check_sampling(
            num_inference_steps,
            timesteps,
            sigmas,
            guidance_scale,
            guidance_interval,
            num_videos_per_prompt,
            output_type,
            callback_on_step_end_tensor_inputs,
        )
        batch = prompts * num_videos_per_prompt
        match_batch(frames, prompts, num_videos_per_prompt)
        num_frames = frames.shape[2]
        height = 4 * frames.shape[-2] if height is None else height
        width = 4 * frames.shape[-1] if width is None else width
        check_size(height, width, size_divisor(self.unet))
        last = self.image_noising_scheduler.config.num_train_timesteps - 1
        check_count(noise_level, "noise_level", low=0, high=last)
        check_count(first_frame_num_inference_steps, "first_frame_num_inference_steps")
        check_number(first_frame_guidance_scale, "first_frame_guidance_scale", low=0)
        check_count(first_frame_noise_level, "first_frame_noise_level", low=0, high=last)
        check_count(window_size, "window_size", low=2)
        if window_noise not in ("independent", "same"):
            raise ValueError(f"`window_noise` must be 'independent' or 'same', got {window_noise!r}.")
        if self.first_frame_unet is not None and self.first_frame_scheduler is None:
            raise ValueError("`first_frame_scheduler` is required: this pipeline has a `first_frame_unet`.")
        check_extent(batch, num_frames, height, width)
        check_generator(generator, batch)
        check_latents(latents, [(batch, 3, num_frames, height, width)])
        for name, video, count in (
            ("first_frame", first_frame, 1),
            ("condition_frames", condition_frames, num_frames),
        ):
            if video is None:
                continue
            if video.shape[2:] != (count, height, width) or video.shape[0] not in (1, batch):
                raise ValueError(
                    f"`{name}` must hold 1 or {batch} videos of {count} frame(s) of {height}x{width}, got "
                    f"{video.shape[0]} of {video.shape[2]} of {video.shape[3]}x{video.shape[4]}."
                )
        return batch, num_frames, height, width

    def prepare_condition(
        self, upscaled: Tensor, first_frame: Tensor | None, noise_level: int, generator: Generators
    ) -> Tensor:
        """The condition of a window: the upscaled frames with noise, and a clean frame 0 if there is one.

        Args:
            upscaled: (b, 3, f, height, width) in model space.
            first_frame: (b, 3, 1, height, width), or `None`.
            noise_level: 0 to 999, a timestep of `image_noising_scheduler`.
            generator: one generator, or a list of one a video.

        Returns:
            (b, 3, f, height, width).
        """
        noise = draw(tuple(upscaled.shape), generator, like=upscaled)
        levels = torch.full((upscaled.shape[0],), noise_level, device=upscaled.device)
        condition = self.image_noising_scheduler.add_noise(upscaled, noise, levels)
        if first_frame is not None:
            condition[:, :, :1] = first_frame.to(condition)
        return condition

    @torch.no_grad()
    def upscale_first_frame(
        self,
        frame: Tensor,
        height: int,
        width: int,
        prompt_embeds: Tensor,
        negative_prompt_embeds: Tensor | None = None,
        num_inference_steps: int = 70,
        guidance_scale: float = 4.0,
        noise_level: int = 150,
        generator: Generators = None,
        final_sigmas_type: str | None = None,
    ) -> Tensor:
        """Enlarges a frame by the image super-resolution model.

        The same procedure as for a window, on a video of one frame and with DeepFloyd IF-II's image UNet.

        Args:
            frame: (b, 3, 1, h, w) in model space.
            height: of the result, in pixels.
            width: likewise.
            prompt_embeds: (b, tokens, width).
            negative_prompt_embeds: likewise; needed with guidance.
            num_inference_steps: at least 1.
            guidance_scale: at least 0; guidance is off up to 1.
            noise_level: of the condition, 0 to 999.
            generator: one generator, or a list of one a video.
            final_sigmas_type: as for the call.

        Returns:
            (b, 3, 1, height, width) in model space.
        """
        device = prompt_embeds.device
        batch = frame.shape[0]
        if not hasattr(self, "_interrupt"):
            self.begin(guidance_scale)
        scheduler = fresh_scheduler(self.first_frame_scheduler, final_sigmas_type)
        steps = set_timesteps(scheduler, num_inference_steps, None, None, device)
        noise = draw((batch, 3, 1, height, width), generator, like=prompt_embeds)
        upscaled = unfold(self.upsample(fold(frame.to(prompt_embeds)), height, width), batch)
        condition = self.prepare_condition(upscaled, None, noise_level, generator)
        with self.progress_bar(total=len(steps)) as progress:
            return self.denoise(
                noise * scheduler.init_noise_sigma,
                steps,
                scheduler,
                prompt_embeds,
                negative_prompt_embeds,
                condition=condition,
                class_labels=torch.full((batch,), noise_level, device=device),
                generator=generator,
                unet=self.first_frame_unet,
                guidance_scale=guidance_scale,
                progress=progress,
            )

    @staticmethod
    def upsample(images: Tensor, height: int, width: int) -> Tensor:
        """Enlarges, bilinearly and with aligned corners.

        Args:
            images: (n, 3, h, w).
            height: of the result, in pixels.
            width: likewise.

        Returns:
            (n, 3, height, width).
        """
        return F.interpolate(images, size=(height, width), mode="bilinear", align_corners=True)

    @staticmethod
    def _window_generators(
        generator: Generators, batch: int, windows: int, window_noise: str, makes_first_frame: bool
    ) -> tuple[Generators, list[Generators]]:
        """For the image model, and for each window."""
        runs = windows + makes_first_frame
        if runs == 1:
            return None, [generator]
        videos = per_video(generator, batch)
        if window_noise == "same":  # the released code seeds anew for every call
            # a single video's generator draws a window's frames together, as the released code does
            copies = [[replay(g) for g in videos] for _ in range(runs)]
            per_run: list[Generators] = [run[0] if batch == 1 else run for run in copies]
        else:
            spawned = [spawn(g, runs) for g in videos]
            per_run = [[video[i] for video in spawned] for i in range(runs)]
        return (per_run[0], per_run[1:]) if makes_first_frame else (None, per_run)


def _tensor_type(video: Any, input_type: str | None) -> str | None:
    """`input_type` says how to read tensors; images and arrays may stand beside them."""
    return input_type if isinstance(video, Tensor) else None
