# SPDX-License-Identifier: Apache-2.0
"""Stage 4: high resolution by refining in latents (paper section 3.6)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DiffusionPipeline
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.loaders import TextualInversionLoaderMixin
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.modeling_utils import ModelMixin
from diffusers.schedulers import KarrasDiffusionSchedulers
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer, PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from ...clips.arrays import resize_uint8, to_model_space, truncate_to_uint8
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
)
from ...sampling.guidance import cache_context
from ...sampling.latents import fold, unfold
from ...sampling.loop import DenoisingMixin, WindowCallback
from ...sampling.noise import Generators, draw_frames
from ...sampling.outputs import VideoPipelineOutput
from ...sampling.schedule import count_steps, fresh_scheduler, set_timesteps
from ...sampling.text import PromptMixin, check_prompts, text_width
from ...sampling.windows import overlapping_windows
from .interpolation import match_batch


class Show1RefinementPipeline(
    DenoisingMixin, PromptMixin, TextualInversionLoaderMixin, StageLoraMixin, SafetyMixin, DiffusionPipeline
):
    r"""Resizes a video and refines it in a VAE's latent space: SDEdit with an expert for the last 900 timesteps.

    Section 3.6 of the Show-1 paper: the video of the stage before, resized, is encoded, noised part of the way and
    denoised again with the same prompt, by a latent video UNet (from ModelScope) that was trained on timesteps 0-900
    only: the layout is there already, the detail is its whole task.

    Args:
        tokenizer: CLIP's. May be `None` when `prompt_embeds` are passed.
        text_encoder: CLIP. Likewise.
        unet (`Show1UNet3DConditionModel` or diffusers' `UNet3DConditionModel`): as many channels as the latents.
        vae (`AutoencoderKL`): applied frame by frame.
        scheduler: any of diffusers' schedulers for discrete timesteps.
        feature_extractor (`CLIPImageProcessor`, *optional*): prepares frames for the safety checker.
        safety_checker (`IFSafetyChecker`, *optional*): looks at every frame before it is returned.
    """

    stage_name = "refine"
    model_cpu_offload_seq = "text_encoder->unet->vae->safety_checker"
    _optional_components = ["tokenizer", "text_encoder", "feature_extractor", "safety_checker"]
    _mask_padding = False

    def __init__(
        self,
        tokenizer: CLIPTokenizer | None,
        text_encoder: CLIPTextModel | None,
        unet: ModelMixin,
        vae: AutoencoderKL,
        scheduler: KarrasDiffusionSchedulers,
        feature_extractor: BaseImageProcessor | None = None,
        safety_checker: PreTrainedModel | None = None,
    ):
        super().__init__()
        self.register_modules(
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            unet=unet,
            vae=vae,
            scheduler=scheduler,
            feature_extractor=feature_extractor,
            safety_checker=safety_checker,
        )
        self.vae_scale_factor = 2 ** (len(vae.config.block_out_channels) - 1) if vae is not None else 8

    @torch.no_grad()
    def __call__(
        self,
        frames: Any = None,
        prompt: str | list[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        strength: float = 0.8,
        num_inference_steps: int = 50,
        timesteps: list[int] | None = None,
        sigmas: list[float] | None = None,
        guidance_scale: float = 15.0,
        guidance_interval: Sequence[float] = (0.0, 1.0),
        split_guidance: bool = False,
        negative_prompt: str | list[str] | None = None,
        num_videos_per_prompt: int = 1,
        eta: float | None = None,
        generator: Generators = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        resize: str = "bilinear",
        window_size: int | None = 29,
        window_overlap: int = 8,
        vae_batch_size: int | None = 8,
        input_type: str | None = None,
        final_sigmas_type: str | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        cross_attention_kwargs: dict[str, Any] | None = None,
        callback_on_step_end: Callable | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: list[str] | None = None,
        callback_on_window_end: WindowCallback | None = None,
        finished_windows: Sequence[Tensor] = (),
    ) -> VideoPipelineOutput | tuple:
        r"""Refines.

        Args:
            frames: a video, one or one a prompt, any number of frames, in any form of `to_model_space`.
            prompt: one prompt or a list; not with `prompt_embeds`.
            height: of the result, a multiple of the VAE's factor (8 for the published one); by default the input's.
            width: likewise.
            strength: above 0 and at most 1: how far the video is noised. 0.8 of 50 steps starts at timestep 781 or
                so, inside the expert's 0-900.
            num_inference_steps: at least 1, of which `strength` times as many are run.
            timesteps: falling diffusion timesteps, to be used in place of `num_inference_steps`; the last `strength`
                part of them is run.
            sigmas: falling noise levels (sigma, 0 for none), likewise, for schedulers that take them, as
                `EulerDiscreteScheduler` does: one more than steps, the last is where the result is. As in diffusers'
                image-to-image pipelines, the last `strength` part of the steps is run, from the level it begins at.
            guidance_scale: at least 0; guidance is off up to 1.
            guidance_interval: (start, stop), fractions of the steps: the first int(start·steps) and those from
                int(stop·steps) on are not guided and cost half as much. 0 is the noisiest end, 1 the cleanest. A
                `guider` has a start and a stop of its own.
            split_guidance: the network takes the two branches of guidance one after the other, not as one batch: half
                the activations, the same result.
            negative_prompt: what guidance leads away from (`None`: the empty prompt).
            num_videos_per_prompt: at least 1; `frames` then holds one video for each of them, or one a prompt.
            eta: DDIM's noise, for schedulers that know it.
            generator: one generator for everything, or a list of one a video.
            latents: the noise (b, c, f, h/8, w/8) that goes over the encoded video, instead of drawn noise.
            prompt_embeds: (prompts, tokens, width) from `encode_prompt`.
            negative_prompt_embeds: likewise, of the negative prompts.
            resize: `"bilinear"` on the numbers as they are (the paper), or `"uint8_bicubic"`: cut to 8 bits and
                resized by Pillow (the released code).
            window_size: frames that the network sees at once, at least 2 (`None`: all). The published network refines
                29 frames, in one window; a longer video is denoised as a whole, in windows whose predictions are
                blended where they overlap, so that its length costs time and not memory.
            window_overlap: frames that two windows share at least, from 0 to `window_size` - 1.
            vae_batch_size: frames encoded and decoded at once (`None`: all); changes memory, not the result.
            input_type: `"pt"` or `"latent"` (a pixel stage's) where the layout of `frames` does not tell.
            final_sigmas_type: `"sigma_min"` for the last DPM-Solver++ step of the released code.
            output_type: `"pil"`, `"np"`, `"pt"`, or `"latent"` for the VAE's latents.
            return_dict: a `VideoPipelineOutput` rather than a tuple.
            cross_attention_kwargs: `{"scale": number}`, how much of its adapters (LoRA) the network uses.
            callback_on_step_end: called as `(pipe, step, timestep, tensors)` after each step.
            callback_on_step_end_tensor_inputs: which of `latents`, `prompt_embeds`, `negative_prompt_embeds` it gets.
            callback_on_window_end: called as `(pipe, 0, latents)` with the refined latents, (b, c, f, h/8, w/8),
                before they are decoded: the stage has one window.
            finished_windows: `[latents]`, as that callback got them in an earlier run of this call, only to decode.

        Returns:
            `VideoPipelineOutput` with as many frames as `frames`, of height x width, or a tuple.

        Raises:
            ValueError, TypeError: before any model runs, naming the argument, its value and what is allowed.
        """
        # 1. Check the arguments
        if callback_on_step_end_tensor_inputs is None:
            callback_on_step_end_tensor_inputs = getattr(callback_on_step_end, "tensor_inputs", ["latents"])
        if frames is None:
            raise ValueError("`frames` is required: the video to refine.")
        video = to_model_space(frames, input_type)
        batch, num_frames, height, width = self.check_inputs(
            video,
            prompt,
            negative_prompt,
            prompt_embeds,
            negative_prompt_embeds,
            height,
            width,
            strength,
            num_inference_steps,
            timesteps,
            sigmas,
            guidance_scale,
            guidance_interval,
            num_videos_per_prompt,
            generator,
            latents,
            resize,
            window_size,
            window_overlap,
            vae_batch_size,
            output_type,
            callback_on_step_end_tensor_inputs,
        )
        video = match_batch(video, batch // num_videos_per_prompt, num_videos_per_prompt)
        count = count_steps(self.scheduler, num_inference_steps, timesteps, sigmas)
        skipped = count - int(count * strength)
        size = (video.shape[2], height // self.vae_scale_factor, width // self.vae_scale_factor)
        check_windows(finished_windows, [(batch, self.vae.config.latent_channels, *size)])
        check_lora_scale(cross_attention_kwargs)
        self.check_safety_parts()
        self.begin(guidance_scale, guidance_interval, split_guidance)
        device = self._execution_device

        # 2. Encode the prompt
        prompt_embeds, negative_prompt_embeds = self.encode_prompt(
            prompt,
            negative_prompt,
            num_videos_per_prompt,
            self.do_classifier_free_guidance,
            device,
            prompt_embeds,
            negative_prompt_embeds,
        )

        noise = None if latents is None else fold(latents.to(prompt_embeds))
        if finished_windows:
            latents = finished_windows[0].to(device)
        else:
            # 3. Resize and encode the video
            latents = self.encode_video(video, generator, vae_batch_size, (height, width), resize)

            # 4. Noise it part of the way (SDEdit)
            scheduler = fresh_scheduler(self.scheduler, final_sigmas_type)
            steps = set_timesteps(scheduler, num_inference_steps, timesteps, sigmas, device)
            steps = steps[skipped * scheduler.order :]
            if hasattr(scheduler, "set_begin_index"):
                scheduler.set_begin_index(skipped * scheduler.order)
            noise = draw_frames(latents, generator) if noise is None else noise
            latents = unfold(scheduler.add_noise(fold(latents), noise, steps[:1]), batch)

            # 5. Denoise
            windows = overlapping_windows(num_frames, window_size or num_frames, window_overlap)
            with self.progress_bar(total=len(steps)) as progress:
                latents = self.denoise(
                    latents,
                    steps,
                    scheduler,
                    prompt_embeds,
                    negative_prompt_embeds,
                    generator=generator,
                    eta=eta,
                    cross_attention_kwargs=cross_attention_kwargs,
                    unet=self.unet if len(windows) == 1 else WindowedUNet(self.unet, windows),
                    progress=progress,
                    callback_on_step_end=callback_on_step_end,
                    callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
                )
            self.end_window(callback_on_window_end, 0, latents)

        # 6. Frames
        video = latents if output_type == "latent" else self.decode_latents(latents, vae_batch_size)
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
        strength: float,
        num_inference_steps: int,
        timesteps: list[int] | None,
        sigmas: list[float] | None,
        guidance_scale: float,
        guidance_interval: Sequence[float],
        num_videos_per_prompt: int,
        generator: Generators,
        latents: Tensor | None,
        resize: str,
        window_size: int | None,
        window_overlap: int,
        vae_batch_size: int | None,
        output_type: str,
        callback_on_step_end_tensor_inputs: list[str],
    ) -> tuple[int, int, int, int]:
        """Checks a call's arguments, `frames` in model space; returns the result's (batch, frames, height, width)."""
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
        check_number(strength, "strength", low=0, high=1, above=True)
        count = count_steps(self.scheduler, num_inference_steps, timesteps, sigmas)
        if int(count * strength) == 0:
            raise ValueError(
                f"`strength` must be at least {1 / count:.4g} to run one of {count} `num_inference_steps`, "
                f"got {strength!r}."
            )
        height = frames.shape[-2] if height is None else height
        width = frames.shape[-1] if width is None else width
        # an unknown UNet is asked for nothing beyond the VAE's factor: diffusers' own accepts odd sizes
        check_size(height, width, self.vae_scale_factor * getattr(self.unet, "size_divisor", 1))
        if resize not in ("bilinear", "uint8_bicubic"):
            raise ValueError(f"`resize` must be 'bilinear' or 'uint8_bicubic', got {resize!r}.")
        if window_size is not None:
            check_count(window_size, "window_size", low=2)
            check_count(window_overlap, "window_overlap", low=0, high=window_size - 1)
        if vae_batch_size is not None:
            check_count(vae_batch_size, "vae_batch_size", high=2**31 - 1)
        check_extent(batch, frames.shape[2], height, width)
        check_generator(generator, batch)
        size = (frames.shape[2], height // self.vae_scale_factor, width // self.vae_scale_factor)
        check_latents(latents, [(batch, self.vae.config.latent_channels, *size)])
        return batch, frames.shape[2], height, width

    @staticmethod
    def resize_video(video: Tensor, height: int, width: int, resize: str) -> Tensor:
        """Resizes a video in model space.

        Args:
            video: (b, 3, f, h, w).
            height: of the result, in pixels.
            width: likewise.
            resize: `"bilinear"` or `"uint8_bicubic"`, as for the call.

        Returns:
            (b, 3, f, height, width).
        """
        if resize == "uint8_bicubic":
            return to_model_space(resize_uint8(truncate_to_uint8(video), height, width))
        if video.shape[-2:] == (height, width):
            return video
        images = F.interpolate(fold(video), size=(height, width), mode="bilinear", align_corners=False, antialias=True)
        return unfold(images, video.shape[0])

    def encode_video(
        self,
        video: Tensor,
        generator: Generators = None,
        vae_batch_size: int | None = None,
        size: tuple[int, int] | None = None,
        resize: str = "bilinear",
    ) -> Tensor:
        """A sample of a video's latents, scaled for the UNet.

        The frames are resized on the way: the large video never exists as a whole.

        Args:
            video: (b, 3, f, h, w) in model space.
            generator: of the posterior sample; one generator, or a list of one a video.
            vae_batch_size: frames encoded at once (`None`: all).
            size: (height, width) of the frames that are encoded; by default the video's own.
            resize: `"bilinear"` or `"uint8_bicubic"`, as for the call.

        Returns:
            (b, c, f, height/8, width/8).
        """
        images = fold(video)
        height, width = size or video.shape[-2:]
        parameters = []
        for part in images.split(vae_batch_size or len(images)):
            part = self.resize_video(unfold(part, 1), height, width, resize)
            part = fold(part).to(self._execution_device, self.unet.dtype)
            # `vae.encode` runs through the offload hooks; moments of all frames are small: one draw serves any slicing
            parameters.append(self.vae.encode(part).latent_dist.parameters)
        posterior = DiagonalGaussianDistribution(torch.cat(parameters))
        mean = unfold(posterior.mean, video.shape[0])
        latents = mean + unfold(posterior.std * draw_frames(mean, generator), video.shape[0])
        return latents * self.vae.config.scaling_factor

    def decode_latents(self, latents: Tensor, vae_batch_size: int | None = None) -> Tensor:
        """Decodes latents, frame by frame.

        Args:
            latents: (b, c, f, h, w), scaled for the UNet.
            vae_batch_size: frames decoded at once (`None`: all).

        Returns:
            (b, 3, f, 8h, 8w) in model space.

        Raises:
            FloatingPointError: the VAE made NaN or infinity.
        """
        images = fold(latents) / self.vae.config.scaling_factor
        factor = self.vae_scale_factor
        height, width = images.shape[-2] * factor, images.shape[-1] * factor
        decoded = images.new_empty(len(images), self.vae.config.out_channels, height, width)
        size = vae_batch_size or len(images)
        for start in range(0, len(images), size):
            part = self.vae.decode(images[start : start + size]).sample
            if not torch.isfinite(part).all():
                raise FloatingPointError(f"stage 'refine': decoding made NaN or infinity, in {part.dtype}.")
            decoded[start : start + size] = part
        return unfold(decoded, latents.shape[0])


class WindowedUNet:
    """A video UNet that sees a long video in overlapping windows of frames; shared frames get a blend of predictions.

    MultiDiffusion (Bar-Tal et al. 2023) along time: every step predicts each window by itself, weighs the predictions
    by weights that rise from a window's ends to its middle, and steps the video as a whole.

    Args:
        unet: the video UNet.
        windows: (start, stop) frames, together all of the video.
    """

    def __init__(self, unet: nn.Module, windows: list[tuple[int, int]]):
        self.unet, self.windows, self.config = unet, windows, unet.config
        self.is_cache_enabled = getattr(unet, "is_cache_enabled", False)
        self._context = ""
        weights = torch.zeros(len(windows), windows[-1][1])
        for row, (start, stop) in zip(weights, windows, strict=True):
            rising = torch.arange(1, stop - start + 1)
            row[start:stop] = torch.minimum(rising, rising.flip(0))
        self.weights = weights / weights.sum(dim=0)  # a frame's weights add up to 1

    @contextmanager
    def cache_context(self, name: str) -> Iterator[None]:
        """As a network's own; within it each window has a context to itself."""
        self._context = name
        yield

    def text_cache(self) -> Any:
        """The network's own, if it has one: all windows read one text."""
        return self.unet.text_cache() if hasattr(self.unet, "text_cache") else None

    def _reset_stateful_cache(self) -> None:
        self.unet._reset_stateful_cache()

    def __call__(self, sample: Tensor, timestep: Any, return_dict: bool = False, **kwargs: Any) -> tuple[Tensor]:
        """As the UNet's own: sample (b, c, f, h, w) -> prediction (b, c', f, h, w) in a tuple."""
        self.weights = self.weights.to(sample.device)
        out: Tensor | None = None
        for (start, stop), weights in zip(self.windows, self.weights, strict=True):
            with cache_context(self.unet, f"{self._context}, frames {start}"):
                part = self.unet(sample[:, :, start:stop], timestep, return_dict=False, **kwargs)[0]
            if out is None:
                out = torch.zeros(*part.shape[:2], *sample.shape[2:], device=part.device)
            out[:, :, start:stop] += part * weights[start:stop, None, None]
        return (out.to(part.dtype),)
