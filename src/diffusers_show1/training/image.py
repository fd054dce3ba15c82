# SPDX-License-Identifier: Apache-2.0
"""A text-to-image UNet on single frames: what a keyframe network is inflated from (Show-1 paper, Sec. 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from ..learning import objectives
from ..learning.options import DiffusionObjective, TrainConfig, checked, number, refuse
from ..learning.task import Lesson, StageTask


@checked
@dataclass(kw_only=True)
class ImageObjective(DiffusionObjective):
    """Eq. 5 on images. `timestep_power`: below 1 favours strong noise."""

    timestep_power: float = number(1.0, least=0, above=True)


class ImageTask(StageTask):
    """No stage of a cascade, and without a pipeline: it comes out as the folder of its network, `unet`."""

    stage = "image"
    objective = ImageObjective
    network_class = UNet2DConditionModel

    @classmethod
    def check(cls, config: TrainConfig) -> None:
        super().check(config)
        if config.data.frames != 1:
            refuse("data.frames", config.data.frames, "1 for image")
        if config.validation.prompts:
            refuse("validation.prompts", config.validation.prompts, "empty for image, which has no pipeline")

    def loss(self, network: nn.Module, lesson: Lesson) -> Tensor:
        def frame(sample: Tensor, timestep: Tensor, **text: Tensor) -> SimpleNamespace:
            """The network with the call of a video UNet, for clips of one frame."""
            return SimpleNamespace(sample=network(sample[:, :, 0], timestep, **text).sample[:, :, None])

        options = lesson.objective
        return objectives.keyframe_loss(
            frame,
            self.scheduler,
            lesson.frames,
            lesson.embeds,
            lesson.generators,
            power=options.timestep_power,
            min_snr_gamma=options.min_snr_gamma,
            shown=lesson.shown,
        )

    def example(self) -> dict[str, Tensor]:
        example = super().example()
        return example | {"sample": example["sample"][:, :, 0]}

    def videos(self, network: nn.Module, **inputs: Any) -> None:
        return None

    def save(self, network: nn.Module, folder: Path, with_text_encoder: bool = True) -> None:
        network.save_pretrained(folder / "unet")
