# SPDX-License-Identifier: Apache-2.0
"""Stage 3: four times the height and width, in pixels (paper section 3.5)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.models.modeling_utils import ModelMixin
from diffusers.schedulers import DDPMScheduler, KarrasDiffusionSchedulers
from torch import Tensor
from transformers import PreTrainedModel, T5EncoderModel, T5Tokenizer
from transformers.image_processing_utils import BaseImageProcessor

from ...ladder.stage import StagePipeline, calls_of_loop, check_choice, check_frames, extent_of, match_batch
from ...sampling.call import Call, Extent
from ...sampling.checks import check_count, check_latents, check_number, check_size, size_divisor
from ...sampling.documented import documented
from ...sampling.latents import fold, unfold
from ...sampling.noise import Generators, draw, per_video, replay, spawn
from ...sampling.outputs import VideoPipelineOutput
from ...sampling.schedule import count_steps, initial_noise
from ...sampling.windows import WindowStore, chained_windows
from .first_frame import FirstFrameMixin


class Show1SuperResolutionPipeline(FirstFrameMixin, StagePipeline):
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
    shrink = "a smaller window_size than {window_size} needs less in proportion beside weights, and is another video"
    cleans_captions = True
    model_cpu_offload_seq = "text_encoder->first_frame_unet->unet->safety_checker"
    _optional_components = [*StagePipeline._optional_components, "first_frame_unet", "first_frame_scheduler"]

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
        super().__init__(tokenizer, text_encoder, unet, scheduler, feature_extractor, safety_checker)
        self.register_modules(
            image_noising_scheduler=image_noising_scheduler,
            first_frame_unet=first_frame_unet,
            first_frame_scheduler=first_frame_scheduler,
        )

    @torch.no_grad()
    @documented
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
        window_store: WindowStore | None = None,
    ) -> VideoPipelineOutput | tuple:
        r"""Upscales.

        Args:
            frames: low-resolution video, one or one a prompt, any number of frames, in any form of `to_model_space`.
            height: of the result, a multiple of 2^(blocks-1) (16 for the published network); by default four times
                the input's.
            width: likewise.
            num_inference_steps: of each window, at least 1, at most the scheduler's training timesteps.
            noise_level: 0 to 999, the timestep of the condition's noise. More hides more artefacts of the stage before
                and keeps less of its structure.
            latents: initial noise (b, 3, f, h, w) instead of drawn noise: each window takes that of its frames.
            first_frame: frame 0 at full resolution, as a video of one frame in any form of `to_model_space`.
            condition_frames: a video of the full size to condition on instead of the upscaled `frames`.
            first_frame_num_inference_steps: the image model's steps, at least 1; `guidance_interval` holds for it too.
            first_frame_guidance_scale: the image model's, at least 0.
            first_frame_noise_level: of the image model's condition, 0 to 999.
            window_size: frames denoised at once, at least 2. A window begins with the last frame of the one before.

        Returns:
            `VideoPipelineOutput` with as many frames as `frames`, of height x width, or a tuple.
        """
        # 1. Check the arguments
        call = Call(locals())
        check_frames(frames, "the low-resolution video")
        low = self.take(frames, input_type)
        batch, (num_frames, height, width) = self.check_inputs(call, extent_of(low))
        low = match_batch(low, batch, num_videos_per_prompt)
        first_frame, condition_frames = call.first_frame, call.condition_frames
        windows = chained_windows(num_frames, window_size)
        finished = self.finished_windows(call, [(batch, 3, stop - start, height, width) for start, stop in windows])
        self.begin(guidance_scale, guidance_interval, split_guidance)

        # 2. Encode the prompt
        embeds = self.encode(call)
        like = embeds[0]

        # 3. The windows' random numbers and conditions
        makes_first_frame = first_frame is None and self.first_frame_unet is not None
        image_generator, generators = self._window_generators(
            generator, batch, len(windows), window_noise, makes_first_frame
        )
        low = low.to(like)
        if condition_frames is None:
            condition_frames = unfold(self.upsample(fold(low), height, width), batch)
        condition_frames = condition_frames.to(like)

        # 4. The first frame, by the image model
        if makes_first_frame and not finished:
            first_frame = self.upscale_first_frame(
                low[:, :, :1],
                height,
                width,
                *embeds,
                num_inference_steps=first_frame_num_inference_steps,
                guidance_scale=first_frame_guidance_scale,
                noise_level=first_frame_noise_level,
                generator=image_generator,
                final_sigmas_type=final_sigmas_type,
            )

        # 5. Denoise window by window, each led by the last frame of the one before
        video = torch.empty(batch, 3, num_frames, height, width, device=like.device, dtype=like.dtype)
        for (start, stop), window in zip(windows, finished, strict=False):
            video[:, :, start:stop] = window
            first_frame = video[:, :, stop - 1 : stop].clone()
        remaining = list(enumerate(zip(windows, generators, strict=True)))[len(finished) :]
        with self.progress_bar(total=count_steps(self.scheduler, *call.schedule) * len(remaining)) as progress:
            for index, ((start, stop), window_generator) in remaining:
                scheduler, steps = self.schedule(call)
                shape = (batch, 3, stop - start, height, width)
                noise = draw(shape, window_generator, like) if latents is None else latents[:, :, start:stop].to(like)
                upscaled = condition_frames[:, :, start:stop]
                window = self.denoise(
                    initial_noise(noise, scheduler),
                    steps,
                    scheduler,
                    *embeds,
                    condition=self.prepare_condition(upscaled, first_frame, noise_level, window_generator),
                    class_labels=torch.full((batch,), noise_level, device=like.device),
                    generator=window_generator,
                    progress=progress,
                    **call.loop,
                )
                video[:, :, start:stop] = window  # the shared frame is taken from the later window
                first_frame = window[:, :, -1:]
                self.end_window(call, index, window)

        # 6. Frames
        return self.finish(video, call)

    def check_options(self, call: Call, batch: int, given: Extent | None) -> Extent:
        extent = self.extent(call, given)
        check_size(extent.height, extent.width, size_divisor(self.unet))
        last = self.image_noising_scheduler.config.num_train_timesteps - 1
        check_count(call.noise_level, "noise_level", low=0, high=last)
        check_count(call.first_frame_num_inference_steps, "first_frame_num_inference_steps")
        check_number(call.first_frame_guidance_scale, "first_frame_guidance_scale", low=0)
        check_count(call.first_frame_noise_level, "first_frame_noise_level", low=0, high=last)
        check_count(call.window_size, "window_size", low=2)
        check_choice(call.window_noise, ("independent", "same"), "window_noise")
        if self.first_frame_unet is not None and self.first_frame_scheduler is None:
            raise ValueError("`first_frame_scheduler` is required: this pipeline has a `first_frame_unet`.")
        return extent

    def check_drawn(self, call: Call, batch: int, extent: Extent, given: Extent | None) -> None:
        check_latents(call.latents, [(batch, 3, *extent)])
        for name, count in (("first_frame", 1), ("condition_frames", extent.frames)):
            video = getattr(call, name)
            if video is None:
                continue
            # `input_type` says how to read tensors; images and arrays may stand beside them
            video = self.take(video, call.input_type if isinstance(video, Tensor) else None, name)
            if video.shape[2:] != (count, *extent[1:]) or video.shape[0] not in (1, batch):
                raise ValueError(
                    f"`{name}` must hold 1 or {batch} videos of {count} frame(s) of {extent.height}x{extent.width}, "
                    f"got {video.shape[0]} of {video.shape[2]} of {video.shape[3]}x{video.shape[4]}."
                )
            setattr(call, name, video.expand(batch, -1, -1, -1, -1))

    @classmethod
    def extent(cls, call: Any, given: Extent | None) -> Extent:
        sides = (given.height, call.height), (given.width, call.width)
        return Extent(given.frames, *(4 * side if own is None and side else own for side, own in sides))

    @classmethod
    def windows(cls, call: Any, given: Extent | None) -> int:
        return len(chained_windows(given.frames, call.window_size))

    @classmethod
    def network_calls(cls, call: Any, given: Extent | None, parts: Collection[str] = ()) -> int:
        calls = super().network_calls(call, given, parts)
        if "first_frame_unet" not in parts:
            return calls
        return calls + calls_of_loop(call.first_frame_num_inference_steps, call.first_frame_guidance_scale, call)

    def needs_negative(self, call: Call) -> bool:
        image_model = self.first_frame_unet is not None and call.first_frame is None
        return super().needs_negative(call) or (image_model and call.first_frame_guidance_scale > 1)

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
