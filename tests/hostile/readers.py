# SPDX-License-Identifier: Apache-2.0
"""What reads texts and files that others wrote: each with the errors that it documents, and no others."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from diffusers_show1 import Show1CascadePipeline
from diffusers_show1.clips.reading import read_video
from diffusers_show1.clips.writing import save_video
from diffusers_show1.hub import handler, publish, recognise
from diffusers_show1.hub.convert import convert
from diffusers_show1.learning.options import ConfigError
from diffusers_show1.runs.folder import JobError, JobFolder
from diffusers_show1.runs.job import GenerationJob
from diffusers_show1.runs.refusals import BadInput
from diffusers_show1.runs.settings import read_record
from diffusers_show1.training.config import load_config
from diffusers_show1.training.data import SkipClip
from diffusers_show1.training.files import Manifest, ManifestError, VideoFiles, find_manifest

from ..contract.components import SMALL_RUN, pipeline


@dataclass(frozen=True)
class Reader:
    """What reads a kind of input.

    Args:
        title: what is read, for the page.
        call: reads what a case made.
        errors: what it raises for a bad one.
        work: whether it writes beside its input, into a folder `out` that is not finished.
    """

    title: str
    call: Callable[[Any], Any]
    errors: tuple[type[Exception], ...]
    work: bool = False


@cache
def small_pipe() -> Show1CascadePipeline:
    return pipeline("cascade", first_frame_unet=None, first_frame_scheduler=None)


def generate(arguments: dict[str, Any]) -> Any:
    """A call of the cascade; keys that are stages are options of theirs."""
    stages = {name: {**SMALL_RUN[name], **arguments.get(name, {})} for name in SMALL_RUN}
    call = {key: value for key, value in arguments.items() if key not in stages}
    return small_pipe()(**{"prompt": "a red car", "stage_options": stages, **call})


def read_row(folder: Path) -> Any:
    dataset = VideoFiles(folder, frames=2, height=8, width=8, fps=8)
    return dataset.clip(0, np.random.default_rng(0))


def load_adapter(path: Path) -> None:
    small_pipe().load_lora_weights(path, stage="base")


READERS = {
    "call": Reader("Prompts, and the numbers of a call", generate, (ValueError, TypeError)),
    "recipe": Reader("Recipes of training (YAML)", lambda path: load_config("base", path), (ConfigError,)),
    "manifest": Reader(
        "Manifests (CSV, JSON lines)", lambda path: Manifest(find_manifest(path)), (ManifestError,)
    ),
    "row": Reader("Files that a manifest names", read_row, (SkipClip,)),
    "video": Reader("Video files, animations, folders of frames", read_video, (ValueError, OSError)),
    "output": Reader(
        "Where a clip goes", lambda path: save_video(np.zeros((2, 8, 8, 3)), path), (ValueError, OSError)
    ),
    "settings": Reader("The JSON beside a clip (`--from-json`)", read_record, (BadInput,)),
    "job": Reader(
        "Job folders", lambda path: GenerationJob(small_pipe(), path.parent), (JobError,)
    ),
    "window": Reader(
        "Windows in a job's folder", lambda path: JobFolder(path.parents[1]).finished("base"), (JobError,)
    ),
    "model": Reader("Folders of weights", recognise.load_cascade, (ValueError, OSError)),
    "adapter": Reader("Files of adapters", load_adapter, (ValueError, OSError)),
    "convert": Reader(
        "`show1 convert`", lambda path: convert(path, path.parent / "out"), (ValueError, OSError), work=True
    ),
    "publish": Reader(
        "`show1 publish`",
        lambda path: publish.build(path, "me/show-1", path.parent / "out", ["main"]),
        (ValueError, OSError),
        work=True,
    ),
    "request": Reader(
        "Requests to an endpoint", lambda text: handler.decode("parameters.video", text), (handler.BadRequest,)
    ),
}  # fmt: skip
