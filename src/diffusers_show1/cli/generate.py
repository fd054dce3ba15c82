# SPDX-License-Identifier: Apache-2.0
"""`show1 generate`: from a sentence to a video file, and the JSON beside it that makes it again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..runs.folder import versions
from .machine import file_digest, load_cascade, model_identity, resolve_machine
from .outputs import beside, check_outputs, json_name
from .refusals import BadInput, one_of, refuse
from .resume import Plan, about, faults, plan
from .settings import STAGES, Settings


if TYPE_CHECKING:
    import numpy as np
    import torch

    from ..families.show1.cascade import Show1CascadePipeline

OFFLOADS = ("none", "model", "sequential")
FPS = 8.0
KEYFRAME_FPS = 2.0  # before interpolation puts three frames between two keyframes


def generate(
    prompts: Annotated[
        list[str] | None,
        typer.Argument(metavar="PROMPT", help="What to show; one clip for each.", show_default=False),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="Where the clip goes: .mp4, .gif, .webp, or a folder/ for PNG frames. "
            "Several prompts make out-000.mp4, out-001.mp4, ..., or put 000, 001, ... in place of {index}.",
            show_default=False,
        ),
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
        typer.Option(help="default, fast, or official (number for number what was released). [default: default]"),
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
    metadata: Annotated[
        bool, typer.Option("--metadata/--no-metadata", help="Write the same into the clip itself, the prompt too.")
    ] = True,
    watermark: Annotated[
        bool, typer.Option("--watermark", help="Mark the frames invisibly; show1 watermark finds it again.")
    ] = False,
    watermark_key: Annotated[
        str | None, typer.Option(help="The same with a key of your own, which nothing records.", show_default=False)
    ] = None,
    from_json: Annotated[
        Path | None,
        typer.Option(help="Make the clip of this JSON again, or of a clip that carries it.", show_default=False),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are already there.")] = False,
    job: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Save each window here as it is finished. Several prompts make FOLDER-000, FOLDER-001, ...",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what has begun in --job; alone, or beside the same command.")
    ] = False,
) -> None:
    """Make a video from a sentence."""
    flags = dict(locals())
    # Read when torch loads. By default OpenMP's threads spin while they wait for each other; where another process
    # needs the core, that takes the time of the very thread they wait for, and seconds become many minutes.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from ..clips.files import replacing

    one_of("--offload", offload, OFFLOADS)
    if watermark_key == "":
        refuse("--watermark-key", watermark_key, "a text that is not empty")
    plans, original = plan(flags)
    settings = plans[0].settings
    earlier = STAGES[: STAGES.index(settings.stop_after or STAGES[-1])] if stages else ()
    for owner in (False, True):
        check_outputs([one.output for one in plans if one.owner is owner], earlier, record, overwrite or owner)
    for one in plans:
        if one.done:
            typer.echo(f"{one.output}: done already, by the job in {one.folder}")
    plans = [one for one in plans if not one.done]
    if not plans:
        return
    place, number_format = resolve_machine(settings.device, settings.dtype, offload)

    began = time.perf_counter()
    pipe = load_cascade(settings, place, number_format, offload)
    loading = time.perf_counter() - began
    for one in plans:
        name, one.settings = one.output, definite(pipe, one.settings, place, number_format)
        rate = one.settings.fps or FPS
        with faults(one.folder):
            clip = run_cascade(pipe, one, keep_stages=stages)
            digest = write_clip(clip, name, rate, one.settings if metadata else None, watermark_key or watermark)
            made_here = record_of(one.settings, clip, name, digest, loading)
            records = [json_name(name)] * record + ([] if one.folder is None else [one.folder / "made.json"])
            for place_of_record in records:
                with replacing(place_of_record) as path:
                    path.write_text(json.dumps(made_here, indent=2) + "\n", encoding="utf-8")
        count, height, width, _ = clip.frames.shape
        typer.echo(f"{name}: {count} frames of {width}x{height}, {rate:g} fps, seed {one.settings.seed}")
        if original is not None:
            typer.echo(compare(original, made_here))


@dataclasses.dataclass
class Clip:
    """One finished clip: `frames (f, h, w, 3)` in 0..1, those of the stages before the last, and seconds by stage."""

    frames: np.ndarray
    stages: dict[str, np.ndarray]
    seconds: dict[str, float]


def definite(pipe: Show1CascadePipeline, settings: Settings, device: torch.device, dtype: torch.dtype) -> Settings:
    """The settings with nothing left open: every option, the rate, the machine, and the model's commit."""
    return dataclasses.replace(
        settings,
        stage_options=resolve_options(pipe, settings),
        fps=settings.fps or (KEYFRAME_FPS if settings.stop_after == "base" else FPS),
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        model_revision=model_identity(settings.model).get("revision"),
    )


