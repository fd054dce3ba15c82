# SPDX-License-Identifier: Apache-2.0
"""Bad calls, one a row: the right error, naming argument and value, before any network has run."""

import math

import pytest
import torch
from diffusers import EulerDiscreteScheduler, UniPCMultistepScheduler

from .bad_calls import of_all, of_frames, of_stages, watch
from .components import SMALL_RUN, clip, pipeline


EMBEDS = torch.zeros(1, 77, 32)
PROMPT = {"prompt": "a red car", "output_type": "pt"}
GOOD = {
    "base": {**PROMPT, "height": 8, "width": 12, "num_frames": 2, "num_inference_steps": 1},
    "interpolation": {**PROMPT, "frames": clip(2), "input_type": "latent", "num_inference_steps": 1},
    "superres": {
        **PROMPT,
        "frames": clip(2, 4, 6),
        "input_type": "latent",
        "num_inference_steps": 1,
        "first_frame_num_inference_steps": 1,
    },
    "refine": {**PROMPT, "frames": clip(2, 16, 24), "input_type": "latent", "num_inference_steps": 2},
    "cascade": {**PROMPT, "stage_options": SMALL_RUN},
}
FRAMES = ("interpolation", "superres", "refine")
STAGES = ("base", *FRAMES)
ALL = (*STAGES, "cascade")


def stage_option(stage, **options):
    return {"stage_options": {**SMALL_RUN, stage: {**SMALL_RUN[stage], **options}}}


