# SPDX-License-Identifier: Apache-2.0
"""Recipes: the configuration of a training run, as frozen dataclasses that are read strictly from YAML.

Types and metadata of the fields say what they may hold. Reading stops at the first key that is unknown, missing, of
the wrong type or out of range, with one `ConfigError` that names the key, what is allowed and the value.
"""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from ..clips.words import is_text, shorten


RECIPES = Path(__file__).parent / "recipes"
STAGES = ("base", "interpolation", "superres", "refine")
MAX_SEED = 2**32 - 1  # of numpy's seed sequences, word by word


class ConfigError(ValueError):
    """A recipe that cannot be used, or does not fit what it meets; the message names the key."""


def number(default: Any = dataclasses.MISSING, least: float = -math.inf, most: float = math.inf, above: bool = False):
    """A field of a finite number from `least` (`above`: greater than `least`) to `most`."""
    return field(default=default, metadata={"least": least, "most": most, "above": above})


def required(**metadata: Any):
    """A field without a default; it may stand after fields that have one, since recipes are read by key."""
    return field(metadata=metadata)


# --- sections --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Clips.

    Args:
        kind: `world`, the synthetic one; `files`, video files with captions; `stream`, a dataset of the Hub.
        path: the folder or manifest of `files`, the name of a `stream`.
        frames, height, width: of a clip.
        fps: frames per second of a clip. The synthetic world has 8, and keyframes 2.
        workers: processes that read ahead; the batches do not depend on it.
        embeddings: a folder to keep text embeddings in.
    """

    kind: Literal["world", "files", "stream"]
    path: str | None = None
    frames: int = number(least=1, most=2**16)
    height: int = number(least=8, most=2**14)
    width: int = number(least=8, most=2**14)
    fps: float = number(8.0, least=0, above=True)
    workers: int = number(0, least=0, most=256)
    embeddings: str | None = None


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network, and all that stays frozen beside it.

    Args:
        start: `scratch`; `from_2d`, inflate an image UNet; `previous`, the network of the stage before; `run`, another
            run of this stage (its folder, or any folder or repository with its weights).
        path: the folder or Hub id that `start` reads: `tiny` is the cascade in the package. For `scratch` none, or the
            model whose config is taken without its weights.
        subfolder: where in `path` the network lies; by default `path` itself, or `unet` in it.
        config: the network's config, or changes to that at `path`.
        components: the folder or Hub id of a stage or cascade that text encoder, tokeniser, VAE and schedulers come
            from; `tiny` is the one in the package.
        text_encoder_dtype: in which the text encoder is kept.
        gradient_checkpointing: activations are computed twice instead of kept.
    """

    start: Literal["scratch", "from_2d", "previous", "run"]
    path: str | None = None
    subfolder: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    components: str
    text_encoder_dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    gradient_checkpointing: bool = False


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Eq. 5, with what all stages share; docs/objectives.md says what the numbers do.

    Args:
        prediction_type, variance_type: of the training schedule. By default those of the components' scheduler.
        min_snr_gamma: weights by signal-to-noise ratio; off by default.
        caption_dropout: share of the clips that are trained with an empty caption.
        image_share: share of the optimiser steps whose batch is single frames, as many as the clips would have had.
        dropout: of the temporal layers, as their config has it.
    """

    prediction_type: Literal["epsilon", "v_prediction", "sample"] | None = None
    variance_type: Literal["fixed_small", "learned_range"] | None = None
    min_snr_gamma: float | None = number(None, least=0, above=True)
    caption_dropout: float = number(0.1, least=0, most=1)
    image_share: float = number(0.0, least=0, most=0.9)
    dropout: bool = False


@dataclass(frozen=True, kw_only=True)
class BaseObjective(ObjectiveConfig):
    """Keyframes, Sec. 3.3. `timestep_power`: below 1 favours strong noise."""

    timestep_power: float = number(1.0, least=0, above=True)


@dataclass(frozen=True, kw_only=True)
class InterpolationObjective(ObjectiveConfig):
    """Interpolation, Sec. 3.4. `max_augmentation`: largest deviation of the noise on the two given frames."""

    max_augmentation: float = number(0.1, least=0)


@dataclass(frozen=True, kw_only=True)
class SuperresObjective(ObjectiveConfig):
    """Super-resolution, Sec. 3.5.

    Args:
        factor: of height and width; the low-resolution clip is the area average.
        max_noise_level: noise levels of the condition are drawn below this one.
        first_frame_probability: share of the clips whose condition begins with the true first frame.
        pairs: each video shows a clip twice, side by side: on the left as the stage before makes it, on the right as
            it is to become. `data.width` is that of both.
    """

    factor: int = number(4, least=2, most=8)
    max_noise_level: int = number(400, least=1, most=1000)
    first_frame_probability: float = number(0.7, least=0, most=1)
    pairs: bool = False
    timestep_power: float = number(1.0, least=0, above=True)


@dataclass(frozen=True, kw_only=True)
class RefineObjective(ObjectiveConfig):
    """Refinement, Sec. 3.6.

    Args:
        max_timestep: the expert is trained on timesteps below this one.
        degrade: whose latents get the noise: 1, those of the true frames, as in the paper; above 1, those of frames
            that were averaged by this factor and resized again, like the input at inference.
    """

    max_timestep: int = number(900, least=1, most=1000)
    degrade: int = number(1, least=1, most=8)
    timestep_power: float = number(1.0, least=0, above=True)


OBJECTIVES: dict[str, type[ObjectiveConfig]] = {
    "base": BaseObjective,
    "interpolation": InterpolationObjective,
    "superres": SuperresObjective,
    "refine": RefineObjective,
}


@dataclass(frozen=True, kw_only=True)
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


@dataclass(frozen=True, kw_only=True)
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


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """Videos at intervals, made by the stage's own pipeline with the averaged weights.

    Args:
        prompts: for the base stage. The others, and the base stage without any, take `clips` clips of the data: their
            captions, and what the stage before would give for them.
        clips: how many.
        seed: of the videos, and of the choice of clips.
        options: of the pipeline's call, such as `num_inference_steps` and `guidance_scale`.
    """

    prompts: tuple[str, ...] = ()
    clips: int = number(2, least=0, most=64)
    seed: int = number(0, least=0, most=MAX_SEED)
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A recipe."""

    stage: Literal["base", "interpolation", "superres", "refine"]
    data: DataConfig
    model: ModelConfig
    objective: ObjectiveConfig
    optimizer: OptimizerConfig
    run: RunConfig
    validation: ValidationConfig = field(default_factory=ValidationConfig)


