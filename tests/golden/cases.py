# SPDX-License-Identifier: Apache-2.0
"""Reads the golden cases: from `cases/`, or from a fuller collection where there is one."""

import json
import os
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file


HERE = Path(__file__).parent / "cases"
FULLER = Path(os.environ.get("SHOW1_GOLDEN", Path(__file__).parents[3] / "shared" / "golden"))
MODELS = HERE / "models"


def find(case: str) -> Path | None:
    """The case's folder, or None where this machine does not have it."""
    return next((root / case for root in (HERE, FULLER) if (root / case).is_dir()), None)


@cache
def arrays(case: str, name: str) -> dict[str, torch.Tensor]:
    """All arrays of `<case>/<name>.npz` as tensors (strings are left out)."""
    with np.load(find(case) / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def meta(case: str) -> dict:
    return json.loads((find(case) / "meta.json").read_text())


def state_dict(case: str) -> dict[str, torch.Tensor]:
    """A network's parameters in float32. Some large matrices are stored as one sign bit a weight."""
    folder = find(case)
    state = {key: value.float() for key, value in load_file(next(folder.glob("*.safetensors"))).items()}
    if (folder / "packed_signs.json").exists():
        index = json.loads((folder / "packed_signs.json").read_text())
        with np.load(folder / "packed_signs.npz") as signs:
            for key, entry in index.items():
                bits = np.unpackbits(signs[key])[: int(np.prod(entry["shape"]))].astype(np.float32)
                state[key] = torch.from_numpy((bits.reshape(entry["shape"]) * 2 - 1) * np.float32(entry["scale"]))
    return state


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unit(raw: torch.Tensor) -> torch.Tensor:
    """Recorded frames (b, c, f, h, w), nominally in [-1, 1] -> what `output_type="pt"` gives."""
    return (raw / 2 + 0.5).clamp(0, 1).transpose(1, 2)


def max_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape, f"{tuple(a.shape)} against {tuple(b.shape)}"
    return (a.float() - b.float()).abs().max().item()
