# SPDX-License-Identifier: Apache-2.0
"""What each stage trains: its network and what stays frozen beside it, its loss, and its pipeline.

A task is the stage's pipeline in training: `loss` shows the network what the pipeline would, `pipeline` makes videos
with it, `given` is what the stage before would hand it.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import DDPMScheduler, DiffusionPipeline
from torch import Tensor, nn

from ..families.show1.interpolation import Show1InterpolationPipeline
from ..families.show1.keyframes import Show1KeyframePipeline
from ..families.show1.refine import Show1RefinementPipeline
from ..families.show1.superres import Show1SuperResolutionPipeline
from ..families.show1.unet import Show1UNet3DConditionModel
from ..sampling.checks import size_divisor
from ..sampling.latents import fold, unfold
from ..sampling.text import text_width
from ..tiny import TINY_PATH
from . import objectives
from .batches import StepBatch, clip_random
from .config import ConfigError, TrainConfig
from .data import area_downsample
from .embeddings import TextEmbeddings
from .start import Start, start_unet


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
START_KINDS = {"scratch": "scratch", "from_2d": "image", "previous": "network", "run": "network"}


def _place(path: str) -> str:
    return str(TINY_PATH) if path == "tiny" else path


def load_component(path: str, stage: str, name: str, dtype: torch.dtype) -> Any:
    """A frozen component of `stage` from a folder or repository of that stage, or of a whole cascade.

    Raises:
        ConfigError: there is none of that name.
    """
    source, allowed = _place(path), "tiny, or a folder or Hub id (owner/name) of a stage or cascade"
    if not Path(source).is_dir() and len(Path(source).parts) != 2:
        raise ConfigError(f"`model.components` must be {allowed}, got {path!r}")
    try:
        index = DiffusionPipeline.load_config(source)
    except OSError as error:
        raise ConfigError(
            f"`model.components` must be {allowed}, got {path!r} ({str(error).splitlines()[0]})"
        ) from error
    # A cascade has them all side by side, one T5 for three stages.
    own = f"{stage}_{name}"
    found = own if own in index else name
    if stage == "refine" and own not in index and f"{stage}_unet" in index:
        found = own
    library, kind = index.get(found) or (None, None)
    if library not in ("diffusers", "transformers"):
        raise ConfigError(
            f"`model.components` must have a {found} for {stage}, got {path!r}, which has {index.get(found)}"
        )
    cls = getattr(importlib.import_module(library), kind)
    if not issubclass(cls, nn.Module):
        return cls.from_pretrained(source, subfolder=found)
    return cls.from_pretrained(source, subfolder=found, dtype=dtype).eval().requires_grad_(False)


def training_scheduler(sampler: Any, prediction_type: str | None, variance_type: str) -> DDPMScheduler:
    """The forward process that a sampling scheduler reverses."""
    changes = {"variance_type": variance_type, "clip_sample": False, "thresholding": False}
    if prediction_type is not None:
        changes["prediction_type"] = prediction_type
    return DDPMScheduler.from_config(sampler.config, **changes)


class Task:
    """The base stage, and what all stages share.

    Args:
        config: its `model.start` decides the weights.
        device: of what is frozen; accelerate moves the network.

    Attributes:
        unet: the network, in float32.
        start: where its parameters come from.
        scheduler: the forward process, of which the network's prediction type is a part.

    Raises:
        ConfigError, ValueError, OSError: something is missing or does not fit, before anything is trained.
    """

    stage: ClassVar[str] = "base"
    pipeline_class: ClassVar[type[DiffusionPipeline]] = Show1KeyframePipeline
    extra_components: ClassVar[tuple[str, ...]] = ()
    condition_channels: ClassVar[int] = 0

    def __init__(self, config: TrainConfig, device: torch.device):
        self.config, self.device, model = config, device, config.model
        self.components: dict[str, Any] = {}
        for name in ("tokenizer", "text_encoder", "scheduler", *self.extra_components):
            dtype = DTYPES[model.text_encoder_dtype] if name == "text_encoder" else torch.float32
            component = load_component(model.components, self.stage, name, dtype)
            self.components[name] = component.to(device) if isinstance(component, nn.Module) else component
        torch.manual_seed(config.run.seed)
        source = model.config if model.path is None else _place(model.path)
        changes = {} if model.path is None else model.config
        self.start: Start = start_unet(START_KINDS[model.start], source, model.subfolder, **changes)
        self.unet: Show1UNet3DConditionModel = self.start.unet
        if model.gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
        predicts_variance = self.unet.config.out_channels == 2 * self.channels
        variance_type = config.objective.variance_type or ("learned_range" if predicts_variance else "fixed_small")
        sampler = self.components["scheduler"]
        self.scheduler = training_scheduler(sampler, config.objective.prediction_type, variance_type)
        # What samples with the network has to know what it was trained to predict.
        self.components["scheduler"] = sampler.from_config(
            sampler.config, prediction_type=self.scheduler.config.prediction_type
        )
        self._check_network(variance_type)
        self.embed = TextEmbeddings(
            self.components["tokenizer"], self.components["text_encoder"], config.data.embeddings
        )

    @property
    def channels(self) -> int:
        """Of what the network denoises."""
        return 3

    @property
    def sample_size(self) -> tuple[int, int]:
        """Height and width of what the network denoises."""
        return self.config.data.height, self.config.data.width

    def _check_network(self, variance_type: str) -> None:
        objectives.check_scheduler(self.scheduler, self.config.objective.min_snr_gamma)
        unet, encoder = self.unet, self.components["text_encoder"]
        wanted = self.channels + self.condition_channels
        if unet.config.in_channels != wanted:
            raise ConfigError(
                f"`model.config.in_channels` must be {wanted} for {self.stage}, got {unet.config.in_channels}"
            )
        allowed = {2 * self.channels} if variance_type == "learned_range" else {self.channels, 2 * self.channels}
        if unet.config.out_channels not in allowed:
            raise ConfigError(
                f"`model.config.out_channels` must be {' or '.join(map(str, sorted(allowed)))} for {self.stage} with "
                f"objective.variance_type {variance_type}, got {unet.config.out_channels}"
            )
        if text_width(unet) != encoder.config.hidden_size:
            raise ConfigError(
                f"`model.components` must have a text encoder of width {text_width(unet)}, which the network reads, "
                f"got {encoder.config.hidden_size} from {self.config.model.components!r}"
            )
        for name, side in zip(("height", "width"), self.sample_size, strict=True):
            if side % size_divisor(unet):
                raise ConfigError(
                    f"`data.{name}` must give the network a multiple of {size_divisor(unet)}, got {side} from "
                    f"{getattr(self.config.data, name)}"
                )

    # --- the loss ----------------------------------------------------------------------------------------------------

    def batch_loss(self, unet: nn.Module, batch: StepBatch, step: int) -> Tensor:
        """The mean loss of some clips of optimiser step `step`; each one draws from a generator of its own."""
        streams = [clip_random(self.config.run.seed, step, index) for index in batch.indices]
        dropout = self.config.objective.caption_dropout
        captions = [
            "" if rng.random() < dropout else caption
            for (rng, _), caption in zip(streams, batch.clips["captions"], strict=True)
        ]
        frames = batch.clips["frames"].to(self.device, non_blocking=True)
        return self.loss(unet, frames, self.embed(captions), [noise for _, noise in streams])

    def loss(self, unet: nn.Module, frames: Tensor, embeds: Tensor, generators: list[torch.Generator]) -> Tensor:
        """Of clips (b, 3, f, h, w) with embeddings (b, tokens, width)."""
        objective = self.config.objective
        return objectives.keyframe_loss(
            unet,
            self.scheduler,
            frames,
            embeds,
            generators,
            power=objective.timestep_power,
            min_snr_gamma=objective.min_snr_gamma,
        )

    def example(self) -> dict[str, Tensor]:
        """Inputs of the network for one clip, all zeros."""
        width = self.components["text_encoder"].config.hidden_size
        tokens = min(77, self.components["tokenizer"].model_max_length)
        size = (1, self.unet.config.in_channels, self.config.data.frames, *self.sample_size)
        return {
            "sample": torch.zeros(size),
            "timestep": torch.zeros(1, dtype=torch.long),
            "encoder_hidden_states": torch.zeros(1, tokens, width),
        }

    # --- the pipeline ------------------------------------------------------------------------------------------------

    def pipeline(self, unet: nn.Module, with_text_encoder: bool = True) -> DiffusionPipeline:
        """The stage with `unet` in it."""
        components = dict(self.components)
        if not with_text_encoder:
            components |= {"tokenizer": None, "text_encoder": None}
        pipe = self.pipeline_class(unet=unet, **components)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def given(self, frames: Tensor) -> Tensor | None:
        """What the stage before would hand on for true clips (b, 3, f, h, w), ideally; None for the first stage."""
        return None

    def call_options(self) -> dict[str, Any]:
        """The pipeline's options that follow from the data."""
        data = self.config.data
        return {"num_frames": data.frames, "height": data.height, "width": data.width}


