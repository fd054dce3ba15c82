# SPDX-License-Identifier: Apache-2.0
"""One small job: 3 keyframes, 9 frames; 1 + 2 + 4 + 1 windows in the four stages."""

from functools import cache
from pathlib import Path
from typing import Any

import torch

from diffusers_show1 import Show1CascadePipeline
from diffusers_show1.runs.job import GenerationJob, JobSettings

from ..contract.components import pipeline


WINDOWS = {"base": 1, "interpolation": 2, "superres": 4, "refine": 1}
SETTINGS = JobSettings(
    "a red car driving on the rainbow road.",
    seed=3,
    num_frames=9,
    stage_options={"interpolation": {"window_batch_size": 1}},
)


def small_pipe() -> Show1CascadePipeline:
    return pipeline("cascade", first_frame_unet=None, first_frame_scheduler=None)


shared_pipe = cache(small_pipe)


def call(settings: JobSettings = SETTINGS) -> dict[str, Any]:
    """The cascade's own call for the same video."""
    return {
        "prompt": settings.prompt,
        "num_frames": settings.num_frames,
        "stage_options": settings.stage_options,
        "generator": torch.Generator().manual_seed(settings.seed),
        "output_type": "pt",
    }


def finished(folder: Path) -> list[str]:
    """The windows that are saved, by stage and number."""
    names = sorted(path.stem for path in (folder / "windows").glob("*.safetensors"))
    return sorted(names, key=lambda name: (list(WINDOWS).index(name.split("-")[0]), name))


def work(folder: Path, result: Path) -> None:
    """What a process does: begins the job or goes on with it, and leaves the frames."""
    torch.set_num_threads(1)
    torch.save(GenerationJob(shared_pipe(), folder, SETTINGS).run("pt").frames, result)
