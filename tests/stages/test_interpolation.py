# SPDX-License-Identifier: Apache-2.0
"""Interpolation: its windows, their noise, and what the network is shown."""

import pytest
import torch

from diffusers_show1.families.show1.interpolation import match_batch

from ..contract.components import Calls, clip, pipeline, seeded
from ..golden.cases import max_difference


@pytest.fixture(scope="module")
def pipe():
    return pipeline("interpolation")


@pytest.fixture(scope="module")
def embeds(pipe):
    with torch.no_grad():
        embeds, negative = pipe.encode_prompt("a red car")
    return {"prompt_embeds": embeds, "negative_prompt_embeds": negative}


@pytest.fixture
def run(pipe, embeds):
    def run(frames, **options):
        options = {"num_inference_steps": 2, "guidance_scale": 3.0, "generator": seeded(), **options}
        return pipe(frames, input_type="latent", output_type="latent", **embeds, **options).frames

    return run


@pytest.mark.parametrize("keyframes", [2, 3, 4, 8])
@pytest.mark.parametrize("between", [1, 3])
def test_length(run, keyframes, between):
    """n keyframes become (between+1)(n-1)+1 frames of the same size."""
    video = run(clip(keyframes), frames_between=between, num_inference_steps=1, guidance_scale=1.0)
    assert video.shape == (1, 3, (between + 1) * (keyframes - 1) + 1, 8, 12)
    assert torch.isfinite(video).all()


@pytest.mark.parametrize("window_noise", ["independent", "same"])
@pytest.mark.parametrize("size", [(8, 12), (6, 10)], ids=["8x12", "6x10"])
def test_window_batch_size_changes_nothing(run, window_noise, size):
    """However many windows are denoised at once, the video is the same; 6x10x3 numbers are no multiple of 16."""
    frames = clip(5, *size)
    expected = run(frames, window_noise=window_noise)
    for window_batch_size in (1, 2, 3, 4, 99):
        video = run(frames, window_noise=window_noise, window_batch_size=window_batch_size)
        assert max_difference(video, expected) < 1e-4, window_batch_size


@pytest.mark.parametrize("window_noise", ["independent", "same"])
def test_window_batch_size_with_several_videos(run, embeds, pipe, window_noise):
    frames = clip(4, videos=2)
    options = {
        "num_videos_per_prompt": 2,
        "window_noise": window_noise,
        "generator": [seeded(1), seeded(2)],
    }
    expected = run(frames, **options)
    for window_batch_size in (1, 2, 4):
        options["generator"] = [seeded(1), seeded(2)]
        assert max_difference(run(frames, window_batch_size=window_batch_size, **options), expected) < 1e-4


def test_window_noise(run):
    """Between equal keyframes, windows of the same noise are copies of each other, independent ones are not."""
    still = clip(1).repeat(1, 1, 3, 1, 1)
    same = run(still, window_noise="same")
    assert max_difference(same[:, :, 0:4], same[:, :, 4:8]) < 1e-5
    independent = run(still, window_noise="independent")
    assert max_difference(independent[:, :, 0:4], independent[:, :, 4:8]) > 1e-2


def test_condition_and_mask(pipe, run):
    """Channels 3-5: the keyframes and their blend. Channel 6: 1 on the keyframes only. Unguided and guided alike."""
    frames = clip(3)
    with Calls(pipe.unet) as calls:
        run(frames)
    sample = calls[0]["sample"]
    assert sample.shape == (4, 7, 5, 8, 12)  # two windows, twice for guidance
    for window in range(2):
        first, last = frames[0, :, window], frames[0, :, window + 1]
        for row in (window, window + 2):
            assert torch.allclose(sample[row, 3:6, 0], first)
            assert torch.allclose(sample[row, 3:6, 4], last)
            assert torch.allclose(sample[row, 3:6, 1], 0.75 * first + 0.25 * last, atol=1e-6)
            assert sample[row, 6].flatten(1).unique(dim=1).flatten().tolist() == [1, 0, 0, 0, 1]
    assert torch.equal(sample[:2], sample[2:])


def test_guidance_off_runs_one_branch(pipe, run):
    with Calls(pipe.unet) as calls:
        run(clip(3), guidance_scale=1.0, window_batch_size=1)
    assert [call["sample"].shape[0] for call in calls] == [1] * 4


def test_shared_frame_is_the_later_windows():
    windows = torch.arange(2 * 5.0).view(2, 1, 5, 1, 1)
    assert pipeline_join(windows) == [0, 1, 2, 3, 5, 6, 7, 8, 9]


def pipeline_join(windows):
    from diffusers_show1 import Show1InterpolationPipeline

    return Show1InterpolationPipeline.join(windows, 1).flatten().tolist()


def test_latents_for_every_window(pipe, run):
    """Noise given once serves every window; given per window, each its own."""
    frames, noise = clip(3), torch.randn(2, 3, 5, 8, 12, generator=seeded(4))
    for latents, expected in ((noise[:1], noise[:1].repeat(2, 1, 1, 1, 1)), (noise, noise)):
        with Calls(pipe.unet) as calls:
            run(frames, latents=latents, guidance_scale=1.0)
        assert torch.equal(calls[0]["sample"][:, :3], expected)


def test_match_batch():
    """One video for all, one a prompt, or one a video, in the order of the prompts' rows."""
    videos = torch.arange(2.0).view(2, 1, 1, 1, 1)
    assert match_batch(videos[1:], 4, 2).flatten().tolist() == [1, 1, 1, 1]
    assert match_batch(videos, 4, 2).flatten().tolist() == [0, 0, 1, 1]
    assert match_batch(videos, 2, 2).flatten().tolist() == [0, 1]


@pytest.mark.parametrize("form", ["np", "pil", "pt", "latent"])
def test_forms_of_frames(pipe, embeds, form):
    """The same keyframes in any form give the same video."""
    from diffusers_show1.clips.arrays import from_model_space, to_model_space

    raw = to_model_space(from_model_space(clip(2), "pil"))
    video = pipe(
        from_model_space(raw, form),
        input_type={"pt": "pt", "latent": "latent"}.get(form),
        num_inference_steps=2,
        generator=seeded(),
        output_type="latent",
        **embeds,
    ).frames
    reference = pipe(
        raw, input_type="latent", num_inference_steps=2, generator=seeded(), output_type="latent", **embeds
    ).frames
    assert max_difference(video, reference) < 1e-4
