# SPDX-License-Identifier: Apache-2.0
"""The model cards of Show-1: whose the weights are, what they can do, and what the paper says of them."""

from __future__ import annotations

from ...ladder.card import Card
from ...tiny import TINY_PATH, world
from .recipe import RECIPES


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
PAPER = "[paper](https://arxiv.org/abs/2309.15818)"
CITATION = """\
@misc{zhang2023show1,
    title = {Show-1: Marrying Pixel and Latent Diffusion Models for Text-to-Video Generation},
    author = {David Junhao Zhang and Jay Zhangjie Wu and Jia-Wei Liu and Rui Zhao and Lingmin Ran and Yuchao Gu and
              Difei Gao and Mike Zheng Shou},
    year = {2023},
    eprint = {2309.15818},
    archivePrefix = {arXiv},
}"""
_OFFLOAD = "pipe.enable_model_cpu_offload()  # one network at a time on the GPU\n"
_REFINE = RECIPES["default"].stages["refine"]
_CALLS: dict[str | None, str] = {
    None: 'frames = pipe("{prompt}").frames[0]',
    "base": 'keyframes = pipe("{prompt}").frames[0]',
    "interpolation": 'frames = pipe(keyframes, "{prompt}").frames[0]',
    "superres": 'frames = pipe(frames, "{prompt}").frames[0]',
    "refine": f'frames = pipe(frames, "{{prompt}}", height={_REFINE["height"]}, width={_REFINE["width"]}).frames[0]',
}


def _numbers(stage: str | None) -> str:
    lines = [
        "What a cascade runs with. Steps, guidance, noise levels and strength are those of the released inference",
        f"script, sizes those of section 4.1 of the {PAPER}.",
    ]
    if stage in (None, "refine"):
        lines += ["The script gives refinement no guidance scale: this is the default of the pipeline it calls."]
    lines += ["`official` reproduces the released run number for number, `default` is the same without its defects."]
    return "\n".join(lines)


def _figures(stage: str | None) -> str:
    whole = "" if stage is None else " They are figures of the whole cascade, of which this is one stage."
    return f"""\
## Figures of the paper

Reported by the authors in the {PAPER}, and not measured again here.{whole}

| data | figure | value | source |
| --- | --- | --- | --- |
| UCF-101, zero-shot | IS (higher is better) | 35.42 | Table 1 |
| UCF-101, zero-shot | FVD (lower is better) | 394.46 | Table 1 |
| MSR-VTT, zero-shot | FID-vid (lower is better) | 13.08 | Table 2 |
| MSR-VTT, zero-shot | FVD (lower is better) | 538 | Table 2 |
| MSR-VTT, zero-shot | CLIPSIM (higher is better) | 0.3072 (the text of section 4.2 says 0.3076) | Table 2 |
| inference | largest GPU memory | 15 GB, against 72 GB with pixel diffusion in all stages | abstract, Table 3 |

UCF-101: 20 samples a prompt for IS, 2,048 videos for FVD. MSR-VTT: 2,048 videos of the test split for FID-vid and FVD,
all 59,794 captions of its 2,990 videos for CLIPSIM, at 256x256 (section 4.2).
"""


def _limits(stage: str | None) -> str:
    base, interpolation = (RECIPES["default"].stages[name] for name in ("base", "interpolation"))
    keyframes = base["num_frames"]
    length = keyframes + (keyframes - 1) * interpolation["frames_between"]
    lines = [
        f"- Trained at {keyframes} keyframes, which become {length} frames, about four seconds. Other lengths run, "
        "and were not trained.",
        "- The text encoders read 77 tokens; what follows is cut off. The captions of the training data are English.",
        "- No safety checker and no watermarker: neither is part of the published models. Whoever offers this as a "
        "service has to filter what goes in and what comes out.",
        "- The training videos carry the watermark of a stock agency, so traces of it in what is made are to be "
        "expected. (This follows from the data; it was not measured here.)",
        "- The data are a stock agency's choice of the world and its captions, and what is made inherits their bias.",
    ]
    if stage in (None, "superres"):
        lines.append(
            "- The released script makes the first super-resolved frame with DeepFloyd IF-II-L, which has a licence "
            "of its own and is not part of this repository; without it, that frame comes from this model."
        )
    if stage == "refine":
        lines.append(
            "- An expert for the timesteps 0 to 900: `strength` above 0.9 asks for what it was not trained on."
        )
    return "\n".join(lines) + "\n"


def _training(stage: str | None, started: str) -> str:
    besides = ", and the authors' repository of the keyframe model names InternVid besides"
    return f"""\
WebVid-10M (section 4.1 of the {PAPER}){besides if stage in (None, "base") else ""}. The clips of WebVid-10M
are previews of a stock agency and carry its watermark. {started}
"""


def _licence_file(base_model: tuple[str, ...]) -> str:
    origin = "\n".join(f"- https://huggingface.co/{model}" for model in base_model)
    return f"""\
# Licence

The weights are by David Junhao Zhang, Jay Zhangjie Wu, Jia-Wei Liu, Rui Zhao, Lingmin Ran, Yuchao Gu, Difei Gao and
Mike Zheng Shou (Show Lab, National University of Singapore), published under the Creative Commons
Attribution-NonCommercial 4.0 International licence (https://creativecommons.org/licenses/by-nc/4.0/) at

{origin}

Changed here: the file format (safetensors), with it in places the precision of the numbers, the layout of the
repository, and class names in its JSON files. These weights stay under CC BY-NC 4.0: no commercial use. For one, ask
the authors.

They were trained from DeepFloyd IF and ModelScope weights, whose own licences
(https://huggingface.co/DeepFloyd/IF-I-XL-v1.0, https://huggingface.co/ali-vilab/text-to-video-ms-1.7b) may bind you
too.
"""


