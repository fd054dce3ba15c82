# SPDX-License-Identifier: Apache-2.0
"""Refinement: how far it noises, what it resizes, and slices that change nothing."""

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

from diffusers_show1.clips.arrays import resize_uint8, to_model_space, truncate_to_uint8

from ..contract.components import Calls, clip, pipeline, seeded
from ..golden.cases import max_difference


@pytest.fixture(scope="module")
def pipe():
    return pipeline("refine")


@pytest.fixture
def run(pipe):
    def run(frames, **options):
        options = {"num_inference_steps": 4, "guidance_scale": 3.0, "generator": seeded(), **options}
        return pipe(frames, "a red car", input_type="latent", **{"output_type": "pt", **options}).frames

    return run


@pytest.mark.parametrize(("strength", "steps"), [(1.0, 5), (0.8, 4), (0.59, 2), (0.2, 1)])
def test_strength(pipe, run, strength, steps):
    """`strength` of the steps are run, the last ones."""
    pipe.scheduler.set_timesteps(5)
    expected = pipe.scheduler.timesteps[-steps:].tolist()
    with Calls(pipe.unet) as calls:
        run(clip(2, 16, 24), strength=strength, num_inference_steps=5)
    assert [int(call["timestep"]) for call in calls] == expected


def test_strength_decides_the_start(pipe, run):
    """The first sample is the encoded video, noised to the first timestep's level."""
    video = clip(2, 16, 24)
    with Calls(pipe.unet) as calls:
        run(video, strength=0.25, guidance_scale=1.0)
    with torch.no_grad():
        latents = pipe.encode_video(video, seeded())
    kept = pipe.scheduler.alphas_cumprod[int(calls[0]["timestep"])] ** 0.5
    noise = (calls[0]["sample"] - kept * latents) / (1 - kept**2) ** 0.5
    assert noise.std() == pytest.approx(1, abs=0.1)


def test_timesteps(pipe, run):
    """Of chosen timesteps the last part is run."""
    before, pipe.scheduler = pipe.scheduler, DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    try:
        with Calls(pipe.unet) as calls:
            run(clip(2, 16, 24), timesteps=[900, 700, 400, 100], num_inference_steps=None, strength=0.75)
    finally:
        pipe.scheduler = before
    assert [int(call["timestep"]) for call in calls] == [700, 400, 100]


@pytest.mark.parametrize("vae_batch_size", [1, 2, 3, 99])
def test_vae_batch_size_changes_nothing(run, vae_batch_size):
    video = clip(5, 16, 24)
    expected = run(video, vae_batch_size=None)
    assert max_difference(run(video, vae_batch_size=vae_batch_size), expected) < 1e-5


def test_vae_batch_size_slices(pipe, run):
    """It is what the VAE is given at once."""
    sizes = []
    hooks = [
        part.register_forward_pre_hook(lambda module, args: sizes.append(args[0].shape[0]))
        for part in (pipe.vae.encoder, pipe.vae.decoder)
    ]
    run(clip(5, 16, 24), vae_batch_size=2)
    for hook in hooks:
        hook.remove()
    assert sizes == [2, 2, 1, 2, 2, 1]


@pytest.mark.parametrize("resize", ["bilinear", "uint8_bicubic"])
def test_resize(run, resize):
    assert run(clip(2, 8, 12), height=20, width=28, resize=resize).shape == (1, 2, 3, 20, 28)


def test_resize_kinds(pipe):
    """`bilinear` keeps the numbers as they are; `uint8_bicubic` cuts them to 8 bits, as the released code does."""
    video = clip(2, 8, 12)
    assert pipe.resize_video(video, 8, 12, "bilinear") is video
    larger = pipe.resize_video(video, 16, 24, "bilinear")
    assert larger.shape == (1, 3, 2, 16, 24)
    assert larger.abs().max() <= video.abs().max()
    rounded = pipe.resize_video(video, 16, 24, "uint8_bicubic")
    assert torch.equal(rounded, to_model_space(resize_uint8(truncate_to_uint8(video), 16, 24)))
    assert max_difference(rounded, larger) > 1e-2
    flat = torch.full((1, 3, 1, 8, 8), 0.3)
    assert torch.allclose(pipe.resize_video(flat, 20, 12, "bilinear"), torch.tensor(0.3), atol=1e-6)


def test_latent_output(pipe, run):
    """`"latent"` is what the VAE would decode."""
    latents = run(clip(2, 16, 24), output_type="latent")
    assert latents.shape == (1, 4, 2, 8, 12)
    with torch.no_grad():
        decoded = pipe.decode_latents(latents)
    frames = run(clip(2, 16, 24))
    assert max_difference((decoded / 2 + 0.5).clamp(0, 1).transpose(1, 2), frames) < 1e-5


@pytest.mark.parametrize("size", [(16, 24), (10, 14)], ids=["16x24", "10x14"])
def test_each_video_of_a_batch_is_the_one_made_alone(run, size):
    """Also where a latent frame's numbers are no multiple of 16, in which PyTorch's generator draws (5x7x4)."""
    frames = clip(3, *size, videos=2)
    both = run(frames, num_videos_per_prompt=2, generator=[seeded(0), seeded(1)])
    for i in range(2):
        assert max_difference(both[i : i + 1], run(frames[i : i + 1], generator=seeded(i))) < 1e-4
