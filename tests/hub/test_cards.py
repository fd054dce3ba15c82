# SPDX-License-Identifier: Apache-2.0
"""The model cards: fresh, valid, and saying nothing that is not so."""

import ast
import json
import re

import huggingface_hub
import pytest
from huggingface_hub import ModelCard

import diffusers_show1
from diffusers_show1.families.show1.recipe import RECIPES
from diffusers_show1.hub import card_sections, cards
from diffusers_show1.hub.cards import CARDS_FOLDER, all_cards, main, metadata, problems, render

from .upload_hub import UploadHub


CARDS = all_cards()


RESULTS = {
    "command": "python benchmarks/tiny_quality.py --json x.json",
    "data": "held-out captions of the synthetic world",
    "figures": [
        {"name": "keyframes, captions right", "value": 71.9, "unit": "%"},
        {"name": "interpolation", "value": 34.2, "unit": "dB", "against": "cross-fade", "against_value": 31.0},
    ],
}


@pytest.fixture(scope="module")
def hub():
    with UploadHub() as hub, pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
        yield hub


def test_the_cards_in_the_repository_are_fresh(capsys):
    assert sorted(path.stem for path in CARDS_FOLDER.glob("*.md")) == sorted(CARDS)
    assert main(["--check"]) == 0, capsys.readouterr().err


def test_a_stale_card_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cards, "CARDS_FOLDER", tmp_path)
    assert main([]) == 0
    assert main(["--check"]) == 0
    (tmp_path / "show-1.md").write_text("old")
    (tmp_path / "show-1-tiny.md").unlink()
    (tmp_path / "too-much.md").write_text("")
    assert main(["--check"]) == 1
    assert re.findall(r"model_cards/(\S+) is out of date", capsys.readouterr().err) == [
        "show-1-tiny.md",
        "show-1.md",
        "too-much.md",
    ]


@pytest.mark.parametrize("name", CARDS)
def test_heads_are_valid(name, hub):
    """By our own rules, by `huggingface_hub`'s reading and writing, and by its call to the (fake) Hub."""
    path = CARDS_FOLDER / f"{name}.md"
    text = path.read_text()
    clips = [f"examples/{cards.media_name(prompt)}" for prompt in cards.media_of(name)]
    assert problems(text, clips) == []
    card = ModelCard.load(path)
    card.validate()
    data = card.data
    assert (data.library_name, data.pipeline_tag) == ("diffusers", "text-to-video")
    assert data.license == ("apache-2.0" if name == "show-1-tiny" else "cc-by-nc-4.0")
    assert bool(data.base_model) == (name != "show-1-tiny")
    assert [example["text"] for example in data.widget] == list(CARDS[name].prompts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("license: cc-by-nc-4.0", "license: cc-by-nc"), "`license` must be one of"),
        (("pipeline_tag: text-to-video", "pipeline_tag: text2video"), "`pipeline_tag` must be one of text-to-video"),
        (("library_name: diffusers", "library_name: show1"), "`library_name` must be one of diffusers"),
        (("pipeline_tag:", "pipeline-tag:"), "`pipeline-tag` is no key"),
        (("base_model: showlab/", "base_model: showlab/x/"), "`base_model` must be a Hub id"),
        (("- text: Toad practicing karate.", "- output: x"), "a widget's example must have a text"),
        (("language: en", "language: [en"), "the head cannot be read"),
        (("language: en", "language:   en"), "not as huggingface_hub writes it"),
        (
            (
                "- text: Toad practicing karate.",
                "- text: Toad practicing karate.\n  output:\n    url: examples/no.mp4",
            ),
            "which is not in the repository",
        ),
    ],
)
def test_bad_heads_are_found(change, message):
    text = render("show-1-base")
    assert change[0] in text
    found = problems(text.replace(*change, 1))
    assert any(message in problem for problem in found), found


def test_a_head_that_the_hub_refuses_is_refused(hub):
    with pytest.raises(ValueError, match="license"):
        ModelCard(render("show-1").replace("license: cc-by-nc-4.0", "license: none-at-all")).validate()


