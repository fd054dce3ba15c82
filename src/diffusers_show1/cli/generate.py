# SPDX-License-Identifier: Apache-2.0
"""`show1 generate`: from a sentence to a video file, and the JSON beside it that makes it again."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..runs.clip import FPS, Clip, definite, make_clip, write_clip
from ..runs.machine import OFFLOADS, load_cascade, resolve_machine
from ..runs.outputs import check_outputs, json_name
from ..runs.plan import Plan, about, is_own, plan
from ..runs.record import compare, record_of
from ..runs.refusals import faults, one_of, refuse
from ..runs.settings import stage_names
from ..runs.vocabulary import doubts
from .say import say
from .texts import KNOWN, MODEL


if TYPE_CHECKING:
    from ..ladder.cascade import CascadePipeline


def generate(
    prompts: Annotated[
        list[str] | None,
        typer.Argument(metavar="PROMPT", help=f"What to show; one clip for each. {KNOWN}", show_default=False),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="Where the clip goes: .mp4, .gif, .webp, or a folder/ for PNG frames. "
            "Several prompts make out-000.mp4, out-001.mp4, ..., or put 000, 001, ... in place of {index}. "
            "[default: the prompt's words, .mp4]",
            show_default=False,
        ),
    ] = None,
    prompts_file: Annotated[
        Path | None, typer.Option(help="More prompts, one a line; # begins a comment line.", show_default=False)
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help=f"The cascade: {MODEL}. [default: tiny]"),
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
    lora: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE[:SCALE]",
            help="An adapter, such as motion.safetensors:0.8; STAGE=FILE where it does not say whose its layers are.",
            show_default=False,
        ),
    ] = None,
    frames: Annotated[int | None, typer.Option(help="Frames of the whole clip. [default: the model's]")] = None,
    height: Annotated[
        int | None, typer.Option(help="Of the clip, in pixels: of the last stage that sets a size. [default: its own]")
    ] = None,
    width: Annotated[int | None, typer.Option(help="The same.", show_default=False)] = None,
    stop_after: Annotated[str | None, typer.Option(help="Last stage to run, by its name, such as base.")] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="default, fast, or another of the model's, such as official (number for number what was released). "
            "[default: default]"
        ),
    ] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What to keep out.")] = None,
    fps: Annotated[
        float | None,
        typer.Option(help=f"Frames per second. [default: {FPS:g}, and fewer where --stop-after leaves frames out]"),
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
    names = stage_names(settings.model) if stages else ()
    earlier = names[: names.index(settings.stop_after or names[-1])] if names else ()
    for one in plans:
        own = partial(is_own, settings=one.settings) if one.begun else None
        if not one.done:
            check_outputs([one.output], earlier, record, overwrite, own)
    for one in plans:
        if one.done:
            say(f"{one.output}: done already, by the job in {one.folder}")
    plans = [one for one in plans if not one.done]
    if not plans:
        return
    for one in plans:
        if told := doubts(one.settings):
            typer.echo(f"show1: {one.settings.prompt!r}: {told}", err=True)
    place, number_format = resolve_machine(settings.device, settings.dtype, offload)

    began = time.perf_counter()
    pipe = load_cascade(settings, place, number_format, offload)
    loading = time.perf_counter() - began
    for one in plans:
        one.settings = definite(pipe, one.settings, place, number_format)
        rate = one.settings.fps or FPS
        with interrupts(one), faults(one.go_on):
            clip = run(pipe, one, keep_stages=stages)
            digest = write_clip(clip, one.output, rate, one.settings if metadata else None, watermark_key or watermark)
            seconds = {"load": round(loading, 3), **clip.seconds}
            made_here = record_of(one.settings, clip.frames, one.output, digest, seconds)
            records = [json_name(one.output)] * record + ([] if one.folder is None else [one.folder / "made.json"])
            for place_of_record in records:
                with replacing(place_of_record) as path:
                    path.write_text(json.dumps(made_here, indent=2) + "\n", encoding="utf-8")
        count, height, width, _ = clip.frames.shape
        say(f"{one.output}: {count} frames of {width}x{height}, {rate:g} fps, seed {one.settings.seed}")
        if original is not None:
            say(compare(original, made_here))


def run(pipe: CascadePipeline, plan: Plan, keep_stages: bool) -> Clip:
    """Makes the clip of a plan, in its job if it has one."""
    from ..runs.job import GenerationJob

    job = None
    if plan.folder is not None:
        wanted = None if plan.begun else plan.settings.for_job()
        job = GenerationJob(pipe, plan.folder, wanted, about(plan.settings, plan.output, plan.folder))
        # every option of every stage, and how much is done at once as it is now
        plan.settings = dataclasses.replace(plan.settings, **vars(job.settings))
    return make_clip(pipe, plan.settings, job, keep_stages)


@contextlib.contextmanager
def interrupts(plan: Plan) -> Iterator[None]:
    """Says how to go on after Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"show1: stopped. {plan.go_on}".strip(), err=True)
        raise
