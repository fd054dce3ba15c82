# SPDX-License-Identifier: Apache-2.0
"""Bad inputs, each with what is said about it: the one place for refused texts and files.

`test_cases.py` makes a test of each; `page.py` makes `docs/hostile_input.md` of them.
"""

import base64
import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image
from safetensors.torch import save, save_file

from diffusers_show1.runs.folder import FORMAT

from ..training.small import recipe
from . import make


@dataclass(frozen=True)
class Case:
    """One bad input.

    Args:
        reader: what reads it, one of `readers.READERS`.
        given: the input, in words.
        made: makes it in a folder, and returns what the reader is called with.
        says: a part of the message.
    """

    reader: str
    given: str
    made: Callable[[Path], Any]
    says: str


CASES: list[Case] = []


def case(reader: str, given: str, says: str) -> Callable[[Callable[[Path], Any]], Callable[[Path], Any]]:
    """Adds what the decorated function makes."""

    def add(made: Callable[[Path], Any]) -> Callable[[Path], Any]:
        CASES.append(Case(reader, given, made, says))
        return made

    return add


def texts(reader: str, name: str, *rows: tuple[str, bytes | str | object, str]) -> None:
    """Adds rows of (input in words, content of a file `name`, part of the message)."""
    for given, content, says in rows:
        CASES.append(Case(reader, given, lambda folder, content=content: make.write(folder / name, content), says))


# --- prompts and calls -----------------------------------------------------------------------------------------------

for given, arguments, says in (
    ("nothing but white space, in Unicode's wide sense", {"prompt": "\u2003\x85\n"}, "`prompt` must not be empty"),
    ("half a character (a lone surrogate)", {"prompt": "a \ud800 car"}, "`prompt` must be Unicode text, got"),
    ("half a character in the negative prompt", {"negative_prompt": "\udfff"}, "`negative_prompt` must be Unicode"),
    ("a million characters", {"prompt": "a" * 10**6}, "`prompt` must have at most 10000 characters, got 1000000"),
    ("a million combining marks", {"prompt": "e" + "\u0301" * 10**6}, "`prompt` must have at most 10000 characters"),
    ("a long list that holds no texts", {"prompt": [7] * 10**5}, "`prompt` must be a string or a list of strings"),
    ("`num_frames` of a billion", {"num_frames": 10**9}, "must make videos of at most 4294967296 numbers"),
    ("`num_frames` of 400 digits", {"num_frames": 10**400}, "must make videos of at most 4294967296 numbers"),
    ("a height of eight million", {"base": {"height": 8 * 10**6}}, "`height` must be an integer in 1..16384"),
    ("frames_between of a billion", {"interpolation": {"frames_between": 10**9}}, "must make videos of at most"),
    ("a guidance scale of 400 digits", {"base": {"guidance_scale": 10**400}}, "`guidance_scale` must be a finite"),
    (
        "a LoRA scale of 400 digits",
        {"base": {"cross_attention_kwargs": {"scale": 10**400}}},
        "must be a finite number",
    ),
    ("`eta` that is a text", {"base": {"eta": "evil"}}, "`eta` must be a finite number of at least 0, got 'evil'"),
    ("a portion of 400 digits", {"refine": {"vae_batch_size": 10**400}}, "`vae_batch_size` must be an integer in 1.."),
    ("a path as first frame", {"superres": {"first_frame": "../x.png"}}, "`first_frame` must be PIL images, a numpy"),
):
    CASES.append(Case("call", given, lambda folder, arguments=arguments: arguments, says))


# --- recipes ---------------------------------------------------------------------------------------------------------


