# SPDX-License-Identifier: Apache-2.0
"""Which model cards there are, and what differs from one to the other."""

from __future__ import annotations

from dataclasses import dataclass


# Figure 1 of the paper
PAPER_PROMPTS = (
    'A panda besides the waterfall is holding a sign that says "Show 1".',
    "Toad practicing karate.",
    "Giant octopus invades new york city.",
)
TINY_PROMPTS = (
    "a red circle moving right on a white background",
    "a large blue square moving up on a pink background",
    "a small yellow triangle growing on a black background",
)


@dataclass(frozen=True)
class Card:
    """What differs from card to card.

    Args:
        title, summary: the heading and the sentences below it.
        pipeline: the class that the repository holds.
        stage: the recipe's name of the stage; None for a cascade.
        base_model: the Hub ids that the weights come from; none if they were trained from scratch here.
        parameters: of the UNet, counted from the published config.
        training: how the network was trained, in sentences with their source.
        prompts: the widget's examples.
        results: the file in `benchmarks/results/` with what was measured here.
    """

    title: str
    summary: str
    pipeline: str
    stage: str | None
    base_model: tuple[str, ...]
    training: str
    prompts: tuple[str, ...] = PAPER_PROMPTS
    parameters: int | None = None
    results: str | None = None

    @property
    def published(self) -> bool:
        """The weights are the authors', converted: their licence, their data and their figures hold."""
        return bool(self.base_model)

    @property
    def licence(self) -> str:
        return "cc-by-nc-4.0" if self.published else "apache-2.0"


CARDS = {
    "show-1-base": Card(
        title="Show-1 keyframes",
        summary="The first of the four stages of Show-1: a pixel diffusion model that makes a few small keyframes "
        "from a sentence. It decides what the video shows and how it moves.",
        pipeline="Show1KeyframePipeline",
        stage="base",
        base_model=("showlab/show-1-base",),
        parameters=1_726_848_390,
        training="The spatial layers start from DeepFloyd IF (section 4.1; the authors' repository names "
        "`DeepFloyd/IF-I-L-v1.0`). 48 A100-40G GPUs trained for 100,000 iterations, 3 days (section 4.1).",
    ),
    "show-1-interpolation": Card(
        title="Show-1 interpolation",
        summary="The second of the four stages of Show-1: a pixel diffusion model that puts three new frames between "
        "each two keyframes.",
        pipeline="Show1InterpolationPipeline",
        stage="interpolation",
        base_model=("showlab/show-1-interpolation",),
        parameters=1_726_859_910,
        training="Fine-tuned from the keyframe model, all parameters (section 3.4), from 2 to 7.5 frames a second "
        "(the authors' repository). 16 A100-40G GPUs, one day (section 4.1).",
    ),
    "show-1-sr1": Card(
        title="Show-1 super-resolution",
        summary="The third of the four stages of Show-1: a pixel diffusion model that makes the small video four "
        "times as large, in windows of a few frames that are chained by their first frame.",
        pipeline="Show1SuperResolutionPipeline",
        stage="superres",
        base_model=("showlab/show-1-sr1",),
        parameters=796_343_046,
        training="The spatial layers start from DeepFloyd IF's super-resolution model (section 4.1). 16 A100-40G "
        "GPUs, one day (section 4.1).",
    ),
    "show-1-sr2": Card(
        title="Show-1 refinement",
        summary="The last of the four stages of Show-1: a latent diffusion model that enlarges the video and adds "
        "detail by noising and denoising it (SDEdit). It is an expert for the timesteps 0 to 900, and cannot start "
        "from pure noise.",
        pipeline="Show1RefinementPipeline",
        stage="refine",
        base_model=("showlab/show-1-sr2",),
        parameters=1_411_233_860,
        training="Starts from the ModelScope text-to-video model (section 4.1), trained on timesteps 0 to 900 only "
        "(section 3.6), three days (section 4.1).",
    ),
    "show-1": Card(
        title="Show-1",
        summary="Text to video in four stages: a pixel diffusion model lays the video out, where text and motion are "
        "followed best, and a latent one finishes it, where size is cheap. This repository holds all four with one "
        "T5 text encoder among them.",
        pipeline="Show1CascadePipeline",
        stage=None,
        base_model=(
            "showlab/show-1-base",
            "showlab/show-1-interpolation",
            "showlab/show-1-sr1",
            "showlab/show-1-sr2",
        ),
        training="The pixel stages start from DeepFloyd IF, the last one from the ModelScope text-to-video model "
        "(section 4.1). Keyframes: 48 A100-40G GPUs, 100,000 iterations, 3 days; interpolation and the first "
        "super-resolution: 16 GPUs and a day each; the last stage: three days (section 4.1).",
    ),
    "show-1-tiny": Card(
        title="Show-1, tiny",
        summary="A cascade of Show-1's shape, small enough for a laptop: all four stages, a few megabytes, seconds a "
        "video. It is for trying, testing and teaching; what it knows is a synthetic world of coloured shapes.",
        pipeline="Show1CascadePipeline",
        stage=None,
        base_model=(),
        training="Trained from scratch with `show1 train tiny`, text encoders included. None of the "
        "published weights is in it.",
        prompts=TINY_PROMPTS,
        results="tiny_quality.json",
    ),
}
