# SPDX-License-Identifier: Apache-2.0
"""Inputs to make bad ones of: a small cascade in a folder, videos, and PNG files that claim any size."""

import copy
import json
import os
import pickle
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ..contract.components import pipeline


LAYER = "time_embedding.linear_1"  # 32 inputs, 128 outputs


class Runs:
    """Unpickled with its code, it makes a folder."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (self.path,)


@cache
def _saved() -> tempfile.TemporaryDirectory:
    folder = tempfile.TemporaryDirectory(prefix="hostile-")
    pipeline("cascade", first_frame_unet=None, first_frame_scheduler=None).save_pretrained(folder.name)
    return folder


def cascade(folder: Path) -> Path:
    """A small cascade; its files are links to one copy, so a change has to replace them (`write`)."""
    return Path(shutil.copytree(_saved().name, folder / "cascade", copy_function=os.link))


def write(path: Path, content: bytes | str | object) -> Path:
    """Bytes, a text, or anything else as JSON, in a new file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if not isinstance(content, (bytes, str)):
        content = json.dumps(content)
    path.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
    return path


def changed(path: Path, **values: object) -> None:
    """A JSON file with other values."""
    write(path, json.loads(path.read_text()) | copy.deepcopy(values))


def weights_changed(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """A file of weights with other tensors."""
    state = load_file(path)
    change(state)
    path.unlink()
    save_file(state, path, {"format": "pt"})


def adapter(path: Path, change: Callable[..., tuple[Any, Any]] | None = None, metadata: object = None) -> Path:
    """An adapter of one layer, rank 4, for the small cascade; `change` makes other matrices of A and B."""
    a, b = torch.ones(4, 32), torch.ones(128, 4)
    a, b = change(a, b) if change else (a, b)
    layers = {"A": a, "B": b}
    tensors = {
        f"{LAYER}.lora_{part}.weight": value.contiguous() for part, value in layers.items() if value is not None
    }
    text = metadata if isinstance(metadata, str) else json.dumps(metadata) if metadata else ""
    save_file(tensors, path, {"format": "pt", "lora_adapter_metadata": text})
    return path


def pickled(path: Path, content: object, archive: bool = True) -> Path:
    """A pickle, in torch's archive or bare."""
    path.unlink(missing_ok=True)
    if archive:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    return path


def flat(count: int, height: int = 16, width: int = 24) -> np.ndarray:
    """Frames (f, h, w, 3) uint8 of one shade each, no two of the same."""
    shades = np.linspace(10, 240, count).astype(np.uint8)
    return np.broadcast_to(shades[:, None, None, None], (count, height, width, 3))


def video(path: Path, frames: np.ndarray, codec: str = "libx264", form: str = "yuv420p", rate: int = 8) -> Path:
    """A video file as FFmpeg writes it, at a size that need not be even."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], form
        for number, frame in enumerate(frames):
            shown = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24").reformat(format=form)
            shown.pts = number
            file.mux(stream.encode(shown))
        file.mux(stream.encode())
    return path


def sound(path: Path) -> Path:
    """A file with sound and no picture."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.rate = 8000
        file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def animation(path: Path, durations: list[int], mode: str = "RGB", size: tuple[int, int] = (24, 16)) -> Path:
    """A GIF or WebP whose frames are shown for `durations`, in milliseconds."""
    images = [Image.new("RGB", size, (20 * number, 0, 90)).convert(mode) for number in range(len(durations))]
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations, lossless=True)
    return path


def picture(path: Path, image: Image.Image) -> Path:
    """A picture in a folder; returns the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path.parent


def claiming(width: int, height: int) -> bytes:
    """A PNG file that claims a size and has no pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