def recipe_with(**sections: Any) -> str:
    return yaml.safe_dump(recipe("base", **sections))


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{after}: &{after} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)
texts(
    "recipe",
    "recipe.yaml",
    (
        "a tag that calls `os.system`",
        '!!python/object/apply:os.system ["mkdir ran"]',
        "could not determine a construc",
    ),
    ("a tag that names a function", "stage: !!python/name:os.system", "could not determine a constructor for the tag"),
    ("a billion laughs, by aliases", BOMB, "must be YAML (the alias *a: write it out"),
    ("an alias to what holds it", "run: &run {steps: *run}", "must be YAML (the alias *run: write it out"),
    ("a list as a key", "? [stage]\n: base", "must be YAML (a key must be a text or a number"),
    ("a mapping as a key", "{{stage: base}: 1}", "must be YAML (a key must be a text or a number"),
    ("a thousand brackets", "[" * 1000, "must be YAML ("),
    ("a tag that does not fit: `!!bool x`", "stage: !!bool x", "must be YAML ('x')"),
    ("a tag that does not fit: `!!timestamp x`", "stage: !!timestamp x", "must be YAML ("),
    ("a date that is none", "stage: 2020-13-45", "must be YAML (month must be in 1..12)"),
    (
        "a number to the base 60, of 3000 places",
        "run: " + ":".join(["1"] * 3000) + ".5",
        "must be YAML (int too large",
    ),
    ("NUL", "stage: \0", "must be YAML (unacceptable character #x0000"),
    ("bytes that are no UTF-8", b"\xff\xfe\0", "`--config` must be a text file in UTF-8"),
    ("two documents", "stage: base\n---\nstage: base", "must be YAML (expected a single document"),
    ("100 kB of one text", "x" * 10**5, "(100002 characters)"),
    ("a list", "[stage, base]", "must hold the sections of a recipe, got ['stage', 'base']"),
    (
        "`run.steps` of 400 digits",
        recipe_with(run={"steps": 0}).replace("steps: 0", "steps: " + "9" * 400),
        "`run.steps` must be a whole number of at least 1, got 999",
    ),
    ("frames of a billion pixels' height", recipe_with(data={"height": 10**9}), "and at most 16384, got 1000000000"),
    (
        "half a character in a prompt",
        recipe_with(validation={"prompts": ["\ud800"]}),
        "`validation.prompts[0]` must be a text, got",
    ),
    ("a private attribute as a key", recipe_with(run={"__class__": 1}), "`run.__class__` must be one of the keys of"),
)


# --- manifests, and the files that they name -------------------------------------------------------------------------

texts(
    "manifest",
    "clips.csv",
    ("CSV in UTF-16", "file,caption\na.mp4,x\n".encode("utf-16"), "clips.csv, line 1: not UTF-8 (byte 1)"),
    ("CSV with a quote that does not end", 'file,caption\na.mp4,"x\n', "clips.csv, line 2: unexpected end of data"),
    ("CSV with a field of 10 MB", "file,caption\na.mp4," + "x" * 10**7, "line 2: field larger than field limit"),
    ("CSV with Mac line ends", "file,caption\ra.mp4,x\r", "line 1: new-line character seen in unquoted field"),
    ("CSV with rows of other lengths", "file,caption\na.mp4\n", "line 2: 2 columns expected, got 1"),
    ("CSV with semicolons", "file;caption\na.mp4;x\n", "the columns must include videoid, name, page_dir or file"),
    ("CSV with a header of 100000 columns", ",".join(["x"] * 10**5), "(299998 characters)"),
    ("CSV with NUL in a file's name", "file,caption\na\0.mp4,x\n", "line 2: column 'file' must name a file"),
)
ROW = '{"file": "a.mp4", "caption": '
texts(
    "manifest",
    "clips.jsonl",
    ("JSON lines with a key twice", ROW + '"x", "file": "b.mp4"}', "line 1: the key 'file' stands twice"),
    ("JSON lines with NaN", ROW + "NaN}", "line 1: 'caption' must be a string, got nan"),
    ("JSON lines with 200000 brackets", ROW + "[" * 10**5 + "]" * 10**5 + "}", "line 1: maximum recursion depth"),
    ("JSON lines with a number of 5000 digits", ROW + "9" * 5000 + "}", "line 1: Exceeds the limit (4300 digits)"),
    ("JSON lines with half a character", ROW + '"\\ud800"}', "is not text (surrogates not allowed)"),
    ("JSON lines with a caption of 10 MB", ROW + '"' + "x" * 10**7 + '"}', "at most 131072 characters, got 10000000"),
    ("JSON lines with a list as caption", ROW + "[1, 2]}", "line 1: 'caption' must be a string, got [1, 2]"),
    ("JSON lines with no object", '"file caption"', "line 1: must be an object with the keys videoid, name, page_dir"),
)


