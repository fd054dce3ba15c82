# SPDX-License-Identifier: Apache-2.0
"""The model cards: one for each Hub repository, made of the text here, the recipe's numbers and measured results.

    python -m diffusers_show1.hub.cards            # writes model_cards/*.md
    python -m diffusers_show1.hub.cards --check    # says which are out of date, with exit code 1
    python -m diffusers_show1.hub.cards --media    # makes the tiny cascade's example clips, then writes the cards

A measured figure stands in a card only if a file in `benchmarks/results/` holds it, together with the command that
measured it:

    {"command": "python benchmarks/tiny_quality.py", "data": "held-out captions of the synthetic world",
     "figures": [{"name": "keyframes, captions right", "value": 71.9, "unit": "%"},
                 {"name": "interpolation", "value": 34.2, "unit": "dB", "against": "cross-fade",
                  "against_value": 31.0}]}

An example clip stands in a card if it lies in `model_cards/media/<card>/`, under the name that `media_name` gives.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cascades.recipe import RECIPES, StageOptions
from ..video import interpolated_length


if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

OWNER = "diffusers-show1"  # whose repositories the cards in model_cards/ are written for; `publish` says its own
CHECKOUT = Path(__file__).parents[3]
CARDS_FOLDER = CHECKOUT / "model_cards"
RESULTS_FOLDER = CHECKOUT / "benchmarks" / "results"
MEDIA_IN_REPO = "examples"

LICENCES = ("apache-2.0", "cc-by-nc-4.0")
METADATA = {
    "license",
    "library_name",
    "pipeline_tag",
    "base_model",
    "language",
    "tags",
    "widget",
    "model-index",
}  # what a card of ours may say; the Hub ignores a misspelt key without a word

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
        training="Trained from scratch with `python -m diffusers_show1.training`, text encoders included. None of the "
        "published weights is in it.",
        prompts=TINY_PROMPTS,
        results="tiny_quality.json",
    ),
}


# ---------------------------------------------------------------------------------------------------------------------
# Parts of a card

_BEFORE = {"interpolation": "base", "superres": "interpolation", "refine": "superres"}


def shapes(options: StageOptions) -> dict[str, str]:
    """Stage -> frames x height x width of what it makes, from the options of a run."""
    base = options["base"]
    count, height, width = base["num_frames"], base["height"], base["width"]
    made = {"base": f"{count}x{height}x{width}"}
    count = interpolated_length(count, options["interpolation"]["frames_between"])
    made["interpolation"] = f"{count}x{height}x{width}"
    for stage in ("superres", "refine"):
        made[stage] = f"{count}x{options[stage]['height']}x{options[stage]['width']}"
    return made


def tiny_options() -> StageOptions | None:
    """The recipe with the tiny cascade's own numbers over it; None where its weights are not there."""
    from ..tiny import TINY_PATH

    index = TINY_PATH / "model_index.json"
    if not index.is_file():
        return None
    own = json.loads(index.read_text(encoding="utf-8")).get("stage_defaults") or {}
    return {stage: {**options, **own.get(stage, {})} for stage, options in RECIPES["default"].stages.items()}


def options_of(card: Card) -> StageOptions | None:
    """The options that the card's repository runs with by default; None where they are not known."""
    return RECIPES["default"].stages if card.published else tiny_options()


def media_name(prompt: str, ending: str = ".mp4") -> str:
    """The file name of a prompt's example clip: its first words."""
    return "-".join(re.findall(r"[a-z0-9]+", prompt.lower()))[:60].rstrip("-") + ending


def media_of(name: str) -> dict[str, Path]:
    """The example clips of a card in this checkout, prompt -> file."""
    paths = {prompt: CARDS_FOLDER / "media" / name / media_name(prompt) for prompt in CARDS[name].prompts}
    return {prompt: path for prompt, path in paths.items() if path.is_file()}


def results_of(name: str) -> dict[str, Any] | None:
    """What was measured for a card in this checkout; None if nothing was.

    Raises `ValueError` for a file that is not of the form that this module's first lines show.
    """
    file = CARDS[name].results
    if file is None or not (RESULTS_FOLDER / file).is_file():
        return None
    results = json.loads((RESULTS_FOLDER / file).read_text(encoding="utf-8"))
    figures = results.get("figures") if isinstance(results, dict) else None
    if not figures or not isinstance(results.get("command"), str) or not isinstance(results.get("data"), str):
        raise ValueError(f"benchmarks/results/{file} must hold `command`, `data` and `figures`")
    for figure in figures:
        for key, kind in (("name", str), ("value", (int, float))):
            if not isinstance(figure.get(key), kind):
                raise ValueError(f"benchmarks/results/{file}: each figure must have a `{key}`, got {figure!r}")
    return results


