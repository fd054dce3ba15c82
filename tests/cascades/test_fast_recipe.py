# SPDX-License-Identifier: Apache-2.0
"""The fast recipe: its network calls, guidance in a part of the steps, and a checkpoint's own numbers for a recipe."""

import json

import pytest
import torch

from diffusers_show1 import TINY_PATH, Show1CascadePipeline, cli
from diffusers_show1.families.show1.recipe import RECIPES

from ..contract.components import SMALL_RUN, Calls, clip, pipeline, seeded


PROMPT = "a red car driving on the rainbow road."
STAGES = ("base", "interpolation", "superres", "refine")
WITH_IMAGE_MODEL = ("first_frame_unet",)
network_calls = Show1CascadePipeline.network_calls


@pytest.fixture(scope="module")
def pipe():
    return pipeline("cascade")


# --- calls --------------------------------------------------------------------------------------------------------


def test_published_calls():
    """(75 + 7x75 + 70 + 4x125 + 40) x 2, and an eighth of it at most."""
    published = network_calls(RECIPES["default"].stages, WITH_IMAGE_MODEL)
    assert list(published.values()) == [150, 7 * 150, 140 + 4 * 250, 80]
    assert network_calls(RECIPES["default"].stages)["superres"] == 4 * 250
    fast = network_calls(RECIPES["fast"].stages, WITH_IMAGE_MODEL)
    assert sum(fast.values()) * 8 <= sum(published.values())
    assert all(fast[name] < published[name] for name in STAGES)


def test_same_video_but_for_steps_and_guidance():
    """`fast` makes what `default` makes: frames, sizes, scales and noise levels are the same."""
    for name in STAGES:
        fast, default = RECIPES["fast"].stages[name], RECIPES["default"].stages[name]
        changed = {key for key in fast if fast[key] != default.get(key)}
        assert changed <= {"num_inference_steps", "first_frame_num_inference_steps", "guidance_interval"}


@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.0, 0.5), (0.34, 0.7)])
def test_counted_calls_are_made(pipe, interval):
    """Rows that the networks see: a guided step has two, and interpolation one for each window."""
    changes = {name: {"guidance_interval": interval, "num_inference_steps": 3} for name in STAGES}
    options = pipe.resolve_options(stage_options=changes)
    with (
        Calls(pipe.base_unet) as base,
        Calls(pipe.interpolation_unet) as interpolation,
        Calls(pipe.superres_unet) as superres,
        Calls(pipe.first_frame_unet) as first_frame,
        Calls(pipe.refine_unet) as refine,
    ):
        pipe(PROMPT, stage_options=changes, generator=seeded(), output_type="latent")
    rows = [
        sum(len(call["sample"]) for call in calls) for calls in (base, interpolation, superres + first_frame, refine)
    ]
    assert list(network_calls(options, WITH_IMAGE_MODEL).values()) == rows


def test_counted_windows_of_refinement():
    options = {name: dict(values) for name, values in RECIPES["default"].stages.items()}
    options["refine"] |= {"window_size": 16, "timesteps": [900, 500, 100], "strength": 1.0}
    assert network_calls(options)["refine"] == 3 * 3 * 2
    options["refine"] |= {"timesteps": None, "sigmas": [10.0, 3.0, 1.0, 0.3, 0.0]}
    assert network_calls(options)["refine"] == 3 * 4 * 2


# --- guidance in a part of the steps ------------------------------------------------------------------------------


def options_of(name):
    options = {**SMALL_RUN[name], "num_inference_steps": 4}
    if name == "refine":
        options["strength"] = 1.0
    if name == "base":
        return {"prompt": PROMPT, **options}
    frames = {"interpolation": 2, "superres": 3, "refine": 3}[name]
    height, width = (16, 24) if name == "refine" else (8, 12)
    return {"prompt": PROMPT, "frames": clip(frames, height, width), "input_type": "latent", **options}


def run(stage, **changes):
    options = options_of(stage.stage_name)
    return stage(**{**options, "generator": seeded(), "output_type": "latent", **changes}).frames


