# SPDX-License-Identifier: Apache-2.0
"""The protocol of the tiny cascade: does every stage beat doing nothing, on combinations that were never trained?

Each function drives a stage of a cascade pipeline exactly as the cascade does, with the options of its recipe, and a
fixed seed. Truth comes from the synthetic world. All videos here are (b, f, 3, h, w) in [0, 1].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..clips.metrics import flicker, psnr
from ..ladder.cascade import CascadePipeline
from ..tiny import world
from .form import Form, forms_by_shape, measure_form
from .scorer import Score, score_clips, to_scoring_size


@dataclass(frozen=True)
class Baseline:
    """PSNR in dB of a stage and of the trivial thing it has to beat, on the same frames.

    `flicker` is the stage's temporal flicker as a multiple of the truth's.
    """

    stage: float
    trivial: float
    flicker: float

    @property
    def gain(self) -> float:
        """dB above the trivial baseline."""
        return self.stage - self.trivial

    def __str__(self) -> str:
        against = f"{self.stage:.2f} dB against {self.trivial:.2f} dB ({self.gain:+.2f})"
        return f"{against}, {self.flicker:.2f} of the truth's flicker"


def held_out_scenes(count: int, seed: int) -> list[world.Scene]:
    """Random clips of different held-out combinations."""
    rng = np.random.default_rng(seed)
    return [world.sample_scene(attributes, rng) for attributes in world.held_out_attributes(count, seed)]


def _captions(scenes: list[world.Scene]) -> list[str]:
    return [scene.attributes.caption() for scene in scenes]


def _generators(count: int, seed: int) -> list[torch.Generator]:
    """One generator per clip, so that a result does not depend on the batch it was computed in."""
    return [torch.Generator().manual_seed(seed + index) for index in range(count)]


def _run(pipe: CascadePipeline, stage: str, seed: int, prompts: list[str], **inputs) -> torch.Tensor:
    """Call one stage with the recipe's options on a batch of prompts."""
    options = pipe.resolve_options("default", None, None)[stage]
    return pipe.stage(stage)(
        prompt=prompts, generator=_generators(len(prompts), seed), output_type="pt", **options, **inputs
    ).frames


def evaluate_first_stage(
    pipe: CascadePipeline, count: int = 96, seed: int = 0, batch_size: int = 24
) -> tuple[Score, torch.Tensor]:
    """Score of what the first stage makes of `count` held-out prompts, and its frames."""
    prompts = world.held_out_prompts(count, seed)
    first = pipe.stage_names[0]
    frames = torch.cat([_run(pipe, first, seed + i, prompts[i : i + batch_size]) for i in range(0, count, batch_size)])
    return score_clips(frames, prompts), frames


