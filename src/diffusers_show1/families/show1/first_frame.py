# SPDX-License-Identifier: Apache-2.0
"""The condition of super-resolution, and its first frame by an image model (paper section 3.5)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...sampling.latents import fold, unfold
from ...sampling.noise import Generators, draw
from ...sampling.schedule import fresh_scheduler, initial_noise, set_timesteps


class FirstFrameMixin:
    """Of super-resolution: the noisy condition of a window, and the image model's window of one frame."""

    def prepare_condition(
        self, upscaled: Tensor, first_frame: Tensor | None, noise_level: int, generator: Generators
    ) -> Tensor:
        """The condition of a window: the upscaled frames with noise, and a clean frame 0 if there is one.

        Args:
            upscaled: (b, 3, f, height, width) in model space.
            first_frame: (b, 3, 1, height, width), or `None`.
            noise_level: 0 to 999, a timestep of `image_noising_scheduler`.
            generator: one generator, or a list of one a video.

        Returns:
            (b, 3, f, height, width).
        """
        noise = draw(tuple(upscaled.shape), generator, like=upscaled)
        levels = torch.full((upscaled.shape[0],), noise_level, device=upscaled.device)
        condition = self.image_noising_scheduler.add_noise(upscaled, noise, levels)
        if first_frame is not None:
            condition[:, :, :1] = first_frame.to(condition)
        return condition

    @torch.no_grad()
    def upscale_first_frame(
        self,
        frame: Tensor,
        height: int,
        width: int,
        prompt_embeds: Tensor,
        negative_prompt_embeds: Tensor | None = None,
        num_inference_steps: int = 70,
        guidance_scale: float = 4.0,
        noise_level: int = 150,
        generator: Generators = None,
        final_sigmas_type: str | None = None,
    ) -> Tensor:
        """Enlarges a frame by the image super-resolution model.

        The same procedure as for a window, on a video of one frame and with DeepFloyd IF-II's image UNet.

        Args:
            frame: (b, 3, 1, h, w) in model space.
            height: of the result, in pixels.
            width: likewise.
            prompt_embeds: (b, tokens, width).
            negative_prompt_embeds: likewise; needed with guidance.
            num_inference_steps: at least 1.
            guidance_scale: at least 0; guidance is off up to 1.
            noise_level: of the condition, 0 to 999.
            generator: one generator, or a list of one a video.
            final_sigmas_type: as for the call.

        Returns:
            (b, 3, 1, height, width) in model space.
        """
        device = prompt_embeds.device
        batch = frame.shape[0]
        if not hasattr(self, "_interrupt"):
            self.begin(guidance_scale)
        scheduler = fresh_scheduler(self.first_frame_scheduler, final_sigmas_type)
        steps = set_timesteps(scheduler, num_inference_steps, None, None, device)
        noise = draw((batch, 3, 1, height, width), generator, like=prompt_embeds)
        upscaled = unfold(self.upsample(fold(frame.to(prompt_embeds)), height, width), batch)
        condition = self.prepare_condition(upscaled, None, noise_level, generator)
        with self.progress_bar(total=len(steps)) as progress:
            return self.denoise(
                initial_noise(noise, scheduler),
                steps,
                scheduler,
                prompt_embeds,
                negative_prompt_embeds,
                condition=condition,
                class_labels=torch.full((batch,), noise_level, device=device),
                generator=generator,
                unet=self.first_frame_unet,
                guidance_scale=guidance_scale,
                progress=progress,
            )

    @staticmethod
    def upsample(images: Tensor, height: int, width: int) -> Tensor:
        """Enlarges, bilinearly and with aligned corners.

        Args:
            images: (n, 3, h, w).
            height: of the result, in pixels.
            width: likewise.

        Returns:
            (n, 3, height, width).
        """
        return F.interpolate(images, size=(height, width), mode="bilinear", align_corners=True)
