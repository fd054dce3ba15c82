# SPDX-License-Identifier: Apache-2.0
"""Keyframes that begin with given ones. That they go on well is tested on the tiny cascade, in `test_examples.py`."""

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler

from diffusers_show1 import KnownFrames

from ..contract.components import Calls, clip, pipeline, seeded


SIZE = {"height": 8, "width": 12, "num_frames": 4, "num_inference_steps": 3, "output_type": "latent"}


@pytest.fixture
def stage():
    return pipeline("base")


def test_the_first_frames_are_the_given_ones(stage):
    known = clip(2)
    free = stage(["a cat", "a dog"], generator=seeded(), **SIZE).frames
    callback = KnownFrames(known, generator=seeded(1))
    held = stage(["a cat", "a dog"], generator=seeded(), callback_on_step_end=callback, **SIZE).frames
    assert torch.equal(held[:, :, :2], known.expand(2, -1, -1, -1, -1))
    assert held.shape == free.shape
    assert not torch.allclose(held[:, :, 2:], free[:, :, 2:], atol=1e-3)


def test_pictures_of_another_size_are_resized(stage):
    picture = torch.full((1, 1, 3, 32, 48), 0.25)
    callback = KnownFrames(picture, weight=0.0)
    with Calls(stage.unet) as calls:
        made = stage("a cat", generator=seeded(), guidance_scale=1.0, callback_on_step_end=callback, **SIZE).frames
    assert torch.allclose(made[:, :, 0], torch.tensor(-0.5), atol=1e-6)
    assert len(calls) == 3  # without weight, no call beyond the stage's


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_guidance_lowers_the_error_of_the_known_frames(stage, kind):
    stage.scheduler = DDIMScheduler(prediction_type=kind)
    callback = KnownFrames(clip(1), generator=seeded(1))
    embeds, _ = stage.encode_prompt("a cat")
    latents = torch.randn(1, 3, 4, 8, 12, generator=seeded(2))
    callback.begin(stage, latents)
    time, signal, noise = torch.tensor(500), 0.8, 0.6

    def error(latents):
        prediction = stage.unet(latents, time, encoder_hidden_states=embeds).sample[:, :3]
        clean = {
            "epsilon": (latents - 0.6 * prediction) / 0.8,
            "v_prediction": 0.8 * latents - 0.6 * prediction,
            "sample": prediction,
        }[kind]
        return (clean[:, :, :1] - callback.known).square().sum().item()

    gradient = callback.gradient(stage, latents, time, embeds, signal, noise)
    step = 1e-2 / gradient.norm()
    with torch.no_grad():
        expected = -1e-2 * gradient.norm().item()
        assert error(latents - step * gradient) - error(latents) == pytest.approx(expected, rel=0.2)


def test_other_stages_are_left_alone():
    stage = pipeline("interpolation")
    call = {"frames": clip(2), "prompt": "a cat", "num_inference_steps": 2, "output_type": "latent"}
    free = stage(**call, input_type="latent", generator=seeded()).frames
    held = stage(**call, input_type="latent", generator=seeded(), callback_on_step_end=KnownFrames(clip(1))).frames
    assert torch.equal(free, held)


def test_what_does_not_fit_is_told(stage):
    with pytest.raises(ValueError, match="`frames` must hold 1 or 1 videos of at most 3 keyframes, got 1 of 4"):
        stage("a cat", callback_on_step_end=KnownFrames(clip(4)), **SIZE)
    with pytest.raises(ValueError, match="`weight` must be a finite number of at least 0, got -1"):
        KnownFrames(clip(1), weight=-1)
    stage.scheduler = EulerDiscreteScheduler()
    with pytest.raises(ValueError, match="preserves variance.*EulerDiscreteScheduler"):
        stage("a cat", callback_on_step_end=KnownFrames(clip(1)), **SIZE)