def resolve_options(pipe: Show1CascadePipeline, settings: Settings) -> dict[str, dict[str, Any]]:
    """Every option of every stage; `BadInput` for one that a JSON names and the cascade does not know."""
    try:
        return pipe.resolve_options(settings.recipe, settings.stage_options, settings.num_frames)
    except (ValueError, TypeError) as error:
        raise BadInput(" ".join(str(error).split())) from error


def run_cascade(pipe: Show1CascadePipeline, plan: Plan, keep_stages: bool) -> Clip:
    """Make the clip that the plan's settings describe; ValueError when their numbers do not fit the cascade.

    The noise is drawn on the CPU, so that a seed means the same on every device.
    """
    import torch

    from ..runs.job import GenerationJob, JobSettings
    from ..runs.memory import memory_told

    settings = plan.settings
    asked = {field.name: getattr(settings, field.name) for field in dataclasses.fields(JobSettings)}
    ends = [time.perf_counter()]
    seconds: dict[str, float] = {}

    def stage_done(_pipe: object, stage: str, _frames: object) -> None:
        ends.append(time.perf_counter())
        seconds[stage] = round(ends[-1] - ends[-2], 3)

    output: Any
    if plan.folder is not None:
        wanted = None if plan.begun else JobSettings(**asked)
        job = GenerationJob(pipe, plan.folder, wanted, about(settings, plan.output))
        output = job.run("np", callback_on_stage_end=stage_done)
    else:
        generator = torch.Generator().manual_seed(asked.pop("seed"))
        with memory_told(pipe, settings.stage_options, lambda: pipe.stage_names[len(seconds)]):
            output = pipe(
                **asked,
                generator=generator,
                return_stages=keep_stages,
                output_type="np",
                callback_on_stage_end=stage_done,
            )
    earlier = list(output.stages)[:-1] if keep_stages else []
    return Clip(output.frames[0], {name: output.stages[name][0] for name in earlier}, seconds)


def write_clip(
    clip: Clip, output: str, fps: float, settings: Settings | None = None, watermark: bool | str = False
) -> str:
    """Save a clip and its stages, which play as long as it does; returns the SHA-256 of the final frames (uint8).

    With `settings` each file carries those that make it again, a stage's too; `watermark` is that of `save_video`.
    """
    for stage, frames in clip.stages.items():
        rate = fps * len(frames) / len(clip.frames)
        own = None if settings is None else dataclasses.replace(settings, stop_after=stage, fps=rate)
        write_frames(frames, beside(output, stage), rate, own, watermark)
    return write_frames(clip.frames, output, fps, settings, watermark)


def write_frames(frames: np.ndarray, output: str, fps: float, settings: Settings | None, watermark: bool | str) -> str:
    """Save one file; returns the SHA-256 of the frames (uint8), as they are before they are marked or compressed."""
    from ..clips.frames import to_uint8
    from ..clips.writing import save_video

    frames = to_uint8(frames)
    digest = hashlib.sha256(frames.tobytes()).hexdigest()
    metadata = None if settings is None else provenance_of(settings, frames, digest)
    save_video(frames, output, fps=fps, watermark=watermark, metadata=metadata)
    return digest


def provenance_of(settings: Settings, frames: np.ndarray, digest: str) -> dict[str, Any]:
    """What a clip itself carries: the settings that make it again, and what they made; the same for every run."""
    count, height, width, _ = frames.shape
    return {
        "show1": 1,
        "settings": dataclasses.asdict(settings),
        "model": model_identity(settings.model),
        "output": {"frames_sha256": digest, "frames": count, "height": height, "width": width},
        "versions": versions(),
    }


def record_of(settings: Settings, clip: Clip, output: str, digest: str, loading: float) -> dict[str, Any]:
    """What the JSON beside a clip says: what the clip carries, and what is known only once it is written."""
    made = provenance_of(settings, clip.frames, digest)
    sha256 = None if Path(output).is_dir() else file_digest(Path(output))
    made["output"] = {"name": Path(output).name, "sha256": sha256, **made["output"]}
    return {**made, "seconds": {"load": round(loading, 3), **clip.seconds}}


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