@pytest.mark.parametrize("name", [name for name in CARDS if CARDS[name].published])
def test_numbers_are_the_recipes(name):
    text = render(name)
    stages = RECIPES["default"].stages
    for stage in stages if CARDS[name].stage is None else [CARDS[name].stage]:
        for option, value in stages[stage].items():
            assert f"| {stage} | `{option}` | {value} |" in text
    assert "| refine | `guidance_scale` | 15.0 |" in render("show-1")
    assert "8x40x64 → 29x40x64" in render("show-1-interpolation")


@pytest.mark.parametrize("name", CARDS)
def test_pipelines_are_ours_and_examples_are_python(name):
    text = render(name, "me/mine")
    assert hasattr(diffusers_show1, CARDS[name].pipeline)
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        ast.parse(block)
        assert "{" not in block
    assert 'revision="remote-code", trust_remote_code=True' in blocks[1]
    assert all("me/mine" in block for block in blocks[:2])
    assert "pip install diffusers-show1" in text


def test_the_papers_figures_are_given_as_the_papers():
    for name, card in CARDS.items():
        text = render(name)
        assert ("394.46 | Table 1" in text) == card.published
        assert ("13.08 | Table 2" in text) == card.published
        assert "model-index" not in text
        assert "arxiv.org/abs/2309.15818" in text or not card.published
        assert "eprint = {2309.15818}" in text


def test_measured_figures_stand_in_the_card_with_their_command(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(cards, "RESULTS_FOLDER", tmp_path)
    assert cards.results_of("show-1-tiny") is None
    assert "## Measured" not in render("show-1-tiny", results=cards.results_of("show-1-tiny"))
    (tmp_path / "tiny_quality.json").write_text(json.dumps(RESULTS))
    results = cards.results_of("show-1-tiny")
    text = render("show-1-tiny", results=results)
    assert RESULTS["command"] in text
    assert "| keyframes, captions right | 71.9 % |  |" in text
    assert "| interpolation | 34.2 dB | cross-fade: 31 dB |" in text
    assert problems(text) == []
    card = ModelCard(text)
    card.validate()
    assert [result.metric_value for result in card.data.eval_results] == [71.9, 34.2]
    assert cards.results_of("show-1") is None


@pytest.mark.parametrize(
    "content",
    [
        [],
        {**RESULTS, "command": None},
        {**RESULTS, "figures": []},
        {**RESULTS, "figures": [{"name": "x"}]},
        {**RESULTS, "figures": [{"name": "x", "value": "good"}]},
    ],
)
def test_results_of_another_form_are_refused(tmp_path, monkeypatch, content):
    monkeypatch.setattr(cards, "RESULTS_FOLDER", tmp_path)
    (tmp_path / "tiny_quality.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="tiny_quality.json"):
        cards.results_of("show-1-tiny")


def test_clips_stand_beside_their_prompts(tmp_path, monkeypatch):
    monkeypatch.setattr(cards, "CARDS_FOLDER", tmp_path)
    prompt = CARDS["show-1-tiny"].prompts[1]
    clip = tmp_path / "media" / "show-1-tiny" / cards.media_name(prompt)
    clip.parent.mkdir(parents=True)
    clip.touch()
    media = {**cards.media_of("show-1-tiny"), "a new one": tmp_path / "b.gif"}
    widget = metadata("show-1-tiny", media, None).to_dict()["widget"]
    assert [example.get("output") for example in widget] == [
        None,
        {"url": f"examples/{clip.name}"},
        None,
        {"url": "examples/a-new-one.gif"},
    ]
    assert widget[3]["text"] == "a new one"


def test_licence_notes():
    assert "CC BY-NC 4.0" in card_sections.licence_note(CARDS["show-1"])
    assert "NonCommercial" not in card_sections.licence_note(CARDS["show-1-tiny"])


def test_the_validation_asks_no_real_hub(hub):
    before = len(hub.requests)
    ModelCard(render("show-1")).validate()
    assert hub.requests[before:] == ["POST /api/validate-yaml"]