# What may differ between a run and its continuation: it changes neither the weights nor their meaning.
FREE_KEYS = (
    "data.workers",
    "data.embeddings",
    "model.gradient_checkpointing",
    "run.accumulation",
    "run.log_every",
    "run.checkpoint_every",
    "run.validate_every",
    "run.keep",
    "run.trackers",
    "run.export_text_encoder",
    "validation.",
)


# --- reading ---------------------------------------------------------------------------------------------------------


class _StrictLoader(yaml.SafeLoader):
    """A key that is written twice or is no text or number is an error, and so is an alias: ten lines of them, each
    with ten of the line before, are ten billion values."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            alias = self.get_event()
            raise yaml.composer.ComposerError(None, None, f"the alias *{alias.anchor}: write it out", alias.start_mark)
        return super().compose_node(parent, index)


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key, _ in node.value:
        told = shorten(repr(key.value))
        if not isinstance(key, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(None, None, "a key must be a text or a number", key.start_mark)
        if key.value in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {told} stands twice", key.start_mark)
        seen.add(key.value)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def parse_yaml(text: str, name: str) -> Any:
    """The value of a YAML text; `name` is what an error calls it."""
    try:
        return yaml.load(text, _StrictLoader)  # noqa: S506 (a safe loader)
    # what the constructors of wrong numbers, dates and tags raise, and a thousand brackets
    except (yaml.YAMLError, ValueError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise ConfigError(f"`{name}` must be YAML ({shorten(' '.join(str(error).split()), 500)})") from error


def recipe_path(name: str | os.PathLike[str], folder: Path = RECIPES) -> Path:
    """The file of a recipe: a path, or the name of one in the package's `folder`."""
    path = Path(name)
    if os.path.isfile(path):  # `Path.is_file` raises for a name that is too long
        return path
    shipped = sorted(recipe.stem for recipe in folder.glob("*.yaml"))
    if str(name) in shipped:
        return folder / f"{name}.yaml"
    raise ConfigError(f"`--config` must be a YAML file or one of {', '.join(shipped)}, got {shorten(repr(str(name)))}")


