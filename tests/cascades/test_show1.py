# SPDX-License-Identifier: Apache-2.0
"""The cascade: its stages in a row, the options of a run, one text for three stages, random numbers."""

import copy

import pytest
import torch

from diffusers_show1 import (
    Show1CascadePipeline,
    Show1InterpolationPipeline,
    Show1KeyframePipeline,
    Show1RefinementPipeline,
    Show1SuperResolutionPipeline,
)
from diffusers_show1.clips.arrays import from_model_space
from diffusers_show1.families.show1.recipe import RECIPES

from ..contract.components import SMALL_RUN, Calls, clip, components, pipeline, seeded
from ..golden.cases import max_difference


STAGES = ("base", "interpolation", "superres", "refine")
PROMPT = "a red car driving on the rainbow road."


@pytest.fixture(scope="module")
def pipe():
    return pipeline("cascade", first_frame_unet=None, first_frame_scheduler=None)


def run(pipe, **options):
    return pipe(**{"prompt": PROMPT, "generator": seeded(), "output_type": "pt", "return_stages": True, **options})


@pytest.fixture(scope="module")
def whole(pipe):
    return run(pipe)


SHAPES = {
    "base": (1, 2, 3, 8, 12),
    "interpolation": (1, 5, 3, 8, 12),
    "superres": (1, 5, 3, 16, 24),
    "refine": (1, 5, 3, 16, 24),
}


def test_return_stages(pipe, whole):
    """Every stage's frames, in order; the last one's are the video."""
    assert {name: tuple(frames.shape) for name, frames in whole.stages.items()} == SHAPES
    assert list(whole.stages) == list(STAGES) == list(pipe.stage_names)
    assert whole.frames is whole.stages["refine"]
    frames, stages = run(pipe, return_dict=False, stop_after="base")
    assert torch.equal(frames, whole.stages["base"])
    assert list(stages) == ["base"]
    assert run(pipe, return_stages=False, stop_after="base").stages is None


@pytest.mark.parametrize("last", STAGES[:3])
def test_stop_after(pipe, whole, last):
    """Stopping early gives that stage's frames, changes nothing before, and runs no later network."""
    with Calls(pipe.refine_unet) as later:
        out = run(pipe, stop_after=last)
    assert list(out.stages) == list(STAGES[: STAGES.index(last) + 1])
    for name, frames in out.stages.items():
        assert torch.equal(frames, whole.stages[name]), name
    assert torch.equal(out.frames, whole.stages[last])
    assert later == []


def test_same_seed_same_video(pipe, whole):
    assert torch.equal(run(pipe).frames, whole.frames)
    assert max_difference(run(pipe, generator=seeded(1)).frames, whole.frames) > 1e-2


def test_each_stage_equals_its_own_call(pipe, whole):
    """A stage in the cascade is that stage's pipeline, called with the options that `resolve_options` tells."""
    options = pipe.resolve_options()["refine"]
    low = run(pipe, stop_after="superres", output_type="latent").frames
    calls = []

    def keep(stage, step, timestep, tensors):
        calls.append(tensors["latents"].clone())
        return {}

    run(pipe, callback_on_step_end=keep)
    with Calls(pipe.refine_unet) as seen:
        alone = pipe.refine(low, PROMPT, input_type="latent", output_type="pt", **options).frames
    assert alone.shape == whole.frames.shape
    assert len(seen) == int(options["strength"] * options["num_inference_steps"])


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_are_whole(pipe, recipe):
    """Every recipe's options are options of the stage's call."""
    assert tuple(RECIPES[recipe].stages) == STAGES
    for name, options in RECIPES[recipe].stages.items():
        assert set(options) <= set(pipe.stage_option_names(name))
    assert set(RECIPES[recipe].negative_prompt_stages or STAGES) <= set(STAGES)


def test_recipes_differ(pipe, whole):
    """The official run and ours are two: other noise from the interpolation's windows on."""
    official = run(pipe, recipe="official")
    for name in STAGES:
        assert official.stages[name].shape == whole.stages[name].shape
        assert max_difference(official.stages[name], whole.stages[name]) > 1e-3, name