@case("manifest", "a pipe, which would be waited for", "a manifest must be a file, got")
def _(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.csv")
    return folder / "pipe.csv"


@case("manifest", "a name of 300 characters", "`path` must be a manifest or a folder with one, got")
def _(folder: Path) -> Path:
    return folder / ("x" * 300)


def listing(folder: Path, name: str) -> Path:
    """A manifest with one row, which names `name`; a good video lies outside of its folder."""
    make.video(folder.parent / "outside" / "private.mp4", make.flat(8))
    make.write(folder / "clips.jsonl", {"file": name, "caption": "x"})
    return folder


for given, name, says in (
    ("a file above the folder: `../outside/private.mp4`", "../outside/private.mp4", "outside the folder"),
    ("an absolute path: `/etc/passwd`", "/etc/passwd", "outside the folder"),
    ("a URL", "http://127.0.0.1:9/a.mp4", "missing"),
    ("a protocol of FFmpeg: `concat:a.mp4|b.mp4`", "concat:a.mp4|b.mp4", "missing"),
    ("a name of 300 characters", "x" * 300, "missing"),
    ("the folder itself", ".", "not a file"),
):
    CASES.append(Case("row", given, lambda folder, name=name: listing(folder, name), says))


@case("row", "a link that leads out", "outside the folder")
def _(folder: Path) -> Path:
    (folder / "link.mp4").symlink_to(folder.parent / "outside" / "private.mp4")
    return listing(folder, "link.mp4")


@case("row", "a link to a folder outside", "outside the folder")
def _(folder: Path) -> Path:
    (folder / "more").symlink_to(folder.parent / "outside")
    return listing(folder, "more/private.mp4")


@case("row", "a playlist that calls itself a video", "cannot be opened")
def _(folder: Path) -> Path:
    make.write(folder / "a.mp4", "ffconcat version 1.0\nfile ../outside/private.mp4\n")
    return listing(folder, "a.mp4")


# --- videos and folders of frames ------------------------------------------------------------------------------------

texts(
    "video",
    "clip.mp4",
    ("an empty file", b"", "must be a video that FFmpeg reads, got"),
    ("a text that calls itself a video", "no video" * 1000, "(Invalid data found when processing input)"),
    ("a picture that claims 50000x50000, as a video", make.claiming(50000, 50000), "could be decompression bomb"),
    ("a list of other files (ffconcat)", "ffconcat version 1.0\nfile ../outside/private.mp4\n", "(Invalid argument)"),
    ("a playlist (HLS)", "#EXTM3U\n#EXTINF:3,\nprivate.ts\n#EXT-X-ENDLIST\n", "must be a video that FFmpeg reads"),
)
texts(
    "video",
    "clip.gif",
    ("an empty GIF", b"", "must be a video that FFmpeg reads, got"),
    ("no more than the beginning of a GIF", b"GIF89a", "must be an animation or frames that Pillow reads, got"),
    (
        "a PostScript program that calls itself a GIF",
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "must be a video that FFmpeg reads, got",
    ),
)


@case("video", "nothing there", "which does not exist")
def _(folder: Path) -> Path:
    return folder / "none.mp4"


@case("video", "a name of 300 characters", "which does not exist")
def _(folder: Path) -> Path:
    return folder / ("x" * 300 + ".mp4")


@case("video", "a pipe, which would be waited for", "which is neither")
def _(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.mp4")
    return folder / "pipe.mp4"


def cut(path: Path, share: float) -> Path:
    return make.write(path, path.read_bytes()[: int(path.stat().st_size * share)])


@case("video", "an mp4 that is cut in half", "(Invalid data found when processing input)")
def _(folder: Path) -> Path:
    return cut(make.video(folder / "clip.mp4", make.flat(8)), 0.5)


@case("video", "a GIF that is cut in half", "must hold pictures that are whole")
def _(folder: Path) -> Path:
    return cut(make.animation(folder / "clip.gif", [100, 50, 100, 200]), 0.5)


@case("video", "a WebP that is cut in half", "must hold pictures that are whole")
def _(folder: Path) -> Path:
    return cut(make.animation(folder / "clip.webp", [100, 50, 100, 200]), 0.5)


@case("video", "sound without a picture", "without a video stream")
def _(folder: Path) -> Path:
    return make.sound(folder / "clip.mp4")


@case("video", "no frames", "must be a video")
def _(folder: Path) -> Path:
    whole = make.video(folder / "clip.mkv", make.flat(1), "ffv1", "yuv444p").read_bytes()
    # everything before the first cluster, which holds the frames
    return make.write(folder / "clip.mkv", whole[: whole.index(b"\x1f\x43\xb6\x75")])


@case("video", "frames that change their size", "must hold frames of one size, got")
def _(folder: Path) -> Path:
    small = make.video(folder / "a.h264", make.flat(4)).read_bytes()
    large = make.video(folder / "b.h264", make.flat(4, 32, 48)).read_bytes()
    return make.write(folder / "clip.h264", small + large)


@case("video", "a GIF that claims 65535x65535", "could be decompression bomb DOS attack")
def _(folder: Path) -> Path:
    return claim(make.animation(folder / "clip.gif", [100, 50]), 65535, 65535)


@case("video", "a GIF that claims 9000x9000", "at most 33554432 pixels each")
def _(folder: Path) -> Path:
    return claim(make.animation(folder / "clip.gif", [100, 50]), 9000, 9000)


def claim(path: Path, width: int, height: int) -> Path:
    content = path.read_bytes()
    return make.write(path, content[:6] + struct.pack("<HH", width, height) + content[10:])


@case("video", "a WebP of which one frame is shown for four hours", "at most 65536 frames of")
def _(folder: Path) -> Path:
    return make.animation(folder / "clip.webp", [1, 2**24 - 1, 3])


@case("video", "a TIFF that claims 9000x9000", "at most 33554432 pixels each")
def _(folder: Path) -> Path:
    path = make.picture(folder / "clip.tif", Image.new("1", (9000, 9000))) / "clip.tif"
    return path.rename(folder / "clip.mp4")


@case("video", "a TIFF of floating-point numbers", "its pixels are floating-point numbers, of no known range")
def _(folder: Path) -> Path:
    return make.picture(folder / "clip.tif", Image.new("F", (8, 8))) / "clip.tif"


@case("video", "a JPEG that is cut in half", "must hold pictures that are whole")
def _(folder: Path) -> Path:
    return cut(make.picture(folder / "clip.jpg", Image.effect_noise((64, 64), 50)) / "clip.jpg", 0.5)


@case("video", "an empty folder", "must hold frames (000.png, 001.png, ...), got the folder")
def _(folder: Path) -> Path:
    (folder / "frames").mkdir()
    return folder / "frames"


@case("video", "a folder with frames of two sizes", "must hold frames of one size, got")
def _(folder: Path) -> Path:
    make.picture(folder / "000.png", Image.new("RGB", (8, 8)))
    return make.picture(folder / "001.png", Image.new("RGB", (9, 8)))


@case("video", "a folder with a frame that is no picture", "must be an animation or frames that Pillow reads")
def _(folder: Path) -> Path:
    return make.write(folder / "000.png", "no picture").parent


@case("video", "a folder with a frame that is cut off", "must hold pictures that are whole")
def _(folder: Path) -> Path:
    return cut(make.picture(folder / "000.png", Image.effect_noise((64, 64), 50)) / "000.png", 0.5).parent


@case("video", "a folder with a frame that claims 12000x12000", "and 4294967296 bytes in all, got")
def _(folder: Path) -> Path:
    return make.write(folder / "000.png", make.claiming(9000, 9000)).parent


@case("video", "a folder whose frame is a folder", "whose 000.png is no file")
def _(folder: Path) -> Path:
    (folder / "000.png").mkdir()
    return folder


@case("video", "a folder whose frame is a link to nothing", "whose 000.png is no file")
def _(folder: Path) -> Path:
    (folder / "000.png").symlink_to("nowhere")
    return folder


@case("video", "a folder whose frame is a pipe", "whose 000.png is no file")
def _(folder: Path) -> Path:
    os.mkfifo(folder / "000.png")
    return folder


# --- outputs ---------------------------------------------------------------------------------------------------------


@case("output", "a pipe", "must be a file or a folder, got")
def _(folder: Path) -> Path:
    os.mkfifo(folder / "out.mp4")
    return folder / "out.mp4"


def link(folder: Path, name: str, target: str) -> Path:
    (folder / name).symlink_to(target)
    return folder / name


@case("output", "a link to nothing", "must not lead through a link to nothing, got")
def _(folder: Path) -> Path:
    return link(folder, "out.mp4", "nowhere/out.mp4")


@case("output", "a file in a folder that is a link to nothing", "must not lead through a link to nothing, got")
def _(folder: Path) -> Path:
    return link(folder, "out", "nowhere") / "out.mp4"


@case("output", "a link to itself", "(Too many levels of symbolic links)")
def _(folder: Path) -> Path:
    return link(folder, "out.mp4", "out.mp4")


@case("output", "a link to a file of another kind", "must, as a link, lead to a .mp4, got")
def _(folder: Path) -> Path:
    make.write(folder / "notes.txt", "mine")
    return link(folder, "out.mp4", "notes.txt")


@case("output", "a name of 300 characters", "(File name too long)")
def _(folder: Path) -> Path:
    return folder / ("x" * 300 + ".mp4")


@case("output", "a name of 300 characters in a folder that is not there yet", "(File name too long)")
def _(folder: Path) -> Path:
    return folder / "new" / ("x" * 300 + ".mp4")


@case("output", "a folder by the name of a video", "must be a file, got the folder")
def _(folder: Path) -> Path:
    (folder / "out.mp4").mkdir()
    return folder / "out.mp4"


@case("output", "a folder with more than frames", "or one with nothing but frames")
def _(folder: Path) -> Path:
    make.write(folder / "out" / "thesis.txt", "mine")
    return folder / "out"


# --- settings --------------------------------------------------------------------------------------------------------

GOOD = {
    "prompt": "a red circle",
    "seed": 0,
    "model": "tiny",
    "recipe": "default",
    "device": "cpu",
    "dtype": "float32",
    "stage_options": {},
}
texts(
    "settings",
    "clip.json",
    ("no UTF-8", b'{"settings": "\xe9"}', "(this is no JSON)"),
    ("100000 brackets", "[" * 10**5, "(this is no JSON)"),
    ("a number of 5000 digits", "9" * 5000, "(this is no JSON)"),
    ("NaN", "NaN", "(it has no settings)"),
)
for given, values, says in (
    ("half a character in the prompt", {"prompt": "\ud800"}, "PROMPT must be a text in Unicode, got '\\ud800'"),
    ("a prompt of a million characters", {"prompt": "a" * 10**6}, "PROMPT must be a text of at most 10000 characters"),
    ("half a character in the negative prompt", {"negative_prompt": "\ud800"}, "--negative-prompt must be a text in"),
    ("a list as prompt", {"prompt": ["a"]}, "(its prompt is ['a'])"),
    ("a seed of 30 digits", {"seed": 10**29}, "--seed must be a whole number from 0 to 9007199254740992"),
    ("a seed that is a fraction", {"seed": 1.0}, "(its seed is 1.0)"),
    ("a billion frames", {"num_frames": 10**9}, "--frames must be a whole number of at most 65536, got 1000000000"),
    ("a rate near zero", {"fps": 1e-300}, "--fps must be a number above 0, from 0.1 to 1000, got 1e-300"),
    ("a rate that is NaN", {"fps": float("nan")}, "--fps must be a number above 0, from 0.1 to 1000, got nan"),
    ("a model of 5000 characters", {"model": "x" * 5000}, "(there is no folder of this name)"),
    ("a model that is a URL", {"model": "http://127.0.0.1:9/x"}, "--model must be tiny, showlab, a folder that holds"),
    ("a model that is some folder: `/etc`", {"model": "/etc"}, "(/etc has no readable model_index.json)"),
    ("a revision that is a path", {"model_revision": "../../x"}, "model_revision must be a branch, tag or commit"),
    ("a device of 20 digits", {"device": "cuda:" + "9" * 20}, "--device must be one of auto, cpu, cuda, cuda:N"),
    ("a recipe of a megabyte", {"recipe": "x" * 10**6}, "(1000002 characters)"),
    ("options that are no mapping", {"stage_options": {"base": [1]}}, "(its stage_options are not options by stage)"),
    ("options of an unknown stage", {"stage_options": {"../x": {}}}, "stage_options must be one of base, interpol"),
):
    content = {"settings": {**GOOD, **values}}
    texts("settings", "clip.json", (given, content, says))


# --- jobs ------------------------------------------------------------------------------------------------------------

JOB = {"show1_job": FORMAT, "settings": {}, "models": {}, "versions": {}, "about": {}}
texts(
    "job",
    "job/job.json",
    ("100000 brackets", "[" * 10**5, "job.json can't be read (maximum recursion depth"),
    ("no UTF-8", b"\xff\xfe", "job.json can't be read ('utf-8' codec can't decode"),
    (
        "settings that were edited",
        JOB | {"settings": {"seed": 99}, "sha256": "0" * 64},
        "was changed since the job began",
    ),
    ("settings that are a list", JOB | {"settings": [1]}, "job.json can't be read (its settings are a list)"),
    (
        "digests that are none",
        JOB | {"models": {"unet": [1]}},
        "job.json can't be read (its models are not all digests",
    ),
    ("settings with an unknown key", JOB | {"settings": {"evil": 1}}, "unexpected keyword argument 'evil'"),
    (
        "a seed that is none",
        JOB | {"settings": {"prompt": "x", "seed": "evil"}},
        "`seed` must be an integer in 0..18446744073709551615, got 'evil'",
    ),
    (
        "options that are none",
        JOB | {"settings": {"prompt": "x", "seed": 0, "stage_options": {"base": 3}}},
        "its stage_options are not options by stage",
    ),
)
for given, content, says in (
    ("a window that is cut off", save({"window": torch.zeros(8, 8)})[:100], "base-000.safetensors is damaged ("),
    ("a window whose header claims 2^60 bytes", struct.pack("<Q", 2**60) + b"{}", "base-000.safetensors is damaged ("),
    ("a window by another name", save({"evil": torch.zeros(1)}), "is damaged ('window'): delete it, and it is made"),
    ("a window of whole numbers", save({"window": torch.zeros(4, dtype=torch.int64)}), "it holds other things than"),
    ("a window with NaN", save({"window": torch.tensor([float("nan")])}), "it holds other things than finite"),
):
    texts("window", "job/windows/base-000.safetensors", (given, content, says))


# --- folders of weights ----------------------------------------------------------------------------------------------

SCHEDULE = "base_scheduler/scheduler_config.json"
UNET = "base_unet/diffusion_pytorch_model"


def cascade_with(given: str, says: str, change: Callable[[Path], object]) -> None:
    """Adds a cascade that `change` was at."""

    def made(folder: Path) -> Path:
        path = make.cascade(folder)
        change(path)
        return path

    CASES.append(Case("model", given, made, says))


def without_weights(path: Path, name: str = f"{UNET}.safetensors") -> Path:
    """Moves a component's weights out of the folder, where nothing may read them; returns where they were."""
    (path.parents[1] / "outside").mkdir()
    shutil.move(path / name, path.parents[1] / "outside" / "private.safetensors")
    return path / name


def shards(path: Path, target: str, name: str = f"{UNET}.safetensors") -> None:
    """An index that says that the component's weights are in `target`."""
    from safetensors import safe_open

    with safe_open(path / name, "pt") as file:
        names = list(file.keys())
    target = target.replace("OUTSIDE", str(path.parents[1] / "outside"))
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, target)}
    make.write(without_weights(path, name).with_name(Path(name).name + ".index.json"), index)


