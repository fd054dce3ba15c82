# SPDX-License-Identifier: Apache-2.0
"""Schedules: every one begins with its first step, and one that begins at an absurd noise is told."""

from contextlib import suppress

import diffusers
import pytest
import torch
from diffusers.utils import logging

from diffusers_show1.sampling import schedule
from diffusers_show1.sampling.loop import FiniteSteps

from ..contract.components import clip, pipeline, seeded


CALLS = {
    "base": {"height": 8, "width": 12, "num_frames": 2},
    "interpolation": {"frames": clip(2), "input_type": "latent"},
    "superres": {"frames": clip(2), "input_type": "latent"},
    "refine": {"frames": clip(2, 16, 24), "input_type": "latent", "strength": 0.9},
}
# Their first noise levels round to one timestep.
ROUNDED = [
    (name, option)
    for name in ("DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "DEISMultistepScheduler")
    for option in ("use_karras_sigmas", "use_exponential_sigmas")
] + [("UniPCMultistepScheduler", "use_karras_sigmas")]


def run(name, scheduler, **options):
    pipe = pipeline(name, scheduler=scheduler)
    return pipe(**CALLS[name], prompt="a red car", generator=seeded(), output_type="latent", **options).frames


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(("scheduler", "option"), ROUNDED)
def test_levels_that_round_to_one_timestep(name, scheduler, option):
    """All steps are made: before, the pixel stages ended in an IndexError behind the last of them."""
    made = getattr(diffusers, scheduler).from_config(pipeline(name).scheduler.config, **{option: True})
    seen = []
    frames = run(
        name,
        made,
        num_inference_steps=10,
        callback_on_step_end=lambda pipe, step, timestep, tensors: seen.append(step) or {},
    )
    assert torch.isfinite(frames).all()
    assert seen == list(range(9 if name == "refine" else 10))


@pytest.mark.parametrize("name", ["EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler"])
def test_an_absurd_start_is_told(name, caplog):
    """On the squared cosine schedule, which the published pixel stages have."""
    logging.enable_propagation()
    schedule._warn_of_start.cache_clear()
    base = pipeline("base").scheduler.config
    pixels = {"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "linspace", "trained_betas": None}
    made = getattr(diffusers, name).from_config(base, **pixels)
    made.set_timesteps(4)
    assert round(float(made.init_noise_sigma)) == 20291
    with suppress(FloatingPointError):  # or a clip without a meaning
        run("base", made, num_inference_steps=4)
    assert f"{name} starts at a noise of 20291" in caplog.text
    caplog.clear()
    run("base", type(made).from_config(base, beta_schedule="linear"), num_inference_steps=4)
    assert "starts at a noise" not in caplog.text


def test_nan_behind_an_absurd_start_blames_the_scheduler():
    made = diffusers.EulerAncestralDiscreteScheduler(beta_schedule="squaredcos_cap_v2")
    made.set_timesteps(2)
    finite = FiniteSteps("base", made.timesteps, made)
    with pytest.raises(FloatingPointError, match="EulerAncestralDiscreteScheduler, which starts at a noise of 20291"):
        finite.note(torch.tensor(float("nan")), torch.zeros(1))
