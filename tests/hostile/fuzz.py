# SPDX-License-Identifier: Apache-2.0
"""Good files, changed at random: each reader takes them or raises its documented error.

    python -m tests.hostile.fuzz --seconds 600 [--reader video] [--seed 7] [--keep found]

A finding is another error, no answer within 20 seconds, or a file that was written. Inputs depend on the seed and on
nothing else, so that a finding comes again.
"""

import argparse
import contextlib
import json
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import save

from diffusers_show1.clips.reading import read_video
from diffusers_show1.hub import recognise
from diffusers_show1.hub.folder import check_files
from diffusers_show1.hub.weights import ConversionError, find_state_dict, read_any
from diffusers_show1.runs.folder import FORMAT, JobError, JobFolder
from diffusers_show1.training.data import SkipClip
from diffusers_show1.training.files import ClipFormat

from ..training.small import recipe
from . import make
from .cases import GOOD
from .readers import READERS, small_pipe


PATIENCE = 20  # seconds for one input
SCRAPS = [
    *(b"", b"\0", b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\n", b"\r", b",", b'"', b"[" * 2000, b"{" * 300),
    *(b"9" * 5000, b"1e999", b"NaN", b"-1", b"null", b"\\ud800", "\u202e\u0301\ufeff".encode(), b"%s%n", b"__class__"),
    *(b"../../x", b"/etc/passwd", b"http://x", b"!!python/name:os.system", b"&a ", b"*a", b"? "),
    *(b"<![CDATA[", b"<!--", b"&amp;"),
]


@dataclass(frozen=True)
class Target:
    """A reader under test.

    Args:
        name: of the file that it is given.
        seeds: makes good files in a folder.
        call: reads the file.
        errors: what it may raise.
    """

    name: str
    seeds: Callable[[Path], list[Path]]
    call: Callable[[Path], Any]
    errors: tuple[type[Exception], ...]


class NoAnswer(Exception):
    """An input that a reader did not come to an end with."""


def _texts(*contents: object) -> Callable[[Path], list[Path]]:
    return lambda folder: [make.write(folder / f"{number}", content) for number, content in enumerate(contents)]


def _prompt(path: Path) -> None:
    text = path.read_bytes().decode("utf-8", "surrogatepass" if path.stat().st_size % 2 else "replace")[:2000]
    pipe = small_pipe()
    pipe.base.encode_prompt(text, do_classifier_free_guidance=False, clean_caption=True)
    pipe.refine.encode_prompt(text, do_classifier_free_guidance=False)


def _model(path: Path) -> None:
    """The index of a folder without anything else: what it says is looked at, and then the first component missing."""
    kind = recognise.recognise(path.parent)
    if kind.generates:
        recognise.load_cascade(path.parent)


def _row(path: Path) -> None:
    ClipFormat(frames=3, height=8, width=8, fps=8).read(path, path.name, np.random.default_rng(0))


def _state(path: Path) -> None:
    find_state_dict(read_any(path), path.name)


def _videos(folder: Path) -> list[Path]:
    frames = make.flat(6)
    return [
        make.video(folder / "a.mp4", frames),
        make.video(folder / "b.mkv", frames, "ffv1", "yuv444p"),
        make.video(folder / "c.ts", frames),
        make.video(folder / "d.avi", frames, "mpeg4"),
    ]


def _animations(folder: Path) -> list[Path]:
    return [
        make.animation(folder / "a.gif", [100, 50, 100]),
        make.animation(folder / "b.webp", [100, 50, 100]),
        make.animation(folder / "c.webp", [100, 50], "RGBA"),
    ]


def _pictures(folder: Path) -> list[Path]:
    from PIL import Image

    noise = Image.effect_noise((16, 16), 60)
    return [
        make.picture(folder / f"{mode}.png", noise.convert(mode)) / f"{mode}.png"
        for mode in ("L", "RGBA", "P", "I;16")
    ]


def _all_pictures(folder: Path) -> list[Path]:
    from PIL import Image

    noise = Image.effect_noise((24, 24), 99).convert("RGB")
    others = {"save_all": True, "append_images": [noise.rotate(90)]}
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, options in (
        ("a.jpg", {"exif": exif}),
        ("a.bmp", {}),
        ("a.tif", others),
        ("b.tif", {"compression": "tiff_lzw", "exif": exif}),
        ("a.jp2", {}),
        ("a.apng", others),
        ("a.gif", others),
    ):
        noise.save(folder / name, format="PNG" if name == "a.apng" else None, **options)
    return sorted(folder.iterdir())


def _pickles(folder: Path) -> list[Path]:
    state = {"state_dict": {"conv_in.weight": torch.zeros(4, 3, 3, 3), "epoch": 3}}
    old = folder / "old.pt"
    torch.save(state, old, _use_new_zipfile_serialization=False)
    return [make.pickled(folder / "new.pt", state), old]


INDEX = {
    "_class_name": "Show1CascadePipeline",
    "base_unet": ["diffusers_show1", "Show1UNet3DConditionModel"],
    "tokenizer": [None, None],
    "stage_defaults": {"base": {"num_frames": 2}},
}
TARGETS = {
    "prompt": Target(
        "prompt.txt",
        _texts(
            "a red car &amp; <b>more</b>",
            "http://x.example/a.jpg 12345 @me a|b 'c'",
            "日本の赤い車 \u202e",
            "e\u0301" * 99,
        ),
        _prompt,
        (ValueError,),
    ),
    "recipe": Target(
        "recipe.yaml",
        _texts(yaml.safe_dump(recipe("base")), "stage: base\nrun: {steps: 1e3}\ndata: !!map {fps: 8.0}\n"),
        READERS["recipe"].call,
        READERS["recipe"].errors,
    ),
    "csv": Target(
        "clips.csv",
        _texts('file,caption\na.mp4,"x, y"\nb.mp4,z\n', "videoid,name,page_dir\n1,x,y\n"),
        READERS["manifest"].call,
        READERS["manifest"].errors,
    ),
    "jsonl": Target(
        "clips.jsonl",
        _texts('{"file": "a.mp4", "caption": "x"}\n' * 3, '{"videoid": 1, "name": "x", "page_dir": "y"}\n'),
        READERS["manifest"].call,
        READERS["manifest"].errors,
    ),
    "settings": Target(
        "clip.json",
        _texts(
            {"settings": GOOD},
            {"settings": GOOD | {"stage_options": {"base": {"num_inference_steps": 2}}, "fps": 8.5}},
        ),
        READERS["settings"].call,
        READERS["settings"].errors,
    ),
    "job": Target(
        "job.json",
        _texts(
            {
                "show1_job": FORMAT,
                "settings": {"prompt": "x", "seed": 0},
                "models": {"a": "b"},
                "versions": {},
                "about": {},
            }
        ),
        lambda path: JobFolder(path.parent).read(),
        (JobError,),
    ),
    "window": Target(
        "windows/base-000.safetensors",
        lambda folder: [make.write(folder / "w", save({"window": torch.zeros(1, 3, 2, 4, 4)}))],
        lambda path: JobFolder(path.parents[1]).finished("base"),
        (JobError,),
    ),
    "video": Target("clip.mp4", _videos, read_video, (ValueError,)),
    "row": Target("clip.mp4", _videos, _row, (SkipClip,)),
    "animation": Target("clip.webp", _animations, read_video, (ValueError,)),
    "frames": Target("000.png", _pictures, lambda path: read_video(path.parent), (ValueError,)),
    "picture": Target("clip.mp4", _all_pictures, read_video, (ValueError,)),
    "picture row": Target("clip.mp4", _all_pictures, _row, (SkipClip,)),
    "index": Target("model_index.json", _texts(INDEX), _model, (ValueError, OSError)),
    "config": Target(
        "config.json",
        _texts({"block_out_channels": [32, 64], "layers_per_block": 2, "scaling_factor": 0.18}),
        lambda path: check_files(path.parent),
        (ValueError,),
    ),
    "safetensors": Target(
        "state.safetensors",
        lambda folder: [
            make.write(folder / "s", save({"conv_in.weight": torch.zeros(4, 3, 3, 3), "b": torch.ones(2)}))
        ],
        _state,
        (ConversionError,),
    ),
    "pickle": Target("state.pt", _pickles, _state, (ConversionError,)),
}


def mutated(content: bytes, others: list[bytes], random: Random) -> bytes:
    """A content changed in one to eight places: bytes, scraps, cuts, repeats, and parts of another content."""
    changed = bytearray(content)
    for _ in range(random.randint(1, 8)):
        place = random.randint(0, len(changed))
        end = min(len(changed), place + random.choice((1, 2, 4, 16, 256)))
        kind = random.randrange(6)
        if kind == 0 and place < len(changed):
            changed[place] ^= 1 << random.randrange(8)
        elif kind == 1:
            changed[place:end] = random.choice(SCRAPS)
        elif kind == 2:
            changed[place:place] = random.choice(SCRAPS)
        elif kind == 3:
            changed[place:place] = changed[place:end] * random.choice((1, 2, 50))
        elif kind == 4:
            del changed[place : len(changed) if random.random() < 0.2 else end]
        else:
            other = random.choice(others)
            start = random.randint(0, len(other))
            changed[place:end] = other[start : start + random.choice((4, 64, 1024))]
    return bytes(changed)


@contextlib.contextmanager
def patience() -> Iterator[None]:
    """Raises `NoAnswer` in the block after `PATIENCE` seconds."""

    def stop(*_: object) -> None:
        raise NoAnswer(f"no answer within {PATIENCE} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fuzz(name: str, seed: int, until: Callable[[int], bool], keep: Path | None = None) -> tuple[int, list[str]]:
    """Fuzzes one reader.

    Args:
        name: one of `TARGETS`.
        seed: of the changes.
        until: is told how many inputs were tried, and ends it.
        keep: a folder for inputs that are findings.

    Returns:
        How many inputs were tried, and a line for each finding.
    """
    target, random, findings, tried = TARGETS[name], Random(f"{name} {seed}"), [], 0
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (Path(folder) / "seeds").mkdir()
        seeds = [path.read_bytes() for path in target.seeds(Path(folder) / "seeds")]
        path = Path(folder) / "in" / target.name
        make.write(path, seeds[0])
        before = sorted(Path(folder).rglob("*"))
        while not until(tried):
            content = seeds[tried] if tried < len(seeds) else mutated(random.choice(seeds), seeds, random)
            make.write(path, content)
            wrong: object = None
            try:
                with patience():
                    target.call(path)
            except target.errors:
                pass
            except Exception as error:
                wrong = f"{type(error).__name__}: {str(error)[:200]}"
            if sorted(Path(folder).rglob("*")) != before:
                wrong = "something was written"
            if wrong:
                findings.append(f"{name}, seed {seed}, input {tried}: {wrong}")
                if keep is not None:
                    make.write(keep / f"{name}-{seed}-{tried}{Path(target.name).suffix}", content)
            tried += 1
    return tried, findings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60, help="for all readers together")
    parser.add_argument("--reader", choices=TARGETS, help="only this one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a folder for the inputs that were found")
    options = parser.parse_args()
    names = [options.reader] if options.reader else list(TARGETS)
    total = {}
    for name in names:
        end = time.monotonic() + options.seconds / len(names)
        tried, findings = fuzz(name, options.seed, lambda _, end=end: time.monotonic() > end, options.keep)
        total[name] = {"inputs": tried, "findings": len(findings)}
        print(f"{name}: {tried} inputs, {len(findings)} findings", *findings, sep="\n  ", flush=True)
    print(json.dumps(total))
    return int(any(found["findings"] for found in total.values()))


if __name__ == "__main__":
    raise SystemExit(main())
