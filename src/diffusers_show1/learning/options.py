# SPDX-License-Identifier: Apache-2.0
"""The configuration of a training run, as strict dataclasses: types and ranges of the fields are checked by
`huggingface_hub.dataclasses.strict` whenever one is set, and `training.config` reads them from YAML.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import typing
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, NoReturn, TypeVar

from huggingface_hub.dataclasses import strict, validated_field

from ..clips.words import is_text, shorten
from .objectives import is_image


T = TypeVar("T")
MAX_SEED = 2**32 - 1  # of numpy's seed sequences, word by word


class ConfigError(ValueError):
    """A recipe that cannot be used, or does not fit what it meets; the message names the key."""


def refuse(key: str, value: Any, allowed: str) -> NoReturn:
    """Raise `ConfigError` with the key, what is allowed, and the value."""
    raise ConfigError(f"`{key}` must be {allowed}, got {shorten(repr(value))}")


# --- fields ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Range:
    """That a number is finite and lies between two ends; `str()` says which."""

    least: float
    most: float
    above: bool

    def __call__(self, value: Any) -> None:
        # Compared and not converted: a whole number of 400 digits is no float.
        if value is not None and (
            not self.least <= value <= self.most
            or abs(value) > sys.float_info.max
            or (self.above and value == self.least)
        ):
            raise ValueError(str(self))

    def __str__(self) -> str:
        ends = [f"{'above' if self.above else 'of at least'} {self.least:g}"] if self.least > -math.inf else []
        ends += [f"at most {self.most:g}"] if self.most < math.inf else []
        return " and ".join(ends)


def _said(value: Any) -> None:
    """That a text says something, and can be written."""
    texts = value if isinstance(value, tuple) else () if value is None else (value,)
    if not all(text.strip() and is_text(text) for text in texts):
        raise ValueError("a text")


def number(
    default: Any = dataclasses.MISSING, least: float = -math.inf, most: float = math.inf, above: bool = False
) -> Any:
    """A field of a finite number from `least` (`above`: greater than `least`) to `most`."""
    return validated_field(Range(least, most, above), default=default)


def text(default: Any = dataclasses.MISSING) -> Any:
    """A field of a text, or of several."""
    return validated_field(_said, default=default)


def checked(cls: type[T]) -> type[T]:
    """A dataclass whose fields are checked when they are set. (`strict` alone takes a type that is written as a text,
    as all are under `from __future__ import annotations`, for any.)"""
    hints = typing.get_type_hints(cls)
    for each in dataclasses.fields(cls):
        each.type = hints[each.name]
    return strict(cls)


# --- sections --------------------------------------------------------------------------------------------------------


@checked
@dataclass(kw_only=True)
class DataConfig:
    """Clips.

    Args:
        kind: `world`, the synthetic one; `files`, video files with captions; `stream`, a dataset of the Hub.
        path: the folder or manifest of `files`, the name of a `stream`.
        frames, height, width: of a clip.
        fps: frames per second of a clip. The synthetic world has 8, and keyframes 2.
        forward: of the world: two steps. Until the first nearly all objects move right or down, or grow; from the
            second on all motions are alike frequent.
        workers: processes that read ahead; the batches do not depend on it.
        embeddings: a folder to keep text embeddings in.
    """

    kind: Literal["world", "files", "stream"]
    path: str | None = text(None)
    frames: int = number(least=1, most=2**16)
    height: int = number(least=8, most=2**14)
    width: int = number(least=8, most=2**14)
    fps: float = number(8.0, least=0, above=True)
    forward: tuple[int, ...] = ()
    workers: int = number(0, least=0, most=256)
    embeddings: str | None = text(None)


@checked
@dataclass(kw_only=True)
class TurnConfig:
    """One kind of batch, where several take turns.

    Args:
        steps: so many steps in a row.
        times: clips of a batch, as a multiple of `run.batch_size`.
        stills: single frames.
        crop: height and width of a random part of the frames, for tasks that can do with one.
        bend: of the world: in three of four clips the network is shown objects whose outlines are bent, by a random
            field of up to this many pixels of the smallest frame (RMS), and has to return the true ones.
        objective: keys of the section `objective` that are others here.
    """

    steps: int = number(1, least=1, most=1000)
    times: int = number(1, least=1, most=2**16)
    stills: bool = False
    crop: tuple[int, ...] = ()
    bend: float = number(0.0, least=0, most=4)
    objective: dict[str, Any] = field(default_factory=dict)


_CLIPS = TurnConfig()


@cache
def _images(frames: int) -> TurnConfig:
    """Single frames, as many as there are in clips of so many."""
    return TurnConfig(stills=True, times=frames)


@checked
@dataclass(kw_only=True)
class ModelConfig:
    """The network, and all that stays frozen beside it.

    Args:
        start: `scratch`; `from_2d`, inflate an image UNet; `previous`, the network of the stage before; `run`, another
            run of this stage (its folder, or any folder or repository with its weights).
        path: the folder or Hub id that `start` reads: `tiny` is the cascade in the package. For `scratch` none, or the
            model whose config is taken without its weights.
        subfolder: where in `path` the network lies; by default `path` itself, or `unet` in it.
        config: the network's config, or changes to that at `path`.
        grow: changes of the network's config when it is exported. Layers that are new compute nothing: they are there
            for adapters to learn in.
        components: the folder or Hub id of a stage or cascade that text encoder, tokeniser, VAE and schedulers come
            from; `tiny` is the one in the package.
        schedulers: component -> its class (`_class_name`) and config: those that are made here and not taken from
            `components`.
        text_encoder_dtype: in which the text encoder is kept.
        gradient_checkpointing: activations are computed twice instead of kept.
    """

    start: Literal["scratch", "from_2d", "previous", "run"]
    path: str | None = text(None)
    subfolder: str | None = text(None)
    config: dict[str, Any] = field(default_factory=dict)
    grow: dict[str, Any] = field(default_factory=dict)
    components: str = text("tiny")
    schedulers: dict[str, Any] = field(default_factory=dict)
    text_encoder_dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    gradient_checkpointing: bool = False


@checked
@dataclass(kw_only=True)
class Objective:
    """What all objectives have; a task adds its own.

    Args:
        caption_dropout: share of the clips that are trained with an empty caption.
        image_share: share of the optimiser steps whose batch is single frames, as many as the clips would have had.
        dropout: of the temporal layers, as their config has it.
    """

    caption_dropout: float = number(0.1, least=0, most=1)
    image_share: float = number(0.0, least=0, most=0.9)
    dropout: bool = False


@checked
@dataclass(kw_only=True)
class DiffusionObjective(Objective):
    """Eq. 5, with what all stages share; docs/objectives.md says what the numbers do.

    Args:
        prediction_type, variance_type: of the training schedule. By default those of the components' scheduler.
        min_snr_gamma: weights by signal-to-noise ratio; off by default.
    """

    prediction_type: Literal["epsilon", "v_prediction", "sample"] | None = None
    variance_type: Literal["fixed_small", "learned_range"] | None = None
    min_snr_gamma: float | None = number(None, least=0, above=True)


@checked
@dataclass(kw_only=True)
class OptimizerConfig:
    """AdamW (`adamw8bit`: its states in 8 bits, by bitsandbytes); linear warm-up, then a cosine down to
    `final_learning_rate`."""

    kind: Literal["adamw", "adamw8bit"] = "adamw"
    learning_rate: float = number(least=0, above=True)
    final_learning_rate: float = number(0.0, least=0)
    warmup_steps: int = number(50, least=1)
    weight_decay: float = number(1e-4, least=0)
    beta1: float = number(0.9, least=0, most=0.9999)
    beta2: float = number(0.99, least=0, most=0.99999)
    max_grad_norm: float = number(1.0, least=0, above=True)
    ema_decay: float = number(0.998, least=0, most=0.99999)


@checked
@dataclass(kw_only=True)
class RunConfig:
    """The run.

    Args:
        steps: optimiser steps.
        batch_size: clips per optimiser step, of all processes together.
        accumulation: parts that each process goes through its clips of a step in.
        precision: `fp32`, or `bf16` or `fp16` autocast over weights in 32 bits.
        seed: of the choice of clips, captions, noise and fresh weights.
        log_every, checkpoint_every, validate_every: in optimiser steps; 0 for no validation before the end.
        keep: checkpoints to keep.
        trackers: beside `metrics.jsonl`, which is always written.
        export_text_encoder: also copy tokeniser and text encoder into every export.
        export_dtype: in which the network is exported.
    """

    steps: int = number(least=1)
    batch_size: int = number(least=1)
    accumulation: int = number(1, least=1)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    seed: int = number(0, least=0, most=MAX_SEED)
    log_every: int = number(50, least=1)
    checkpoint_every: int = number(1000, least=1)
    validate_every: int = number(1000, least=0)
    keep: int = number(2, least=1)
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    export_text_encoder: bool = True
    export_dtype: Literal["fp32", "fp16"] = "fp32"


@checked
@dataclass(kw_only=True)
class ValidationConfig:
    """Videos at intervals, made by the stage's own pipeline with the averaged weights.

    Args:
        prompts: for a first stage. The others, and a first stage without any, take `clips` clips of the data: their
            captions, and what the stage before would give for them.
        clips: how many.
        seed: of the videos, and of the choice of clips.
        options: of the pipeline's call, such as `num_inference_steps` and `guidance_scale`.
    """

    prompts: tuple[str, ...] = text(())
    clips: int = number(2, least=0, most=64)
    seed: int = number(0, least=0, most=MAX_SEED)
    options: dict[str, Any] = field(default_factory=dict)


@checked
@dataclass(kw_only=True)
class TrainConfig:
    """A recipe.

    Args:
        stage: what is trained: a stage of a family, or one of the engine's own tasks.
        objective: of the class that the task declares.
        turns: kinds of batches that take turns; none: all are alike.
        family: whose stage; by default the first that has one of that name.
    """

    stage: str = text()
    data: DataConfig
    model: ModelConfig
    objective: Objective
    turns: tuple[TurnConfig, ...] = ()
    optimizer: OptimizerConfig
    run: RunConfig
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    family: str | None = text(None)

    def turn(self, step: int) -> TurnConfig:
        """The kind of batch that optimiser step `step` has: the recipe's turns, or images among the clips."""
        if self.turns:
            place = step % sum(turn.steps for turn in self.turns)
            for turn in self.turns:
                if place < turn.steps:
                    return turn
                place -= turn.steps
        if is_image(step, self.objective.image_share):
            return _images(self.data.frames)
        return _CLIPS

    def objective_of(self, turn: TurnConfig) -> Any:
        """The objective of a kind of batch."""
        return dataclasses.replace(self.objective, **turn.objective) if turn.objective else self.objective
