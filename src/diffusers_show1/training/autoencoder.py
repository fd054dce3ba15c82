# SPDX-License-Identifier: Apache-2.0
"""The autoencoder that a stage in latents works in, on single frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from ..clips.metrics import psnr
from ..learning import objectives
from ..learning.options import Objective, TrainConfig, checked, number, refuse
from ..learning.task import Lesson, Source, Task, saved_config
from ..sampling.latents import fold


@checked
@dataclass(kw_only=True)
class AutoencoderObjective(Objective):
    """Reconstruction.

    Args:
        kl_weight: of the KL divergence per latent. A heavy one switches channels off.
        standardise: at export every latent channel gets mean 0 and deviation 1 on the clips to validate with.
    """

    kl_weight: float = number(1e-4, least=0)
    standardise: bool = False


class _Reconstruction(nn.Module):
    """The loss as a forward pass: what wraps a network for many processes sees nothing else of it."""

    def __init__(self, vae: AutoencoderKL):
        super().__init__()
        self.vae = vae

    def forward(self, images: Tensor, generators: list[torch.Generator], kl_weight: float) -> Tensor:
        return objectives.vae_loss(self.vae, images, generators, kl_weight)


class AutoencoderTask(Task):
    """Comes out as the folder `vae`."""

    stage = "autoencoder"
    objective = AutoencoderObjective
    crop_grid = 8

    def __init__(self, config: TrainConfig, device: torch.device, source: Source):
        super().__init__(config, device, source)
        torch.manual_seed(config.run.seed)
        self.start = source.network(AutoencoderKL)
        self.network = _Reconstruction(self.start.unet)
        if config.model.gradient_checkpointing:
            self.network.vae.enable_gradient_checkpointing()

    @classmethod
    def check(cls, config: TrainConfig) -> None:
        super().check(config)
        if config.data.frames != 1:
            refuse("data.frames", config.data.frames, "1 for autoencoder")
        if config.objective.standardise and not config.validation.clips:
            refuse("validation.clips", 0, "at least 1 with objective.standardise")
        if config.validation.prompts:
            refuse("validation.prompts", config.validation.prompts, "empty for autoencoder, which makes no videos")

    def loss(self, network: nn.Module, lesson: Lesson) -> Tensor:
        images = lesson.part(lesson.frames)[:, :, 0]
        return network(images, lesson.generators, lesson.objective.kl_weight)

    @torch.no_grad()
    def measure(self, network: nn.Module, frames: Tensor, captions: Sequence[str]) -> dict[str, float]:
        images = fold(frames).to(self.device)
        made = network.vae.decode(network.vae.encode(images).latent_dist.mode()).sample.clamp(-1, 1)
        return {"validation_psnr": psnr(made / 2 + 0.5, images / 2 + 0.5)}

    def plain(self) -> nn.Module:
        return _Reconstruction(AutoencoderKL.from_config(saved_config(self.network.vae)))

    def finish(self, network: nn.Module, frames: Tensor | None) -> None:
        if self.config.objective.standardise:
            standardise_latents(network.vae.eval(), fold(frames))

    def save(self, network: nn.Module, folder: Path, with_text_encoder: bool = True) -> None:
        network.vae.save_pretrained(folder / "vae")


@torch.no_grad()
def standardise_latents(vae: AutoencoderKL, images: Tensor) -> None:
    """Give every latent channel mean 0 and deviation 1 on `images`, by changing the two 1 x 1 convolutions only.

    What the autoencoder reconstructs stays the same. Without this the same diffusion noise would hide some channels
    and not others; `scaling_factor` can only scale all of them alike.

    Args:
        vae: changed in place, its `scaling_factor` to 1.
        images: (b, 3, h, w) in [-1, 1].
    """
    latents = vae.encode(images).latent_dist.mode()
    mean, scale = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    encode, decode = vae.quant_conv, vae.post_quant_conv
    channels = len(mean)
    decode.bias += decode.weight[:, :, 0, 0] @ mean
    decode.weight *= scale[None, :, None, None]
    encode.weight[:channels] /= scale[:, None, None, None]
    encode.bias[:channels] = (encode.bias[:channels] - mean) / scale
    encode.bias[channels:] -= 2 * scale.log()  # the second half is the logarithm of the variance
    vae.register_to_config(scaling_factor=1.0)
