# SPDX-License-Identifier: Apache-2.0
"""Odd inputs that are good: what is made of each."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from diffusers_show1.clips.reading import read_video
from diffusers_show1.hub.recognise import load_cascade
from diffusers_show1.sampling.text import preprocess
from diffusers_show1.training.files import Manifest

from ..contract.components import pipeline
from . import make
from .readers import small_pipe


@dataclass(frozen=True)
class Taken:
    """One odd input.

    Args:
        given: the input, in words.
        becomes: what is made of it, in words.
        result: whether that is so; is given an empty folder.
    """

    given: str
    becomes: str
    result: Callable[[Path], bool]


TAKEN: list[Taken] = []


def taken(given: str, becomes: str) -> Callable[[Callable[[Path], bool]], Callable[[Path], bool]]:
    def add(result: Callable[[Path], bool]) -> Callable[[Path], bool]:
        TAKEN.append(Taken(given, becomes, result))
        return result

    return add


def encoded(prompt: str) -> bool:
    """Whether T5 and CLIP read a prompt, cleaned and as it is."""
    pipe = small_pipe()
    for stage, options in ((pipe.base, {}), (pipe.base, {"clean_caption": True}), (pipe.refine, {})):
        embeds, _ = stage.encode_prompt(prompt, **options)
        if embeds.shape != (1, 77, 32) or not torch.isfinite(embeds).all():
            return False
    return True


for given, prompt in (
    ("a prompt with NUL and the other control characters", "a" + "".join(map(chr, range(32))) + "b\x7f\x9f"),
    ("a prompt that is written from right to left, or turned by bidi controls", "\u202eعربى\u202c \u2066car\u2069"),
    ("a prompt of combining marks", "\u0301" * 1000),
    ("a prompt of characters without width, or that are none", "\u200b\u200d\ufeff\ufdd0\U0010ffff"),
    ("a prompt of HTML, scripts and entities", "<script>alert(1)</script>&lt;b&gt;<![CDATA[x" * 50),
    ("a prompt of HTML that the parser rejects", "a red car <![cd ]> &lt;![x[ <!y"),
    ("a prompt of a tokenizer's own tokens", "</s><pad><extra_id_0><|endoftext|><|startoftext|>"),
    ("a prompt of 10000 characters", "a red car " * 1000),
):
    TAKEN.append(Taken(given, "text like any other", lambda folder, prompt=prompt: encoded(prompt)))


@taken("a prompt of HTML, cleaned", "the words in it")
def _(folder: Path) -> bool:
    (clean,) = preprocess(["<p>A red&nbsp;car</p> http://x.example/a.png"], clean_caption=True)
    return "red car" in clean and "http" not in clean and "<" not in clean


@taken("a manifest with a byte order mark and DOS line ends", "the same as without")
def _(folder: Path) -> bool:
    rows = [list(Manifest(make.write(folder / name, content))) for name, content in (
        ("a.csv", b"file,caption\na.mp4,x\n"), ("b.csv", b"\xef\xbb\xbffile,caption\r\na.mp4,x\r\n"),
    )]  # fmt: skip
    return rows[0] == rows[1] == [("a.mp4", "x")]


@taken("frames of 17x31, or of one pixel", "as they are")
def _(folder: Path) -> bool:
    shapes = [(6, 31, 17, 3), (2, 1, 1, 3)]
    return all(
        read_video(make.video(folder / "odd.mkv", make.flat(*shape[:3]), "ffv1", "yuv444p")).shape == shape
        for shape in shapes
    )


@taken("frames with transparency: PNG, GIF, WebP, or a video's", "the colour under it")
def _(folder: Path) -> bool:
    clear = make.picture(folder / "png" / "000.png", Image.new("RGBA", (8, 8), (255, 0, 0, 0)))
    webp = make.animation(folder / "clip.webp", [50, 50, 50], "RGBA")
    video = make.video(folder / "clip.mov", make.flat(3), "png", "rgba")
    return (
        read_video(clear)[0, 0, 0].tolist() == [255, 0, 0]
        and read_video(webp).shape == (3, 16, 24, 3)
        and (read_video(video) == make.flat(3)).all()
    )


@taken("frames of 16 bits of grey", "the same grey in 8 bits")
def _(folder: Path) -> bool:
    grey = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    read = read_video(make.picture(folder / "000.png", Image.fromarray(grey)))
    return (read[0, ..., 0] == grey // 257).all() and (read[..., 1] == read[..., 0]).all()


@taken("frames of a palette, or of one bit", "their colours")
def _(folder: Path) -> bool:
    palette = make.picture(folder / "p" / "000.png", Image.new("RGB", (8, 8), (9, 99, 199)).quantize(4))
    bit = make.picture(folder / "b" / "000.png", Image.new("1", (8, 8), 1))
    return read_video(palette)[0, 0, 0].tolist() == [9, 99, 199] and (read_video(bit) == 255).all()


@taken("an animation whose durations differ by their rounding (24 frames a second)", "each frame once")
def _(folder: Path) -> bool:
    webp = make.animation(folder / "clip.webp", [42, 41, 42, 42])
    gif = make.animation(folder / "clip.gif", [40, 40, 50, 40])
    return len(read_video(webp)) == len(read_video(gif)) == 4


@taken("an animation with frames that are shown longer", "those frames more often")
def _(folder: Path) -> bool:
    return len(read_video(make.animation(folder / "clip.webp", [100, 200, 100]))) == 4


@taken("an animation without durations, or with one frame", "each frame once")
def _(folder: Path) -> bool:
    still = make.picture(folder / "still.webp", Image.new("RGB", (8, 8))) / "still.webp"
    return len(read_video(make.animation(folder / "clip.gif", [0, 0, 0]))) == 3 and len(read_video(still)) == 1


@taken("a file by a wrong ending: GIF as .mp4, WebP as .gif", "what it is")
def _(folder: Path) -> bool:
    gif = make.animation(folder / "clip.gif", [100] * 3).rename(folder / "gif.mp4")
    webp = make.animation(folder / "clip.webp", [100] * 3).rename(folder / "webp.gif")
    return len(read_video(gif)) == len(read_video(webp)) == 3


@taken("a folder of frames with gaps in their numbers, and other files", "the frames, in the order of their numbers")
def _(folder: Path) -> bool:
    for number in (10, 2, 300):
        make.picture(folder / f"{number:03d}.png", Image.new("L", (8, 8), number % 256))
    make.write(folder / "notes.txt", "left out")
    return read_video(folder)[:, 0, 0, 0].tolist() == [2, 10, 300 % 256]


@taken("a rate of a thousand frames a second", "the same frames")
def _(folder: Path) -> bool:
    frames = read_video(make.video(folder / "clip.mp4", make.flat(8), rate=1000))
    return frames.shape == (8, 16, 24, 3) and np.abs(frames.astype(int) - make.flat(8)).max() < 8


@taken("a network with parameters more than it needs", "the network")
def _(folder: Path) -> bool:
    path = make.cascade(folder)
    make.weights_changed(
        path / "base_unet/diffusion_pytorch_model.safetensors", lambda state: state.update(evil=torch.zeros(1))
    )
    return "evil" not in load_cascade(path).base_unet.state_dict()


@taken("an adapter whose metadata claims a rank of a billion, and layers by a pattern that backtracks", "the adapter")
def _(folder: Path) -> bool:
    claims = {"r": 10**9, "rank_pattern": {"(.*)*!": 10**8}, "target_modules": "(([a-z_0-9.])+)+!", "lora_alpha": 8}
    pipe = pipeline("base")
    pipe.load_lora_weights(make.adapter(folder / "x.safetensors", metadata=claims), adapter_name="x")
    layer = pipe.unet.get_submodule(make.LAYER)
    return layer.r == {"x": 4} and layer.scaling == {"x": 2.0}