def read_recipe(path: Path) -> dict[Any, Any]:
    """The sections in a recipe's file, not yet checked. Raises `ConfigError`."""
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"`--config` must be a text file in UTF-8, got {str(path)!r} ({error})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"`{path}` must hold the sections of a recipe, got {shorten(repr(values))}")
    return values


def load_config(stage: str, name: str | os.PathLike[str], overrides: Iterable[str] = ()) -> TrainConfig:
    """Read a recipe.

    Args:
        stage: `"base"`, `"interpolation"`, `"superres"` or `"refine"`.
        name: a YAML file, or the name of a recipe in the package.
        overrides: `section.key=value`, with values in YAML.

    Returns:
        The recipe, checked.

    Raises:
        ConfigError: a key or value cannot be used, or the recipe is for another stage.
    """
    if stage not in STAGES:
        raise ConfigError(f"`STAGE` must be one of {', '.join(STAGES)}, got {stage!r}")
    values = read_recipe(recipe_path(name))
    for override in overrides:
        apply_override(values, override)
    config = build(values)
    if config.stage != stage:
        raise ConfigError(f"`STAGE` must be {config.stage}, which {str(name)!r} is a recipe for, got {stage!r}")
    return config


def apply_override(values: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    *sections, last = key.strip().split(".")
    if not equals or not all((*sections, last)):
        raise ConfigError(f"`--set` must be key=value, such as run.steps=100, got {shorten(repr(override))}")
    for section in sections:
        inner = values.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"`--set` must name a key of a recipe, got {override!r} ({section} is no section)")
        values = inner
    values[last] = parse_yaml(value, f"--set {key}")


def build(values: Mapping[str, Any]) -> TrainConfig:
    """The recipe in nested mappings, checked. Raises `ConfigError`."""
    config = build_section(TrainConfig, values, "")
    _check(config)
    return config


def build_section(cls: type, values: Any, where: str, **classes: type) -> Any:
    name = where.removesuffix(".") or "the recipe"
    fields = {each.name: each for each in dataclasses.fields(cls)}
    if not isinstance(values, Mapping):
        raise ConfigError(f"`{name}` must be a section with keys {', '.join(fields)}, got {shorten(repr(values))}")
    if unknown := [key for key in values if key not in fields]:
        raise ConfigError(
            f"`{where}{shorten(str(unknown[0]))}` must be one of the keys of {name}: {', '.join(fields)}"
        )
    hints = typing.get_type_hints(cls)
    found: dict[str, Any] = {}
    for key, each in fields.items():
        if key not in values:
            if each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING:
                raise ConfigError(f"`{where}{key}` must be given")
            continue
        if cls is TrainConfig and key == "objective":
            hints[key] = OBJECTIVES[found["stage"]]
        found[key] = _value(hints[key], values[key], f"{where}{key}", each.metadata)
    return cls(**found)


def _value(hint: Any, value: Any, key: str, metadata: Mapping[str, Any]) -> Any:
    """`value` as the type that `hint` says."""
    if dataclasses.is_dataclass(hint):
        return build_section(typing.cast(type, hint), value, f"{key}.")
    options = typing.get_args(hint)
    if typing.get_origin(hint) in (types.UnionType, typing.Union):  # X | None
        return None if value is None else _value(options[0], value, key, metadata)
    if typing.get_origin(hint) is Literal:
        if value not in options or isinstance(value, bool):
            raise ConfigError(f"`{key}` must be one of {', '.join(options)}, got {shorten(repr(value))}")
        return value
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"`{key}` must be a list, got {shorten(repr(value))}")
        return tuple(_value(options[0], item, f"{key}[{index}]", metadata) for index, item in enumerate(value))
    if typing.get_origin(hint) is dict:
        if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
            raise ConfigError(f"`{key}` must be a mapping of names, got {shorten(repr(value))}")
        return value
    if hint in (int, float):
        return _number(hint, value, key, **metadata)
    if not isinstance(value, hint) or (hint is str and not (value.strip() and is_text(value))):
        allowed = "true or false" if hint is bool else "a text"
        raise ConfigError(f"`{key}` must be {allowed}, got {shorten(repr(value))}")
    return value


