# SPDX-License-Identifier: Apache-2.0
"""Stage 2: keyframes -> all frames, in pixels (paper section 3.4)."""

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

from ...ladder.stage import StagePipeline, check_choice, check_frames, extent_of, match_batch
from ...sampling.call import Call, Extent
from ...sampling.checks import check_count, check_latents, check_size, size_divisor
from ...sampling.documented import documented
from ...sampling.noise import Generators, draw, per_video, replay, spawn
from ...sampling.outputs import VideoPipelineOutput
from ...sampling.schedule import count_steps, initial_noise
from ...sampling.windows import WindowStore, interpolated_length


class Show1InterpolationPipeline(StagePipeline):
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
    low_memory = {"split_guidance": True, "window_batch_size": 1}
    shrink = "smaller frames (height and width of the stage before) need less, and are another video"
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
        window_store: WindowStore | None = None,
    ) -> VideoPipelineOutput | tuple:
        r"""Interpolates.

        Args:
            frames: keyframes, at least 2, one video or one a prompt, in any form of `to_model_space`.
            latents: initial noise instead of drawn noise, (b, 3, frames_between+2, h, w) for every window alike, or
                (b·windows, 3, ...), one row a window.
            frames_between: new frames between two keyframes; the published network was trained at 3.
            window_batch_size: windows denoised at once, at most (`None`: all); changes memory, not the result. 29
                frames are seven windows. They are what `window_store` keeps and a step callback sees: (rows, 3,
                frames_between+2, h, w).

        Returns:
            `VideoPipelineOutput` with (frames_between+1)(n-1)+1 frames of the keyframes' size, or a tuple. Frames at
            the keyframes' times are the network's, not copies.
        """
        # 1. Check the arguments
        call = Call(locals())
        check_frames(frames, "the keyframes to interpolate, at least 2")
        keyframes = self.take(frames, input_type)
        batch, (_, height, width) = self.check_inputs(call, extent_of(keyframes))
        keyframes = match_batch(keyframes, batch, num_videos_per_prompt)
        windows, shape = keyframes.shape[2] - 1, (batch, 3, frames_between + 2, height, width)
        parts = self._parts(call, batch, windows)
        finished = self.finished_windows(call, [(part.stop - part.start, *shape[1:]) for part in parts])
        self.begin(guidance_scale, guidance_interval, split_guidance)

        # 2. Encode the prompt: one row a window, (b w), from here on
        embeds = [None if rows is None else rows.repeat_interleave(windows, dim=0) for rows in self.encode(call)]

        # 3. Condition and mask (Fig. 4b), noise
        condition = self.prepare_condition(keyframes.to(embeds[0]), shape[2])
        noise, generator = self.prepare_noise(shape, windows, generator, latents, window_noise, like=embeds[0])

        # 4. Denoise, some windows at a time
        done = [window.to(noise) for window in finished]
        remaining = parts[len(done) :]
        with self.progress_bar(total=count_steps(self.scheduler, *call.schedule) * len(remaining)) as progress:
            for part in remaining:
                scheduler, steps = self.schedule(call)
                window = self.denoise(
                    initial_noise(noise[part], scheduler),
                    steps,
                    scheduler,
                    *(None if rows is None else rows[part] for rows in embeds),
                    condition=condition[part],
                    generator=generator[part] if isinstance(generator, list) else generator,
                    progress=progress,
                    **call.loop,
                )
                self.end_window(call, len(done), window)
                done.append(window)

        # 5. Frames
        return self.finish(self.join(torch.cat(done), batch), call)

    @staticmethod
    def _parts(call: Call, batch: int, windows: int) -> list[slice]:
        """Which windows of all videos are denoised at once: as many batches as it takes, and as even as possible."""
        rows = batch * windows
        # one generator draws for all rows together, so they can't be parted; `prepare_noise` makes it a list or not
        parted = windows > 1 or isinstance(call.generator, list)
        size = call.window_batch_size or rows if parted else rows
        size = -(-rows // -(-rows // size))
        return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]

    def check_options(self, call: Call, batch: int, given: Extent | None) -> Extent:
        if given.frames < 2:
            raise ValueError(f"`frames` must hold at least 2 keyframes, got {given.frames}.")
        check_size(given.height, given.width, size_divisor(self.unet))
        check_count(call.frames_between, "frames_between")
        check_choice(call.window_noise, ("independent", "same"), "window_noise")
        if call.window_batch_size is not None:
            check_count(call.window_batch_size, "window_batch_size")
        return self.extent(call, given)

    def check_drawn(self, call: Call, batch: int, extent: Extent, given: Extent | None) -> None:
        window = (3, call.frames_between + 2, *extent[1:])
        check_latents(call.latents, [(batch, *window), (batch * (given.frames - 1), *window)])

    @classmethod
    def extent(cls, call: Any, given: Extent | None) -> Extent:
        return given._replace(frames=interpolated_length(given.frames, call.frames_between))

    @classmethod
    def frames_before(cls, call: Any, frames: int) -> int:
        check_count(call.frames_between, "frames_between")
        return max(-(-(frames - 1) // (call.frames_between + 1)) + 1, 2)

    @classmethod
    def windows(cls, call: Any, given: Extent | None) -> int:
        return given.frames - 1

    @classmethod
    def loops(cls, call: Any, given: Extent | None) -> int:
        return len(cls._parts(call, 1, cls.windows(call, given)))

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
