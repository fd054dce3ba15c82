# SPDX-License-Identifier: Apache-2.0
"""Stage 1: text -> keyframes, in pixels (paper section 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.models.modeling_utils import ModelMixin
from diffusers.schedulers import KarrasDiffusionSchedulers
from transformers import PreTrainedModel, T5EncoderModel, T5Tokenizer
from transformers.image_processing_utils import BaseImageProcessor

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
from ...sampling.noise import Generators, draw
from ...sampling.outputs import VideoPipelineOutput
from ...sampling.schedule import fresh_scheduler, set_timesteps
from ...sampling.text import PromptMixin, check_prompts, text_width


class Show1KeyframePipeline(DenoisingMixin, PromptMixin, StageLoraMixin, SafetyMixin, DiffusionPipeline):
    r"""Text to a few keyframes at very low resolution, denoised directly in pixels.

    Section 3.3 of the Show-1 paper: a latent space would leave a 64x40 frame only 8x5 cells, too few to follow the
    prompt; in pixels it aligns with the text and still costs little.

    Args:
        tokenizer: T5's. May be `None` when `prompt_embeds` are passed.
        text_encoder: T5. Likewise.
        unet (`Show1UNet3DConditionModel`): 3 input channels; 3 output channels, or 6 with a predicted variance.
        scheduler: any of diffusers' schedulers for discrete timesteps.
        feature_extractor: prepares frames for the safety checker, and is unused without one; part of the published
            repository.
        safety_checker (`IFSafetyChecker`, *optional*): looks at every frame before it is returned.
    """

    stage_name = "base"
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
        prompt: str | list[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int = 8,
        num_inference_steps: int = 75,
        timesteps: list[int] | None = None,
        sigmas: list[float] | None = None,
        guidance_scale: float = 9.0,
        guidance_interval: Sequence[float] = (0.0, 1.0),
        split_guidance: bool = False,
        negative_prompt: str | list[str] | None = None,
        num_videos_per_prompt: int = 1,
        eta: float | None = None,
        generator: Generators = None,
        latents: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        clean_caption: bool = True,
        final_sigmas_type: str | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        cross_attention_kwargs: dict[str, Any] | None = None,
        callback_on_step_end: Callable | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: list[str] | None = None,
        callback_on_window_end: WindowCallback | None = None,
        finished_windows: Sequence[torch.Tensor] = (),
    ) -> VideoPipelineOutput | tuple:
        r"""Makes keyframes.

        Args:
            prompt: one prompt or a list; not with `prompt_embeds`.
            height: pixels, a multiple of 2^(blocks-1) (8 for the published network). By default 5/8 of the width that
                the network was trained at: 40.
            width: likewise; by default that width: 64.
            num_frames: keyframes, at least 1; the published network was trained at 8.
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
            num_videos_per_prompt: at least 1.
            eta: DDIM's noise, for schedulers that know it.
            generator: one generator for everything, or a list of one a video.
            latents: initial noise (b, 3, f, h, w) instead of drawn noise.
            prompt_embeds: (prompts, tokens, width) from `encode_prompt`.
            negative_prompt_embeds: likewise, of the negative prompts.
            clean_caption: DeepFloyd IF's caption cleaning before encoding.
            final_sigmas_type: `"sigma_min"` for the last DPM-Solver++ step of the released code.
            output_type: `"pil"`, `"np"`, `"pt"` or `"latent"`, see `VideoPipelineOutput`.
            return_dict: a `VideoPipelineOutput` rather than a tuple.
            cross_attention_kwargs: `{"scale": number}`, how much of its adapters (LoRA) the network uses.
            callback_on_step_end: called as `(pipe, step, timestep, tensors)` after each step; may return changed
                tensors. `pipe._interrupt = True` ends the loop.
            callback_on_step_end_tensor_inputs: which of `latents`, `prompt_embeds`, `negative_prompt_embeds` it gets.
            callback_on_window_end: called as `(pipe, 0, video)` with the result in model space, (b, 3, f, h, w): the
                stage has one window.
            finished_windows: `[video]`, as that callback got it in an earlier run of this call, to take it over.

        Returns:
            `VideoPipelineOutput`, or `(frames,)`: b videos of `num_frames` frames of height x width; b is the number
            of prompts times `num_videos_per_prompt`.

        Raises:
            ValueError, TypeError: before any model runs, naming the argument, its value and what is allowed.
        """
        # 1. Check the arguments
        if callback_on_step_end_tensor_inputs is None:
            callback_on_step_end_tensor_inputs = getattr(callback_on_step_end, "tensor_inputs", ["latents"])
        width = self._default_width() if width is None else width
        height = self._default_height() if height is None else height
        batch, num_frames, height, width = self.check_inputs(
            prompt,
            negative_prompt,
            prompt_embeds,
            negative_prompt_embeds,
            height,
            width,
            num_frames,
            num_inference_steps,
            timesteps,
            sigmas,
            guidance_scale,
            guidance_interval,
            num_videos_per_prompt,
            generator,
            latents,
            output_type,
            callback_on_step_end_tensor_inputs,
        )
        shape = (batch, 3, num_frames, height, width)
        check_windows(finished_windows, [shape])
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

        # 3. Draw the noise
        scheduler = fresh_scheduler(self.scheduler, final_sigmas_type)
        steps = set_timesteps(scheduler, num_inference_steps, timesteps, sigmas, device)
        noise = draw(shape, generator, like=prompt_embeds) if latents is None else latents.to(prompt_embeds)

        # 4. Denoise (Eq. 5)
        if finished_windows:
            video = finished_windows[0].to(noise)
        else:
            with self.progress_bar(total=len(steps)) as progress:
                video = self.denoise(
                    noise * scheduler.init_noise_sigma,
                    steps,
                    scheduler,
                    prompt_embeds,
                    negative_prompt_embeds,
                    generator=generator,
                    eta=eta,
                    cross_attention_kwargs=cross_attention_kwargs,
                    progress=progress,
                    callback_on_step_end=callback_on_step_end,
                    callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
                )
            self.end_window(callback_on_window_end, 0, video)

        # 5. Frames
        output = self.to_output(video, output_type)
        self.maybe_free_model_hooks()
        return output if return_dict else output.to_tuple()

    def check_inputs(
        self,
        prompt: str | list[str] | None,
        negative_prompt: str | list[str] | None,
        prompt_embeds: torch.Tensor | None,
        negative_prompt_embeds: torch.Tensor | None,
        height: int,
        width: int,
        num_frames: int,
        num_inference_steps: int | None,
        timesteps: list[int] | None,
        sigmas: list[float] | None,
        guidance_scale: float,
        guidance_interval: Sequence[float],
        num_videos_per_prompt: int,
        generator: Generators,
        latents: torch.Tensor | None,
        output_type: str,
        callback_on_step_end_tensor_inputs: list[str],
    ) -> tuple[int, int, int, int]:
        """Checks a call's arguments; returns the result's (batch, frames, height, width)."""
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
        check_count(num_frames, "num_frames")
        check_size(height, width, size_divisor(self.unet))
        batch = prompts * num_videos_per_prompt
        check_extent(batch, num_frames, height, width)
        check_generator(generator, batch)
        shape = (batch, 3, num_frames, height, width)
        check_latents(latents, [shape])
        return batch, num_frames, height, width

    def _default_width(self) -> int:
        size = self.unet.config.sample_size
        return size[1] if isinstance(size, (list, tuple)) else size

    def _default_height(self) -> int:
        # The published config knows one number, 64, for frames of 40x64.
        size = self.unet.config.sample_size
        return size[0] if isinstance(size, (list, tuple)) else size * 5 // 8
