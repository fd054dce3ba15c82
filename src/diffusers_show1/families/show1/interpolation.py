# SPDX-License-Identifier: Apache-2.0
"""Stage 2: keyframes -> all frames, in pixels (paper section 3.4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.models.modeling_utils import ModelMixin
from diffusers.schedulers import KarrasDiffusionSchedulers
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
    check_size,
    check_windows,
    size_divisor,
)
from ...sampling.loop import DenoisingMixin, WindowCallback
from ...sampling.noise import Generators, draw, per_video, replay, spawn
from ...sampling.outputs import VideoPipelineOutput
from ...sampling.schedule import count_steps, fresh_scheduler, set_timesteps
from ...sampling.text import PromptMixin, check_prompts, text_width
from ...sampling.windows import interpolated_length


class Show1InterpolationPipeline(DenoisingMixin, PromptMixin, StageLoraMixin, SafetyMixin, DiffusionPipeline):
    r"""Puts three new frames between each two keyframes: n keyframes become 4(n-1)+1 frames.

    Section 3.4 of the Show-1 paper. Each pair of neighbours is one window of five frames. The network's input has four
    channels beside the noisy video: the condition (the two keyframes and, between them, their linear blend, which is
    what the released code feeds where the paper says zeros) and a mask that is 1 on the two known frames (Eq. 6).

    Args:
        tokenizer: T5's. May be `None` when `prompt_embeds` are passed.
        text_encoder: T5. Likewise.
        unet (`Show1UNet3DConditionModel`): 7 input channels; 3 output channels, or 6 with a predicted variance.
        scheduler: any of diffusers' schedulers for discrete timesteps.
        feature_extractor: prepares frames for the safety checker, and is unused without one; part of the published
            repository.
        safety_checker (`IFSafetyChecker`, *optional*): looks at every frame before it is returned.
    """

    stage_name = "interpolation"
    model_cpu_offload_seq = "text_encoder->unet->safety_checker"
    _optional_components = ["tokenizer", "text_encoder", "feature_extractor", "safety_checker"]

    def __init__(
        self,
        tokenizer: T5Tokenizer | None,
        text_encoder: T5EncoderModel | None,
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

    @torch.no_grad()
    def __call__(
        self,
        frames: Any = None,
        prompt: str | list[str] | None = None,
        num_inference_steps: int = 75,
        timesteps: list[int] | None = None,
        sigmas: list[float] | None = None,
        guidance_scale: float = 4.0,
        guidance_interval: Sequence[float] = (0.0, 1.0),
        split_guidance: bool = False,
        negative_prompt: str | list[str] | None = None,
        num_videos_per_prompt: int = 1,
        eta: float | None = None,
        generator: Generators = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        frames_between: int = 3,
        window_noise: str = "independent",
        window_batch_size: int | None = 8,
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
        r"""Interpolates.

        Args:
            frames: keyframes, at least 2, one video or one a prompt, in any form of `to_model_space`.
            prompt: one prompt or a list; not with `prompt_embeds`.
            num_inference_steps: at least 1, at most the scheduler's training timesteps.
            timesteps: falling diffusion timesteps, to be used in place of `num_inference_steps`.
            sigmas: falling noise levels (sigma, 0 for none), likewise, for schedulers that take them, as
                `EulerDiscreteScheduler` does: one more than steps, the last is where the result is.
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
            latents: initial noise instead of drawn noise, (b, 3, frames_between+2, h, w) for every window alike, or
                (b·windows, 3, ...), one row a window.
            prompt_embeds: (prompts, tokens, width) from `encode_prompt`.
            negative_prompt_embeds: likewise, of the negative prompts.
            frames_between: new frames between two keyframes; the published network was trained at 3.
            window_noise: `"independent"`: every window has noise of its own. `"same"`: all windows have the same, as
                in the released code.
            window_batch_size: windows denoised at once, at most (`None`: all); changes memory, not the result. 29
                frames are seven windows.
            input_type: `"pt"` or `"latent"` where the layout of `frames` does not tell.
            clean_caption: DeepFloyd IF's caption cleaning before encoding.
            final_sigmas_type: `"sigma_min"` for the last DPM-Solver++ step of the released code.
            output_type: `"pil"`, `"np"`, `"pt"` or `"latent"`, see `VideoPipelineOutput`.
            return_dict: a `VideoPipelineOutput` rather than a tuple.
            cross_attention_kwargs: `{"scale": number}`, how much of its adapters (LoRA) the network uses.
            callback_on_step_end: called as `(pipe, step, timestep, tensors)` after each step; `latents` holds the
                windows of one batch of windows.
            callback_on_step_end_tensor_inputs: which of `latents`, `prompt_embeds`, `negative_prompt_embeds` it gets.
            callback_on_window_end: called as `(pipe, index, windows)` after each batch of windows (one window with
                `window_batch_size=1`), (rows, 3, frames_between+2, h, w) in model space.
            finished_windows: the first of these batches, in order, as that callback got them in an earlier run of
                this call: the rest is denoised, with the result of an undisturbed run bit for bit.

        Returns:
            `VideoPipelineOutput` with (frames_between+1)(n-1)+1 frames of the keyframes' size, or a tuple. Frames at
            the keyframes' times are the network's, not copies.

        Raises:
            ValueError, TypeError: before any model runs, naming the argument, its value and what is allowed.
        """
        # 1. Check the arguments
        if callback_on_step_end_tensor_inputs is None:
            callback_on_step_end_tensor_inputs = getattr(callback_on_step_end, "tensor_inputs", ["latents"])
        if frames is None:
            raise ValueError("`frames` is required: the keyframes to interpolate, at least 2.")
        keyframes = to_model_space(frames, input_type)
        batch, _, height, width = self.check_inputs(
            keyframes,
            prompt,
            negative_prompt,
            prompt_embeds,
            negative_prompt_embeds,
            num_inference_steps,
            timesteps,
            sigmas,
            guidance_scale,
            guidance_interval,
            num_videos_per_prompt,
            generator,
            latents,
            frames_between,
            window_noise,
            window_batch_size,
            output_type,
            callback_on_step_end_tensor_inputs,
        )
        keyframes = match_batch(keyframes, batch // num_videos_per_prompt, num_videos_per_prompt)
        windows = keyframes.shape[2] - 1
        length = frames_between + 2
        shape = (batch, 3, length, height, width)
        rows = batch * windows
        # one generator draws for all rows together, so they can't be parted; `prepare_noise` makes it a list or not
        parted = windows > 1 or isinstance(generator, list)
        size = window_batch_size or rows if parted else rows
        size = -(-rows // -(-rows // size))  # as many batches, and as even as possible
        parts = [slice(start, min(start + size, rows)) for start in range(0, rows, size)]
        check_windows(finished_windows, [(part.stop - part.start, *shape[1:]) for part in parts])
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
            clean_caption,
        )

        # 3. One row a window, (b w) from here on: condition and mask (Fig. 4b), noise
        condition = self.prepare_condition(keyframes.to(prompt_embeds), length)
        noise, generator = self.prepare_noise(shape, windows, generator, latents, window_noise, like=prompt_embeds)
        videos = [row // windows for row in range(rows)]  # whose text a row gets

        # 4. Denoise, some windows at a time
        count = count_steps(self.scheduler, num_inference_steps, timesteps, sigmas)
        done = [window.to(noise) for window in finished_windows]
        remaining = parts[len(done) :]
        with self.progress_bar(total=count * len(remaining)) as progress:
            for part in remaining:
                scheduler = fresh_scheduler(self.scheduler, final_sigmas_type)
                steps = set_timesteps(scheduler, num_inference_steps, timesteps, sigmas, device)
                done.append(
                    self.denoise(
                        noise[part] * scheduler.init_noise_sigma,
                        steps,
                        scheduler,
                        torch.stack([prompt_embeds[video] for video in videos[part]]),
                        None
                        if negative_prompt_embeds is None
                        else torch.stack([negative_prompt_embeds[video] for video in videos[part]]),
                        condition=condition[part],
                        generator=generator[part] if isinstance(generator, list) else generator,
                        eta=eta,
                        cross_attention_kwargs=cross_attention_kwargs,
                        progress=progress,
                        callback_on_step_end=callback_on_step_end,
                        callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
                    )
                )
                self.end_window(callback_on_window_end, len(done) - 1, done[-1])
        video = self.join(torch.cat(done), batch)

        # 5. Frames
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
        num_inference_steps: int | None,
        timesteps: list[int] | None,
        sigmas: list[float] | None,
        guidance_scale: float,
        guidance_interval: Sequence[float],
        num_videos_per_prompt: int,
        generator: Generators,
        latents: Tensor | None,
        frames_between: int,
        window_noise: str,
        window_batch_size: int | None,
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
        keyframes, height, width = frames.shape[2:]
        if keyframes < 2:
            raise ValueError(f"`frames` must hold at least 2 keyframes, got {keyframes}.")
        check_size(height, width, size_divisor(self.unet))
        check_count(frames_between, "frames_between")
        if window_noise not in ("independent", "same"):
            raise ValueError(f"`window_noise` must be 'independent' or 'same', got {window_noise!r}.")
        if window_batch_size is not None:
            check_count(window_batch_size, "window_batch_size")
        check_extent(batch, interpolated_length(keyframes, frames_between), height, width)
        check_generator(generator, batch)
        window = (3, frames_between + 2, height, width)
        shapes = [(batch, *window), (batch * (keyframes - 1), *window)]
        check_latents(latents, shapes)
        return batch, interpolated_length(keyframes, frames_between), height, width

    @staticmethod
    def prepare_condition(keyframes: Tensor, length: int) -> Tensor:
        """The condition of every pair of keyframes: their linear blend, and the mask of the known frames (Eq. 6).

        Args:
            keyframes: (b, 3, n, h, w) in model space.
            length: frames of a window, the two keyframes included.

        Returns:
            A tensor (b·(n-1), 4, length, h, w) of three channels of the blend and one of the mask.
        """
        first, last = keyframes[:, :, :-1], keyframes[:, :, 1:]  # b c w h w
        weight = torch.linspace(0, 1, length, device=keyframes.device, dtype=torch.float32)
        weight = weight.view(1, 1, 1, -1, 1, 1)
        blend = first.unsqueeze(3).float() * (1 - weight) + last.unsqueeze(3).float() * weight  # b c w f h w
        blend = blend.to(keyframes.dtype).transpose(1, 2).flatten(0, 1)  # (b·w) c f h w
        mask = torch.zeros_like(blend[:, :1])
        mask[:, :, 0] = mask[:, :, -1] = 1
        return torch.cat([blend, mask], dim=1)

    @staticmethod
    def prepare_noise(
        shape: tuple[int, ...],
        windows: int,
        generator: Generators,
        latents: Tensor | None,
        window_noise: str,
        like: Tensor,
    ) -> tuple[Tensor, Generators]:
        """Initial noise of all windows, and the generators of the steps' noise.

        Args:
            shape: of one window of all videos, (b, 3, f, h, w).
            windows: how many windows a video has.
            generator: the caller's: one for everything, or a list of one a video.
            latents: the caller's noise, (b, 3, f, h, w) for every window alike or (b·windows, 3, f, h, w).
            window_noise: `"independent"` or `"same"`.
            like: any tensor, such as (prompts, tokens, width), of the device and number format wanted.

        Returns:
            Noise (b·windows, 3, f, h, w), and a generator a row (or the caller's, for one window).
        """
        batch = shape[0]
        if latents is not None:
            latents = latents.to(like)
            if latents.shape[0] == batch and windows > 1:
                latents = latents.repeat_interleave(windows, dim=0)
        if windows == 1:
            return draw(shape, generator, like) if latents is None else latents, generator
        videos = per_video(generator, batch)
        if window_noise == "same":
            # The released code seeds anew for the initial noise and for every window.
            if latents is None:
                latents = draw(shape, [replay(g) for g in videos], like).repeat_interleave(windows, dim=0)
            return latents, [replay(g) for g in videos for _ in range(windows)]
        rows = [g for video in videos for g in spawn(video, windows)]
        if latents is None:
            latents = draw((batch * windows, *shape[1:]), rows, like)
        return latents, rows

    @staticmethod
    def join(windows: Tensor, batch: int) -> Tensor:
        """Puts windows together; a frame that two of them share is taken from the later one.

        Args:
            windows: (b·w, c, f, h, w).
            batch: b, the number of videos.

        Returns:
            (b, c, w·(f-1)+1, h, w).
        """
        windows = windows.unflatten(0, (batch, -1)).transpose(1, 2)  # b c w f h w
        return torch.cat([windows[:, :, :, :-1].flatten(2, 3), windows[:, :, -1, -1:]], dim=2)


def match_batch(frames: Tensor, prompts: int, num_videos_per_prompt: int) -> Tensor:
    """Frames for every video: one for all prompts, one a prompt, or one a video."""
    batch, given = prompts * num_videos_per_prompt, frames.shape[0]
    if given == batch:
        return frames
    if given == 1:
        return frames.expand(batch, *frames.shape[1:])
    if given == prompts:
        return frames.repeat_interleave(num_videos_per_prompt, dim=0)
    raise ValueError(f"`frames` must hold 1, {prompts} (one a prompt) or {batch} (one a video) videos, got {given}.")