def code(path: Path, marker: str) -> str:
    """A module that makes a folder when it is imported."""
    return f"import os\nos.mkdir({str(path.parents[1] / marker)!r})\nclass Network: pass\nclass Pipeline: pass\n"


def module_in(path: Path, place: str, **index: object) -> None:
    make.write(path / place, code(path, "ran"))
    make.changed(path / "model_index.json", **index)


for given, says, content in (
    ("an index that is empty", "(its model_index.json is no JSON)", b""),
    ("an index that is no UTF-8", "(its model_index.json is no JSON)", '{"é": 1}'.encode("latin-1")),
    ("an index of 100000 brackets", "(its model_index.json is no JSON)", "[" * 10**5),
    ("an index that is a list", "(its model_index.json names no pipeline)", "[]"),
):
    cascade_with(given, says, lambda path, content=content: make.write(path / "model_index.json", content))
for given, says, entry in (
    (
        "a component from `os.system`",
        "its library must be one of diffusers, transformers, diffusers_",
        ["os", "system"],
    ),
    ("a component from `subprocess.Popen`", "got 'subprocess'", ["subprocess", "Popen"]),
    ("a component from a path", "got '../../evil'", ["../../evil", "Network"]),
    ("a component that is a function", "`base_unet` in", ["diffusers", "logging"]),
    ("a component of no known class", "`diffusers` has no class `Evil`", ["diffusers", "Evil"]),
    ("a component that is a text", "must be [library, class] or [null, null], got 'evil'", "evil"),
    ("a component that is a number", "must be [library, class] or [null, null], got 3", 3),
    ("a component of numbers", "must be [library, class] or [null, null], got [3, 4]", [3, 4]),
    ("a component with three parts", "must be [library, class] or [null, null], got ['a'", ["a", "b", "c"]),
):
    cascade_with(given, says, lambda path, entry=entry: make.changed(path / "model_index.json", base_unet=entry))
