# SPDX-License-Identifier: Apache-2.0
"""The `show1` command. Torch and diffusers are imported inside the verbs, so that `--help` answers at once."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
import secrets
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from . import __version__


if TYPE_CHECKING:
    import numpy as np
    import torch

    from .cascades.pipeline_show1 import Show1CascadePipeline

# Spelled out so that a wrong name is answered without importing the cascade; a test compares them with it.
STAGES = ("base", "interpolation", "superres", "refine")
RECIPES = ("default", "official")
DTYPES = ("float32", "float16", "bfloat16")
OFFLOADS = ("none", "model", "sequential")
MAX_STEPS = 1000  # the length of every published training schedule
MAX_SEED = 2**53  # whole numbers up to here survive any JSON reader
CONTENT_FLAGS = {
    "prompts": "PROMPT",
    "prompts_file": "--prompts-file",
    "model": "--model",
    "seed": "--seed",
    "steps": "--steps",
    "guidance": "--guidance",
    "frames": "--frames",
    "stop_after": "--stop-after",
    "recipe": "--recipe",
    "negative_prompt": "--negative-prompt",
    "fps": "--fps",
    "dtype": "--dtype",
}  # what --from-json says already
FPS = 8.0
KEYFRAME_FPS = 2.0  # before interpolation puts three frames between two keyframes

app = typer.Typer(
    help="Text-to-video cascades for diffusers.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


class BadInput(typer.TyperException):
    """What the user gave cannot be used: one line on stderr, exit code 2."""

    exit_code = 2


def refuse(argument: str, value: object, allowed: str, note: object = "") -> NoReturn:
    """Raise `BadInput` with the argument, what is allowed, the value, and a note about it, on one line."""
    message = f"{argument} must be {allowed}, got {value!r}" + (f" ({note})" if note else "")
    raise BadInput(" ".join(message.split()))


def one_of(argument: str, value: str, allowed: Sequence[str]) -> str:
    """`value` if it is among `allowed`; `BadInput` otherwise."""
    if value not in allowed:
        refuse(argument, value, f"one of {', '.join(allowed)}")
    return value


def per_stage(argument: str, text: str, number: type, least: float, most: float) -> dict[str, Any]:
    """Numbers by stage from `"20"` (every stage) or `"base=20,superres=4"` (the others keep the recipe's).

    `number` is `int` or `float`; each value has to lie in `least`..`most`. Raises `BadInput` for anything else.
    """
    kind = "a whole number" if number is int else "a number"
    limits = f"of at least {least:g}" if math.isinf(most) else f"from {least:g} to {most:g}"
    allowed = f"{kind} {limits}, or stage=number pairs with commas between ({', '.join(STAGES)})"
    values: dict[str, Any] = {}
    for item in text.split(","):
        stage, equals, value = item.rpartition("=")
        stages = (stage.strip(),) if equals else STAGES
        try:
            parsed = number(value)
        except ValueError:
            refuse(argument, text, allowed)
        # Written so that NaN fails; a stage named twice, or a pair beside a number for all, would hide one of the two.
        if (
            not (least <= parsed <= most)
            or math.isinf(parsed)
            or values.keys() & set(stages)
            or set(stages) - {*STAGES}
        ):
            refuse(argument, text, allowed)
        values.update(dict.fromkeys(stages, parsed))
    return values


def read_prompts(text: str) -> list[str]:
    """The prompts of a prompts file: one a line, stripped; empty lines and lines that begin with `#` are left out."""
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def output_names(output: str, count: int) -> list[str]:
    """One output name for each of `count` prompts.

    `{index}` becomes 000, 001, ...; without it, several prompts get `-000`, `-001`, ... before the ending.
    """
    if "{index}" not in output and count > 1:
        stem, slash = output.rstrip("/"), output[len(output.rstrip("/")) :]
        ending = "" if slash else Path(output).suffix
        output = stem[: len(stem) - len(ending)] + "-{index}" + ending + slash
    return [output.replace("{index}", f"{index:03d}") for index in range(count)]


def beside(output: str, label: str) -> str:
    """The name of another clip of the same kind beside `output`: `out.mp4` gives `out.base.mp4` for `"base"`."""
    if output.endswith("/") or not Path(output).suffix:
        return f"{output.rstrip('/')}.{label}/"
    path = Path(output)
    return str(path.with_name(f"{path.stem}.{label}{path.suffix}"))


def json_name(output: str) -> Path:
    """Where the record of a clip stands: `out.json` beside `out.mp4`, and beside the folder `out/`."""
    path = Path(output)
    return path.with_name(f"{path.name}.json") if output.endswith("/") else path.with_suffix(".json")


@dataclasses.dataclass(frozen=True)
class Settings:
    """All that decides what a clip looks like. What is None is left to the cascade, or to the machine."""

    prompt: str
    seed: int
    negative_prompt: str | None = None
    model: str = "tiny"
    model_revision: str | None = None
    recipe: str = "default"
    stage_options: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    num_frames: int | None = None
    stop_after: str | None = None
    fps: float | None = None
    device: str = "auto"
    dtype: str = "auto"

    def check(self) -> Settings:
        """Raise `BadInput` for the first value that cannot be used; needs no model and imports no framework."""
        if not self.prompt.strip():
            refuse("PROMPT", self.prompt, "a text that is not empty")
        if not 0 <= self.seed <= MAX_SEED:
            refuse("--seed", self.seed, f"a whole number from 0 to {MAX_SEED}")
        if self.num_frames is not None and self.num_frames < 2:
            refuse("--frames", self.num_frames, "a whole number of at least 2")
        if self.fps is not None and not (0 < self.fps <= 1000):
            refuse("--fps", self.fps, "a number above 0, up to 1000")
        one_of("--recipe", self.recipe, RECIPES)
        one_of("--stop-after", self.stop_after or STAGES[-1], STAGES)
        one_of("--dtype", self.dtype, ("auto", *DTYPES))
        if not re.fullmatch(r"auto|cpu|(cuda|mps|xpu)(:\d+)?", self.device):
            refuse("--device", self.device, "one of auto, cpu, cuda, cuda:N, mps, xpu, xpu:N")
        for stage in self.stage_options:
            one_of("stage_options", stage, STAGES)
        check_model(self.model)
        return self


def check_model(model: str) -> None:
    """Raise `BadInput` unless `model` is `tiny`, `showlab`, a folder of a cascade, or has the form of a Hub id."""
    allowed = "tiny, showlab, a folder that holds a Show-1 cascade, or a Hub id (owner/name)"
    folder = model_folder(model)
    if folder is not None:
        try:
            index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
            name = index["_class_name"]
        except (OSError, ValueError, KeyError, TypeError):
            refuse("--model", model, allowed, f"{folder} has no readable model_index.json")
        if "Show1CascadePipeline" not in (name, *(name if isinstance(name, list) else ())):
            refuse("--model", model, allowed, f"{folder} holds a {name}")
    elif model != "showlab":
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id

        try:
            validate_repo_id(model)
        except HFValidationError:
            refuse("--model", model, allowed, "there is no folder of this name")
        if "/" not in model:
            refuse("--model", model, allowed, "there is no folder of this name")


def model_folder(model: str) -> Path | None:
    """The local folder that `model` names, or None when it is to come from the Hub."""
    if model == "tiny":
        from .tiny import TINY_PATH

        return TINY_PATH
    return Path(model) if model != "showlab" and Path(model).is_dir() else None


def read_record(path: Path) -> tuple[Settings, dict[str, Any]]:
    """The checked settings in a JSON that `show1 generate` wrote, and the whole of it; `BadInput` if it is none."""
    allowed = "a JSON file that show1 generate wrote"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        refuse("--from-json", str(path), allowed, error.strerror)
    except (ValueError, RecursionError):
        refuse("--from-json", str(path), allowed, "this is no JSON")
    given = record.get("settings") if isinstance(record, dict) else None
    if not isinstance(given, dict):
        refuse("--from-json", str(path), allowed, "it has no settings")
    types: dict[str, Any] = {"seed": int, "num_frames": int, "fps": (int, float), "stage_options": dict}
    values: dict[str, Any] = {}
    for field in dataclasses.fields(Settings):
        value = values[field.name] = given.get(field.name)
        right = isinstance(value, types.get(field.name, str)) and not isinstance(value, bool)
        if not right and not (value is None and field.default is None):
            refuse("--from-json", str(path), allowed, f"its {field.name} is {value!r}")
    if not all(isinstance(options, dict) for options in values["stage_options"].values()):
        refuse("--from-json", str(path), allowed, "its stage_options are not options by stage")
    return Settings(**values).check(), record


def check_outputs(outputs: Sequence[str], stages: Sequence[str], record: bool, overwrite: bool) -> None:
    """Raise `BadInput` unless every file that the outputs lead to can be written, and none is there already."""
    from .frames import check_output_path

    clips = [name for output in outputs for name in (output, *(beside(output, stage) for stage in stages))]
    try:
        for clip in clips:
            check_output_path(clip)
        records = [json_name(output) for output in outputs if record]
        for path in [*map(Path, clips), *records]:
            if path in records and path.is_dir():
                refuse("--output", str(path), "a name whose .json is no folder", "--no-json writes none")
            if not overwrite and path.exists() and not (path.is_dir() and not any(path.iterdir())):
                refuse("--output", str(path), "a name that is not taken", "--overwrite replaces what is there")
    except (OSError, ValueError) as error:
        raise BadInput(str(error).replace("`path`", "--output", 1)) from error


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


def load_cascade(settings: Settings, device: torch.device, dtype: torch.dtype, offload: str) -> Show1CascadePipeline:
    """The cascade that the settings name, on its device. Raises `BadInput` when it cannot be had."""
    from .hub import recognise

    try:
        source = settings.model if settings.model == "showlab" else str(model_folder(settings.model) or settings.model)
        pipe = recognise.load_cascade(source, settings.model_revision, dtype=dtype)
    except ValueError as error:  # it is a model, and not one that makes videos: the error says what it is
        raise BadInput(" ".join(str(error).replace("`model`", "--model").split())) from error
    except OSError as error:
        refuse("--model", settings.model, "a model that can be loaded", str(error).strip().splitlines()[0])
    if offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    else:
        pipe.to(device)
    return pipe


def model_identity(model: str) -> dict[str, Any]:
    """What tells one version of a model from another: its index's digest, and its commit when it is from the Hub."""
    if model == "showlab":
        from .hub.recognise import PUBLISHED_REPOS

        return {stage: model_identity(repo) for stage, repo in PUBLISHED_REPOS.items()}
    folder = model_folder(model)
    if folder is not None:
        return {"index_sha256": file_digest(folder / "model_index.json")}
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(model, "model_index.json")
    if not isinstance(cached, str):
        return {}
    return {"index_sha256": file_digest(Path(cached)), "revision": Path(cached).parent.name}


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions() -> dict[str, str | None]:
    """Versions of this package and of those that decide its numbers; None for one that is not installed."""
    found: dict[str, str | None] = {"diffusers_show1": __version__}
    for name in ("torch", "diffusers", "transformers", "accelerate", "safetensors", "huggingface_hub", "numpy"):
        found[name] = metadata.version(name)
    for name in ("xformers", "peft"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


@dataclasses.dataclass
class Clip:
    """One finished clip: `frames (f, h, w, 3)` in 0..1, those of the stages before the last, and seconds by stage."""

    frames: np.ndarray
    stages: dict[str, np.ndarray]
    seconds: dict[str, float]


def resolve_options(pipe: Show1CascadePipeline, settings: Settings) -> dict[str, dict[str, Any]]:
    """Every option of every stage; `BadInput` for one that a JSON names and the cascade does not know."""
    try:
        return pipe.resolve_options(settings.recipe, settings.stage_options, settings.num_frames)
    except (ValueError, TypeError) as error:
        raise BadInput(" ".join(str(error).split())) from error


def run_cascade(pipe: Show1CascadePipeline, settings: Settings, keep_stages: bool) -> Clip:
    """Make the clip that the settings describe; `BadInput` when its numbers do not fit the cascade.

    The noise is drawn on the CPU, so that a seed means the same on every device.
    """
    import torch

    ends = [time.perf_counter()]
    seconds: dict[str, float] = {}

    def stage_done(_pipe: object, stage: str, _frames: object) -> None:
        ends.append(time.perf_counter())
        seconds[stage] = round(ends[-1] - ends[-2], 3)

    try:
        output: Any = pipe(
            settings.prompt,
            negative_prompt=settings.negative_prompt,
            num_frames=settings.num_frames,
            recipe=settings.recipe,
            stage_options=settings.stage_options,
            stop_after=settings.stop_after,
            return_stages=keep_stages,
            generator=torch.Generator().manual_seed(settings.seed),
            output_type="np",
            callback_on_stage_end=stage_done,
        )
    except ValueError as error:  # the cascade refuses what it cannot run, such as numbers that do not fit together
        raise BadInput(" ".join(str(error).split())) from error
    earlier = list(output.stages)[:-1] if keep_stages else []
    return Clip(output.frames[0], {name: output.stages[name][0] for name in earlier}, seconds)


def write_clip(clip: Clip, output: str, fps: float) -> str:
    """Save a clip and its stages, which play as long as it does; returns the SHA-256 of the final frames (uint8)."""
    from .frames import save_video, to_uint8

    for stage, frames in clip.stages.items():
        save_video(frames, beside(output, stage), fps=fps * len(frames) / len(clip.frames))
    frames = to_uint8(clip.frames)
    save_video(frames, output, fps=fps)
    return hashlib.sha256(frames.tobytes()).hexdigest()


def settings_from_flags(flags: dict[str, Any]) -> list[Settings]:
    """The settings of every clip that the flags of `generate` ask for, checked."""
    prompts = list(flags["prompts"] or [])
    if flags["prompts_file"] is not None:
        try:
            prompts += read_prompts(flags["prompts_file"].read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError) as error:
            refuse("--prompts-file", str(flags["prompts_file"]), "a text file in UTF-8", error)
    if not prompts:
        refuse("PROMPT", "", "at least one prompt, here or in --prompts-file")
    options: dict[str, dict[str, Any]] = {}
    if flags["steps"] is not None:
        for stage, value in per_stage("--steps", flags["steps"], int, 1, MAX_STEPS).items():
            options.setdefault(stage, {})["num_inference_steps"] = value
    if flags["guidance"] is not None:
        for stage, value in per_stage("--guidance", flags["guidance"], float, 1, math.inf).items():
            options.setdefault(stage, {})["guidance_scale"] = value
    seed = secrets.randbelow(2**32) if flags["seed"] is None else flags["seed"]
    given = {name: flags[name] for name in ("negative_prompt", "stop_after", "fps")}
    given |= {name: flags[name] for name in ("model", "recipe", "device", "dtype") if flags[name] is not None}
    given |= {"num_frames": flags["frames"], "stage_options": options}
    if given.get("model", "tiny") != "tiny" and model_folder(given["model"]) is not None:
        given["model"] = str(Path(given["model"]).resolve())  # so that the JSON means the same from another folder
    return [Settings(prompt, seed + index, **given).check() for index, prompt in enumerate(prompts)]


def settings_from_json(flags: dict[str, Any]) -> tuple[list[Settings], dict[str, Any]]:
    """The settings in the JSON that `--from-json` names, and the whole of it; only the device may be changed."""
    for name, argument in CONTENT_FLAGS.items():
        if flags[name] not in (None, []):
            refuse(argument, flags[name], "left out beside --from-json", "the JSON says it already")
    settings, record = read_record(flags["from_json"])
    return [dataclasses.replace(settings, device=flags["device"] or settings.device).check()], record


def record_of(settings: Settings, clip: Clip, output: str, digest: str, loading: float) -> dict[str, Any]:
    """What the JSON beside a clip says: the settings that make it again, and what they made here."""
    count, height, width, _ = clip.frames.shape
    return {
        "show1": 1,
        "settings": dataclasses.asdict(settings),
        "model": model_identity(settings.model),
        "output": {
            "name": Path(output).name,
            "sha256": None if Path(output).is_dir() else file_digest(Path(output)),
            "frames_sha256": digest,
            "frames": count,
            "height": height,
            "width": width,
        },
        "seconds": {"load": round(loading, 3), **clip.seconds},
        "versions": versions(),
    }


def compare(original: dict[str, Any], again: dict[str, Any]) -> str:
    """Say whether a clip made again is the one of the JSON, and if not, what is different now."""

    def part(record: dict[str, Any], name: str) -> dict[str, Any]:
        return found if isinstance(found := record.get(name), dict) else {}

    if part(original, "output").get("frames_sha256") == again["output"]["frames_sha256"]:
        return "The frames are exactly those of the JSON."
    changed = [name for name, version in again["versions"].items() if part(original, "versions").get(name) != version]
    changed += ["model"] * (part(original, "model") != again["model"])
    changed += ["device"] * (part(original, "settings").get("device") != again["settings"]["device"])
    return f"The frames differ from those of the JSON; what changed since: {', '.join(changed) or 'the machine'}."


@app.command()
def generate(
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            help="Where the clip goes: .mp4, .gif, .webp, or a folder/ for PNG frames. "
            "Several prompts make out-000.mp4, out-001.mp4, ..., or put 000, 001, ... in place of {index}.",
        ),
    ],
    prompts: Annotated[
        list[str] | None,
        typer.Argument(metavar="PROMPT", help="What to show; one clip for each.", show_default=False),
    ] = None,
    prompts_file: Annotated[
        Path | None, typer.Option(help="More prompts, one a line; # begins a comment line.", show_default=False)
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="The cascade: tiny (ships with the package), a folder, a Hub id (owner/name), or showlab "
            "(the four published repos). [default: tiny]"
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the first clip, the next ones count up. [default: random, recorded]")
    ] = None,
    steps: Annotated[
        str | None, typer.Option(help="Denoising steps, for every stage (20) or some (base=20,superres=4).")
    ] = None,
    guidance: Annotated[
        str | None, typer.Option(help="Guidance scale, written like --steps; 1 turns guidance off.")
    ] = None,
    frames: Annotated[int | None, typer.Option(help="Frames of the whole clip. [default: the model's]")] = None,
    stop_after: Annotated[str | None, typer.Option(help=f"Last stage to run: {', '.join(STAGES)}.")] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="default, or official (number for number what was released). [default: default]"),
    ] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What to keep out.")] = None,
    fps: Annotated[
        float | None,
        typer.Option(help=f"Frames per second. [default: {FPS:g}, or {KEYFRAME_FPS:g} with --stop-after base]"),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, mps, xpu. [default: the fastest here]")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, float16, bfloat16. [default: float32 on a CPU, else float16]")
    ] = None,
    offload: Annotated[
        str, typer.Option(help="none, model (a network at a time on the accelerator), sequential (a layer at a time).")
    ] = "none",
    stages: Annotated[
        bool, typer.Option("--stages", help="Save the clip after every stage too: out.base.mp4 ...")
    ] = False,
    record: Annotated[bool, typer.Option("--json/--no-json", help="Write how it was made to out.json.")] = True,
    from_json: Annotated[
        Path | None, typer.Option(help="Make the clip of this JSON again.", show_default=False)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are already there.")] = False,
) -> None:
    """Make a video from a sentence."""
    flags = dict(locals())
    # Read when torch loads. By default OpenMP's threads spin while they wait for each other; where another process
    # needs the core, that takes the time of the very thread they wait for, and seconds become many minutes.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from .frames import replacing

    one_of("--offload", offload, OFFLOADS)
    jobs, original = (settings_from_flags(flags), None) if from_json is None else settings_from_json(flags)
    settings = jobs[0]
    outputs = output_names(output, len(jobs))
    earlier = STAGES[: STAGES.index(settings.stop_after or STAGES[-1])] if stages else ()
    check_outputs(outputs, earlier, record, overwrite)
    place, number_format = resolve_machine(settings.device, settings.dtype, offload)

    began = time.perf_counter()
    pipe = load_cascade(settings, place, number_format, offload)
    loading = time.perf_counter() - began
    rate = settings.fps or (KEYFRAME_FPS if settings.stop_after == "base" else FPS)
    resolved: dict[str, Any] = {
        "stage_options": resolve_options(pipe, settings),
        "fps": rate,
        "device": str(place),
        "dtype": str(number_format).removeprefix("torch."),
        "model_revision": model_identity(settings.model).get("revision"),
    }
    for job, name in zip(jobs, outputs, strict=True):
        job = dataclasses.replace(job, **resolved)
        clip = run_cascade(pipe, job, keep_stages=stages)
        digest = write_clip(clip, name, rate)
        made_here = record_of(job, clip, name, digest, loading)
        if record:
            with replacing(json_name(name)) as path:
                path.write_text(json.dumps(made_here, indent=2) + "\n", encoding="utf-8")
        count, height, width, _ = clip.frames.shape
        typer.echo(f"{name}: {count} frames of {width}x{height}, {rate:g} fps, seed {job.seed}")
        if original is not None:
            typer.echo(compare(original, made_here))


