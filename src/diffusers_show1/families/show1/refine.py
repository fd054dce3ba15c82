# SPDX-License-Identifier: Apache-2.0
"""Stage 4: high resolution by refining in latents (paper section 3.6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.loaders import TextualInversionLoaderMixin
from diffusers.models.modeling_utils import ModelMixin
from diffusers.schedulers import KarrasDiffusionSchedulers
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer, PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from ...clips.arrays import resize_uint8, to_model_space, truncate_to_uint8
from ...ladder.stage import StagePipeline, check_choice, check_frames, extent_of, match_batch
from ...sampling.call import LATENTS, Call, Extent
from ...sampling.checks import check_count, check_latents, check_number, check_size
from ...sampling.documented import documented
from ...sampling.latents import decode_frames, encode_frames, fold, scale_factor, unfold
from ...sampling.noise import Generators, draw_frames
from ...sampling.outputs import VideoPipelineOutput
from ...sampling.schedule import count_steps
from ...sampling.windows import WindowedUNet, WindowStore, overlapping_windows


class Show1RefinementPipeline(StagePipeline, TextualInversionLoaderMixin):
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
    gives = LATENTS
    low_memory = {"split_guidance": True, "vae_batch_size": 1}
    shrink = "a smaller window_size than {window_size} needs less in proportion beside weights, and is another video"
    model_cpu_offload_seq = "text_encoder->unet->vae->safety_checker"
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
        super().__init__(tokenizer, text_encoder, unet, scheduler, feature_extractor, safety_checker)
        self.register_modules(vae=vae)

    @property
    def vae_scale_factor(self) -> int:
        """How many pixels of a side one latent stands for."""
        return 8 if self.vae is None else scale_factor(self.vae)

    @torch.no_grad()
    @documented
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
        window_store: WindowStore | None = None,
    ) -> VideoPipelineOutput | tuple:
        r"""Refines.

        Args:
            frames: a video, one or one a prompt, any number of frames, in any form of `to_model_space`.
            height: of the result, a multiple of the VAE's factor (8 for the published one); by default the input's.
            width: likewise.
            strength: above 0 and at most 1: how far the video is noised. 0.8 of 50 steps starts at timestep 781 or
                so, inside the expert's 0-900.
            num_inference_steps: at least 1. Of these, or of `timesteps` or `sigmas`, the last `strength` part is run,
                as in diffusers' image-to-image pipelines.
            latents: the noise (b, c, f, h/8, w/8) that goes over the encoded video, instead of drawn noise.
            resize: `"bilinear"` on the numbers as they are (the paper), or `"uint8_bicubic"`: cut to 8 bits and
                resized by Pillow (the released code).
            window_size: frames that the network sees at once, at least 2 (`None`: all). The published network refines
                29 frames, in one window; a longer video is denoised as a whole, in windows whose predictions are
                blended where they overlap, so that its length costs time and not memory.
            window_overlap: frames that two windows share at least, from 0 to `window_size` - 1.
            vae_batch_size: frames encoded and decoded at once (`None`: all); changes memory, not the result.
            output_type: `"pil"`, `"np"`, `"pt"`, or `"latent"` for the VAE's latents.

        Returns:
            `VideoPipelineOutput` with as many frames as `frames`, of height x width, or a tuple. The stage's one
            window, which `window_store` keeps, is the refined latents (b, c, f, h/8, w/8).
        """
        # 1. Check the arguments
        call = Call(locals())
        check_frames(frames, "the video to refine")
        video = self.take(frames, input_type)
        batch, size = self.check_inputs(call, extent_of(video))
        video = match_batch(video, batch, num_videos_per_prompt)
        finished = self.finished_windows(call, [self.latent_shape(batch, size)])
        self.begin(guidance_scale, guidance_interval, split_guidance)

        # 2. Encode the prompt
        embeds = self.encode(call)

        noise = None if latents is None else fold(latents.to(embeds[0]))
        if finished:
            latents = finished[0].to(embeds[0].device)
        else:
            # 3. Resize and encode the video
            latents = self.encode_video(video, generator, vae_batch_size, size[1:], resize)

            # 4. Noise it part of the way (SDEdit)
            scheduler, steps = self.schedule(call)
            count = count_steps(self.scheduler, *call.schedule)
            begin = (count - int(count * strength)) * scheduler.order
            steps = steps[begin:]
            if hasattr(scheduler, "set_begin_index"):
                scheduler.set_begin_index(begin)
            noise = draw_frames(latents, generator) if noise is None else noise
            latents = unfold(scheduler.add_noise(fold(latents), noise, steps[:1]), batch)

            # 5. Denoise
            windows = overlapping_windows(size.frames, window_size or size.frames, window_overlap)
            with self.progress_bar(total=len(steps)) as progress:
                latents = self.denoise(
                    latents,
                    steps,
                    scheduler,
                    *embeds,
                    generator=generator,
                    unet=self.unet if len(windows) == 1 else WindowedUNet(self.unet, windows),
                    progress=progress,
                    **call.loop,
                )
            self.end_window(call, 0, latents)

        # 6. Frames
        return self.finish(latents, call)

    def check_options(self, call: Call, batch: int, given: Extent | None) -> Extent:
        check_number(call.strength, "strength", low=0, high=1, above=True)
        count = count_steps(self.scheduler, *call.schedule)
        if int(count * call.strength) == 0:
            raise ValueError(
                f"`strength` must be at least {1 / count:.4g} to run one of {count} `num_inference_steps`, "
                f"got {call.strength!r}."
            )
        extent = self.extent(call, given)
        # an unknown UNet is asked for nothing beyond the VAE's factor: diffusers' own accepts odd sizes
        check_size(extent.height, extent.width, self.vae_scale_factor * getattr(self.unet, "size_divisor", 1))
        check_choice(call.resize, ("bilinear", "uint8_bicubic"), "resize")
        if call.window_size is not None:
            check_count(call.window_size, "window_size", low=2)
            check_count(call.window_overlap, "window_overlap", low=0, high=call.window_size - 1)
        if call.vae_batch_size is not None:
            check_count(call.vae_batch_size, "vae_batch_size", high=2**31 - 1)
        return extent

    def check_drawn(self, call: Call, batch: int, extent: Extent, given: Extent | None) -> None:
        check_latents(call.latents, [self.latent_shape(batch, extent)])

    def latent_shape(self, batch: int, extent: Extent) -> tuple[int, ...]:
        """The shape of videos as latents.

        Args:
            batch: how many videos.
            extent: of each, in pixels.

        Returns:
            (b, c, f, h/8, w/8).
        """
        sides = (side // self.vae_scale_factor for side in extent[1:])
        return (batch, self.vae.config.latent_channels, extent.frames, *sides)

    @classmethod
    def extent(cls, call: Any, given: Extent | None) -> Extent:
        sides = (given.height, call.height), (given.width, call.width)
        return Extent(given.frames, *(side if own is None else own for side, own in sides))

    @classmethod
    def windows(cls, call: Any, given: Extent | None) -> int:
        size = call.window_size or given.frames
        return len(overlapping_windows(given.frames, size, call.window_overlap))

    @classmethod
    def loops(cls, call: Any, given: Extent | None) -> int:
        return 1  # its windows are blended in each step

    @classmethod
    def steps_run(cls, call: Any) -> int:
        return int(super().steps_run(call) * call.strength)

    def decode(self, video: Tensor, call: Any = None) -> Tensor:
        return self.decode_latents(video, getattr(call, "vae_batch_size", None))

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
        height, width = size or video.shape[-2:]

        def prepared(part: Tensor) -> Tensor:
            return self.resize_video(part, height, width, resize).to(self._execution_device, self.unet.dtype)

        return encode_frames(self.vae, video, generator, vae_batch_size, prepared)

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
        return decode_frames(self.vae, latents, vae_batch_size, self.stage_name)