cascade_with(
    "a pipeline in a Python file of the folder, without `trust_remote_code`",
    "Pass `trust_remote_code=True` to allow loading remote code modules",
    lambda path: module_in(path, "evil.py", _class_name=["evil", "Show1CascadePipeline"]),
)
cascade_with(
    "a component in a Python file of the folder, without `trust_remote_code`",
    "contains custom code in evil.py which must be executed",
    lambda path: module_in(path, "base_unet/evil.py", base_unet=["evil", "Network"]),
)
for given, says, values in (
    ("layers without end", "`layers_per_block` in its config.json must be at most 256", {"layers_per_block": 10**6}),
    ("a layer of ten million channels", "must be at most 1048576, got 10000000", {"block_out_channels": [10**7] * 2}),
    ("channels below zero", "Trying to create tensor with negative dimension", {"block_out_channels": [-32, -32]}),
    ("a block that is no block", "`down_block_types` must name 2 blocks", {"down_block_types": ["os.system"] * 2}),
    ("an activation that is a builtin", "activation function __import__ not found", {"act_fn": "__import__"}),
    ("a number that is null", "The component `base_unet` in", {"in_channels": None}),
):
    cascade_with(given, says, lambda path, values=values: make.changed(path / "base_unet/config.json", **values))
for given, says, content in (
    ("a config that is a list", "its config.json must be a JSON object, got a list", "[]"),
    ("a config that is no UTF-8", "its config.json must be JSON in UTF-8, which it is not", b"\xff\xfe\0"),
    ("a config of 100000 brackets", "its config.json must be JSON in UTF-8, which it is not", "[" * 10**5),
):
    cascade_with(given, says, lambda path, content=content: make.write(path / "base_unet/config.json", content))