@app.command()
def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A Hub id or folder (a published stage, DeepFloyd IF, ModelScope, zeroscope), showlab for all four "
            "published stages, or a file with a state dict.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write; begun ones are finished.")],
    dtype: Annotated[str | None, typer.Option(help="float32, float16, bfloat16. [default: as stored]")] = None,
    variant: Annotated[str | None, typer.Option(help="Also write weights of this kind beside: fp16 or bf16.")] = None,
    max_shard_size: Annotated[str, typer.Option(help="Larger weights are cut into several files.")] = "5GB",
    stage: Annotated[
        str | None, typer.Option(help="What to make of a DeepFloyd IF-I model: base or interpolation.")
    ] = None,
    config: Annotated[
        str | None, typer.Option(help="For a state dict: a stage's name, or its config.json.", show_default=False)
    ] = None,
    without: Annotated[list[str] | None, typer.Option(help="A component to leave out, such as text_encoder.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub id.")] = None,
) -> None:
    """Convert a checkpoint to this package's layout, in safetensors, and read it again to verify it."""
    from .hub.convert import convert as run

    try:
        report = run(
            source,
            output,
            dtype=dtype,
            variant=variant,
            max_shard_size=max_shard_size,
            stage=stage,
            config=config,
            without=without or (),
            revision=revision,
            progress=typer.echo,
        )
    except (ValueError, OSError) as error:
        raise BadInput(" ".join(str(error).split())) from error
    for line in report.lines():
        typer.echo(line)


