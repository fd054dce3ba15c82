# SPDX-License-Identifier: Apache-2.0
"""What a folder of weights may hold: checked before a component is built of it, and after.

diffusers and transformers keep the code of a repository from running. They do not keep a config from describing a
network of a million layers, transformers lets an index of shards name files anywhere, and both go on with random
numbers where a file lacks parameters.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn

from ..clips.words import shorten
from ..families import all_families
from .weights import modern_names, read_any


# Of whole numbers in a config: T5-XXL has 24 layers, and the largest numbers are sizes of vocabularies.
_MOST_LAYERS, _LARGEST = 256, 2**20


def read_config(path: Path) -> dict[str, Any]:
    """The content of a JSON file that describes a component.

    Raises:
        ValueError: it is no JSON object, or has a number that no network has.
        OSError: it cannot be read.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its {path.name} must be JSON in UTF-8, which it is not") from error
    if not isinstance(config, dict):
        raise ValueError(f"its {path.name} must be a JSON object, got a {type(config).__name__}")
    check_numbers(config, path.name)
    return config


def check_numbers(config: dict[str, Any], label: str) -> None:
    """ValueError for a whole number that no network has; `label` is what a message calls the config."""
    for key, value in config.items():
        most = _MOST_LAYERS if "layers" in key else _LARGEST
        for number in _whole_numbers(value):
            if abs(number) > most:
                raise ValueError(f"`{key}` in its {label} must be at most {most}, got {shorten(str(number), 30)}")


def _whole_numbers(value: Any) -> Iterable[int]:
    waiting = [value]  # and no recursion, which has a limit of its own
    while waiting:
        value = waiting.pop()
        if isinstance(value, int):
            yield value
        elif isinstance(value, (list, tuple, dict)):
            waiting += value.values() if isinstance(value, dict) else value


def check_index(index: dict[str, Any], components: Iterable[str]) -> None:
    """ValueError for an entry of a `model_index.json` that is no pair of library and class."""
    for name in components:
        entry = index.get(name, [None, None])
        pair = isinstance(entry, (list, tuple)) and len(entry) == 2
        if not pair or not (entry[0] is None or all(isinstance(part, str) for part in entry)):
            raise ValueError(f"`{name}` in model_index.json must be [library, class] or [null, null], got {entry!r}")


def check_component(folder: Path, library: str, known: bool) -> None:
    """Checks what a component's folder says, before anything is imported or built.

    Args:
        folder: the component's.
        library: where its class is, as the index has it.
        known: whether that is a module of diffusers' pipelines.

    Raises:
        ValueError: a library that is not read here, a config as in `read_config`, or an index of shards that names
            files elsewhere.
    """
    read = ("diffusers", "transformers", *dict.fromkeys(family.library for family in all_families()))
    # A module of the repository is left to diffusers, which asks for `trust_remote_code`.
    if not (known or library in read or (folder / f"{library}.py").is_file()):
        raise ValueError(f"its library must be one of {', '.join(read)}, got {library!r}")
    check_files(folder)


def check_files(folder: Path) -> None:
    """ValueError for a config as in `read_config`, or an index of shards that names other files than its own."""
    for name in ("config.json", "scheduler_config.json"):
        if (folder / name).is_file():
            read_config(folder / name)
    for path in folder.glob("*.index.json"):
        try:
            index = json.loads(path.read_text(encoding="utf-8"))
            shards = set(index["weight_map"].values())
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"its {path.name} must map parameters to files, which it does not") from error
        for shard in shards:
            if not isinstance(shard, str) or Path(shard).name != shard or shard == "..":
                raise ValueError(f"its {path.name} must name files beside it, got {shard!r}")


def check_parameters(component: Any, folder: Path) -> None:
    """ValueError for a network whose files do not hold all of its parameters: the rest would be random numbers."""
    if not isinstance(component, nn.Module) or getattr(component, "hf_quantizer", None) is not None:
        return
    stored: set[str] = set()
    files = [path for path in sorted(folder.glob("*")) if path.is_file()]  # and no pipe, which would never end
    for path in (path for path in files if path.suffix == ".safetensors"):
        with safe_open(path, framework="pt") as file:
            stored.update(file.keys())
    for path in (path for path in files if path.suffix == ".bin"):
        stored.update(read_any(path))
    found = {name for each in stored for name in modern_names(each)}
    parameters = dict(component.named_parameters(remove_duplicate=False))
    # T5's two embeddings are one, and stored once
    given = {id(parameter) for name, parameter in parameters.items() if name in found}
    missing = [name for name, parameter in parameters.items() if name not in found and id(parameter) not in given]
    if stored and missing:
        raise ValueError(f"its files lack {len(missing)} of {len(parameters)} parameters, the first is {missing[0]}")


def leads_out(root: Path, path: Path) -> bool:
    """Whether a path in a folder leads out of it by a link; the Hub's cache links to its own `blobs`."""
    root, real = root.resolve(), path.resolve()
    cached = root.parent.name == "snapshots" and real.is_relative_to(root.parents[1] / "blobs")
    return not (real.is_relative_to(root) or cached)