cascade_with(
    "a schedule of 10^12 steps",
    "`num_train_timesteps` in its scheduler_config.json must be at most 1048576",
    lambda path: make.changed(path / SCHEDULE, num_train_timesteps=10**12),
)
cascade_with(
    "a schedule that nobody knows",
    "evil is not implemented for",
    lambda path: make.changed(path / SCHEDULE, beta_schedule="evil"),
)


def cut_weights(path: Path) -> None:
    make.write(path / f"{UNET}.safetensors", (path / f"{UNET}.safetensors").read_bytes()[:5000])


cascade_with("safetensors that are cut off", "Unable to load weights from checkpoint file", cut_weights)
cascade_with(
    "safetensors whose header claims 2^60 bytes",
    "Unable to load weights from checkpoint file",
    lambda path: make.write(path / f"{UNET}.safetensors", struct.pack("<Q", 2**60) + b"{}"),
)
cascade_with(
    "a parameter of another shape",
    "conv_in.weight expected shape",
    lambda path: make.weights_changed(
        path / f"{UNET}.safetensors", lambda state: state.update({"conv_in.weight": torch.zeros(32, 2, 3, 3)})
    ),
)
cascade_with(
    "a missing parameter, which would be random",
    "its files lack 1 of 429 parameters, the first is conv_in.weight",
    lambda path: make.weights_changed(path / f"{UNET}.safetensors", lambda state: state.pop("conv_in.weight")),
)
cascade_with(
    "a missing parameter of the text encoder",
    "The component `text_encoder` in",
    lambda path: make.weights_changed(path / "text_encoder/model.safetensors", lambda state: state.popitem()),
)
cascade_with("no weights at all", "Error no file named", lambda path: without_weights(path))
for given, says, target, name in (
    ("shards above the folder", "must name files beside it, got '../../", "../../outside/private.safetensors", UNET),
    ("shards at an absolute path", "must name files beside it, got '/", "OUTSIDE/private.safetensors", UNET),
    (
        "the text encoder's shards above the folder",
        "got '../../",
        "../../outside/private.safetensors",
        "text_encoder/model",
    ),
):
    cascade_with(given, says, lambda path, target=target, name=name: shards(path, target, f"{name}.safetensors"))