# (where, changed arguments, error, words of the message)
ROWS = [
    *((ALL, *row) for row in of_all(EMBEDS)),
    *((STAGES, *row) for row in of_stages(EMBEDS)),
    *((FRAMES, *row) for row in of_frames()),
    ("refine", {"timesteps": [900, 500, 100]}, ValueError, ["`timesteps`", "DDIMScheduler"]),
    ("cascade", stage_option("refine", sigmas=[1.0, 0.0]), ValueError, ["'refine'", "`sigmas`", "DDIM"]),
    # sizes
    ("base", {"height": 9}, ValueError, ["`height`", "9", "8 and 10"]),
    ("base", {"width": 13}, ValueError, ["`width`", "13"]),
    ("base", {"width": 0}, ValueError, ["`width`", "0"]),
    ("base", {"height": 8.0}, ValueError, ["`height`", "8.0"]),
    ("base", {"num_frames": 0}, ValueError, ["`num_frames`", "0"]),
    ("base", {"num_frames": "8"}, ValueError, ["`num_frames`", "'8'"]),
    ("superres", {"height": 17}, ValueError, ["`height`", "17"]),
    ("superres", {"width": -24}, ValueError, ["`width`", "-24"]),
    ("refine", {"height": 17}, ValueError, ["`height`", "17"]),
    ("refine", {"width": 25}, ValueError, ["`width`", "25"]),
    # latents
    ("base", {"latents": torch.zeros(1, 3, 2, 8, 8)}, ValueError, ["`latents`", "(1, 3, 2, 8, 8)"]),
    ("base", {"latents": torch.zeros(2, 3, 2, 8, 12)}, ValueError, ["`latents`", "(2, 3, 2, 8, 12)"]),
    ("interpolation", {"latents": torch.zeros(1, 3, 4, 8, 12)}, ValueError, ["`latents`", "(1, 3, 4, 8, 12)"]),
    (("base", "interpolation"), {"latents": "noise"}, (TypeError, ValueError), ["`latents`", "noise"]),
    # frames
    ("interpolation", {"frames": clip(1)}, ValueError, ["`frames`", "at least 2", "1"]),
    ("interpolation", {"frames": clip(2, 9, 12)}, ValueError, ["`height`", "9"]),
    ("interpolation", {"frames_between": 0}, ValueError, ["`frames_between`", "0"]),
    ("interpolation", {"window_noise": "none"}, ValueError, ["`window_noise`", "'none'"]),
    ("interpolation", {"window_batch_size": 0}, ValueError, ["`window_batch_size`", "0"]),
    # super-resolution
    ("superres", {"noise_level": 1000}, ValueError, ["`noise_level`", "1000"]),
    ("superres", {"noise_level": -1}, ValueError, ["`noise_level`", "-1"]),
    ("superres", {"noise_level": 0.5}, ValueError, ["`noise_level`", "0.5"]),
    ("superres", {"first_frame_noise_level": 1000}, ValueError, ["`first_frame_noise_level`", "1000"]),
    ("superres", {"first_frame_num_inference_steps": 0}, ValueError, ["`first_frame_num_inference_steps`", "0"]),
    ("superres", {"first_frame_guidance_scale": math.nan}, ValueError, ["`first_frame_guidance_scale`", "nan"]),
    ("superres", {"window_size": 1}, ValueError, ["`window_size`", "1"]),
    ("superres", {"window_noise": 1}, ValueError, ["`window_noise`", "1"]),
    ("superres", {"first_frame": clip(2, 16, 24)}, ValueError, ["`first_frame`", "2 of 16x24"]),
    ("superres", {"first_frame": clip(1, 8, 8)}, ValueError, ["`first_frame`", "8x8"]),
    ("superres", {"condition_frames": clip(2, 8, 8)}, ValueError, ["`condition_frames`", "8x8"]),
    ("superres", {"condition_frames": clip(3, 16, 24)}, ValueError, ["`condition_frames`", "3 of 16x24"]),
    # refinement
    ("refine", {"strength": 0}, ValueError, ["`strength`", "0"]),
    ("refine", {"strength": 1.5}, ValueError, ["`strength`", "1.5"]),
    ("refine", {"strength": math.nan}, ValueError, ["`strength`", "nan"]),
    ("refine", {"strength": 0.3}, ValueError, ["`strength`", "0.3", "0.5"]),
    ("refine", {"resize": "nearest"}, ValueError, ["`resize`", "'nearest'"]),
    ("refine", {"vae_batch_size": 0}, ValueError, ["`vae_batch_size`", "0"]),
    # the cascade
    ("cascade", {"recipe": "best"}, ValueError, ["`recipe`", "'best'", "official"]),
    ("cascade", {"stop_after": "sr1"}, ValueError, ["`stop_after`", "'sr1'", "superres"]),
    ("cascade", {"num_frames": 0}, ValueError, ["`num_frames`", "0"]),
    ("cascade", {"num_frames": 2.5}, ValueError, ["`num_frames`", "2.5"]),
    ("cascade", {"stage_options": {"sr1": {}}}, ValueError, ["`stage_options`", "'sr1'"]),
    ("cascade", {"stage_options": {"base": {"steps": 3}}}, ValueError, ["stage_options['base']", "'steps'"]),
    ("cascade", {"stage_options": {"base": {"prompt": "x"}}}, ValueError, ["stage_options['base']", "'prompt'"]),
    ("cascade", {"stage_options": "fast"}, (TypeError, ValueError), ["`stage_options`", "fast"]),
    ("cascade", {"stage_options": {"base": 5}}, (TypeError, ValueError), ["stage_options", "base", "5"]),
    ("cascade", stage_option("base", height=9), ValueError, ["'base'", "`height`", "9"]),
    ("cascade", stage_option("interpolation", window_batch_size=0), ValueError, ["`window_batch_size`", "0"]),
    ("cascade", stage_option("superres", noise_level=-1), ValueError, ["'superres'", "`noise_level`", "-1"]),
    ("cascade", stage_option("refine", strength=2), ValueError, ["'refine'", "`strength`", "2"]),
    ("cascade", stage_option("refine", width=25), ValueError, ["'refine'", "`width`", "25"]),
    ("cascade", stage_option("refine", guidance_scale=-1), ValueError, ["'refine'", "`guidance_scale`", "-1"]),
    (
        "cascade",
        {**stage_option("interpolation", frames_between=-1), "num_frames": 3},
        ValueError,
        ["`frames_between`", "-1"],
    ),
    ("cascade", {"prompt": None, "prompt_embeds": EMBEDS}, ValueError, ["`refine_prompt_embeds`", "required"]),
    ("cascade", {"refine_prompt_embeds": EMBEDS.repeat(2, 1, 1)}, ValueError, ["`refine_prompt_embeds`", "2"]),
    ("cascade", {"refine_prompt_embeds": EMBEDS[0]}, ValueError, ["`refine_prompt_embeds`", "(77, 32)"]),
]
CASES = [
    pytest.param(where, changes, error, words, id=f"{where}-{'-'.join(changes)}-{i}")
    for i, (wheres, changes, error, words) in enumerate(ROWS)
    for where in ((wheres,) if isinstance(wheres, str) else wheres)
]