@app.command()
def publish(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A folder that a pipeline was saved to, or tiny.")],
    repo_id: Annotated[str, typer.Argument(metavar="REPO_ID", help="The repository, owner/name.")],
    card: Annotated[str | None, typer.Option(help="A card of model_cards/ by name, or a file of your own.")] = None,
    revision: Annotated[
        list[str] | None, typer.Option(help="main or remote-code. [default: both]", show_default=False)
    ] = None,
    media: Annotated[
        list[str] | None, typer.Option(metavar="PROMPT=FILE", help="An example clip for the card.", show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Build into --output and list what would go up.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Keep what was built in this folder.")] = None,
    private: Annotated[
        bool | None, typer.Option("--private/--public", help="For a new repository. [default: the owner's setting]")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Delete what the repository holds besides.")] = False,
    message: Annotated[str | None, typer.Option(help="Of the commits.", show_default=False)] = None,
) -> None:
    """Put a stage or cascade on the Hub, in two revisions: for this package, and with its own code."""
    from .hub.publish import REVISIONS, PublishError, UploadError
    from .hub.publish import publish as run

    clips = {}
    for pair in media or []:
        prompt, equals, file = pair.rpartition("=")
        if not equals or not prompt.strip():
            refuse("--media", pair, "PROMPT=FILE")
        clips[prompt] = file
    folder = model_folder(source)
    if folder is None:
        refuse("SOURCE", source, "a folder that a pipeline was saved to, or tiny", "there is no folder of this name")
    try:
        publication = run(
            folder,
            repo_id,
            revisions=tuple(revision or REVISIONS),
            card=card,
            media=clips or None,
            dry_run=dry_run,
            output=output,
            replace=replace,
            private=private,
            message=message,
        )
    except PublishError as error:
        raise BadInput(" ".join(str(error).split())) from error
    except UploadError as error:
        failed = typer.TyperException(" ".join(str(error).split()))
        failed.exit_code = 1
        raise failed from error
    typer.echo(publication.listing())


@app.command()
def train(
    stage: Annotated[str, typer.Argument(metavar="STAGE", help=f"{', '.join(STAGES)}, or lora: an adapter for one.")],
    config: Annotated[
        str, typer.Option(help="A recipe: a YAML file, or one of the package's such as tiny-base.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The run's folder; an interrupted run goes on.")],
    override: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key: run.steps=100.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only check, estimate the memory, and draw the first batch.")
    ] = False,
) -> None:
    """Train a stage on this process, or on many: accelerate launch -m diffusers_show1 train ..."""
    from .training import lora, trainer
    from .training.config import ConfigError

    one_of("STAGE", stage, (*STAGES, "lora"))
    try:
        if stage == "lora":
            start = lora.prepare(config, output, override or (), dry_run, typer.echo)
        else:
            start = trainer.prepare(stage, config, output, override or (), dry_run, typer.echo)
    except (ValueError, OSError) as error:
        raise BadInput(" ".join(str(error).split())) from error
    try:
        start()
    except ConfigError as error:
        raise BadInput(" ".join(str(error).split())) from error


@app.command()
def env() -> None:
    """Print the versions and devices that a report of a problem should carry."""
    import platform

    import torch

    lines = {"python": platform.python_version(), "platform": platform.platform()}
    lines |= {name: version or "not installed" for name, version in versions().items()}
    lines["cpu"] = f"{torch.get_num_threads()} threads"
    for device in devices()[1:]:
        lines[device] = "available"
        if device.startswith("cuda"):
            properties = torch.cuda.get_device_properties(device)
            lines[device] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    width = max(map(len, lines))
    for name, value in lines.items():
        typer.echo(f"{name:{width}}  {value}")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"show1 {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command on `arguments` (the process's own by default); returns the exit code, 2 for bad input."""
    try:
        return app(arguments, prog_name="show1", standalone_mode=False) or 0
    except typer.TyperException as error:
        typer.echo(f"show1: {error.format_message()}", err=True)
        return error.exit_code
