# SPDX-License-Identifier: Apache-2.0
"""What each stage of Show-1 trains (docs/objectives.md). Section and equation numbers are the paper's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...learning import objectives
from ...learning.options import DiffusionObjective, TrainConfig, checked, number, refuse, text
from ...learning.task import Lesson, Source, StageTask, area_downsample
from ...sampling.latents import fold, unfold
from .interpolation import Show1InterpolationPipeline
from .keyframes import Show1KeyframePipeline
from .refine import Show1RefinementPipeline
from .superres import Show1SuperResolutionPipeline
from .unet import Show1UNet3DConditionModel


def _check_factor(config: TrainConfig, name: str) -> None:
    by, data = getattr(config.objective, name), config.data
    if data.height % by or data.width % by:
        refuse(f"objective.{name}", by, f"a divisor of data.height and data.width ({data.height}, {data.width})")


# --- keyframes -------------------------------------------------------------------------------------------------------


@checked
@dataclass(kw_only=True)
class KeyframeObjective(DiffusionObjective):
    """Keyframes, Sec. 3.3.

    Args:
        timestep_power: below 1 favours strong noise.
        max_timestep: timesteps are below this one.
    """

    timestep_power: float = number(1.0, least=0, above=True)
    max_timestep: int = number(1000, least=1, most=1000)


class KeyframeTask(StageTask):
    """Sec. 3.3: eight frames from a text."""

    stage = "base"
    objective = KeyframeObjective
    pipeline_class = Show1KeyframePipeline
    network_class = Show1UNet3DConditionModel

    def loss(self, network: nn.Module, lesson: Lesson) -> Tensor:
        options = lesson.objective
        return objectives.keyframe_loss(
            network,
            self.scheduler,
            lesson.frames,
            lesson.embeds,
            lesson.generators,
            power=options.timestep_power,
            min_snr_gamma=options.min_snr_gamma,
            max_timestep=options.max_timestep,
            shown=lesson.shown,
        )

    def call_options(self) -> dict[str, Any]:
        data = self.config.data
        return {"num_frames": data.frames, "height": data.height, "width": data.width}


# --- interpolation ---------------------------------------------------------------------------------------------------


@checked
@dataclass(kw_only=True)
class InterpolationObjective(DiffusionObjective):
    """Interpolation, Sec. 3.4. `max_augmentation`: largest deviation of the noise on the two given frames."""

    max_augmentation: float = number(0.1, least=0)


class InterpolationTask(StageTask):
    """Sec. 3.4: a clip is one window, its ends are given."""

    stage = "interpolation"
    objective = InterpolationObjective
    pipeline_class = Show1InterpolationPipeline
    network_class = Show1UNet3DConditionModel
    condition_channels = 4
    first = False
    least_frames = 3

    def loss(self, network: nn.Module, lesson: Lesson) -> Tensor:
        return objectives.interpolation_loss(
            network,
            self.scheduler,
            lesson.frames,
            lesson.embeds,
            lesson.generators,
            max_augmentation=lesson.objective.max_augmentation,
            min_snr_gamma=lesson.objective.min_snr_gamma,
            ends=None if lesson.shown is None else self.given(lesson.shown),
        )

    def given(self, frames: Tensor) -> Tensor:
        return frames[:, :, [0, -1]]

    def call_options(self) -> dict[str, Any]:
        return {"frames_between": self.config.data.frames - 2}


# --- super-resolution ------------------------------------------------------------------------------------------------


@checked
@dataclass(kw_only=True)
class SuperresObjective(DiffusionObjective):
    """Super-resolution, Sec. 3.5.

    Args:
        factor: of height and width; the low-resolution clip is the area average.
        low_noise: largest deviation of noise on the low-resolution clip: an error that the stage before might make.
        max_noise_level: noise levels of the condition are drawn below this one.
        first_frame_probability: share of the clips whose condition begins with the true first frame.
        pairs: each video shows a clip twice, side by side: on the left as the stage before makes it, on the right as
            it is to become. `data.width` is that of both.
        timestep_power: below 1 favours strong noise.
    """

    factor: int = number(4, least=2, most=8)
    low_noise: float = number(0.0, least=0)
    max_noise_level: int = number(400, least=1, most=1000)
    first_frame_probability: float = number(0.7, least=0, most=1)
    pairs: bool = False
    timestep_power: float = number(1.0, least=0, above=True)


class SuperresTask(StageTask):
    """Sec. 3.5: a clip is one window."""

    stage = "superres"
    objective = SuperresObjective
    pipeline_class = Show1SuperResolutionPipeline
    network_class = Show1UNet3DConditionModel
    extra_components = ("image_noising_scheduler",)
    condition_channels = 3
    first = False
    crop_grid = 4

    @classmethod
    def check(cls, config: TrainConfig) -> None:
        super().check(config)
        _check_factor(config, "factor")
        if config.objective.pairs and config.validation.clips:
            refuse("validation.clips", config.validation.clips, "0 with objective.pairs")
        if config.objective.pairs and any(turn.crop for turn in config.turns):
            refuse("turns", "a crop", "whole frames with objective.pairs")

    def _check_network(self, variance_type: str) -> None:
        super()._check_network(variance_type)
        if self.network.config.class_embed_type is None:
            refuse("model.config.class_embed_type", None, "'timestep' for superres")

    @property
    def sample_size(self) -> tuple[int, int]:
        data = self.config.data
        return data.height, data.width // 2 if self.config.objective.pairs else data.width

    def loss(self, network: nn.Module, lesson: Lesson) -> Tensor:
        options = lesson.objective
        low = self.given(lesson.seen)
        if options.low_noise:
            low = low + _noise_like(low, lesson, options.low_noise)
        return objectives.superres_loss(
            network,
            self.scheduler,
            self.components["image_noising_scheduler"],
            lesson.part(lesson.frames[..., -self.sample_size[1] :]),
            # enlarged before it is cut out: the frame's edge is another edge than the crop's
            lesson.part(objectives.upsample_frames(low, options.factor)),
            lesson.embeds,
            lesson.generators,
            max_noise_level=options.max_noise_level,
            first_frame_probability=options.first_frame_probability,
            power=options.timestep_power,
            min_snr_gamma=options.min_snr_gamma,
        )

    def example(self) -> dict[str, Tensor]:
        return super().example() | {"class_labels": torch.zeros(1, dtype=torch.long)}

    def given(self, frames: Tensor) -> Tensor:
        return area_downsample(frames[..., : self.sample_size[1]], self.config.objective.factor)

    def call_options(self) -> dict[str, Any]:
        height, width = self.sample_size
        return {"height": height, "width": width, "window_size": max(2, self.config.data.frames)}


def _noise_like(frames: Tensor, lesson: Lesson, most: float) -> Tensor:
    """Noise for every clip, of a deviation that is uniform in 0..most."""
    drawn = [
        most * rng.random() * torch.randn(clip.shape, generator=generator)
        for clip, rng, generator in zip(frames, lesson.rngs, lesson.generators, strict=True)
    ]
    return torch.stack(drawn).to(frames)


# --- refinement ------------------------------------------------------------------------------------------------------


@checked
@dataclass(kw_only=True)
class RefineObjective(DiffusionObjective):
    """Refinement, Sec. 3.6.

    Args:
        max_timestep: the expert is trained on timesteps below this one.
        degrade: whose latents get the noise: 1, those of the true frames, as in the paper; above 1, those of frames
            that were averaged by this factor and resized again, like the input at inference.
        degrade_by: a cascade (its folder, a Hub id, or `tiny`): most of the frames that get the noise go through its
            super-resolution network, in one step; the others are blurred, noisy, and a little off in colour. In place
            of `degrade`.
        degrade_noise_level: of that step.
        timestep_power: above 1 favours weak noise.
    """

    max_timestep: int = number(900, least=1, most=1000)
    degrade: int = number(1, least=1, most=8)
    degrade_by: str | None = text(None)
    degrade_noise_level: int = number(20, least=0, most=999)
    timestep_power: float = number(1.0, least=0, above=True)


class RefineTask(StageTask):
    """Sec. 3.6: in the latents of a frozen VAE."""

    stage = "refine"
    objective = RefineObjective
    pipeline_class = Show1RefinementPipeline
    network_class = Show1UNet3DConditionModel
    extra_components = ("vae",)
    first = False
    crop_grid = 8

    def __init__(self, config: TrainConfig, device: torch.device, source: Source):
        super().__init__(config, device, source)
        self.before = None if config.objective.degrade_by is None else StageBefore(config, source)

    @classmethod
    def check(cls, config: TrainConfig) -> None:
        super().check(config)
        _check_factor(config, "degrade")
        data, options = config.data, config.objective
        if options.degrade_by is not None and options.degrade != 1:
            refuse("objective.degrade", options.degrade, "1 with objective.degrade_by")
        if options.degrade_by is not None and (data.height % 8 or data.width % 8):
            refuse("data.height", data.height, "a multiple of 8, as data.width, with objective.degrade_by")

    @property
    def channels(self) -> int:
        return self.components["vae"].config.latent_channels

    @property
    def sample_size(self) -> tuple[int, int]:
        factor = 2 ** (len(self.components["vae"].config.block_out_channels) - 1)
        data = self.config.data
        for name, side in (("height", data.height), ("width", data.width)):
            if side % factor:
                refuse(f"data.{name}", side, f"a multiple of {factor}, which the VAE divides by")
        return data.height // factor, data.width // factor

    def frozen(self) -> list[nn.Module]:
        return super().frozen() + ([] if self.before is None else self.before.frozen())

    @torch.no_grad()
    def latents(
        self, frames: Tensor, generators: list[torch.Generator] | None = None, frames_at_once: int = 8
    ) -> Tensor:
        """(b, 3, f, h, w) -> latents (b, c, f, h', w'), scaled as the network sees them: the most likely ones, or with
        generators drawn ones, as the pipeline does."""
        vae = self.components["vae"]
        posteriors = [vae.encode(part).latent_dist for part in fold(frames).split(frames_at_once)]
        latents = unfold(torch.cat([posterior.mean for posterior in posteriors]), len(frames))
        if generators is not None:
            deviations = unfold(torch.cat([posterior.std for posterior in posteriors]), len(frames))
            noise = [_normal(clip, draws) for clip, draws in zip(latents, generators, strict=True)]
            latents = latents + deviations * torch.stack(noise)
        return latents * vae.config.scaling_factor

    def loss(self, network: nn.Module, lesson: Lesson) -> Tensor:
        options = lesson.objective
        clean = self.latents(lesson.part(lesson.frames))
        degraded = None
        if self.before is not None:
            degraded = self.latents(self.before(lesson), lesson.generators)
            # some of them nearer to the truth, so that little has to be mended as well
            share = [max(0.0, rng.random() - 0.7) for rng in lesson.rngs]
            degraded = torch.lerp(degraded, clean, torch.tensor(share).to(clean).view(-1, 1, 1, 1, 1))
        elif options.degrade > 1:
            height, width = lesson.frames.shape[-2:]
            low = area_downsample(lesson.seen, options.degrade)
            degraded = self.latents(lesson.part(Show1RefinementPipeline.resize_video(low, height, width, "bilinear")))
        return objectives.refinement_loss(
            network,
            self.scheduler,
            clean,
            degraded,
            lesson.embeds,
            lesson.generators,
            max_timestep=options.max_timestep,
            power=options.timestep_power,
            min_snr_gamma=options.min_snr_gamma,
        )

    def given(self, frames: Tensor) -> Tensor:
        return area_downsample(frames, max(2, self.config.objective.degrade))

    def call_options(self) -> dict[str, Any]:
        return {"height": self.config.data.height, "width": self.config.data.width}


class StageBefore:
    """What refinement is given at inference, as far as one step of super-resolution comes to it.

    Args:
        config: its `objective.degrade_by` has the super-resolution network.
        source: where that is loaded from.
    """

    def __init__(self, config: TrainConfig, source: Source):
        place = config.objective.degrade_by
        self.noise_level = config.objective.degrade_noise_level
        self.network = source.component(SuperresTask, "unet", place)
        self.noising = source.component(SuperresTask, "image_noising_scheduler", place)
        texts = (source.component(SuperresTask, name, place) for name in ("tokenizer", "text_encoder"))
        self.embed = source.embeddings(*texts)

    def frozen(self) -> list[nn.Module]:
        return [self.network, self.embed.encoder]

    @torch.no_grad()
    def __call__(self, lesson: Lesson) -> Tensor:
        """The lesson's windows (b, 3, f, h, w), made at half the size and resized bilinearly by two, as the stage
        does. Clip by clip: what is random about one depends on no other."""
        embeds, made = self.embed(lesson.captions), []
        for index, (rng, generator) in enumerate(zip(lesson.rngs, lesson.generators, strict=True)):
            windows = None if lesson.windows is None else lesson.windows[index : index + 1]
            clip = Lesson(lesson.seen[index : index + 1], None, [generator], None, windows=windows)
            half = area_downsample(clip.frames, 2)
            if rng.random() < 0.7:
                low = area_downsample(half, 4)
                low = low + 0.04 * rng.random() * _normal(low, generator)
                upsampled = clip.part(objectives.upsample_frames(low, 4), 2)
                small = self._one_step(upsampled, clip.part(half, 2), embeds[index : index + 1], rng, generator)
            else:
                small = worsen(clip.part(half, 2), rng, generator)
            made.append(small.clamp(-1, 1))
        frames = torch.cat(made)
        height, width = (2 * side for side in frames.shape[-2:])
        return Show1RefinementPipeline.resize_video(frames, height, width, "bilinear")

    def _one_step(
        self, upsampled: Tensor, truth: Tensor, embeds: Tensor, rng: np.random.Generator, generator: torch.Generator
    ) -> Tensor:
        """One step from pure noise; the expensive way would be a whole sampling."""
        levels = torch.full((1,), self.noise_level, device=truth.device)
        condition = self.noising.add_noise(upsampled, _normal(truth, generator), levels)
        noise = _normal(truth, generator)
        if rng.random() < 0.7:
            condition[:, :, 0] = truth[:, :, 0]
        last = self.noising.config.num_train_timesteps - 1
        made = self.network(
            torch.cat([noise, condition], dim=1), last, encoder_hidden_states=embeds, class_labels=levels
        ).sample
        # Several steps land between the single-step answer (blurred where it is unsure) and the truth.
        return torch.lerp(made, truth, 0.3 * rng.random())


def worsen(frames: Tensor, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
    """Frames (b, 3, f, h, w) with blur, noise, and a change of colour."""
    blur = torch.tensor([1.0, 2.0, 1.0]) / 4
    kernel = (blur[:, None] * blur[None]).expand(3, 1, 1, 3, 3).to(frames)
    smooth = F.conv3d(F.pad(frames, (1, 1, 1, 1, 0, 0), mode="replicate"), kernel, groups=3)
    made = torch.lerp(frames, smooth, rng.random())
    shift = 0.05 * torch.randn((len(frames), 3, 1, 1, 1), generator=generator).to(made)
    return made + shift + 0.1 * rng.random() * _normal(made, generator)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator).to(like)


TASKS = (KeyframeTask, InterpolationTask, SuperresTask, RefineTask)
