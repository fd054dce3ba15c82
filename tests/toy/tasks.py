# SPDX-License-Identifier: Apache-2.0
"""What the toy's first stage trains: Eq. 5 of the Show-1 paper, in latents."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffusers_show1.learning import objectives
from diffusers_show1.learning.task import Lesson, StageTask
from diffusers_show1.sampling.latents import encode_frames, scale_factor

from .frames import ToyFramesPipeline
from .unet import ToyUNet


class ToyFramesTask(StageTask):
    """A few frames from a text, in the latents of a frozen autoencoder."""

    stage = "frames"
    pipeline_class = ToyFramesPipeline
    network_class = ToyUNet
    extra_components = ("vae",)

    @property
    def channels(self) -> int:
        return self.components["vae"].config.latent_channels

    @property
    def sample_size(self) -> tuple[int, int]:
        factor = scale_factor(self.components["vae"])
        return self.config.data.height // factor, self.config.data.width // factor

    def loss(self, network: nn.Module, lesson: Lesson) -> Tensor:
        with torch.no_grad():
            latents = encode_frames(self.components["vae"], lesson.frames, lesson.generators, batch_size=None)
        return objectives.keyframe_loss(network, self.scheduler, latents, lesson.embeds, lesson.generators)

    def call_options(self) -> dict[str, int]:
        data = self.config.data
        return {"num_frames": data.frames, "height": data.height, "width": data.width}


TASKS = (ToyFramesTask,)
