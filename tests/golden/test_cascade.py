# SPDX-License-Identifier: Apache-2.0
"""The official recipe against the official inference script: each stage from its recorded input, and the chain."""

import numpy as np
import pytest
import torch
from diffusers import IFSuperResolutionPipeline

from diffusers_show1 import Show1CascadePipeline, Show1InterpolationPipeline, Show1KeyframePipeline
from diffusers_show1.clips.arrays import resize_uint8, truncate_to_uint8

from . import cases


META = cases.meta("cascade")
OUTPUTS = cases.arrays("cascade", "outputs")
STAGE_TOLERANCE = 2e-3  # max; the official code differs from itself by up to 2e-4
CHAIN_TOLERANCE = 5e-3  # rms: errors grow through guidance, and 8 bits before refinement flip single levels

OPTIONS = {
    "base": {"height": META["height"], "width": META["width"], "num_inference_steps": META["steps"]["base"]},
    "interpolation": {"num_inference_steps": META["steps"]["interp"]},
    "superres": {
        "height": 4 * META["height"],
        "width": 4 * META["width"],
        "num_inference_steps": META["steps"]["sr1"],
        "first_frame_num_inference_steps": META["steps"]["sr1i"],
    },
    "refine": {
        "width": META["sr2_size_wh"][0],
        "height": META["sr2_size_wh"][1],
        "num_inference_steps": META["steps"]["sr2"],
    },
}


@pytest.fixture(scope="module")
def pipe():
    fp16 = {"variant": "fp16", "dtype": torch.float32}
    unused = {"tokenizer": None, "text_encoder": None}
    pipe = Show1CascadePipeline.from_stages(
        base=Show1KeyframePipeline.from_pretrained(cases.MODELS / "show-1-base", **fp16),
        interpolation=Show1InterpolationPipeline.from_pretrained(
            cases.MODELS / "show-1-interpolation", **unused, **fp16
        ),
        superres=cases.MODELS / "show-1-sr1",
        refine=cases.MODELS / "show-1-sr2",
        first_frame=IFSuperResolutionPipeline.from_pretrained(cases.MODELS / "if-ii", **fp16),
        dtype=torch.float32,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def recorded_text():
    return {
        "prompt_embeds": OUTPUTS["prompt_embeds"],
        "negative_prompt_embeds": OUTPUTS["negative_embeds"],
        "generator": cases.seeded(META["seed"]),
        "output_type": "latent",
    }


@pytest.fixture
def options(pipe):
    return pipe.resolve_options("official", OPTIONS)


def test_text(pipe):
    embeds, negative = pipe.base.encode_prompt(META["prompt"])
    assert cases.max_difference(embeds, OUTPUTS["prompt_embeds"]) < 1e-4
    assert cases.max_difference(negative, OUTPUTS["negative_embeds"]) < 1e-4


def test_keyframes(pipe, options, recorded_text):
    frames = pipe.base(**recorded_text, **options["base"]).frames
    assert cases.max_difference(frames, OUTPUTS["base"]) < STAGE_TOLERANCE


@pytest.mark.parametrize("window_batch_size", [None, 1, 3])
def test_interpolation(pipe, options, recorded_text, window_batch_size):
    frames = pipe.interpolation(
        OUTPUTS["base"],
        input_type="latent",
        window_batch_size=window_batch_size,
        **recorded_text,
        **options["interpolation"],
    ).frames
    assert cases.max_difference(frames, OUTPUTS["interp"]) < STAGE_TOLERANCE


def test_super_resolution(pipe, options, recorded_text):
    frames = pipe.superres(OUTPUTS["interp"], input_type="latent", **recorded_text, **options["superres"]).frames
    assert cases.max_difference(frames, OUTPUTS["sr1"]) < STAGE_TOLERANCE


def test_hand_over_in_8_bits():
    frames = resize_uint8(truncate_to_uint8(OUTPUTS["sr1"]), OPTIONS["refine"]["height"], OPTIONS["refine"]["width"])
    assert np.array_equal(frames[0], OUTPUTS["sr2_input_uint8"].numpy())


def test_refinement(pipe, options):
    frames = pipe.refine(
        OUTPUTS["sr1"],
        META["prompt"],
        negative_prompt=META["negative_prompt"],
        input_type="latent",
        generator=cases.seeded(META["seed"]),
        output_type="pt",
        **options["refine"],
    ).frames
    assert cases.max_difference(frames, cases.unit(OUTPUTS["final"])) < STAGE_TOLERANCE


def test_chain(pipe):
    out = pipe(
        META["prompt"],
        negative_prompt=META["negative_prompt"],
        recipe="official",
        stage_options=OPTIONS,
        generator=cases.seeded(META["seed"]),
        output_type="pt",
        return_stages=True,
    )
    recorded = {"base": "base", "interpolation": "interp", "superres": "sr1", "refine": "final"}
    assert list(out.stages) == list(recorded)
    for stage, name in recorded.items():
        difference = out.stages[stage] - cases.unit(OUTPUTS[name])
        assert difference.square().mean().sqrt() < CHAIN_TOLERANCE, stage
    assert torch.equal(out.frames, out.stages["refine"])