def test_official_replays_the_generator(pipe):
    """In the official run every stage starts from the caller's state, which stays as it was."""
    generator = seeded()
    first = run(pipe, recipe="official", generator=generator, stop_after="base").frames
    assert torch.equal(generator.get_state(), seeded().get_state())
    alone = pipe.base(PROMPT, generator=seeded(), output_type="pt", clean_caption=False, **base_options(pipe)).frames
    assert torch.equal(first, alone)


def base_options(pipe):
    return {k: v for k, v in pipe.resolve_options("official")["base"].items() if k != "clean_caption"}


def test_options_come_in_order():
    """The recipe's, over them the checkpoint's, over those the caller's; none of the three is changed."""
    parts = components("cascade")
    before = copy.deepcopy(RECIPES)
    plain = Show1CascadePipeline(**parts)
    assert plain.resolve_options() == RECIPES["default"].stages
    own = Show1CascadePipeline(**parts, stage_defaults={"base": {"num_inference_steps": 7, "guidance_scale": 2.0}})
    given = {"base": {"guidance_scale": 3.0}}
    options = own.resolve_options(stage_options=given)
    assert (options["base"]["num_inference_steps"], options["base"]["guidance_scale"]) == (7, 3.0)
    assert options["base"]["num_frames"] == RECIPES["default"].stages["base"]["num_frames"]
    options["base"]["num_frames"] = 99
    assert before == RECIPES
    assert given == {"base": {"guidance_scale": 3.0}}


@pytest.mark.parametrize(
    ("frames", "keyframes"), [(1, 2), (2, 2), (5, 2), (6, 3), (9, 3), (10, 4), (28, 8), (29, 8), (30, 9)]
)
def test_keyframes_for_a_length(pipe, frames, keyframes):
    """As many keyframes as a length takes, and no more."""
    assert pipe.resolve_options(num_frames=frames)["base"]["num_frames"] == keyframes


@pytest.mark.parametrize("frames", [1, 3, 6])
def test_num_frames(pipe, frames):
    """Exactly that many frames come out, whatever the interpolation makes."""
    out = run(pipe, num_frames=frames)
    assert [v.shape[1] for v in out.stages.values()] == [2 if frames < 6 else 3, frames, frames, frames]


def test_stage_options(pipe, whole):
    """A caller's options reach the stage, and that stage only."""
    with Calls(pipe.base_unet) as base, Calls(pipe.superres_unet) as superres:
        out = run(pipe, stage_options={"superres": {"num_inference_steps": 1, "noise_level": 77, "window_size": 8}})
    assert len(base) == 2
    assert [call["class_labels"].unique().tolist() for call in superres] == [[77]]
    assert torch.equal(out.stages["interpolation"], whole.stages["interpolation"])


def test_a_first_frame_of_images(pipe):
    """An option of a stage may be in any form that the stage's own call takes."""
    images = from_model_space(clip(1, 16, 24), "pil")
    with Calls(pipe.superres_unet) as calls:
        run(pipe, stage_options={"superres": {"first_frame": images}}, stop_after="superres")
    assert max_difference(calls[0]["sample"][:1, 3:, :1], clip(1, 16, 24)) < 0.01


def test_a_first_frame_as_tensor(pipe):
    frame = clip(1, 16, 24)
    with Calls(pipe.superres_unet) as calls:
        run(pipe, stage_options={"superres": {"first_frame": frame}}, stop_after="superres")
    assert torch.equal(calls[0]["sample"][:1, 3:, :1], frame)


def test_views():
    """A stage is a view: exchange a component, and the stage has it; the views share one T5."""
    pipe = pipeline("cascade")
    kinds = {
        "base": Show1KeyframePipeline,
        "interpolation": Show1InterpolationPipeline,
        "superres": Show1SuperResolutionPipeline,
        "refine": Show1RefinementPipeline,
    }
    for name, kind in kinds.items():
        stage = getattr(pipe, name)
        assert type(stage) is kind
        assert stage.unet is getattr(pipe, f"{name}_unet")
        assert stage.scheduler is getattr(pipe, f"{name}_scheduler")
    assert pipe.base.text_encoder is pipe.superres.text_encoder is pipe.text_encoder
    assert pipe.superres.first_frame_unet is pipe.first_frame_unet
    other = copy.deepcopy(pipe.base_unet)
    pipe.base_unet = other
    assert pipe.base.unet is other
    with Calls(other) as calls:
        run(pipe, stop_after="base")
    assert len(calls) == 2
    assert not any(isinstance(value, tuple(kinds.values())) for value in vars(pipe).values())


