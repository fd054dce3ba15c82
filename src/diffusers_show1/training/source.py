# SPDX-License-Identifier: Apache-2.0
"""Where a task gets its parts from: the recipe's folders and repositories."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline
from torch import nn

from ..families import all_families, family_of
from ..learning.options import ConfigError, TrainConfig, refuse
from ..learning.task import StageTask
from .embeddings import TextEmbeddings
from .start import Start, start_unet


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
START_KINDS = {"scratch": "scratch", "from_2d": "image", "previous": "network", "run": "network"}


def resolve(place: str) -> str:
    """A folder or Hub id; the short name of a cascade in the package is its folder."""
    folders = (family.short_names.get(place) for family in all_families())
    return str(next((folder for folder in folders if folder is not None), place))


class Source:
    """The parts of one run.

    Args:
        config: the recipe.
        device: of what is frozen.
    """

    def __init__(self, config: TrainConfig, device: torch.device):
        self.config, self.device = config, device

    def network(self, kind: type) -> Start:
        """The network that the training begins with, and where it comes from. See `start_unet` for the errors."""
        model = self.config.model
        source = model.config if model.path is None else resolve(model.path)
        changes = {} if model.path is None else model.config
        return start_unet(START_KINDS[model.start], source, model.subfolder, network=kind, **changes)

    def embeddings(self, tokenizer: Any, text_encoder: Any) -> TextEmbeddings:
        """captions -> (b, tokens, width), kept on disk where the recipe says so."""
        return TextEmbeddings(tokenizer, text_encoder, self.config.data.embeddings)

    def component(self, task: type[StageTask], name: str, place: str | None = None) -> Any:
        """A frozen component of a stage.

        Args:
            task: of the stage.
            name: of the component in the stage's pipeline.
            place: a folder or repository of that stage, or of a whole cascade; by default `model.components`.

        Raises:
            ConfigError: there is none of that name.
        """
        model = self.config.model
        if place is None and name in model.schedulers:
            return _scheduler(name, model.schedulers[name])
        dtype = DTYPES[model.text_encoder_dtype] if name == "text_encoder" else torch.float32
        found = _load(place or model.components, task, name, dtype)
        return found.to(self.device).eval().requires_grad_(False) if isinstance(found, nn.Module) else found


def _scheduler(name: str, config: Any) -> Any:
    kind = config.get("_class_name") if isinstance(config, dict) else None
    if not isinstance(kind, str) or not kind.endswith("Scheduler") or not hasattr(diffusers, kind):
        refuse(f"model.schedulers.{name}", config, "the config of a scheduler of diffusers, with its `_class_name`")
    return getattr(diffusers, kind).from_config(config)


def _load(place: str, task: type[StageTask], name: str, dtype: torch.dtype) -> Any:
    source, allowed = resolve(place), "tiny, or a folder or Hub id (owner/name) of a stage or cascade"
    if not Path(source).is_dir() and len(Path(source).parts) != 2:
        raise ConfigError(f"`model.components` must be {allowed}, got {place!r}")
    try:
        index = DiffusionPipeline.load_config(source)
    except OSError as error:
        raise ConfigError(
            f"`model.components` must be {allowed}, got {place!r} ({str(error).splitlines()[0]})"
        ) from error
    family = family_of(index.get("_class_name", ""))
    found = name
    if family is not None and index["_class_name"] == family.cascade:  # all side by side, by names of their own
        rungs = {rung.name: rung for rung in family.cascade_class.rungs}
        found = rungs[task.stage].parts[name] if task.stage in rungs else name
    library, kind = index.get(found) or (None, None)
    if library not in ("diffusers", "transformers") and (family is None or library != family.library):
        raise ConfigError(
            f"`model.components` must have a {found} for {task.stage}, got {place!r}, which has {index.get(found)}"
        )
    cls = getattr(importlib.import_module(library), kind)
    if not issubclass(cls, nn.Module):
        return cls.from_pretrained(source, subfolder=found)
    return cls.from_pretrained(source, subfolder=found, dtype=dtype)
