# SPDX-License-Identifier: Apache-2.0
"""What runs: devices, the cascade on one of them, and what tells one model or machine from another."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..families import short_names
from .adapters import load_adapters
from .refusals import BadInput, refuse
from .settings import Settings, model_folder


if TYPE_CHECKING:
    import torch

    from ..ladder.cascade import CascadePipeline

OFFLOADS = ("none", "model", "sequential")


def devices() -> list[str]:
    """The names of the devices that this machine has."""
    import torch

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    count = torch.accelerator.device_count() if accelerator else 0
    return ["cpu", *(f"{accelerator}:{index}" for index in range(count))]


def resolve_machine(device: str, dtype: str, offload: str) -> tuple[torch.device, torch.dtype]:
    """The device and the number format, with `auto` made definite; `BadInput` for what this machine cannot do."""
    import torch

    here = devices()
    found = torch.device(here[:2][-1] if device == "auto" else device)  # the first accelerator, or the CPU
    if found.type != "cpu" and f"{found.type}:{found.index or 0}" not in here:
        refuse("--device", device, f"auto or one of {', '.join(here)}", "these are what this machine has")
    if offload != "none" and found.type == "cpu":
        refuse("--offload", offload, "none on a CPU", "there is no accelerator whose memory it would save")
    if dtype == "auto":
        dtype = "float32" if found.type == "cpu" else "float16"
    return found, getattr(torch, dtype)


def load_cascade(settings: Settings, device: torch.device, dtype: torch.dtype, offload: str) -> CascadePipeline:
    """The cascade that the settings name, on its device. Raises `BadInput` when it cannot be had."""
    from ..hub import recognise

    try:
        source = str(model_folder(settings.model) or settings.model)
        pipe = recognise.load_cascade(source, settings.model_revision, dtype=dtype)
    except ValueError as error:  # it is a model, and not one that makes videos: the error says what it is
        raise BadInput(str(error).replace("`model`", "--model")) from error
    except OSError as error:
        refuse("--model", settings.model, "a model that can be loaded", str(error).strip().splitlines()[0])
    load_adapters(pipe, settings.lora)
    if offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    else:
        pipe.to(device)
    return pipe


def model_identity(model: str) -> dict[str, Any]:
    """What tells one version of a model from another: its index's digest and, from the Hub, its commit.

    A commit stands for the weights too; for a folder their digest does.
    """
    family = short_names().get(model)
    if family is not None and family.short_names[model] is None:
        return {rung: model_identity(repository.repo_id) for rung, repository in family.published.items()}
    folder = model_folder(model)
    if folder is not None:
        return dict(folder_identity(folder))
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(model, "model_index.json")
    if not isinstance(cached, str):
        return {}
    return {"index_sha256": file_digest(Path(cached)), "revision": Path(cached).parent.name}


@cache  # what is loaded stays what it was
def folder_identity(folder: Path) -> dict[str, str]:
    """SHA-256 of a folder's index, and one over names and digests of its components' weight files.

    About a second a gigabyte, once: before a run, so that nothing that happens to the folder meanwhile loses its
    frames. Whatever else lies in the folder is not opened: links that lead nowhere, pipes, devices, other people's
    folders.
    """
    index = folder / "model_index.json"
    names = json.loads(index.read_text(encoding="utf-8"))
    files = [
        path
        for name in names
        for path in (folder / name).glob("*")
        if Path(name).name == name and path.suffix in (".safetensors", ".bin") and path.is_file()
    ]
    lines = [f"{path.relative_to(folder).as_posix()} {file_digest(path)}\n" for path in sorted(files)]
    weights = hashlib.sha256("".join(lines).encode()).hexdigest()
    return {"index_sha256": file_digest(index), "weights_sha256": weights}


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
