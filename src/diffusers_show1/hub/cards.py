# SPDX-License-Identifier: Apache-2.0
"""The model cards: one for each Hub repository, made of texts, the recipe's numbers and measured results.

    python -m diffusers_show1.hub.cards            # writes model_cards/*.md
    python -m diffusers_show1.hub.cards --check    # says which are out of date, with exit code 1
    python -m diffusers_show1.hub.cards --media    # makes the tiny cascades' example clips, then writes the cards

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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..families import all_families
from ..ladder.card import Card
from . import card_sections as sections


if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

OWNER = "diffusers-show1"  # whose repositories the cards in model_cards/ are written for; `publish` says its own
CHECKOUT = Path(__file__).parents[3]
CARDS_FOLDER = CHECKOUT / "model_cards"
RESULTS_FOLDER = CHECKOUT / "benchmarks" / "results"
MEDIA_IN_REPO = "examples"

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


def all_cards() -> dict[str, Card]:
    """The cards of all families, by name."""
    return {name: card for family in all_families() for name, card in family.known_cards.items()}


def media_name(prompt: str, ending: str = ".mp4") -> str:
    """The file name of a prompt's example clip: its first words."""
    return "-".join(re.findall(r"[a-z0-9]+", prompt.lower()))[:60].rstrip("-") + ending


def media_of(name: str) -> dict[str, Path]:
    """The example clips of a card in this checkout, prompt -> file."""
    paths = {prompt: CARDS_FOLDER / "media" / name / media_name(prompt) for prompt in all_cards()[name].prompts}
    return {prompt: path for prompt, path in paths.items() if path.is_file()}


def results_of(name: str) -> dict[str, Any] | None:
    """What was measured for a card in this checkout; None if nothing was.

    Raises `ValueError` for a file that is not of the form that this module's first lines show.
    """
    file = all_cards()[name].results
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

    card = all_cards()[name]
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
        tags=["text-to-video", "video-generation", *card.tags, "endpoints-template"],
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


def render(
    name: str,
    repo_id: str | None = None,
    media: Mapping[str, Path] | None = None,
    results: dict[str, Any] | None = None,
) -> str:
    """The whole card.

    Args:
        name: one of `all_cards`.
        repo_id: the repository that the card is for; by default one of `OWNER`.
        media: prompt -> clip: examples for the widget, besides or of the card's own prompts.
        results: what was measured, as `results_of` reads it.
    """
    card = all_cards()[name]
    repo_id = repo_id or f"{OWNER}/{name}"
    first = f"""\
# {card.title}

{card.summary}

{sections.at_a_glance(card)}
{sections.stages_line(card)}
## Use

{sections.use(card, repo_id)}"""
    parts = [
        first,
        sections.recipe(card),
        f"## Intended use\n\n{card.intended_use}",
        f"## Limits\n\n{card.limits}",
        f"## Training\n\n{card.training}",
        sections.figures(card, results),
        f"## Inference Endpoints\n\n{sections.endpoint(card)}",
        f"## Licence\n\n{card.terms}",
        f"## Citation\n\n```bibtex\n{card.citation}\n```\n",
    ]
    body = "\n".join(part for part in parts if part)
    return f"---\n{metadata(name, media or {}, results).to_yaml()}\n---\n\n{body}"


# ---------------------------------------------------------------------------------------------------------------------
# Checks


def problems(text: str, media: Sequence[str] = (), ours: bool = True) -> list[str]:
    """What is wrong with a card, one sentence each; an empty list for a good one.

    The Hub checks a card's head when it is uploaded, by rules that only its server has. This does offline what can be
    done: `huggingface_hub` has to read the head, and to write it again as it is; keys and values have to be among
    those that mean something for our repositories.

    Args:
        media: the paths of the files that the repository holds, which the widget may show.
        ours: it is one of `all_cards`; other people's may say more, and be under other licences.
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
        licences = tuple(dict.fromkeys(card.licence for card in all_cards().values()))
        allowed |= {"license": licences, "language": ("en",)}
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
    return {f"{name}.md": render(name, media=media_of(name), results=results_of(name)) for name in all_cards()}


def make_media() -> list[Path]:
    """Make the example clips of the cascades whose weights are in the package, seed 0; returns the files."""
    import torch

    from ..clips.writing import save_video

    made = []
    for name, card in all_cards().items():
        if card.own_numbers is None:
            continue
        pipe = sections.family_of_card(card).cascade_class.from_pretrained(card.own_numbers)
        for prompt in card.prompts:
            frames = pipe(prompt, generator=torch.Generator().manual_seed(0), output_type="np").frames[0]
            made.append(save_video(frames, CARDS_FOLDER / "media" / name / media_name(prompt), fps=8))
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the cards, or say which are out of date."""
    parser = argparse.ArgumentParser(prog="python -m diffusers_show1.hub.cards", description="The model cards.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a card is out of date")
    parser.add_argument("--media", action="store_true", help="make the tiny cascades' example clips first")
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
