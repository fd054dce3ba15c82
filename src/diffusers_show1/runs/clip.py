# SPDX-License-Identifier: Apache-2.0
"""One clip: made by a cascade, with a job or without, and written to files that carry what makes them again."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .outputs import beside
from .record import provenance_of
from .refusals import BadInput
from .settings import Settings


if TYPE_CHECKING:
    import numpy as np
    import torch

    from ..ladder.cascade import CascadePipeline
    from ..ladder.rung import StageOptions
    from .job import GenerationJob

FPS = 8.0


@dataclasses.dataclass
class Clip:
    """One finished clip: `frames (f, h, w, 3)` in 0..1, those of the stages before the last, and seconds by stage."""

    frames: np.ndarray
    stages: dict[str, np.ndarray]
    seconds: dict[str, float]


def definite(pipe: CascadePipeline, settings: Settings, device: torch.device, dtype: torch.dtype) -> Settings:
    """The settings with nothing left open: every option, the rate, the machine, and the model's commit.

    Raises:
        BadInput: the cascade does not know a stage or an option that they name.
    """
    from .machine import model_identity

    settings.check_names(pipe.stage_names)
    try:
        options = pipe.resolve_options(settings.recipe, settings.stage_options, settings.num_frames)
    except (ValueError, TypeError) as error:
        raise BadInput(error) from error
    return dataclasses.replace(
        settings,
        stage_options=options,
        fps=settings.fps or frame_rate(pipe, options, settings.stop_after or pipe.stage_names[-1]),
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        model_revision=model_identity(settings.model).get("revision"),
    )


def frame_rate(pipe: CascadePipeline, options: StageOptions, stage: str, fps: float = FPS) -> float:
    """Frames a second of a stage's clip, so that it moves as the whole video does at `fps`.

    Where other stages put frames between its own, it has fewer for the same time: of keyframes with three new ones
    between each two, a quarter.
    """
    try:
        frames = {rung.name: extent.frames for rung, _, _, extent in pipe.run_through(options)}
    except (ValueError, TypeError):  # options that the cascade is about to refuse, in its own words
        return fps
    return fps * max(frames[stage] - 1, 1) / max(frames[pipe.stage_names[-1]] - 1, 1)


def make_clip(
    pipe: CascadePipeline,
    settings: Settings,
    job: GenerationJob | None = None,
    keep_stages: bool = False,
    on_stage_end: Callable[[str, np.ndarray, float], None] | None = None,
    on_step_end: Callable[..., dict[str, Any]] | None = None,
) -> Clip:
    """Makes the clip that the settings describe.

    The noise is drawn on the CPU, so that a seed means the same on every device.

    Args:
        pipe: the cascade.
        settings: definite ones.
        job: the job over them that keeps what is finished.
        keep_stages: whether the clip has the frames of the stages before the last, too.
        on_stage_end: called as (stage, frames (f, h, w, 3) in 0..1, seconds) after each.
        on_step_end: as for the cascade.

    Raises:
        ValueError, TypeError: the numbers do not fit the cascade.
        JobError, torch.OutOfMemoryError, FloatingPointError: as `GenerationJob.run`.
    """
    import torch

    from .memory import memory_told

    ends = [time.perf_counter()]
    seconds: dict[str, float] = {}

    def stage_done(_pipe: object, stage: str, frames: Any) -> None:
        ends.append(time.perf_counter())
        seconds[stage] = round(ends[-1] - ends[-2], 3)
        if on_stage_end is not None:
            on_stage_end(stage, frames[0], seconds[stage])

    output: Any
    if job is not None:
        output = job.run("np", callback_on_stage_end=stage_done, callback_on_step_end=on_step_end)
    else:
        asked = dataclasses.asdict(settings.for_job())
        generator = torch.Generator().manual_seed(asked.pop("seed"))
        with memory_told(pipe, settings.stage_options, lambda: pipe.stage_names[len(seconds)]):
            output = pipe(
                **asked,
                generator=generator,
                return_stages=keep_stages,
                output_type="np",
                callback_on_stage_end=stage_done,
                callback_on_step_end=on_step_end,
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