@pytest.fixture(scope="module")
def pipelines():
    return {name: pipeline(name) for name in ALL}


@pytest.fixture(scope="module")
def watched(pipelines):
    return {name: watch(pipe) for name, pipe in pipelines.items()}


@pytest.mark.parametrize(("where", "changes", "error", "words"), CASES)
def test_refused(pipelines, watched, where, changes, error, words):
    ran = watched[where]
    ran.clear()
    with pytest.raises(error) as caught:
        pipelines[where](**{**GOOD[where], **changes})
    message = str(caught.value)
    assert [word for word in words if word not in message] == [], message
    assert ran == []


@pytest.mark.parametrize(
    ("sigmas", "words"),
    [
        (5.0, "5.0"),
        ([], "at least 2"),
        ([1.0], "at least 2"),
        ([1.0, math.nan], "nan"),
        ([math.inf, 0.0], "inf"),
        ([1.0, -1.0], "-1.0"),
        (["1", 0.0], "'1'"),
        ([0.0, 1.0], "must fall"),
        ([1.0, 1.0, 0.0], "must fall"),
    ],
)
@pytest.mark.parametrize("where", STAGES)
def test_refused_sigmas(where, sigmas, words, pipelines, watched):
    """By a scheduler that takes them."""
    pipe, ran = pipelines[where], watched[where]
    ran.clear()
    pipe.scheduler, before = EulerDiscreteScheduler.from_config(pipe.scheduler.config), pipe.scheduler
    try:
        with pytest.raises(ValueError, match="`sigmas`") as caught:
            pipe(**GOOD[where], sigmas=sigmas)
    finally:
        pipe.scheduler = before
    assert words in str(caught.value), str(caught.value)
    assert ran == []


def test_refused_sigmas_of_a_scheduler_in_another_mode():
    """UniPC takes them for flow matching only."""
    pipe = pipeline("base")
    pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
    ran = watch(pipe)
    with pytest.raises(ValueError, match="`sigmas` is only supported"):
        pipe(**GOOD["base"], sigmas=[1.0, 0.0])
    assert ran == []


@pytest.mark.parametrize("where", ALL)
def test_good(pipelines, watched, where):
    """The call that the rows change is a good one, and the watch sees it run."""
    watched[where].clear()
    pipelines[where](**GOOD[where])
    assert any("unet" in name for name in watched[where])


@pytest.mark.parametrize("where", ALL)
@pytest.mark.parametrize(
    ("missing", "changes", "words"),
    [
        ("text_encoder", {}, ["`prompt_embeds`", "text_encoder"]),
        ("tokenizer", {}, ["`prompt_embeds`", "tokenizer"]),
        ("text_encoder", {"prompt": None, "prompt_embeds": EMBEDS}, ["`negative_prompt_embeds`", "text_encoder"]),
    ],
)
def test_missing_encoder(where, missing, changes, words):
    """Without an encoder a text prompt is refused, and the message says what to pass."""
    pipe = pipeline(where, **{missing: None})
    ran = watch(pipe)
    if where == "cascade" and changes:
        changes = {**changes, "refine_prompt_embeds": EMBEDS}
    with pytest.raises(ValueError, match="is required") as caught:
        pipe(**{**GOOD[where], **changes})
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert ran == []


@pytest.mark.parametrize("missing", ["refine_text_encoder", "refine_tokenizer"])
def test_missing_encoder_of_the_last_stage(missing):
    """The last stage's missing encoder is told before the first stage runs."""
    pipe = pipeline("cascade", **{missing: None})
    ran = watch(pipe)
    with pytest.raises(ValueError, match="prompt_embeds` is required"):
        pipe(**GOOD["cascade"])
    assert ran == []


def test_missing_first_frame_scheduler():
    pipe = pipeline("superres", first_frame_scheduler=None)
    ran = watch(pipe)
    with pytest.raises(ValueError, match="`first_frame_scheduler` is required"):
        pipe(**GOOD["superres"])
    assert ran == []
