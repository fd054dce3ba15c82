# SPDX-License-Identifier: Apache-2.0
"""The sections of a model card: a family's sentences around the recipe's numbers and measured results."""

from __future__ import annotations

import json
from typing import Any

from ..families import family_of
from ..ladder.card import Card
from ..ladder.family import Family
from ..ladder.rung import Rung, StageOptions


def family_of_card(card: Card) -> Family:
    """Whose card it is."""
    family = family_of(card.pipeline)
    assert family is not None, card.pipeline
    return family


def rung_of(card: Card) -> Rung | None:
    """The card's stage in its cascade; None for a cascade."""
    return next((rung for rung in family_of_card(card).cascade_class.rungs if rung.name == card.stage), None)


def shapes(card: Card, options: StageOptions) -> dict[str, str]:
    """Stage -> frames x height x width of what it makes, from the options of a run."""
    made, extent = {}, None
    for rung in family_of_card(card).cascade_class.rungs:
        extent = rung.stage.extent(rung.call(options[rung.name]), extent)
        made[rung.name] = "x".join(map(str, extent))
    return made


def options_of(card: Card) -> StageOptions | None:
    """The options that the card's repository runs with by default; None where they are not known."""
    stages = family_of_card(card).cascade_class.recipes["default"].stages
    if card.own_numbers is None:
        return stages
    index = card.own_numbers / "model_index.json"
    if not index.is_file():
        return None
    own = json.loads(index.read_text(encoding="utf-8")).get("stage_defaults") or {}
    return {stage: {**options, **own.get(stage, {})} for stage, options in stages.items()}


def stages_line(card: Card) -> str:
    options = options_of(card)
    if card.stage is not None or options is None:
        return ""
    made = shapes(card, options)
    text = "\n".join(f"| `{stage}` | {made[stage]} |" for stage in made)
    return f"\n| stage | makes (frames x height x width) |\n| --- | --- |\n{text}\n"


def at_a_glance(card: Card) -> str:
    rows = [("pipeline", f"`{card.pipeline}`")]
    options = options_of(card)
    rung = rung_of(card)
    if options is not None and card.stage is not None and rung is not None:
        made = shapes(card, options)
        before = ["a prompt", *made.values()][list(made).index(card.stage)]
        source = before if rung.stage.takes else "a prompt"
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
    family = family_of_card(card)
    packages = " ".join(["diffusers-show1", *family.requirements])
    example = card.example.replace("{prompt}", card.prompts[0].replace('"', chr(39)))
    return f"""\
The revision `main` needs the package, and no remote code:

```bash
pip install {packages}
```

```python
{imports}from {family.library} import {card.pipeline}
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
{example}
```
"""


def recipe(card: Card) -> str:
    options = options_of(card)
    if options is None:
        return ""
    stages = options if card.stage is None else {card.stage: options[card.stage]}
    lines = ["## Numbers", "", card.numbers]
    lines += ["", "| stage | option | value |", "| --- | --- | --- |"]
    for stage, values in stages.items():
        lines += [f"| {stage} | `{name}` | {value} |" for name, value in values.items()]
    if card.compared is not None:
        for stage in stages:
            other = family_of_card(card).cascade_class.recipes[card.compared].stages[stage]
            changed = [name for name in other if other[name] != stages[stage].get(name)]
            lines += [f"| {stage}, `{card.compared}` | `{name}` | {other[name]} |" for name in changed]
    return "\n".join(lines) + "\n"


def figures(card: Card, results: dict[str, Any] | None) -> str:
    text = card.figures
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


def endpoint(card: Card) -> str:
    rung = rung_of(card)
    takes_video = rung is not None and bool(rung.stage.takes)
    example: dict[str, Any] = {"inputs": card.prompts[0], "parameters": {"seed": 7}}
    if takes_video:
        example["parameters"]["video"] = "<base64 of a video file>"
    else:
        options = options_of(card)
        if options is not None:
            made = shapes(card, options)
            frames = made[card.stage or list(made)[-1]].split("x")[0]
            example["parameters"] = {"num_frames": int(frames), "seed": 7}
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


def licence_note(card: Card) -> str:
    """The text of a repository's LICENSE.md: whose the weights are, what was changed, and under which terms."""
    return f"""\
{card.licence_file}
The Python files of this repository come from the package diffusers-show1 and are under the Apache License, Version
2.0 (https://www.apache.org/licenses/LICENSE-2.0).
"""
