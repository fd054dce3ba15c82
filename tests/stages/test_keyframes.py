# SPDX-License-Identifier: Apache-2.0
"""Keyframes: guidance, schedules, and a batch that is no multiple of anything."""

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

from ..contract.components import Calls, pipeline, seeded
from ..golden.cases import max_difference


@pytest.fixture(scope="module")
def pipe():
    return pipeline("base")


@pytest.fixture
def run(pipe):
    def run(**options):
        options = {"height": 8, "width": 12, "num_frames": 2, "num_inference_steps": 2, **options}
        return pipe(**{"prompt": "a red car", "generator": seeded(), "output_type": "latent", **options}).frames

    return run


@pytest.mark.parametrize("frames", [1, 2, 9])
def test_any_number_of_frames(run, frames):
    assert run(num_frames=frames).shape == (1, 3, frames, 8, 12)


def test_guidance_order(pipe, run):
    """One call a step for both branches: the negative prompt first."""
    with torch.no_grad():
        embeds, negative = pipe.encode_prompt("a red car", "blur", clean_caption=True)
    with Calls(pipe.unet) as calls:
        run(negative_prompt="blur")
    assert len(calls) == 2
    assert torch.equal(calls[0]["encoder_hidden_states"], torch.cat([negative, embeds]))
    assert torch.equal(calls[0]["sample"][:1], calls[0]["sample"][1:])


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_guidance_off(pipe, run, scale):
    with Calls(pipe.unet) as calls, Calls(pipe.text_encoder) as encoded:
        run(guidance_scale=scale)
    assert [call["sample"].shape[0] for call in calls] == [1, 1]
    assert len(encoded) == 1  # no negative prompt is encoded


def test_guidance_scale_decides(run):
    assert max_difference(run(guidance_scale=2.0), run(guidance_scale=8.0)) > 1e-3


def test_timesteps(pipe, run):
    """Chosen timesteps are the ones run."""
    with Calls(pipe.unet) as calls:
        run(timesteps=[961, 500, 20], num_inference_steps=None)
    assert [int(call["timestep"]) for call in calls] == [961, 500, 20]


def test_properties(pipe, run):
    run(guidance_scale=4.0, num_inference_steps=3)
    assert pipe.guidance_scale == 4.0
    assert pipe.do_classifier_free_guidance
    assert pipe.num_timesteps == 3
    assert not pipe.interrupt


def test_final_sigmas_type_changes_the_last_step_only(pipe, run):
    """The released code's last DPM-Solver++ step is another than today's; the steps before are the same."""
    trajectories = []
    before, pipe.scheduler = pipe.scheduler, DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    try:
        for kind in ("zero", "sigma_min"):
            steps = []

            def keep(stage, step, timestep, tensors, steps=steps):
                steps.append(tensors["latents"].clone())
                return {}

            run(num_inference_steps=3, final_sigmas_type=kind, callback_on_step_end=keep)
            trajectories.append(steps)
    finally:
        pipe.scheduler = before
    differences = [max_difference(a, b) for a, b in zip(*trajectories, strict=True)]
    assert max(differences[:-1]) < 1e-6
    assert differences[-1] > 1e-4


@pytest.mark.parametrize("size", [(8, 12), (6, 10)], ids=["8x12", "6x10"])
def test_each_video_of_a_batch_is_the_one_made_alone(run, size):
    """Also where a frame's numbers are no multiple of 16, in which PyTorch's generator draws."""
    height, width = size
    prompts = ["a red car", "a blue sea"]
    both = run(prompt=prompts, generator=[seeded(0), seeded(1)], height=height, width=width)
    for i, prompt in enumerate(prompts):
        alone = run(prompt=prompt, generator=seeded(i), height=height, width=width)
        assert max_difference(both[i : i + 1], alone) < 1e-4


def test_callback_may_change_the_prompt(pipe, run):
    """Embeddings returned by the step callback drive the steps after it."""
    with torch.no_grad():
        other, _ = pipe.encode_prompt("a blue sea")

    def swap(stage, step, timestep, tensors):
        return {"prompt_embeds": other}

    with Calls(pipe.unet) as calls:
        run(callback_on_step_end=swap, guidance_scale=1.0)
    assert not torch.equal(calls[0]["encoder_hidden_states"], other)
    assert torch.equal(calls[1]["encoder_hidden_states"], other)
