# SPDX-License-Identifier: Apache-2.0
"""The toy's first stage: text -> a few small frames, in an autoencoder's latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.models.modeling_utils import ModelMixin
from diffusers.schedulers import KarrasDiffusionSchedulers
from torch import Tensor
from transformers import PreTrainedModel, T5EncoderModel, T5Tokenizer
from transformers.image_processing_utils import BaseImageProcessor

from diffusers_show1.ladder.stage import StagePipeline
from diffusers_show1.sampling.call import LATENTS, Call, Extent
from diffusers_show1.sampling.checks import check_count, check_latents, check_size
from diffusers_show1.sampling.documented import documented
from diffusers_show1.sampling.latents import decode_frames, scale_factor
from diffusers_show1.sampling.noise import Generators, draw
from diffusers_show1.sampling.outputs import VideoPipelineOutput
from diffusers_show1.sampling.schedule import initial_noise
from diffusers_show1.sampling.windows import WindowStore


class ToyFramesPipeline(StagePipeline):
    """Text to a few small frames.

    Args:
        tokenizer: T5's.
        text_encoder: T5.
        unet: as many channels in and out as the latents have.
        vae: of images, applied frame by frame.
        scheduler: any of diffusers' schedulers for discrete timesteps.
        feature_extractor (*optional*): prepares frames for the safety checker.
        safety_checker (*optional*): looks at every frame before it is returned.
    """

    stage_name = "frames"
    takes = ()
    gives = LATENTS
    low_memory = {"split_guidance": True, "vae_batch_size": 1}
    model_cpu_offload_seq = "text_encoder->unet->vae->safety_checker"

    def __init__(
        self,
        tokenizer: T5Tokenizer | None,
        text_encoder: T5EncoderModel | None,
        unet: ModelMixin,
        vae: AutoencoderKL,
        scheduler: KarrasDiffusionSchedulers,
        feature_extractor: BaseImageProcessor | None = None,
        safety_checker: PreTrainedModel | None = None,
    ):
        super().__init__(tokenizer, text_encoder, unet, scheduler, feature_extractor, safety_checker)
        self.register_modules(vae=vae)

    @torch.no_grad()
    @documented
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        num_frames: int = 3,
        height: int = 16,
        width: int = 24,
        num_inference_steps: int = 20,
        timesteps: list[int] | None = None,
        sigmas: list[float] | None = None,
        guidance_scale: float = 3.0,
        guidance_interval: Sequence[float] = (0.0, 1.0),
        split_guidance: bool = False,
        negative_prompt: str | list[str] | None = None,
        num_videos_per_prompt: int = 1,
        eta: float | None = None,
        generator: Generators = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        vae_batch_size: int | None = None,
        final_sigmas_type: str | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        cross_attention_kwargs: dict[str, Any] | None = None,
        callback_on_step_end: Callable | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: list[str] | None = None,
        window_store: WindowStore | None = None,
    ) -> VideoPipelineOutput | tuple:
        """Makes frames.

        Args:
            num_frames: at least 1.
            height: in pixels, a multiple of the autoencoder's factor.
            width: likewise.
            vae_batch_size: frames decoded at once (`None`: all); changes memory, not the result.

        Returns:
            `VideoPipelineOutput`, or `(frames,)`.
        """
        # 1. Check the arguments
        call = Call(locals())
        batch, extent = self.check_inputs(call)
        shape = self.latent_shape(batch, extent)
        finished = self.finished_windows(call, [shape])
        self.begin(guidance_scale, guidance_interval, split_guidance)

        # 2. Encode the prompt
        embeds = self.encode(call)

        # 3. Draw the noise
        scheduler, steps = self.schedule(call)
        noise = draw(shape, generator, like=embeds[0]) if latents is None else latents.to(embeds[0])

        # 4. Denoise
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
        check_count(call.num_frames, "num_frames")
        check_size(call.height, call.width, scale_factor(self.vae))
        if call.vae_batch_size is not None:
            check_count(call.vae_batch_size, "vae_batch_size")
        return self.extent(call, given)

    def check_drawn(self, call: Call, batch: int, extent: Extent, given: Extent | None) -> None:
        check_latents(call.latents, [self.latent_shape(batch, extent)])

    def latent_shape(self, batch: int, extent: Extent) -> tuple[int, ...]:
        factor = scale_factor(self.vae)
        channels = self.vae.config.latent_channels
        return batch, channels, extent.frames, extent.height // factor, extent.width // factor

    @classmethod
    def extent(cls, call: Any, given: Extent | None) -> Extent:
        return Extent(call.num_frames, call.height, call.width)

    def decode(self, video: Tensor, call: Any = None) -> Tensor:
        return decode_frames(self.vae, video, getattr(call, "vae_batch_size", None), self.stage_name)
