# SPDX-License-Identifier: Apache-2.0
"""Tasks: what is trained, its loss, and what comes out.

A task is to training what a pipeline is to sampling: `loss` shows the network what the pipeline would, `videos` are
made with it, `given` is what the stage before would hand it. A family declares a task for each of its stages; the
engine (`training`) loads what a task asks its source for, and trains it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, DiffusionPipeline
from torch import Tensor, nn

from ..sampling.checks import size_divisor
from ..sampling.text import text_width
from . import objectives
from .options import ConfigError, DiffusionObjective, Objective, TrainConfig, refuse


def area_downsample(frames: Tensor, factor: int) -> Tensor:
    """(b, c, f, h, w) -> (b, c, f, h / factor, w / factor), by averaging."""
    return F.avg_pool3d(frames, (1, factor, factor))


def saved_config(network: nn.Module) -> dict[str, Any]:
    """A network's config without what diffusers notes beside it: where it was loaded from, and the keys that had their
    defaults (`from_config` would set these back)."""
    return {key: value for key, value in network.config.items() if key not in ("_name_or_path", "_use_default_values")}


def clip_random(seed: int, step: int, index: int) -> tuple[np.random.Generator, torch.Generator]:
    """The two random streams of clip number `index` of optimiser step `step`."""
    sequence = np.random.SeedSequence((seed, step, index, 0, 4))  # 4: apart from the streams of the clips' choice
    noise = torch.Generator().manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))
    return np.random.default_rng(sequence), noise


class Batch(Protocol):
    """Clips of one optimiser step: `learning` needs of a batch what stands here.

    Attributes:
        clips: `frames` (b, 3, f, h, w), `captions`, and `shown`: what the network sees instead of `frames`, or None.
        indices: each clip's number in the global batch.
        turn: the kind of batch.
    """

    clips: Any
    indices: list[int]
    turn: Any


@dataclass(frozen=True)
class Lesson:
    """What a loss is made of, clip by clip.

    Args:
        frames: the truth, (b, 3, f, h, w) in [-1, 1].
        embeds: of the captions, some of them dropped, (b, tokens, width); None for a task that reads no text.
        generators: of the noise of each clip; `rngs`: of every other choice.
        objective: the section of the recipe, as it is for this batch.
        shown: what the network sees instead of the truth, of the same shape; None where it sees the truth.
        captions: none of them dropped.
        windows: top, left, height and width of the part of each clip that is trained on; None for whole frames.
    """

    frames: Tensor
    embeds: Tensor | None
    generators: list[torch.Generator]
    objective: Any
    shown: Tensor | None = None
    captions: Sequence[str] = ()
    rngs: Sequence[np.random.Generator] = ()
    windows: Sequence[tuple[int, int, int, int]] | None = None

    @property
    def seen(self) -> Tensor:
        """What the network sees: bent, or the truth."""
        return self.frames if self.shown is None else self.shown

    def part(self, frames: Tensor, shrunk: int = 1) -> Tensor:
        """The clips' windows of `frames` (b, c, f, h / shrunk, w / shrunk); all of them for whole frames."""
        if self.windows is None:
            return frames
        parts = []
        for clip, window in zip(frames, self.windows, strict=True):
            top, left, height, width = (side // shrunk for side in window)
            parts.append(clip[..., top : top + height, left : left + width])
        return torch.stack(parts)


class Source(Protocol):
    """Where a task gets its parts from; the engine has one for every run."""

    def component(self, task: type[StageTask], name: str, place: str | None = None) -> Any:
        """A frozen component of a stage: from the recipe's `model.components`, or from another place."""

    def network(self, kind: type) -> Any:
        """The network that the training begins with (`unet`), and where it comes from (`str()`)."""

    def embeddings(self, tokenizer: Any, text_encoder: Any) -> Any:
        """captions -> (b, tokens, width)."""


class Task:
    """What every task has.

    Args:
        config: the recipe.
        device: of what is frozen; accelerate moves the network.
        source: where the parts come from.

    Attributes:
        network: what is trained, in float32.
        start: where its parameters come from, as `str()` tells it.

    Raises:
        ConfigError, ValueError, OSError: something is missing or does not fit, before anything is trained.
    """

    stage: ClassVar[str]
    objective: ClassVar[type[Objective]] = Objective
    first: ClassVar[bool] = True  # nothing is handed to it: prompts are enough to make videos from
    least_frames: ClassVar[int] = 1
    crop_grid: ClassVar[int | None] = None  # pixels that the corners of crops are multiples of; None: no crops

    network: Any  # a module, whose attributes are those of its class
    start: Any

    def __init__(self, config: TrainConfig, device: torch.device, source: Source):
        self.config, self.device = config, device

    @classmethod
    def check(cls, config: TrainConfig) -> None:
        """What the recipe's keys cannot say alone. Raises `ConfigError`."""
        if config.data.frames < cls.least_frames:
            refuse("data.frames", config.data.frames, f"at least {cls.least_frames} for {cls.stage}")
        if cls.least_frames > 1:
            share = config.objective.image_share
            if share:
                refuse("objective.image_share", share, f"0 for {cls.stage}, which has no images")
            if any(turn.stills for turn in config.turns):
                refuse("turns", "stills", f"clips for {cls.stage}, which has no images")
        for index, turn in enumerate(config.turns):
            if turn.crop and (cls.crop_grid is None or any(side % cls.crop_grid for side in turn.crop)):
                grid = "empty" if cls.crop_grid is None else f"multiples of {cls.crop_grid}"
                refuse(f"turns[{index}].crop", list(turn.crop), f"{grid} for {cls.stage}")
        if config.validation.prompts and not cls.first:
            refuse("validation.prompts", config.validation.prompts, f"empty for {cls.stage}, which is given clips")

    def dataset(self) -> Any:
        """The clips, where they are not those of the recipe's section `data`; else None."""
        return None

    # --- the loss ----------------------------------------------------------------------------------------------------

    def batch_loss(self, network: nn.Module, batch: Batch, step: int) -> Tensor:
        """The mean loss of some clips of optimiser step `step`; each one draws from generators of its own."""
        streams = [clip_random(self.config.run.seed, step, index) for index in batch.indices]
        objective, captions = self.config.objective_of(batch.turn), batch.clips["captions"]
        kept = [
            "" if rng.random() < objective.caption_dropout else caption
            for (rng, _), caption in zip(streams, captions, strict=True)
        ]
        shown = batch.clips.get("shown")
        lesson = Lesson(
            frames=batch.clips["frames"].to(self.device, non_blocking=True),
            embeds=self.embed(kept),
            generators=[noise for _, noise in streams],
            objective=objective,
            shown=None if shown is None else shown.to(self.device, non_blocking=True),
            captions=captions,
            rngs=[rng for rng, _ in streams],
            windows=[self._window(batch.turn.crop, rng) for rng, _ in streams] if batch.turn.crop else None,
        )
        return self.loss(network, lesson)

    def _window(self, crop: tuple[int, ...], rng: np.random.Generator) -> tuple[int, int, int, int]:
        grid, sides = self.crop_grid or 1, (self.config.data.height, self.config.data.width)
        top, left = (
            grid * int(rng.integers((side - part) // grid + 1)) for side, part in zip(sides, crop, strict=True)
        )
        return top, left, crop[0], crop[1]

    def embed(self, captions: Sequence[str]) -> Tensor | None:
        """The captions as the network reads them, (b, tokens, width)."""
        return None

    def loss(self, network: nn.Module, lesson: Lesson) -> Tensor:
        """The mean loss of some clips, ()."""
        raise NotImplementedError

    # --- what a run tells --------------------------------------------------------------------------------------------

    def frozen(self) -> list[nn.Module]:
        """The networks beside the one that is trained."""
        return []

    def example(self) -> dict[str, Tensor] | None:
        """Inputs of the network for one clip, all zeros; None where its memory is not estimated."""
        return None

    def measure(self, network: nn.Module, frames: Tensor, captions: Sequence[str]) -> Mapping[str, float]:
        """Figures of the averaged network on true clips (b, 3, f, h, w): name -> number."""
        return {}

    def given(self, frames: Tensor) -> Tensor | None:
        """What the stage before would hand on for true clips (b, 3, f, h, w), ideally; None for a first stage."""
        return None

    def call_options(self) -> dict[str, Any]:
        """The pipeline's options that follow from the data."""
        return {}

    def videos(self, network: nn.Module, **inputs: Any) -> Tensor | None:
        """Videos (b, f, 3, h, w) in [0, 1] made with `network`; None for a task that makes none."""
        return None

    # --- what comes out ----------------------------------------------------------------------------------------------

    def plain(self) -> nn.Module:
        """Another network of the same form, unwrapped: the one in training may be sharded."""
        return type(self.network).from_config(saved_config(self.network))

    def finish(self, network: nn.Module, frames: Tensor | None) -> None:
        """Change the averaged network before it is exported; `frames` are the clips to validate with."""

    def save(self, network: nn.Module, folder: Path, with_text_encoder: bool = True) -> None:
        """Write `network`, and what belongs to it, as a folder that `from_pretrained` reads."""
        raise NotImplementedError


class StageTask(Task):
    """A stage: a network that denoises given a text, and the pipeline that it is for.

    Attributes:
        scheduler: the forward process, of which the network's prediction type is a part.
        components: those of the pipeline, but for the network.
    """

    objective: ClassVar[type[Objective]] = DiffusionObjective
    pipeline_class: ClassVar[type[DiffusionPipeline]]
    network_class: ClassVar[type]
    extra_components: ClassVar[tuple[str, ...]] = ()
    condition_channels: ClassVar[int] = 0

    def __init__(self, config: TrainConfig, device: torch.device, source: Source):
        super().__init__(config, device, source)
        self.components: dict[str, Any] = {
            name: source.component(type(self), name)
            for name in ("tokenizer", "text_encoder", "scheduler", *self.extra_components)
        }
        torch.manual_seed(config.run.seed)
        self.start = source.network(self.network_class)
        self.network = self.start.unet
        if config.model.gradient_checkpointing:
            self.network.enable_gradient_checkpointing()
        predicts_variance = self.network.config.out_channels == 2 * self.channels
        variance_type = config.objective.variance_type or ("learned_range" if predicts_variance else "fixed_small")
        sampler = self.components["scheduler"]
        self.scheduler = training_scheduler(sampler, config.objective.prediction_type, variance_type)
        # What samples with the network has to know what it was trained to predict.
        self.components["scheduler"] = sampler.from_config(
            sampler.config, prediction_type=self.scheduler.config.prediction_type
        )
        self._check_network(variance_type)
        self._embeddings = source.embeddings(self.components["tokenizer"], self.components["text_encoder"])

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
        unet, encoder = self.network, self.components["text_encoder"]
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

    def embed(self, captions: Sequence[str]) -> Tensor:
        return self._embeddings(captions)

    def frozen(self) -> list[nn.Module]:
        return [component for component in self.components.values() if isinstance(component, nn.Module)]

    def example(self) -> dict[str, Tensor]:
        width = self.components["text_encoder"].config.hidden_size
        tokens = min(77, self.components["tokenizer"].model_max_length)
        size = (1, self.network.config.in_channels, self.config.data.frames, *self.sample_size)
        return {
            "sample": torch.zeros(size),
            "timestep": torch.zeros(1, dtype=torch.long),
            "encoder_hidden_states": torch.zeros(1, tokens, width),
        }

    # --- the pipeline ------------------------------------------------------------------------------------------------

    def pipeline(self, network: nn.Module, with_text_encoder: bool = True) -> DiffusionPipeline:
        """The stage with `network` in it."""
        components = dict(self.components)
        if not with_text_encoder:
            components |= {"tokenizer": None, "text_encoder": None}
        pipe = self.pipeline_class(unet=network, **components)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def videos(self, network: nn.Module, **inputs: Any) -> Tensor | None:
        return self.pipeline(network)(output_type="pt", **inputs).frames

    def save(self, network: nn.Module, folder: Path, with_text_encoder: bool = True) -> None:
        self.pipeline(network, with_text_encoder).save_pretrained(folder)


def training_scheduler(sampler: Any, prediction_type: str | None, variance_type: str) -> DDPMScheduler:
    """The forward process that a sampling scheduler reverses."""
    changes = {"variance_type": variance_type, "clip_sample": False, "thresholding": False}
    if prediction_type is not None:
        changes["prediction_type"] = prediction_type
    return DDPMScheduler.from_config(sampler.config, **changes)