def evaluate_stage(
    pipe: CascadePipeline,
    name: str,
    count: int = 8,
    seed: int = 0,
    frames: int | None = None,
    made_by: str | None = None,
    batch_size: int | None = None,
) -> Baseline:
    """A stage that takes frames, from true ones: what it makes against the truth, beside the input enlarged.

    Args:
        pipe: a cascade of the synthetic world; the stage's input and output are as large as its default recipe says.
        name: the stage. Where it puts frames between others, these alone are compared, with a linear cross-fade;
            otherwise all, with bicubic interpolation.
        count: held-out clips.
        seed: of clips and noise.
        frames: of each clip; by default all.
        made_by: an earlier stage that makes the input from true frames, instead of true frames. Then the stage has to
            beat its input, resized bilinearly.
        batch_size: clips at once; by default all.

    Returns:
        PSNR of both, and flicker.

    Raises:
        ValueError: the stage, or the one that makes its input, takes no frames.
    """
    extents = {rung.name: (given, own) for rung, _, given, own in pipe.run_through(pipe.resolve_options())}
    given, own = extents[name]
    source = extents[made_by][0] if made_by else given
    if given is None or source is None:
        raise ValueError(f"`name` and `made_by` must be stages that take frames, got {name!r} and {made_by!r}.")
    step = (own.frames - 1) // (given.frames - 1)  # of its output, for one of its input
    scenes = held_out_scenes(count, seed)
    times = range(min(own.frames, world.NUM_FRAMES) if frames is None else frames)
    truth = world.render(scenes, times, scale=own.height // world.HEIGHT)
    shrink = own.height // source.height
    inputs = F.avg_pool3d(truth[:, ::step], (1, shrink, shrink))
    if made_by is not None:
        inputs = _run(pipe, made_by, seed, _captions(scenes), frames=inputs, input_type="pt")
    parts = range(0, count, batch_size or count)
    made = torch.cat(
        [
            _run(pipe, name, seed + i, _captions(scenes[part]), frames=inputs[part], input_type="pt")
            for i in parts
            for part in [slice(i, i + parts.step)]
        ]
    )
    size = truth.shape[-2:]
    if step > 1:
        video = F.interpolate(inputs.transpose(1, 2), (truth.shape[1], *size), mode="trilinear", align_corners=True)
        trivial = video.transpose(1, 2)
    else:
        mode = "bilinear" if made_by else "bicubic"
        trivial = F.interpolate(inputs.flatten(0, 1), size, mode=mode).unflatten(0, truth.shape[:2])
    new = [time for time in times if step == 1 or time % step]
    return Baseline(
        psnr(made[:, new], truth[:, new]), psnr(trivial[:, new], truth[:, new]), flicker(made) / flicker(truth)
    )


def evaluate_form(
    pipe: CascadePipeline, name: str, given: torch.Tensor, prompts: Sequence[str], seed: int = 0
) -> dict[str, Form]:
    """The form of what stage `name` makes of frames (b, f, 3, h, w), per shape, as `forms_by_shape` has it."""
    attributes = [world.parse_caption(prompt) for prompt in prompts]
    forms = [
        measure_form(_run(pipe, name, seed + i, [prompt], frames=clip[None], input_type="pt")[0], attributes[i])
        for i, (prompt, clip) in enumerate(zip(prompts, given, strict=True))
    ]
    return forms_by_shape(forms, attributes)


def true_form(count: int, seed: int = 0, scale: int = 8, every: int = 1) -> dict[str, Form]:
    """The form of `every`-th frame of true held-out clips at `scale` pixels per unit: what a perfect model has."""
    scenes = held_out_scenes(count, seed)
    times = range(0, world.NUM_FRAMES, every)
    forms = [measure_form(world.render([scene], times, scale)[0], scene.attributes) for scene in scenes]
    return forms_by_shape(forms, [scene.attributes for scene in scenes])


@dataclass(frozen=True)
class Video:
    """What is kept of one video: stage -> keyframes at the scorer's size, stage -> form, the last stage's flicker."""

    keyframes: dict[str, torch.Tensor]
    forms: dict[str, Form]
    flicker: float


@dataclass(frozen=True)
class CascadeReport:
    """What whole videos show after each stage, their form after those that give at least 64 x 96 pixels, per shape,
    and the flicker of the last as a multiple of true clips'."""

    scores: dict[str, Score]
    forms: dict[str, dict[str, Form]]
    flicker: float


def make_video(pipe: CascadePipeline, prompt: str, seed: int) -> Video:
    """One video with the default recipe."""
    generator = torch.Generator().manual_seed(seed)
    output: Any = pipe(prompt, generator=generator, output_type="pt", return_stages=True)
    attributes = world.parse_caption(prompt)
    return Video(
        {stage: to_scoring_size(frames)[0] for stage, frames in output.stages.items()},
        {
            stage: measure_form(frames[0], attributes)
            for stage, frames in output.stages.items()
            if frames.shape[-2] >= 4 * world.HEIGHT
        },
        flicker(output.frames),
    )


def report_videos(videos: Sequence[Video], prompts: Sequence[str], seed: int = 0) -> CascadeReport:
    """Scores and forms after each stage of what `make_video` returned for these prompts.

    Flicker is compared with that of true clips of the same prompts.
    """
    rng = np.random.default_rng(seed)
    attributes = [world.parse_caption(prompt) for prompt in prompts]
    scenes = [world.sample_scene(each, rng) for each in attributes]
    truth = [flicker(world.render([scene], range(world.NUM_FRAMES), scale=8)) for scene in scenes]
    first = videos[0]
    return CascadeReport(
        {
            stage: score_clips(torch.stack([video.keyframes[stage] for video in videos]), prompts)
            for stage in first.keyframes
        },
        {stage: forms_by_shape([video.forms[stage] for video in videos], attributes) for stage in first.forms},
        float(np.mean([video.flicker for video in videos]) / np.mean(truth)),
    )