for given, says, archive in (
    ("a pickle that would run code", "are refused: reading the pickle would run code, `posix.mkdir`", True),
    ("a bare pickle that would run code", "are refused: the pickle is damaged, and weights hold tensors only", False),
):
    cascade_with(
        given,
        says,
        lambda path, archive=archive: make.pickled(
            without_weights(path).with_suffix(".bin"), make.Runs(path.parents[1] / "ran"), archive
        ),
    )


# --- adapters --------------------------------------------------------------------------------------------------------

for given, change, metadata, says in (
    (
        "only one of a layer's matrices",
        lambda a, b: (None, b),
        {},
        "must have both matrices (down and up, A and B) for",
    ),
    (
        "matrices of other ranks",
        lambda a, b: (a[:2], b),
        {},
        "must have one rank, got 'time_embedding.linear_1.lora_A",
    ),
    (
        "a number in place of a matrix",
        lambda a, b: (torch.ones(()), b),
        {},
        "lora_A.weight' is (), must be (rank, 32)",
    ),
    ("a matrix that is NaN", lambda a, b: (a * float("nan"), b), {}, "lora_A.weight' must have finite numbers"),
    ("a matrix of truths", lambda a, b: (a > 0, b), {}, "lora_A.weight' must be a tensor of real numbers"),
    ("a rank of 0", lambda a, b: (a[:0], b), {}, "lora_A.weight' is (0, 32), must be (rank, 32)"),
    ("`lora_alpha` of 400 digits", None, {"lora_alpha": 10**400}, "`lora_alpha` of the adapter must be a number in"),
    (
        "`lora_alpha` that is NaN",
        None,
        {"lora_alpha": float("nan")},
        "`lora_alpha` of the adapter must be a number in",
    ),
    (
        "a pattern that backtracks for ever",
        None,
        {"alpha_pattern": {"(([a-z_0-9.])+)+!": 1}},
        "`alpha_pattern` of the adapter must name layers, got '(([a-z",
    ),
    (
        "an initialisation that takes the weights apart",
        None,
        {"init_lora_weights": "pissa_niter_999999"},
        "`init_lora_weights` of the adapter must be one of",
    ),
    (
        "layers a billion times",
        None,
        {"layer_replication": [[0, 10**9]]},
        "setting `layer_replication` is not supported",
    ),
    ("a setting of 100000 characters", None, {"x" * 10**5: 1}, "is not supported, got 1"),
    ("metadata of 100000 brackets", None, "[" * 10**5, "The adapter's metadata must be JSON, got maximum recursion"),
    ("metadata that is a list", None, [1], "its metadata another, got a dict and a list"),
):
    CASES.append(
        Case(
            "adapter",
            given,
            lambda folder, change=change, metadata=metadata: make.adapter(folder / "x.safetensors", change, metadata),
            says,
        )
    )


