# SPDX-License-Identifier: Apache-2.0
"""What a run tells its user: metrics, videos and their grids, and the estimate of a dry run."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ..clips.files import replacing
from ..clips.frames import to_uint8
from ..clips.writing import save_video


# --- metrics ---------------------------------------------------------------------------------------------------------


class Metrics:
    """`metrics.jsonl`: one JSON object a line, each with its `step`, no step twice.

    Args:
        step: where the run goes on; lines of later steps, which it will do again, are dropped.
    """

    def __init__(self, path: Path, step: int):
        self.path = path
        if path.exists():
            kept = [line for line in path.read_text(encoding="utf-8").splitlines() if self._step(line) <= step]
            with replacing(path) as made:
                made.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    @staticmethod
    def _step(line: str) -> float:
        try:
            return json.loads(line)["step"]
        except ValueError:  # cut off when the run was killed
            return float("inf")

    def write(self, **values: Any) -> None:
        """Append a line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")


# --- pictures --------------------------------------------------------------------------------------------------------


def grid(rows: Sequence[Tensor], gap: int = 2) -> Image.Image:
    """Videos as rows, their frames as columns.

    Args:
        rows: (3, f, h, w) in [-1, 1]. Smaller frames are enlarged to the largest ones, pixel by pixel; a shorter row
            is spread out, its first and last frame at the ends.
        gap: white pixels between pictures.
    """
    count = max(row.shape[1] for row in rows)
    height, width = (max(row.shape[axis] for row in rows) for axis in (2, 3))
    sheet = torch.ones(3, len(rows) * (height + gap) - gap, count * (width + gap) - gap)
    for line, row in enumerate(rows):
        pictures = F.interpolate(row.transpose(0, 1).float().cpu(), size=(height, width), mode="nearest")
        columns = torch.linspace(0, count - 1, len(pictures)).round().int().tolist()
        for column, picture in zip(columns, pictures, strict=True):
            top, left = line * (height + gap), column * (width + gap)
            sheet[:, top : top + height, left : left + width] = picture
    return Image.fromarray(to_uint8(_unit(sheet[:, None]))[0])


def _unit(video: Tensor) -> np.ndarray:
    """(3, f, h, w) in [-1, 1] -> (f, h, w, 3) in 0..1."""
    return (video.permute(1, 2, 3, 0).float().cpu() / 2 + 0.5).clamp(0, 1).numpy()


def save_picture(image: Image.Image, path: Path) -> None:
    """Write a PNG, replacing an older one in one step."""
    with replacing(path) as made:
        image.save(made)


def save_videos(
    folder: Path,
    videos: Tensor,
    captions: Sequence[str],
    fps: float,
    given: Tensor | None = None,
    true: Tensor | None = None,
) -> None:
    """`0.mp4`, `1.mp4`, ... , `grid.png` of all, and `captions.txt`.

    Args:
        videos: (b, 3, f, h, w) in [-1, 1].
        given, true: as many videos, to be seen in the grid above and below those.
    """
    rows = []
    for index, video in enumerate(videos):
        save_video(_unit(video), folder / f"{index}.mp4", fps=fps)
        rows += [each[index] for each in (given, videos, true) if each is not None]
    save_picture(grid(rows), folder / "grid.png")
    with replacing(folder / "captions.txt") as path:
        path.write_text("".join(f"{caption}\n" for caption in captions), encoding="utf-8")


# --- the estimate of a dry run ---------------------------------------------------------------------------------------


class _Kept(dict):
    """The storages of tensors, each once."""

    def add(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self[storage._cdata] = storage  # held, so that no other one gets its address
        return tensor

    def bytes(self, but: Sequence[Tensor]) -> int:
        without = {tensor.untyped_storage()._cdata for tensor in but}
        return sum(storage.nbytes() for place, storage in self.items() if place not in without)


def activation_bytes(unet: nn.Module, example: Callable[[], dict[str, Tensor]]) -> int:
    """Bytes that a forward pass in float32 keeps for the backward pass, counted tensor by tensor.

    Nothing is computed and no memory taken: the pass goes through a copy of fake tensors. With gradient checkpointing
    it is what goes into the blocks, and the largest block that is computed again.

    Args:
        example: makes the network's inputs.
    """
    kept, largest = _Kept(), 0

    def block(function: Any, *arguments: Any) -> Any:
        nonlocal largest
        for argument in arguments:
            if isinstance(argument, Tensor):
                kept.add(argument)
        again = _Kept()
        with torch.autograd.graph.saved_tensors_hooks(again.add, lambda tensor: tensor):
            out = function(*arguments)
        largest = max(largest, again.bytes(weights))
        return out

    with FakeTensorMode(), torch.enable_grad():
        copy = type(unet).from_config(unet.config)
        weights = list(copy.parameters())
        if unet.is_gradient_checkpointing:
            copy.enable_gradient_checkpointing(block)
        with torch.autograd.graph.saved_tensors_hooks(kept.add, lambda tensor: tensor):
            copy(**example())
        return kept.bytes(weights) + largest


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """(trained, frozen) numbers."""
    trained = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    return trained, sum(parameter.numel() for parameter in module.parameters()) - trained


def memory_estimate(
    unet: nn.Module,
    frozen: Sequence[nn.Module],
    example: Callable[[], dict[str, Tensor] | None],
    clips: int,
    optimiser: str,
    shards: int = 1,
) -> dict[str, int]:
    """Bytes on each process by kind: all but `activations` follow from the numbers of parameters, and those are left
    out where there is no example of the network's inputs.

    Args:
        clips: how many go through the network at once.
        shards: processes that share the network's weights, gradients, optimiser and average (FSDP).
    """
    trained, still = count_parameters(unet)
    parts = {
        "weights": 4 * (trained + still) // shards,
        "gradients": 4 * trained // shards,
        "optimiser": (2 if optimiser == "adamw8bit" else 8) * trained // shards,
        "average": 4 * trained // shards,
        "what is frozen": sum(p.numel() * p.element_size() for each in frozen for p in each.parameters()),
    }
    return parts if example() is None else parts | {"activations": clips * activation_bytes(unet, example)}


def readable(count: float) -> str:
    """Bytes: 1234567 -> `1.23 MB`."""
    for prefix in ("", "k", "M", "G"):
        if count < 1000:
            return f"{count:.3g} {prefix}B"
        count /= 1000
    return f"{count:.3g} TB"