def metadata(name: str, media: Mapping[str, Path], results: dict[str, Any] | None) -> ModelCardData:
    """The card's head, as the Hub reads it."""
    from huggingface_hub import ModelCardData

    card = CARDS[name]
    widget: list[dict[str, Any]] = []
    for prompt in dict.fromkeys([*card.prompts, *media]):
        example: dict[str, Any] = {"text": prompt}
        if prompt in media:
            example["output"] = {"url": f"{MEDIA_IN_REPO}/{media_name(prompt, media[prompt].suffix.lower())}"}
        widget.append(example)
    return ModelCardData(
        license=card.licence,
        library_name="diffusers",
        pipeline_tag="text-to-video",
        base_model=list(card.base_model) if len(card.base_model) > 1 else "".join(card.base_model) or None,
        language="en",
        # endpoints-template: Inference Endpoints may run the repository's handler.py
        tags=["text-to-video", "video-generation", "show-1", "endpoints-template"],
        widget=widget,
        model_name=name if results else None,
        eval_results=eval_results(results) if results else None,
    )


def eval_results(results: dict[str, Any]) -> list[EvalResult]:
    """What was measured here, in the Hub's form. The paper's figures are not in it: they are not ours to certify."""
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type="text-to-video",
            dataset_type="synthetic",
            dataset_name=results["data"],
            metric_type=re.sub(r"[^a-z0-9]+", "_", figure["name"].lower()).strip("_"),
            metric_name=f"{figure['name']} ({figure['unit']})" if figure.get("unit") else figure["name"],
            metric_value=figure["value"],
        )
        for figure in results["figures"]
    ]


def _at_a_glance(card: Card) -> str:
    rows = [("pipeline", f"`{card.pipeline}`")]
    options = options_of(card)
    if options is not None and card.stage is not None:
        made = shapes(options)
        source = made[_BEFORE[card.stage]] if card.stage in _BEFORE else "a prompt"
        rows.append(("in → out", f"{source} → {made[card.stage]} (frames x height x width)"))
    if card.parameters is not None:
        rows.append(("UNet", f"{card.parameters:,} parameters"))
    if card.published:
        origin = ", ".join(f"[{model}](https://huggingface.co/{model})" for model in card.base_model)
        rows.append(("weights", f"{origin}, converted to safetensors"))
    rows.append(("licence", card.licence))
    return "\n".join(["| | |", "| --- | --- |", *(f"| {left} | {right} |" for left, right in rows)])


def _use(card: Card, repo_id: str) -> str:
    dtype = ", dtype=torch.float16" if card.published else ""
    imports = "import torch\n" if card.published else ""
    return f"""\
The revision `main` needs the package, and no remote code:

```bash
pip install diffusers-show1
```

```python
{imports}from diffusers_show1 import {card.pipeline}
pipe = {card.pipeline}.from_pretrained("{repo_id}"{dtype})
```

The revision `remote-code` carries its own code, and needs no package of ours (`requirements.txt` has what it imports):

```python
{imports}from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained("{repo_id}", revision="remote-code", trust_remote_code=True{dtype})
```

Both give the same pipeline, which is used like any other of diffusers. Videos come as lists of images, and go in as
those, as arrays or as tensors:

```python
{_CALLS[card.stage].format(prompt=card.prompts[0].replace('"', chr(39)), offload=_OFFLOAD if card.published else "")}
```
"""


_OFFLOAD = "pipe.enable_model_cpu_offload()  # one network at a time on the GPU\n"
_CALLS: dict[str | None, str] = {
    None: '{offload}frames = pipe("{prompt}").frames[0]',
    "base": '{offload}keyframes = pipe("{prompt}").frames[0]',
    "interpolation": '{offload}frames = pipe(keyframes, "{prompt}").frames[0]',
    "superres": '{offload}frames = pipe(frames, "{prompt}").frames[0]',
    "refine": '{offload}frames = pipe(frames, "{prompt}", height={{height}}, width={{width}}).frames[0]',
}