@pytest.mark.parametrize("name", STAGES)
def test_guided_steps(pipe, name):
    """One call a step either way; two rows a video inside of the interval, one outside."""
    stage = getattr(pipe, name)
    expected = {(0.0, 1.0): [2, 2, 2, 2], (0.0, 0.5): [2, 2, 1, 1], (0.25, 0.75): [1, 2, 2, 1], (0.0, 0.0): [1] * 4}
    made = {}
    for interval, rows in expected.items():
        with Calls(stage.unet) as calls:
            made[interval] = run(stage, guidance_interval=interval)
        assert [len(call["sample"]) for call in calls[:4]] == rows
    assert torch.equal(made[0.0, 1.0], run(stage))
    scales = ("guidance_scale", *(["first_frame_guidance_scale"] if name == "superres" else []))
    assert torch.equal(made[0.0, 0.0], run(stage, **dict.fromkeys(scales, 1.0)))
    assert not torch.equal(made[0.0, 0.5], made[0.0, 1.0])
    assert not torch.equal(made[0.0, 0.5], made[0.0, 0.0])


@pytest.mark.parametrize(
    "interval", [(0.5, 0.2), (-0.1, 1.0), (0.0, 1.1), (0.5,), (0.0, 0.5, 1.0), 0.5, None, "01", (0.0, float("nan"))]
)
@pytest.mark.parametrize("name", STAGES)
def test_bad_intervals_are_told(pipe, name, interval):
    with pytest.raises(ValueError, match=r"`guidance_interval` must be \(start, stop\)"):
        run(getattr(pipe, name), guidance_interval=interval)


# --- a checkpoint's own numbers -----------------------------------------------------------------------------------


def test_precedence(pipe):
    """The recipe's, the checkpoint's for all recipes, the checkpoint's for this one, the call's."""
    own = {
        "base": {"num_inference_steps": 30, "guidance_scale": 3.0},
        "fast": {"base": {"num_inference_steps": 6}, "refine": {"strength": 0.5}},
    }
    cascade = Show1CascadePipeline(**pipe.components, stage_defaults=own)
    fast = cascade.resolve_options("fast")
    assert fast["base"]["num_inference_steps"] == 6
    assert fast["base"]["guidance_scale"] == 3.0
    assert fast["base"]["guidance_interval"] == RECIPES["fast"].stages["base"]["guidance_interval"]
    assert fast["refine"]["strength"] == 0.5
    for recipe in ("default", "official"):
        options = cascade.resolve_options(recipe)
        assert options["base"]["num_inference_steps"] == 30
        assert options["refine"]["strength"] == 0.8
    assert cascade.resolve_options("fast", {"base": {"num_inference_steps": 9}})["base"]["num_inference_steps"] == 9
    assert cascade.config.stage_defaults == own


@pytest.mark.parametrize("own", [{"fast": {"base": {"steps": 6}}}, {"fast": {"bass": {}}}, {"fast": {"base": 6}}])
def test_bad_numbers_for_a_recipe_are_told(pipe, own):
    cascade = Show1CascadePipeline(**pipe.components, stage_defaults=own)
    with pytest.raises(ValueError, match="stage_defaults"):
        cascade.resolve_options("fast")


def test_tiny_has_numbers_for_it(pipe):
    own = json.loads((TINY_PATH / "model_index.json").read_text())["stage_defaults"]
    tiny = Show1CascadePipeline(**pipe.components, stage_defaults=own)
    fast, default = (network_calls(tiny.resolve_options(recipe)) for recipe in ("fast", "default"))
    assert all(fast[name] <= default[name] for name in STAGES)
    assert sum(fast.values()) < sum(default.values())


def test_on_the_command_line(tmp_path):
    """`show1 generate --recipe fast` runs with the checkpoint's numbers for it."""
    prompt = "a red circle moving right on a white background"
    arguments = [
        "--recipe",
        "fast",
        "--steps",
        "base=2",
        "--stop-after",
        "base",
        "--seed",
        "1",
        "-o",
        str(tmp_path / "clip.webp"),
    ]
    assert cli.main(["generate", prompt, *arguments]) == 0
    made = json.loads((tmp_path / "clip.json").read_text())["settings"]
    own = json.loads((TINY_PATH / "model_index.json").read_text())["stage_defaults"]["fast"]
    assert made["recipe"] == "fast"
    assert made["stage_options"]["interpolation"]["num_inference_steps"] == own["interpolation"]["num_inference_steps"]
    assert made["stage_options"]["base"]["guidance_interval"] == [0.0, 1.0]
