# SPDX-License-Identifier: Apache-2.0
"""`show1 inspect`: pictures of what each stage made, of a job or of clips."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Annotated

import typer

from ..families import all_families
from ..runs.outputs import beside, json_name
from ..runs.refusals import BadInput, Failed, refuse
from .say import say


FILES = ("sheet.png", "frames.png", "slice.png", "stages.mp4")


def inspect(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="JOB-OR-VIDEO...",
            help="A job's folder, or a clip: .mp4, .gif, .webp, a folder of PNG frames. A clip's stages are found "
            "beside it (out.base.mp4, ... from --stages). Several clips are set beside each other.",
            show_default=False,
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="The folder for the results. [default: NAME-inspect, beside the input]"),
    ] = None,
    columns: Annotated[int, typer.Option(help="The most moments that the contact sheet shows.")] = 8,
    row: Annotated[float, typer.Option(help="Where the slice over time is taken: 0 is the top, 1 the bottom.")] = 0.5,
    column: Annotated[float, typer.Option(help="The same from left to right.")] = 0.5,
    height: Annotated[
        int | None, typer.Option(help="Of each frame, in pixels. [default: fits the stages]", show_default=False)
    ] = None,
    fps: Annotated[float, typer.Option(help="Frames per second of the video of all stages.")] = 8.0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results that are already there.")] = False,
) -> None:
    """See what each stage made: a contact sheet, plots, slices over time, and all stages in one video."""
    if columns < 1:
        refuse("--columns", columns, "a whole number of at least 1")
    for name, part in (("--row", row), ("--column", column)):
        if not 0 <= part <= 1:
            refuse(name, part, "a number from 0 to 1")
    if height is not None and not 1 <= height <= 4096:
        refuse("--height", height, "a whole number from 1 to 4096")
    if not 0 < fps <= 1000:
        refuse("--fps", fps, "a number above 0, up to 1000")
    paths = find_clips(sources)
    folder = Path(output if output is not None else Path(sources[0]).parent / f"{name_of(sources[0])}-inspect")
    check_folder(folder, overwrite)

    from ..clips.files import replacing
    from ..clips.reading import read_video
    from ..clips.writing import save_video
    from ..inspection import contact_sheet, frame_plots, side_by_side, summary, temporal_slices

    stages = {}
    for name, path in paths.items():
        try:
            stages[name] = read_video(path)
        except (OSError, ValueError) as error:
            refuse("JOB-OR-VIDEO", str(path), "a clip that can be read", error)
    pictures = {
        "sheet.png": contact_sheet(stages, columns, height),
        "slice.png": temporal_slices(stages, row, column, height),
    }
    try:
        pictures["frames.png"] = frame_plots(stages)
    except ImportError as error:
        typer.echo(f"show1: there is no frames.png: {error}", err=True)
    try:
        for name, picture in pictures.items():
            with replacing(folder / name) as made:
                picture.save(made, optimize=True)
        save_video(side_by_side(stages, height), folder / "stages.mp4", fps)
    except OSError as error:
        raise Failed(error) from error
    say(summary(stages))
    say(f"{folder}: {', '.join(name for name in FILES if name in pictures or name == 'stages.mp4')}")


def find_clips(sources: list[str]) -> dict[str, Path]:
    """The clips that the sources name, by stage or by name, in order; `BadInput` where there is none."""
    for source in sources:
        if not source or not Path(source).exists():
            refuse("JOB-OR-VIDEO", source, "a job's folder or a clip", "there is nothing of this name")
    jobs = {source: stages_of_job(Path(source)) for source in sources if (Path(source) / "job.json").is_file()}
    if len(sources) > 1:  # of a job, its last clip
        clips = {source: [*jobs.get(source, {"": Path(source)}).values()][-1] for source in sources}
        if len(clips) < len(sources):
            refuse("JOB-OR-VIDEO", " ".join(sources), "clips that differ")
        names = [name_of(source) for source in sources]
        return dict(zip(names, clips.values(), strict=True)) if len({*names}) == len(names) else clips
    if jobs:
        return jobs[sources[0]]
    found: dict[str, Path] = {}
    for stages in ladders(Path(sources[0])):
        beside_it = {stage: Path(beside(sources[0], stage)) for stage in stages}
        found = {stage: clip for stage, clip in beside_it.items() if clip.exists()}
        if found:
            break
    # show1 generate writes all stages but the last: the clip itself is what that made
    made_here = 0 < len(found) < len(stages) and list(found) == stages[: len(found)]
    return {**found, stages[len(found)] if made_here else name_of(sources[0]): Path(sources[0])}


def ladders(clip: Path) -> list[list[str]]:
    """The stages that may have made a clip, in their order: those of its record, or of each cascade that there is."""
    from ..clips.provenance import read_metadata

    for read in (lambda: read_metadata(clip), lambda: json.loads(json_name(str(clip)).read_text(encoding="utf-8"))):
        with contextlib.suppress(ValueError, OSError, KeyError, TypeError, RecursionError):
            if stages := list(read()["settings"]["stage_options"]):
                return [stages]
    return [list(family.stages) for family in all_families()]


def stages_of_job(path: Path) -> dict[str, Path]:
    """The clips of a job's finished stages; `BadInput` where there are none."""
    from ..runs.folder import JobError, JobFolder

    job = JobFolder(path)
    try:
        stages = list((job.read() or {})["settings"]["stage_options"])
    except JobError as error:
        raise BadInput(f"JOB-OR-VIDEO must be a job's folder or a clip, got {str(path)!r} ({error})") from error
    clips = {stage: path / f"{stage}.webp" for stage in stages if job.is_finished(stage)}
    if not clips:
        refuse("JOB-OR-VIDEO", str(path), "a job with a finished stage", "it has finished none so far")
    return clips


def name_of(source: str) -> str:
    """`out` for `out.mp4` and for the folder `out/`."""
    path = Path(os.path.abspath(source))  # "." has a name, too
    return path.name if path.is_dir() else path.stem


def check_folder(folder: Path, overwrite: bool) -> None:
    """`BadInput` unless the results can be written into a folder, and none is there already."""
    from ..clips.files import check_output_path

    try:
        check_output_path(folder / "stages.mp4")
    except OSError as error:
        raise BadInput(str(error).replace("`path`", "--output", 1)) from error
    for name in FILES:
        if (folder / name).exists() and not overwrite:
            refuse("--output", str(folder), "a folder without results", f"it holds {name}; --overwrite replaces them")