def _recipe(card: Card) -> str:
    options = options_of(card)
    if options is None:
        return ""
    stages = options if card.stage is None else {card.stage: options[card.stage]}
    lines = ["## Numbers", ""]
    if card.published:
        lines += [
            "What a cascade runs with. Steps, guidance, noise levels and strength are those of the released inference",
            f"script, sizes those of section 4.1 of the {PAPER}.",
        ]
        if "refine" in stages:
            lines += ["The script gives refinement no guidance scale: this is the default of the pipeline it calls."]
        lines += [
            "`official` reproduces the released run number for number, `default` is the same without its defects."
        ]
    else:
        lines += ["What a call runs with unless it says otherwise: the checkpoint's own numbers over the recipe's."]
    lines += ["", "| stage | option | value |", "| --- | --- | --- |"]
    for stage, values in stages.items():
        lines += [f"| {stage} | `{name}` | {value} |" for name, value in values.items()]
    if card.published:
        for stage in stages:
            official = RECIPES["official"].stages[stage]
            changed = [name for name in official if official[name] != stages[stage].get(name)]
            lines += [f"| {stage}, `official` | `{name}` | {official[name]} |" for name in changed]
    return "\n".join(lines) + "\n"


def _figures(card: Card, results: dict[str, Any] | None) -> str:
    text = ""
    if card.published:
        whole = "" if card.stage is None else " They are figures of the whole cascade, of which this is one stage."
        text += f"""\
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
    if results is not None:
        rows = []
        for figure in results["figures"]:
            unit = f" {figure['unit']}" if figure.get("unit") else ""
            against = f"{figure['against']}: {figure['against_value']:g}{unit}" if figure.get("against") else ""
            rows.append(f"| {figure['name']} | {figure['value']:g}{unit} | {against} |")
        text += ("\n" if text else "") + "\n".join(
            [
                "## Measured",
                "",
                f"On {results['data']}, by this command in the package's repository:",
                "",
                "```bash",
                results["command"],
                "```",
                "",
                "| figure | value | against |",
                "| --- | --- | --- |",
                *rows,
                "",
            ]
        )
    return text


def _intended_use(card: Card) -> str:
    if not card.published:
        return """\
Trying the package, tests, demonstrations, teaching: every stage and every option of a Show-1 cascade, on a CPU, in
seconds. It makes no video of the real world.
"""
    return """\
Research on text-to-video generation, and non-commercial creative work: the licence of the weights forbids commercial
use. Not for making people believe that something happened which did not, nor for pictures of real people without
their consent.
"""


def _limits(card: Card) -> str:
    if not card.published:
        from ..tiny import world

        return f"""\
It understands sentences of one form, `a [small|large] COLOUR SHAPE MOTION on a BACKGROUND background`, of these words:

- colours: {", ".join(world.COLOURS)}
- shapes: {", ".join(world.SHAPES)}
- motions: {", ".join(world.MOTIONS)}
- backgrounds: {", ".join(world.BACKGROUNDS)}

What it makes of any other sentence means nothing.
"""
    length = shapes(RECIPES["default"].stages)["interpolation"].split("x")[0]
    lines = [
        f"- Trained at 8 keyframes, which become {length} frames, about four seconds. Other lengths run, and were not "
        "trained.",
        "- The text encoders read 77 tokens; what follows is cut off. The captions of the training data are English.",
        "- No safety checker and no watermarker: neither is part of the published models. Whoever offers this as a "
        "service has to filter what goes in and what comes out.",
        "- The training videos carry the watermark of a stock agency, so traces of it in what is made are to be "
        "expected. (This follows from the data; it was not measured here.)",
        "- The data are a stock agency's choice of the world and its captions, and what is made inherits their bias.",
    ]
    if card.stage in (None, "superres"):
        lines.append(
            "- The released script makes the first super-resolved frame with DeepFloyd IF-II-L, which has a licence "
            "of its own and is not part of this repository; without it, that frame comes from this model."
        )
    if card.stage == "refine":
        lines.append(
            "- An expert for the timesteps 0 to 900: `strength` above 0.9 asks for what it was not trained on."
        )
    return "\n".join(lines) + "\n"


def _training(card: Card) -> str:
    if not card.published:
        return f"""\