def _published(
    *,
    title: str,
    summary: str,
    pipeline: str,
    stage: str | None,
    base_model: tuple[str, ...],
    started: str,
    parameters: int | None = None,
) -> Card:
    """A card of the published weights, converted; `started`: how they were trained, in sentences with their source."""
    return Card(
        title=title,
        summary=summary,
        pipeline=pipeline,
        stage=stage,
        base_model=base_model,
        licence="cc-by-nc-4.0",
        tags=("show-1",),
        prompts=PAPER_PROMPTS,
        example=_OFFLOAD + _CALLS[stage],
        numbers=_numbers(stage),
        compared="official",
        intended_use="""\
Research on text-to-video generation, and non-commercial creative work: the licence of the weights forbids commercial
use. Not for making people believe that something happened which did not, nor for pictures of real people without
their consent.
""",
        limits=_limits(stage),
        training=_training(stage, started),
        figures=_figures(stage),
        parameters=parameters,
        terms="The weights: CC BY-NC 4.0, by their authors; no commercial use. The code: Apache-2.0. See "
        "`LICENSE.md`.\n",
        licence_file=_licence_file(base_model),
        citation=CITATION,
    )


CARDS = {
    "show-1-base": _published(
        title="Show-1 keyframes",
        summary="The first of the four stages of Show-1: a pixel diffusion model that makes a few small keyframes "
        "from a sentence. It decides what the video shows and how it moves.",
        pipeline="Show1KeyframePipeline",
        stage="base",
        base_model=("showlab/show-1-base",),
        parameters=1_726_848_390,
        started="The spatial layers start from DeepFloyd IF (section 4.1; the authors' repository names "
        "`DeepFloyd/IF-I-L-v1.0`). 48 A100-40G GPUs trained for 100,000 iterations, 3 days (section 4.1).",
    ),
    "show-1-interpolation": _published(
        title="Show-1 interpolation",
        summary="The second of the four stages of Show-1: a pixel diffusion model that puts three new frames between "
        "each two keyframes.",
        pipeline="Show1InterpolationPipeline",
        stage="interpolation",
        base_model=("showlab/show-1-interpolation",),
        parameters=1_726_859_910,
        started="Fine-tuned from the keyframe model, all parameters (section 3.4), from 2 to 7.5 frames a second "
        "(the authors' repository). 16 A100-40G GPUs, one day (section 4.1).",
    ),
    "show-1-sr1": _published(
        title="Show-1 super-resolution",
        summary="The third of the four stages of Show-1: a pixel diffusion model that makes the small video four "
        "times as large, in windows of a few frames that are chained by their first frame.",
        pipeline="Show1SuperResolutionPipeline",
        stage="superres",
        base_model=("showlab/show-1-sr1",),
        parameters=796_343_046,
        started="The spatial layers start from DeepFloyd IF's super-resolution model (section 4.1). 16 A100-40G "
        "GPUs, one day (section 4.1).",
    ),
    "show-1-sr2": _published(
        title="Show-1 refinement",
        summary="The last of the four stages of Show-1: a latent diffusion model that enlarges the video and adds "
        "detail by noising and denoising it (SDEdit). It is an expert for the timesteps 0 to 900, and cannot start "
        "from pure noise.",
        pipeline="Show1RefinementPipeline",
        stage="refine",
        base_model=("showlab/show-1-sr2",),
        parameters=1_411_233_860,
        started="Starts from the ModelScope text-to-video model (section 4.1), trained on timesteps 0 to 900 only "
        "(section 3.6), three days (section 4.1).",
    ),
    "show-1": _published(
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
        started="The pixel stages start from DeepFloyd IF, the last one from the ModelScope text-to-video model "
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
        licence="apache-2.0",
        tags=("show-1",),
        prompts=TINY_PROMPTS,
        example=_CALLS[None],
        numbers="What a call runs with unless it says otherwise: the checkpoint's own numbers over the recipe's.",
        own_numbers=TINY_PATH,
        intended_use="""\
Trying the package, tests, demonstrations, teaching: every stage and every option of a Show-1 cascade, on a CPU, in
seconds. It makes no video of the real world.
""",
        limits=f"""\
It understands sentences of one form, `a [small|large] COLOUR SHAPE MOTION on a BACKGROUND background`, of these words:

- colours: {", ".join(world.COLOURS)}
- shapes: {", ".join(world.SHAPES)}
- motions: {", ".join(world.MOTIONS)}
- backgrounds: {", ".join(world.BACKGROUNDS)}

What it makes of any other sentence means nothing.
""",
        training="Clips of a synthetic world that the package draws itself (`diffusers_show1.tiny.world`), with their "
        "exact captions. No\nrecorded picture or video, nobody's work, no person. Trained from scratch with "
        "`show1 train tiny`, text encoders included. None of the published weights is in it.\n",
        results="tiny_quality.json",
        terms="Weights and code: Apache-2.0. See `LICENSE.md`.\n",
        licence_file="""\
# Licence

The weights were trained from scratch on synthetic clips. They are under the Apache License, Version 2.0
(https://www.apache.org/licenses/LICENSE-2.0).
""",
        citation=CITATION,
    ),
}
