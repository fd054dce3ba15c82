# SPDX-License-Identifier: Apache-2.0
"""The sections of a model card: sentences around the recipe's numbers, the catalogue's facts and measured results."""

from __future__ import annotations

import json
from typing import Any

from ..families.show1.recipe import RECIPES, StageOptions
from ..sampling.windows import interpolated_length
from .card_catalogue import CARDS, Card


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


def stages_line(card: Card) -> str:
    options = options_of(card)
    if card.stage is not None or options is None:
        return ""
    made = shapes(options)
    text = "\n".join(f"| `{stage}` | {made[stage]} |" for stage in made)
    return f"\n| stage | makes (frames x height x width) |\n| --- | --- |\n{text}\n"


def licence(card: Card) -> str:
    if not card.published:
        return "Weights and code: Apache-2.0. See `LICENSE.md`.\n"
    return "The weights: CC BY-NC 4.0, by their authors; no commercial use. The code: Apache-2.0. See `LICENSE.md`.\n"


def at_a_glance(card: Card) -> str:
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


def use(card: Card, repo_id: str) -> str:
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


def recipe(card: Card) -> str:
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


def figures(card: Card, results: dict[str, Any] | None) -> str:
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


def intended_use(card: Card) -> str:
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


def limits(card: Card) -> str:
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


def training(card: Card) -> str:
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


def endpoint(card: Card) -> str:
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