class InterpolationTask(Task):
    """Sec. 3.4: a clip is one window, its ends are given."""

    stage = "interpolation"
    pipeline_class = Show1InterpolationPipeline
    condition_channels = 4

    def loss(self, unet: nn.Module, frames: Tensor, embeds: Tensor, generators: list[torch.Generator]) -> Tensor:
        objective = self.config.objective
        return objectives.interpolation_loss(
            unet,
            self.scheduler,
            frames,
            embeds,
            generators,
            max_augmentation=objective.max_augmentation,
            min_snr_gamma=objective.min_snr_gamma,
        )

    def given(self, frames: Tensor) -> Tensor:
        return frames[:, :, [0, -1]]

    def call_options(self) -> dict[str, Any]:
        return {"frames_between": self.config.data.frames - 2}


class SuperresTask(Task):
    """Sec. 3.5: a clip is one window."""

    stage = "superres"
    pipeline_class = Show1SuperResolutionPipeline
    extra_components = ("image_noising_scheduler",)
    condition_channels = 3

    def _check_network(self, variance_type: str) -> None:
        super()._check_network(variance_type)
        if self.unet.config.class_embed_type is None:
            raise ConfigError("`model.config.class_embed_type` must be 'timestep' for superres, got None")

    @property
    def sample_size(self) -> tuple[int, int]:
        data = self.config.data
        return data.height, data.width // 2 if self.config.objective.pairs else data.width

    def loss(self, unet: nn.Module, frames: Tensor, embeds: Tensor, generators: list[torch.Generator]) -> Tensor:
        objective = self.config.objective
        return objectives.superres_loss(
            unet,
            self.scheduler,
            self.components["image_noising_scheduler"],
            frames[..., -self.sample_size[1] :],
            objectives.upsample_frames(self.given(frames), objective.factor),
            embeds,
            generators,
            max_noise_level=objective.max_noise_level,
            first_frame_probability=objective.first_frame_probability,
            power=objective.timestep_power,
            min_snr_gamma=objective.min_snr_gamma,
        )

    def example(self) -> dict[str, Tensor]:
        return super().example() | {"class_labels": torch.zeros(1, dtype=torch.long)}

    def given(self, frames: Tensor) -> Tensor:
        return area_downsample(frames[..., : self.sample_size[1]], self.config.objective.factor)

    def call_options(self) -> dict[str, Any]:
        height, width = self.sample_size
        return {"height": height, "width": width, "window_size": max(2, self.config.data.frames)}