Clips of a synthetic world that the package draws itself (`diffusers_show1.tiny.world`), with their exact captions. No
recorded picture or video, nobody's work, no person. {card.training}
"""
    besides = ", and the authors' repository of the keyframe model names InternVid besides"
    return f"""\
WebVid-10M (section 4.1 of the {PAPER}){besides if card.stage in (None, "base") else ""}. The clips of WebVid-10M
are previews of a stock agency and carry its watermark. {card.training}
"""


def _endpoint(card: Card) -> str:
    takes_video = card.stage not in (None, "base")
    example: dict[str, Any] = {"inputs": card.prompts[0], "parameters": {"seed": 7}}
    if takes_video:
        example["parameters"]["video"] = "<base64 of a video file>"
    else:
        options = options_of(card)
        if options is not None:
            made = shapes(options)["base" if card.stage == "base" else "refine"]
            example["parameters"] = {"num_frames": int(made.split("x")[0]), "seed": 7}
    parameters = ["negative_prompt", "num_inference_steps", "guidance_scale", "seed"]
    parameters.insert(1, "video" if takes_video else "num_frames")
    return f"""\
`handler.py` answers requests of this form, with `{"`, `".join(parameters)}` as parameters:

```json
{json.dumps(example)}
```

The answer is `{{"video": "<base64 of an mp4>", "content_type": "video/mp4", "num_frames": ..., "height": ...,
"width": ..., "fps": ..., "seed": ...}}`; a request that cannot be used is answered with status 400 and
`{{"error": "..."}}`, which names the field, what it may be and what it was.
"""


def licence_note(name: str) -> str:
    """The text of a repository's LICENSE.md: whose the weights are, what was changed, and under which terms."""
    card = CARDS[name]
    code = """\
The Python files of this repository come from the package diffusers-show1 and are under the Apache License, Version
2.0 (https://www.apache.org/licenses/LICENSE-2.0).
"""
    if not card.published:
        return f"""\
# Licence

The weights were trained from scratch on synthetic clips. They are under the Apache License, Version 2.0
(https://www.apache.org/licenses/LICENSE-2.0).

{code}"""
    origin = "\n".join(f"- https://huggingface.co/{model}" for model in card.base_model)
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

{code}"""


def render(
    name: str,
    repo_id: str | None = None,
    media: Mapping[str, Path] | None = None,
    results: dict[str, Any] | None = None,
) -> str:
    """The whole card.

    Args:
        name: one of `CARDS`.
        repo_id: the repository that the card is for; by default one of `OWNER`.
        media: prompt -> clip: examples for the widget, besides or of the card's own prompts.
        results: what was measured, as `results_of` reads it.
    """
    card = CARDS[name]
    repo_id = repo_id or f"{OWNER}/{name}"
    made = shapes(RECIPES["default"].stages)["refine"].split("x")
    use = _use(card, repo_id).replace("{height}", made[1]).replace("{width}", made[2])
    first = f"""\
# {card.title}

{card.summary}

{_at_a_glance(card)}
{_stages_line(card)}
## Use

