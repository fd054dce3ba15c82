# SPDX-License-Identifier: Apache-2.0
"""What a clip, and the JSON beside it, say of how it was made."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .adapters import read_adapter
from .machine import file_digest, model_identity
from .settings import Settings
from .versions import versions


if TYPE_CHECKING:
    import numpy as np


def provenance_of(settings: Settings, frames: np.ndarray, digest: str) -> dict[str, Any]:
    """What a clip itself carries: the settings that make it again, and what they made; the same for every run here."""
    import torch

    count, height, width, _ = frames.shape
    return {
        "show1": 1,
        "settings": dataclasses.asdict(settings),
        "model": model_identity(settings.model) | _adapters(settings),
        "output": {"frames_sha256": digest, "frames": count, "height": height, "width": width},
        "versions": versions(),
        "threads": torch.get_num_threads(),  # of a CPU: they decide in which order numbers are added
    }


def _adapters(settings: Settings) -> dict[str, Any]:
    """The digests of adapters that are files here."""
    files = {text: Path(read_adapter(text).source) for text in settings.lora}
    found = {text: file_digest(path) for text, path in files.items() if path.is_file()}
    return {"adapters": found} if found else {}


def record_of(
    settings: Settings, frames: np.ndarray, output: str, digest: str, seconds: dict[str, float]
) -> dict[str, Any]:
    """What the JSON beside a clip says: what the clip carries, and what is known only once it is written.

    Args:
        settings: definite ones.
        frames: (f, h, w, 3), of the clip.
        output: where it was written.
        digest: SHA-256 of the frames (uint8).
        seconds: what took how long: loading, and each stage.
    """
    made = provenance_of(settings, frames, digest)
    sha256 = None if Path(output).is_dir() else file_digest(Path(output))
    made["output"] = {"name": Path(output).name, "sha256": sha256, **made["output"]}
    return {**made, "seconds": seconds}


def compare(original: dict[str, Any], again: dict[str, Any]) -> str:
    """Say whether a clip made again is the one of the JSON, and if not, what is different now."""

    def part(record: dict[str, Any], name: str) -> dict[str, Any]:
        return found if isinstance(found := record.get(name), dict) else {}

    if part(original, "output").get("frames_sha256") == again["output"]["frames_sha256"]:
        return "The frames are exactly those of the JSON."
    changed = [name for name, version in again["versions"].items() if part(original, "versions").get(name) != version]
    changed += ["model"] * (part(original, "model") != again["model"])
    changed += [f"threads ({original.get('threads')}, now {again['threads']})"] * (
        original.get("threads") not in (None, again["threads"])
    )
    changed += ["device"] * (part(original, "settings").get("device") != again["settings"]["device"])
    return f"The frames differ from those of the JSON; what changed since: {', '.join(changed) or 'the machine'}."
