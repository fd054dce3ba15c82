# SPDX-License-Identifier: Apache-2.0
"""The toy's last stage: frames -> the same frames, twice as high and wide, in pixels, some at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Tensor

from diffusers_show1.ladder.stage import StagePipeline, check_frames, extent_of, match_batch
from diffusers_show1.sampling.call import Call, Extent
from diffusers_show1.sampling.checks import check_count, check_latents
from diffusers_show1.sampling.documented import documented
from diffusers_show1.sampling.latents import fold, unfold
from diffusers_show1.sampling.noise import Generators, draw, per_video, spawn
from diffusers_show1.sampling.outputs import VideoPipelineOutput
from diffusers_show1.sampling.schedule import count_steps, initial_noise
from diffusers_show1.sampling.windows import WindowStore


class ToyUpscalePipeline(StagePipeline):
    """Doubles height and width, window by window of a few frames. The network sees the enlarged frames as condition.

    Args:
        tokenizer: T5's.
        text_encoder: T5.
        unet: 6 channels in (noisy frames, enlarged frames), 3 out.
        scheduler: any of diffusers' schedulers for discrete timesteps.
        feature_extractor (*optional*): prepares frames for the safety checker.
        safety_checker (*optional*): looks at every frame before it is returned.
    """

    stage_name = "upscale"
    model_cpu_offload_seq = "text_encoder->unet->safety_checker"

    @torch.no_grad()
    @documented
    def __call__(
        self,
        frames: Any = None,
        prompt: str | list[str] | None = None,
        num_inference_steps: int = 4,
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
        window_size: int = 4,
        input_type: str | None = None,
        final_sigmas_type: str | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        cross_attention_kwargs: dict[str, Any] | None = None,
        callback_on_step_end: Callable | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: list[str] | None = None,
        window_store: WindowStore | None = None,
    ) -> VideoPipelineOutput | tuple:
        """Upscales.

        Args:
            frames: one video or one a prompt, in any form of `to_model_space`.
            window_size: frames denoised at once, at least 1.

        Returns:
            `VideoPipelineOutput` with as many frames, twice as high and wide, or a tuple.
        """
        # 1. Check the arguments
        call = Call(locals())
        check_frames(frames, "the video to enlarge")
        small = self.take(frames, input_type)
        batch, extent = self.check_inputs(call, extent_of(small))
        small = match_batch(small, batch, num_videos_per_prompt)
        windows = self.window_slices(call, extent)
        finished = self.finished_windows(call, [(batch, 3, w.stop - w.start, *extent[1:]) for w in windows])
        self.begin(guidance_scale, guidance_interval, split_guidance)

        # 2. Encode the prompt
        embeds = self.encode(call)

        # 3. Condition, and random numbers of each window's own
        large = F.interpolate(fold(small.to(embeds[0])), size=extent[1:], mode="bilinear")
        condition = unfold(large, batch)
        streams = zip(*(spawn(g, len(windows)) for g in per_video(generator, batch)), strict=True)

        # 4. Denoise window by window
        done = [window.to(condition) for window in finished]
        remaining = list(zip(windows, streams, strict=True))[len(done) :]
        with self.progress_bar(total=count_steps(self.scheduler, *call.schedule) * len(remaining)) as progress:
            for window, draws in remaining:
                scheduler, steps = self.schedule(call)
                part = condition[:, :, window]
                noise = draw(part.shape, list(draws), part) if latents is None else latents[:, :, window].to(part)
                video = self.denoise(
                    initial_noise(noise, scheduler),
                    steps,
                    scheduler,
                    *embeds,
                    condition=part,
                    generator=list(draws),
                    progress=progress,
                    **call.loop,
                )
                self.end_window(call, len(done), video)
                done.append(video)

        # 5. Frames
        return self.finish(torch.cat(done, dim=2), call)

    @staticmethod
    def window_slices(call: Any, extent: Extent) -> list[slice]:
        starts = range(0, extent.frames, call.window_size)
        return [slice(start, min(start + call.window_size, extent.frames)) for start in starts]

    def check_options(self, call: Call, batch: int, given: Extent | None) -> Extent:
        check_count(call.window_size, "window_size")
        return self.extent(call, given)

    def check_drawn(self, call: Call, batch: int, extent: Extent, given: Extent | None) -> None:
        check_latents(call.latents, [(batch, 3, *extent)])

    @classmethod
    def extent(cls, call: Any, given: Extent | None) -> Extent:
        return Extent(given.frames, 2 * given.height, 2 * given.width)

    @classmethod
    def windows(cls, call: Any, given: Extent | None) -> int:
        return len(cls.window_slices(call, given))