def _number(kind: type, value: Any, key: str, least: float, most: float, above: bool) -> float:
    named = "a whole number" if kind is int else "a number"
    ends = [f"{'above' if above else 'of at least'} {least:g}"] if least > -math.inf else []
    ends += [f"at most {most:g}"] if most < math.inf else []
    allowed = " ".join([named, " and ".join(ends)])
    if kind is float and isinstance(value, str):  # YAML 1.1 reads 1e-4, without a point, as a text
        with_point = value
        try:
            value = float(with_point)
        except ValueError:
            pass
    right = isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
    # Compared and not converted: a whole number of 400 digits is no float.
    if not right or not least <= value <= most or abs(value) > sys.float_info.max or (above and value == least):
        raise ConfigError(f"`{key}` must be {allowed}, got {shorten(repr(value))}")
    return kind(value)


def _check(config: TrainConfig) -> None:
    """What no key can say alone."""
    data, model = config.data, config.model

    def refuse(key: str, value: Any, allowed: str) -> typing.NoReturn:
        raise ConfigError(f"`{key}` must be {allowed}, got {shorten(repr(value))}")

    if (data.path is None) != (data.kind == "world"):
        refuse("data.path", data.path, "given, unless data.kind is world" if data.path is None else "null for world")
    if model.path is None and model.start != "scratch":
        refuse("model.path", model.path, f"given for model.start {model.start}")
    if model.path is None and not model.config:
        refuse("model.config", model.config, "the network's config, or model.path given, for model.start scratch")
    if model.path is None and model.subfolder is not None:
        refuse("model.subfolder", model.subfolder, "null without model.path")
    if data.kind == "stream" and config.objective.image_share:
        refuse("objective.image_share", config.objective.image_share, "0 for data.kind stream")
    if data.kind == "stream" and data.workers:
        refuse("data.workers", data.workers, "0 for data.kind stream")
    if config.stage == "interpolation" and data.frames < 3:
        refuse("data.frames", data.frames, "at least 3 for interpolation, whose ends are given")
    if config.stage == "interpolation" and config.objective.image_share:
        refuse("objective.image_share", config.objective.image_share, "0 for interpolation, which has no images")
    for name in ("factor", "degrade"):
        by = getattr(config.objective, name, 1)
        if data.height % by or data.width % by:
            refuse(f"objective.{name}", by, f"a divisor of data.height and data.width ({data.height}, {data.width})")
    if config.run.batch_size % config.run.accumulation:
        refuse("run.accumulation", config.run.accumulation, f"a divisor of run.batch_size ({config.run.batch_size})")
    if getattr(config.objective, "pairs", False) and config.validation.clips:
        refuse("validation.clips", config.validation.clips, "0 with objective.pairs")
    if config.validation.prompts and config.stage != "base":
        refuse("validation.prompts", config.validation.prompts, "empty for all stages but base")


# --- writing and comparing -------------------------------------------------------------------------------------------


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """Nested dicts and lists: what `build` reads."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        return [plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value

    return plain(dataclasses.asdict(config))


def to_yaml(config: TrainConfig) -> str:
    """The whole recipe, defaults included, as a file that `load_config` reads."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True, width=100)


def flatten(values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Nested mappings as one, by dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{where}{key}.") if isinstance(value, dict) else {f"{where}{key}": value}
    return flat


def differences(old: TrainConfig, new: TrainConfig) -> list[str]:
    """`key: old -> new` for every key by which `new` would not be a continuation of `old`."""
    before, after = flatten(to_dict(old)), flatten(to_dict(new))
    keys = [key for key in {**before, **after} if not key.startswith(FREE_KEYS)]
    return [f"{key}: {before.get(key)!r} -> {after.get(key)!r}" for key in keys if before.get(key) != after.get(key)]
