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
from ..families.show1.cascade import Show1CascadePipeline
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


def _run(pipe: Show1CascadePipeline, stage: str, seed: int, prompts: list[str], **inputs) -> torch.Tensor:
    """Call one stage with the recipe's options on a batch of prompts."""
    options = pipe.resolve_options("default", None, None)[stage]
    return getattr(pipe, stage)(
        prompt=prompts, generator=_generators(len(prompts), seed), output_type="pt", **options, **inputs
    ).frames


def evaluate_keyframes(
    pipe: Show1CascadePipeline, count: int = 96, seed: int = 0, batch_size: int = 24
) -> tuple[Score, torch.Tensor]:
    """Score of the keyframes (and the keyframes) of `count` held-out prompts."""
    prompts = world.held_out_prompts(count, seed)
    frames = torch.cat(
        [_run(pipe, "base", seed + i, prompts[i : i + batch_size]) for i in range(0, count, batch_size)]
    )
    return score_clips(frames, prompts), frames


def evaluate_interpolation(pipe: Show1CascadePipeline, count: int = 24, seed: int = 0) -> Baseline:
    """From true keyframes: the new frames against the truth, beside a linear cross-fade."""
    scenes = held_out_scenes(count, seed)
    truth = world.render(scenes, range(world.NUM_FRAMES))
    keyframes = truth[:, ::4]
    made = _run(pipe, "interpolation", seed, _captions(scenes), frames=keyframes, input_type="pt")
    fade = F.interpolate(
        keyframes.transpose(1, 2), size=truth.shape[1:2] + truth.shape[3:], mode="trilinear", align_corners=True
    ).transpose(1, 2)
    new = [time for time in range(world.NUM_FRAMES) if time % 4]
    return Baseline(
        psnr(made[:, new], truth[:, new]), psnr(fade[:, new], truth[:, new]), flicker(made) / flicker(truth)
    )


def evaluate_superres(pipe: Show1CascadePipeline, count: int = 8, seed: int = 0, frames: int = 15) -> Baseline:
    """From true frames at 16 x 24: the output at 64 x 96 against the truth, beside bicubic interpolation."""
    scenes = held_out_scenes(count, seed)
    truth = world.render(scenes, range(frames), scale=4)
    low = F.avg_pool3d(truth, (1, 4, 4))
    made = _run(pipe, "superres", seed, _captions(scenes), frames=low, input_type="pt")
    cubic = F.interpolate(low.flatten(0, 1), scale_factor=4, mode="bicubic").unflatten(0, truth.shape[:2])
    return Baseline(psnr(made, truth), psnr(cubic, truth), flicker(made) / flicker(truth))


def evaluate_refinement(pipe: Show1CascadePipeline, count: int = 6, seed: int = 0, frames: int = 15) -> Baseline:
    """From the super-resolution stage's output on true low-resolution frames: the refined frames at 128 x 192 against
    the truth, beside that output resized bilinearly, which is what this stage is given."""
    scenes = held_out_scenes(count, seed)
    truth = world.render(scenes, range(frames), scale=8)
    low = F.avg_pool3d(truth, (1, 8, 8))
    upscaled = _run(pipe, "superres", seed, _captions(scenes), frames=low, input_type="pt")
    given = F.interpolate(upscaled.flatten(0, 1), scale_factor=2, mode="bilinear").unflatten(0, truth.shape[:2])
    made = torch.cat(
        [
            _run(pipe, "refine", seed + i, _captions(scenes[i : i + 1]), frames=upscaled[i : i + 1], input_type="pt")
            for i in range(count)
        ]
    )
    return Baseline(psnr(made, truth), psnr(given, truth), flicker(made) / flicker(truth))


def evaluate_form(
    pipe: Show1CascadePipeline, keyframes: torch.Tensor, prompts: Sequence[str], seed: int = 0
) -> dict[str, Form]:
    """The form of keyframes (b, 8, 3, 16, 24) after super-resolution, per shape, as `forms_by_shape` has it."""
    attributes = [world.parse_caption(prompt) for prompt in prompts]
    forms = [
        measure_form(_run(pipe, "superres", seed + i, [prompt], frames=clip[None], input_type="pt")[0], attributes[i])
        for i, (prompt, clip) in enumerate(zip(prompts, keyframes, strict=True))
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


def make_video(pipe: Show1CascadePipeline, prompt: str, seed: int) -> Video:
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
