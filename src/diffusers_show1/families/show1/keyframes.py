# SPDX-License-Identifier: Apache-2.0
"""Stage 1: text -> keyframes, in pixels (paper section 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.models.modeling_utils import ModelMixin
from diffusers.schedulers import KarrasDiffusionSchedulers
from torch import Tensor
from transformers import PreTrainedModel, T5EncoderModel, T5Tokenizer
from transformers.image_processing_utils import BaseImageProcessor

from ...ladder.stage import StagePipeline
from ...sampling.call import Call, Extent
from ...sampling.checks import check_count, check_latents, check_size, size_divisor
from ...sampling.documented import documented
from ...sampling.noise import Generators, draw
from ...sampling.outputs import VideoPipelineOutput
from ...sampling.schedule import initial_noise
from ...sampling.windows import WindowStore


class Show1KeyframePipeline(StagePipeline):
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
    takes = ()
    shrink = "fewer frames (num_frames, --frames) need less in proportion beside weights"
    cleans_captions = True
    model_cpu_offload_seq = "text_encoder->unet->safety_checker"

    def __init__(
        self,
        tokenizer: T5Tokenizer | None,
        text_encoder: T5EncoderModel | None,
        unet: ModelMixin,
        scheduler: KarrasDiffusionSchedulers,
        feature_extractor: BaseImageProcessor | None = None,
        safety_checker: PreTrainedModel | None = None,
    ):
        super().__init__(tokenizer, text_encoder, unet, scheduler, feature_extractor, safety_checker)

    @torch.no_grad()
    @documented
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
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        clean_caption: bool = True,
        final_sigmas_type: str | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        cross_attention_kwargs: dict[str, Any] | None = None,
        callback_on_step_end: Callable | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: list[str] | None = None,
        window_store: WindowStore | None = None,
    ) -> VideoPipelineOutput | tuple:
        r"""Makes keyframes.

        Args:
            height: pixels, a multiple of 2^(blocks-1) (8 for the published network). By default 5/8 of the width that
                the network was trained at: 40.
            width: likewise; by default that width: 64.
            num_frames: keyframes, at least 1; the published network was trained at 8.

        Returns:
            `VideoPipelineOutput`, or `(frames,)`: b videos of `num_frames` frames of height x width; b is the number
            of prompts times `num_videos_per_prompt`. The stage has one window, the whole video.
        """
        # 1. Check the arguments
        call = Call(locals())
        batch, size = self.check_inputs(call)
        shape = (batch, 3, *size)
        finished = self.finished_windows(call, [shape])
        self.begin(guidance_scale, guidance_interval, split_guidance)

        # 2. Encode the prompt
        embeds = self.encode(call)

        # 3. Draw the noise
        scheduler, steps = self.schedule(call)
        noise = draw(shape, generator, like=embeds[0]) if latents is None else latents.to(embeds[0])

        # 4. Denoise (Eq. 5)
        if finished:
            video = finished[0].to(noise)
        else:
            with self.progress_bar(total=len(steps)) as progress:
                video = self.denoise(
                    initial_noise(noise, scheduler),
                    steps,
                    scheduler,
                    *embeds,
                    generator=generator,
                    progress=progress,
                    **call.loop,
                )
            self.end_window(call, 0, video)

        # 5. Frames
        return self.finish(video, call)

    def check_options(self, call: Call, batch: int, given: Extent | None) -> Extent:
        call.width = self._default_width() if call.width is None else call.width
        call.height = self._default_height() if call.height is None else call.height
        check_count(call.num_frames, "num_frames")
        check_size(call.height, call.width, size_divisor(self.unet))
        return self.extent(call, given)

    def check_drawn(self, call: Call, batch: int, extent: Extent, given: Extent | None) -> None:
        check_latents(call.latents, [(batch, 3, *extent)])

    @classmethod
    def extent(cls, call: Any, given: Extent | None) -> Extent:
        return Extent(call.num_frames, call.height, call.width)

    def _default_width(self) -> int:
        size = self.unet.config.sample_size
        return size[1] if isinstance(size, (list, tuple)) else size

    def _default_height(self) -> int:
        # The published config knows one number, 64, for frames of 40x64.
        size = self.unet.config.sample_size
        return size[0] if isinstance(size, (list, tuple)) else size * 5 // 8