{use}"""
    sections = [
        first,
        _recipe(card),
        f"## Intended use\n\n{_intended_use(card)}",
        f"## Limits\n\n{_limits(card)}",
        f"## Training\n\n{_training(card)}",
        _figures(card, results),
        f"## Inference Endpoints\n\n{_endpoint(card)}",
        f"## Licence\n\n{_licence(card)}",
        f"## Citation\n\n```bibtex\n{CITATION}\n```\n",
    ]
    body = "\n".join(section for section in sections if section)
    return f"---\n{metadata(name, media or {}, results).to_yaml()}\n---\n\n{body}"


def _stages_line(card: Card) -> str:
    options = options_of(card)
    if card.stage is not None or options is None:
        return ""
    made = shapes(options)
    text = "\n".join(f"| `{stage}` | {made[stage]} |" for stage in made)
    return f"\n| stage | makes (frames x height x width) |\n| --- | --- |\n{text}\n"


def _licence(card: Card) -> str:
    if not card.published:
        return "Weights and code: Apache-2.0. See `LICENSE.md`.\n"
    return "The weights: CC BY-NC 4.0, by their authors; no commercial use. The code: Apache-2.0. See `LICENSE.md`.\n"


# ---------------------------------------------------------------------------------------------------------------------
# Checks


def problems(text: str, media: Sequence[str] = (), ours: bool = True) -> list[str]:
    """What is wrong with a card, one sentence each; an empty list for a good one.

    The Hub checks a card's head when it is uploaded, by rules that only its server has. This does offline what can be
    done: `huggingface_hub` has to read the head, and to write it again as it is; keys and values have to be among
    those that mean something for our repositories.

    Args:
        media: the paths of the files that the repository holds, which the widget may show.
        ours: it is one of `CARDS`; other people's may say more, and be under other licences.
    """
    from huggingface_hub import ModelCard
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        card = ModelCard(text)
        data = card.data.to_dict()
        if ours and card.content != text:
            return ["the head is not as huggingface_hub writes it"]
    except Exception as error:  # yaml's, or huggingface_hub's for a model-index that is none
        return [f"the head cannot be read: {' '.join(str(error).split())}"]
    found = []
    allowed: dict[str, tuple[str, ...]] = {"library_name": ("diffusers",), "pipeline_tag": ("text-to-video",)}
    if ours:
        found += [f"`{key}` is no key of a card of ours" for key in sorted(data.keys() - METADATA)]
        allowed |= {"license": LICENCES, "language": ("en",)}
    elif not data.get("license"):
        found.append("`license` must say the licence of the weights, got nothing")
    for key, values in allowed.items():
        if data.get(key) not in values:
            found.append(f"`{key}` must be one of {', '.join(values)}, got {data.get(key)!r}")
    tags = data.get("tags") or []
    if not isinstance(tags, list) or not all(isinstance(tag, str) and tag for tag in tags):
        found.append(f"`tags` must be a list of texts, got {tags!r}")
    base_model = data.get("base_model") or []
    for model in base_model if isinstance(base_model, list) else [base_model]:
        try:
            validate_repo_id(model)
        except HFValidationError:
            found.append(f"`base_model` must be a Hub id, got {model!r}")
    widget = data.get("widget") or []
    if not isinstance(widget, list) or (ours and not widget):
        found.append(f"`widget` must be a list of examples, got {widget!r}")
        widget = []
    for example in widget:
        if not isinstance(example, dict) or not isinstance(example.get("text"), str) or not example["text"].strip():
            found.append(f"a widget's example must have a text, got {example!r}")
        elif "output" in example and (example["output"] or {}).get("url") not in media:
            found.append(f"a widget's example shows {example['output']!r}, which is not in the repository")
    if not card.text.strip():
        found.append("the card has no text")
    return found


def stale() -> list[str]:
    """The cards in `model_cards/` that are not as they would be written now; all that is missing or too much."""
    wanted = _all_cards()
    names = wanted.keys() | {path.name for path in CARDS_FOLDER.glob("*.md")}
    return sorted(name for name in names if _text(CARDS_FOLDER / name) != wanted.get(name))


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _all_cards() -> dict[str, str]:
    return {f"{name}.md": render(name, media=media_of(name), results=results_of(name)) for name in CARDS}


def make_media() -> list[Path]:
    """Make the example clips of the tiny cascade's card, seed 0; returns the files."""
    import torch

    from .. import TINY_PATH, Show1CascadePipeline, save_video

    pipe = Show1CascadePipeline.from_pretrained(TINY_PATH)
    made = []
    for prompt in CARDS["show-1-tiny"].prompts:
        frames = pipe(prompt, generator=torch.Generator().manual_seed(0), output_type="np").frames[0]
        made.append(save_video(frames, CARDS_FOLDER / "media" / "show-1-tiny" / media_name(prompt), fps=8))
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the cards, or say which are out of date."""
    parser = argparse.ArgumentParser(prog="python -m diffusers_show1.hub.cards", description="The model cards.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a card is out of date")
    parser.add_argument("--media", action="store_true", help="make the tiny cascade's example clips first")
    options = parser.parse_args(arguments)
    if options.check:
        old = stale()
        for name in old:
            print(f"model_cards/{name} is out of date: run python -m diffusers_show1.hub.cards", file=sys.stderr)
        return 1 if old else 0
    if options.media:
        make_media()
    CARDS_FOLDER.mkdir(exist_ok=True)
    for name, text in _all_cards().items():
        (CARDS_FOLDER / name).write_text(text, encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
