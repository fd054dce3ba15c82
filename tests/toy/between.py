# SPDX-License-Identifier: Apache-2.0
"""The toy's second and third stage: frames -> a new one between each two of them, in pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Tensor

from diffusers_show1.ladder.stage import StagePipeline, check_frames, extent_of, match_batch
from diffusers_show1.sampling.call import Call, Extent
from diffusers_show1.sampling.checks import check_latents
from diffusers_show1.sampling.documented import documented
from diffusers_show1.sampling.noise import Generators, draw
from diffusers_show1.sampling.outputs import VideoPipelineOutput
from diffusers_show1.sampling.schedule import initial_noise
from diffusers_show1.sampling.windows import WindowStore, interpolated_length


class ToyBetweenPipeline(StagePipeline):
    """Puts a new frame between each two: n frames become 2n-1. The network sees the blend of neighbours as condition.

    Args:
        tokenizer: T5's.
        text_encoder: T5.
        unet: 6 channels in (noisy frames, blended frames), 3 out.
        scheduler: any of diffusers' schedulers for discrete timesteps.
        feature_extractor (*optional*): prepares frames for the safety checker.
        safety_checker (*optional*): looks at every frame before it is returned.
    """

    stage_name = "between"
    model_cpu_offload_seq = "text_encoder->unet->safety_checker"

    @torch.no_grad()
    @documented
    def __call__(
        self,
        frames: Any = None,
        prompt: str | list[str] | None = None,
        num_inference_steps: int = 8,
        timesteps: list[int] | None = None,
        sigmas: list[float] | None = None,
        guidance_scale: float = 1.0,
        guidance_interval: Sequence[float] = (0.0, 1.0),
        split_guidance: bool = False,
        negative_prompt: str | list[str] | None = None,
        num_videos_per_prompt: int = 1,
        eta: float | None = None,
        generator: Generators = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        input_type: str | None = None,
        final_sigmas_type: str | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        cross_attention_kwargs: dict[str, Any] | None = None,
        callback_on_step_end: Callable | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: list[str] | None = None,
        window_store: WindowStore | None = None,
    ) -> VideoPipelineOutput | tuple:
        """Interpolates.

        Args:
            frames: at least 2, one video or one a prompt, in any form of `to_model_space`.

        Returns:
            `VideoPipelineOutput` with 2n-1 frames, or a tuple.
        """
        # 1. Check the arguments
        call = Call(locals())
        check_frames(frames, "at least 2 frames")
        known = self.take(frames, input_type)
        batch, extent = self.check_inputs(call, extent_of(known))
        known = match_batch(known, batch, num_videos_per_prompt)
        shape = (batch, 3, *extent)
        finished = self.finished_windows(call, [shape])
        self.begin(guidance_scale, guidance_interval, split_guidance)

        # 2. Encode the prompt
        embeds = self.encode(call)

        # 3. Condition and noise
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
                    condition=self.blend(known.to(noise)),
                    generator=generator,
                    progress=progress,
                    **call.loop,
                )
            self.end_window(call, 0, video)

        # 5. Frames
        return self.finish(video, call)

    @staticmethod
    def blend(frames: Tensor) -> Tensor:
        """(b, c, n, h, w) -> (b, c, 2n-1, h, w): the mean of two neighbours between them."""
        means = (frames[:, :, :-1] + frames[:, :, 1:]) / 2
        pairs = torch.stack([frames[:, :, :-1], means], dim=3).flatten(2, 3)
        return torch.cat([pairs, frames[:, :, -1:]], dim=2)

    def check_options(self, call: Call, batch: int, given: Extent | None) -> Extent:
        if given.frames < 2:
            raise ValueError(f"`frames` must hold at least 2 frames, got {given.frames}.")
        return self.extent(call, given)

    def check_drawn(self, call: Call, batch: int, extent: Extent, given: Extent | None) -> None:
        check_latents(call.latents, [(batch, 3, *extent)])

    @classmethod
    def extent(cls, call: Any, given: Extent | None) -> Extent:
        return given._replace(frames=interpolated_length(given.frames, frames_between=1))

    @classmethod
    def frames_before(cls, call: Any, frames: int) -> int:
        return max(frames // 2 + 1, 2)
