# SPDX-License-Identifier: Apache-2.0
"""Recipes: a training run's configuration, read strictly from YAML into the sections of `learning.options`.

Reading stops at the first key that is unknown, missing, of the wrong type or out of range, with one `ConfigError` that
names the key, what is allowed and the value.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassFieldValidationError

from ..clips.words import shorten
from ..learning.options import ConfigError, Range, TrainConfig, refuse
from .catalogue import recipes, task_of


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
    "run.export_",
    "validation.",
)


# --- YAML ------------------------------------------------------------------------------------------------------------


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


def recipe_path(name: str | os.PathLike[str], kind: str = "") -> Path:
    """The file of a recipe: a path, or the name of one in the package; `kind` is the subfolder that it is in."""
    if os.path.isfile(name):  # `Path.is_file` raises for a name that is too long
        return Path(name)
    shipped = recipes(kind)
    if str(name) not in shipped:
        raise ConfigError(
            f"`--config` must be a YAML file or one of {', '.join(shipped)}, got {shorten(repr(str(name)))}"
        )
    return shipped[str(name)]


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
        stage: a stage of a family (`"base"`, `"interpolation"`, `"superres"` or `"refine"`), or one of the engine's
            own tasks (`"image"`, `"autoencoder"`, `"text"`).
        name: a YAML file, or the name of a recipe in the package.
        overrides: `section.key=value`, with values in YAML.

    Returns:
        The recipe, checked.

    Raises:
        ConfigError: a key or value cannot be used, or the recipe is for another stage.
    """
    task_of(stage, key="STAGE")
    values = read_recipe(recipe_path(name))
    for override in overrides:
        apply_override(values, override)
    config = build(values)
    if config.stage != stage:
        raise ConfigError(f"`STAGE` must be {config.stage}, which {str(name)!r} is a recipe for, got {stage!r}")
    return config


def apply_override(values: dict[str, Any], override: str) -> None:
    """Change a key of a recipe that is not yet checked, by `section.key=value`. Raises `ConfigError`."""
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


# --- checking --------------------------------------------------------------------------------------------------------


def build(values: Mapping[str, Any]) -> TrainConfig:
    """The recipe in nested mappings, checked. Raises `ConfigError`."""
    named = values if isinstance(values, Mapping) else {}
    task = task_of(named["stage"], named.get("family")) if "stage" in named else None
    classes = {} if task is None else {"objective": task.objective}
    config = build_section(TrainConfig, values, "", **classes)
    for index, turn in enumerate(config.turns):
        changed = {**dataclasses.asdict(config.objective), **turn.objective}
        whole = build_section(type(config.objective), changed, f"turns[{index}].objective.")
        turn.objective = {key: getattr(whole, key) for key in turn.objective}
    _check(config)
    if task is not None:
        task.check(config)
    return config


def build_section(cls: type, values: Any, where: str, **classes: type) -> Any:
    """A section, checked. `where` is what stands before its keys; `classes` are those of sections that vary."""
    name = where.removesuffix(".") or "the recipe"
    fields = {each.name: each for each in dataclasses.fields(cls)}
    if not isinstance(values, Mapping):
        raise ConfigError(f"`{name}` must be a section with keys {', '.join(fields)}, got {shorten(repr(values))}")
    if unknown := [key for key in values if key not in fields]:
        raise ConfigError(
            f"`{where}{shorten(str(unknown[0]))}` must be one of the keys of {name}: {', '.join(fields)}"
        )
    for key, each in fields.items():
        if key not in values and each.default is each.default_factory:  # both missing
            raise ConfigError(f"`{where}{key}` must be given")
    found = {key: _read(classes.get(key, fields[key].type), value, f"{where}{key}") for key, value in values.items()}
    try:
        return cls(**found)
    except StrictDataclassFieldValidationError as error:
        wrong = next(key for key in fields if f"'{key}'" in str(error).split("\n")[0])
        _refuse(fields[wrong], found[wrong], f"{where}{wrong}")


def _read(hint: Any, value: Any, key: str) -> Any:
    """A value of YAML as the type that `hint` says, as far as it can be one: sections, lists, numbers."""
    inner = typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return build_section(typing.cast(type, hint), value, f"{key}.")
    if type(None) in inner:
        return None if value is None else _read(inner[0], value, key)
    if typing.get_origin(hint) is tuple and isinstance(value, (list, tuple)):
        return tuple(_read(inner[0], item, f"{key}[{index}]") for index, item in enumerate(value))
    if hint is float and isinstance(value, str):  # YAML 1.1 reads 1e-4, without a point, as a text
        try:
            return float(value)
        except ValueError:
            return value
    if hint is float and type(value) is int and abs(value) <= sys.float_info.max:
        return float(value)
    return value


def _refuse(field: dataclasses.Field, value: Any, key: str) -> typing.NoReturn:
    """Say what is allowed for a field that `strict` refused."""
    hint: Any = field.type
    if type(None) in typing.get_args(hint):
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) is tuple and isinstance(value, tuple):
        hint = typing.get_args(hint)[0]
        for index, item in enumerate(value):
            if not _fits(field, hint, item):
                key, value = f"{key}[{index}]", item
                break
    if typing.get_origin(hint) is Literal:
        allowed = f"one of {', '.join(typing.get_args(hint))}"
    elif hint in (int, float):
        ends = [str(each) for each in field.metadata.get("validator", ()) if isinstance(each, Range)]
        allowed = " ".join(["a whole number" if hint is int else "a number", *ends])
    else:
        allowed = {bool: "true or false", str: "a text", dict: "a mapping of names", tuple: "a list"}[
            typing.get_origin(hint) or hint
        ]
    refuse(key, value, allowed)


def _fits(field: dataclasses.Field, hint: Any, item: Any) -> bool:
    """Whether an item of a list is one that its field may have."""
    one = dataclasses.make_dataclass("One", [("item", hint, dataclasses.field(metadata=field.metadata))])
    try:
        strict(one)(item)
    except StrictDataclassFieldValidationError:
        return False
    return True


def _check(config: TrainConfig) -> None:
    """What no key can say alone, and no task."""
    data, model = config.data, config.model
    if (data.path is None) != (data.kind == "world"):
        refuse("data.path", data.path, "given, unless data.kind is world" if data.path is None else "null for world")
    if data.forward and (data.kind != "world" or len(data.forward) != 2 or data.forward[0] >= data.forward[1]):
        refuse("data.forward", data.forward, "two steps, the first one before the second, for data.kind world")
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
    if config.turns and config.objective.image_share:
        refuse("objective.image_share", config.objective.image_share, "0 where turns are given")
    for index, turn in enumerate(config.turns):
        if data.kind == "stream":
            refuse("turns", "some", "none for data.kind stream")
        if turn.bend and data.kind != "world":
            refuse(f"turns[{index}].bend", turn.bend, f"0 for data.kind {data.kind}")
        if turn.crop and (len(turn.crop) != 2 or not 0 < turn.crop[0] <= data.height or turn.crop[1] > data.width):
            refuse(f"turns[{index}].crop", turn.crop, "height and width of a part of the frames")
    if config.run.batch_size % config.run.accumulation:
        refuse("run.accumulation", config.run.accumulation, f"a divisor of run.batch_size ({config.run.batch_size})")


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