# --- conversion ------------------------------------------------------------------------------------------------------


@case("convert", "a link to a private file in the tokenizer's folder", "tokenizer/notes.txt leads out of it")
def _(folder: Path) -> Path:
    path = make.cascade(folder)
    (path / "tokenizer" / "notes.txt").symlink_to(make.write(folder.parent / "outside" / "private.txt", "private"))
    return path


for given, says, place, content in (
    ("a scheduler's config that is empty", "its scheduler_config.json must be JSON", SCHEDULE, ""),
    ("a scheduler's config that is a list", "must be a JSON object", SCHEDULE, "[]"),
    ("a network's config that is a list", "must be a JSON object, got a list", "base_unet/config.json", "[]"),
    ("an index of 100000 brackets", "(its model_index.json is no JSON)", "model_index.json", "[" * 10**5),
):
    CASES.append(
        Case(
            "convert",
            given,
            lambda folder, place=place, content=content: (
                make.write(make.cascade(folder) / place, content) and folder / "cascade"
            ),
            says,
        )
    )


@case("convert", "a folder whose `config.json` is a list", "its config.json must be a JSON object, got a list")
def _(folder: Path) -> Path:
    return make.write(folder / "config.json", "[]").parent


@case("convert", "a pickle that would run code", "is refused: reading the pickle would run code, `posix.mkdir`")
def _(folder: Path) -> Path:
    return make.pickled(folder / "state.pt", {"state_dict": make.Runs(folder.parent / "ran")})


@case("convert", "a bare pickle that would run code", "state.bin is refused: the pickle is damaged")
def _(folder: Path) -> Path:
    return make.pickled(folder / "state.bin", make.Runs(folder.parent / "ran"), archive=False)


@case("convert", "a state dict whose first weight is a vector", "is none of the published networks")
def _(folder: Path) -> Path:
    save_file({"conv_in.weight": torch.zeros(3)}, folder / "state.safetensors")
    return folder / "state.safetensors"


@case("convert", "a state dict beside a config of a million layers", "`layers_per_block` in its config.json must be")
def _(folder: Path) -> Path:
    save_file({"conv_in.weight": torch.zeros(32, 3, 3, 3)}, folder / "state.safetensors")
    make.write(folder / "config.json", {"layers_per_block": 10**6})
    return folder / "state.safetensors"


texts(
    "convert",
    "state.safetensors",
    ("an empty state dict", b"", "state.safetensors is refused: it is damaged, or no weights"),
    ("a header that claims 2^60 bytes", struct.pack("<Q", 2**60), "state.safetensors is refused: it is damaged"),
)


# --- publishing ------------------------------------------------------------------------------------------------------


@case("publish", "an index that names a component above the folder", "components in folders of its own, got one named")
def _(folder: Path) -> Path:
    path = make.cascade(folder)
    make.write(folder.parent / "outside" / "private.json", "{}")
    index = (path / "model_index.json").read_text()
    make.write(path / "model_index.json", index.replace("{", '{"../../outside": ["diffusers", "DDPMScheduler"],', 1))
    return path


@case("publish", "a link to a private file in a component's folder", "notes.txt leads out of it")
def _(folder: Path) -> Path:
    path = make.cascade(folder)
    (path / "tokenizer" / "notes.txt").symlink_to(make.write(folder.parent / "outside" / "private.txt", "private"))
    return path


# --- requests to an endpoint -----------------------------------------------------------------------------------------

for given, text, says in (
    ("a video that is no base64", "é" * 20, "parameters.video must be base64 of a video of at most 32 MiB"),
    ("a video that is a number", 7, "got 7"),
    ("a text instead of a video", base64.b64encode(b"no video").decode(), "Invalid data found when processing input"),
    (
        "a playlist instead of a video",
        base64.b64encode(b"ffconcat version 1.0\nfile /etc/passwd\n").decode(),
        "parameters.video must be base64",
    ),
):
    CASES.append(Case("request", given, lambda folder, text=text: text, says))