class RefineTask(Task):
    """Sec. 3.6: in the latents of a frozen VAE."""

    stage = "refine"
    pipeline_class = Show1RefinementPipeline
    extra_components = ("vae",)

    @property
    def channels(self) -> int:
        return self.components["vae"].config.latent_channels

    @property
    def sample_size(self) -> tuple[int, int]:
        factor = 2 ** (len(self.components["vae"].config.block_out_channels) - 1)
        data = self.config.data
        for name, side in (("height", data.height), ("width", data.width)):
            if side % factor:
                raise ConfigError(
                    f"`data.{name}` must be a multiple of {factor}, which the VAE divides by, got {side}"
                )
        return data.height // factor, data.width // factor

    @torch.no_grad()
    def latents(self, frames: Tensor, frames_at_once: int = 8) -> Tensor:
        """(b, 3, f, h, w) -> the most likely latents (b, c, f, h', w'), scaled as the network sees them."""
        vae = self.components["vae"]
        images = fold(frames)
        parts = [vae.encode(part).latent_dist.mode() for part in images.split(frames_at_once)]
        return unfold(torch.cat(parts) * vae.config.scaling_factor, len(frames))

    def loss(self, unet: nn.Module, frames: Tensor, embeds: Tensor, generators: list[torch.Generator]) -> Tensor:
        objective = self.config.objective
        degraded = None
        if objective.degrade > 1:
            height, width = frames.shape[-2:]
            low = area_downsample(frames, objective.degrade)
            degraded = self.latents(Show1RefinementPipeline.resize_video(low, height, width, "bilinear"))
        return objectives.refinement_loss(
            unet,
            self.scheduler,
            self.latents(frames),
            degraded,
            embeds,
            generators,
            max_timestep=objective.max_timestep,
            power=objective.timestep_power,
            min_snr_gamma=objective.min_snr_gamma,
        )

    def given(self, frames: Tensor) -> Tensor:
        return area_downsample(frames, max(2, self.config.objective.degrade))

    def call_options(self) -> dict[str, Any]:
        return {"height": self.config.data.height, "width": self.config.data.width}


TASKS: dict[str, type[Task]] = {task.stage: task for task in (Task, InterpolationTask, SuperresTask, RefineTask)}