def test_text_is_encoded_once(pipe):
    """T5 runs for the prompt and for the negative, CLIP likewise: once for all stages."""
    with Calls(pipe.text_encoder) as t5, Calls(pipe.refine_text_encoder) as clip_text:
        run(pipe, negative_prompt="blur")
    assert len(t5) == 2
    assert len(clip_text) == 2


def test_negative_prompt_stages(pipe):
    """The official run gives the caller's negative prompt to refinement only, ours to every stage."""
    official = run(pipe, recipe="official", negative_prompt="low resolution, blur").stages
    plain = run(pipe, recipe="official").stages
    for name in STAGES[:3]:
        assert torch.equal(official[name], plain[name]), name
    assert max_difference(official["refine"], plain["refine"]) > 1e-3
    ours = run(pipe, negative_prompt="low resolution, blur", stop_after="base").frames
    assert max_difference(ours, run(pipe, stop_after="base").frames) > 1e-3


def test_callback_on_stage_end(pipe, whole):
    """Called after each stage, in order, with its frames as they are returned."""
    seen = []
    run(pipe, callback_on_stage_end=lambda p, name, frames: seen.append((p is pipe, name, frames)))
    assert [(same, name) for same, name, _ in seen] == [(True, name) for name in STAGES]
    assert all(torch.equal(frames, whole.stages[name]) for _, name, frames in seen)


def test_output_types(pipe, whole):
    """Every stage's frames come in the form asked for; latents in each stage's own space."""
    images = run(pipe, output_type="pil").stages
    assert [images[name][0][0].size for name in STAGES] == [(12, 8), (12, 8), (24, 16), (24, 16)]
    arrays = run(pipe, output_type="np").stages
    for name in STAGES:
        assert torch.equal(torch.from_numpy(arrays[name]).permute(0, 1, 4, 2, 3), whole.stages[name])
    latents = run(pipe, output_type="latent").stages
    assert latents["refine"].shape == (1, 4, 5, 8, 12)
    assert latents["base"].shape == (1, 3, 2, 8, 12)


def test_progress_bars_are_named(pipe, capsys):
    pipe.set_progress_bar_config()
    run(pipe, stop_after="interpolation")
    shown = capsys.readouterr().err
    pipe.set_progress_bar_config(disable=True)
    assert "base" in shown
    assert "interpolation" in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"recipe": "best"}, ["`recipe`", "'best'", "default", "official"]),
        ({"stage_options": {"sr1": {}}}, ["`stage_options`", "'sr1'", "superres"]),
        ({"stage_options": {"base": {"steps": 5}}}, ["stage_options['base']", "'steps'", "num_inference_steps"]),
        ({"num_frames": -1}, ["`num_frames`", "-1"]),
    ],
)
def test_unknown_names(pipe, arguments, words):
    """The message names what was given and what may be."""
    with pytest.raises(ValueError, match="must|option") as caught:
        pipe.resolve_options(**arguments)
    assert all(word in str(caught.value) for word in words)


def test_bad_stage_defaults_are_told():
    pipe = pipeline("cascade", stage_defaults={"base": {"steps": 5}})
    with pytest.raises(ValueError, match="'steps'"):
        pipe.resolve_options()


def test_from_stages_with_an_image_model(whole):
    """The cascade put together from loaded stages shares the base stage's encoder, and takes IF-II for frame 0."""
    from diffusers import IFSuperResolutionPipeline

    from ..golden import cases

    image = IFSuperResolutionPipeline.from_pretrained(
        cases.MODELS / "if-ii", variant="fp16", dtype=torch.float32, text_encoder=None, safety_checker=None
    )
    base = pipeline("base")
    made = Show1CascadePipeline.from_stages(
        base=base,
        interpolation=pipeline("interpolation"),
        superres=pipeline("superres", first_frame_unet=None, first_frame_scheduler=None),
        refine=pipeline("refine"),
        first_frame=image,
        stage_defaults=SMALL_RUN,
    )
    made.set_progress_bar_config(disable=True)
    assert made.text_encoder is base.text_encoder
    assert made.first_frame_unet is image.unet
    out = run(made)
    assert torch.equal(out.stages["interpolation"], whole.stages["interpolation"])
    assert max_difference(out.stages["superres"], whole.stages["superres"]) > 1e-3
