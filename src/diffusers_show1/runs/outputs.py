# SPDX-License-Identifier: Apache-2.0
"""Where clips go: their names, those of what stands beside them, and whether they can be written."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from .refusals import BadInput, refuse


def output_names(output: str, count: int) -> list[str]:
    """One output name for each of `count` prompts.

    `{index}` becomes 000, 001, ...; without it, several prompts get `-000`, `-001`, ... before the ending.
    """
    if "{index}" not in output and count > 1:
        stem, slash = output.rstrip("/"), output[len(output.rstrip("/")) :]
        ending = "" if slash else Path(output).suffix
        output = stem[: len(stem) - len(ending)] + "-{index}" + ending + slash
    return [output.replace("{index}", f"{index:03d}") for index in range(count)]


def default_names(prompts: Sequence[str]) -> list[str]:
    """A free name in this folder for the clip of each prompt: `a-red-circle.mp4`, then `a-red-circle-2.mp4`."""
    names: list[str] = []
    for prompt in prompts:
        stem = re.sub(r"\W+", "-", prompt.lower())[:50].strip("-") or "clip"
        for number in itertools.count(1):
            name = f"{stem}.mp4" if number == 1 else f"{stem}-{number}.mp4"
            if name not in names and not os.path.lexists(name) and not os.path.lexists(json_name(name)):
                names.append(name)
                break
    return names


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


def check_outputs(
    outputs: Sequence[str],
    stages: Sequence[str],
    record: bool,
    overwrite: bool,
    own: Callable[[Path], bool] | None = None,
) -> None:
    """Raise `BadInput` unless every file that the outputs lead to can be written, and none is there already.

    Args:
        outputs: names of clips.
        stages: of which clips are written beside each.
        record: whether a JSON is.
        overwrite: whether what is there may be replaced.
        own: tells of a file that is there that it may be, anyhow.
    """
    from ..clips.files import check_output_path

    clips = [name for output in outputs for name in (output, *(beside(output, stage) for stage in stages))]
    try:
        for clip in clips:
            check_output_path(clip)
        records = [json_name(output) for output in outputs if record]
        for path in [*map(Path, clips), *records]:
            if path in records and path.is_dir():
                refuse("--output", str(path), "a name whose .json is no folder", "--no-json writes none")
            empty = path.is_dir() and not any(path.iterdir())
            if not overwrite and path.exists() and not empty and not (own is not None and own(path)):
                refuse("--output", str(path), "a name that is not taken", "--overwrite replaces what is there")
    except (OSError, ValueError) as error:
        raise BadInput(str(error).replace("`path`", "--output", 1)) from error
