# SPDX-License-Identifier: Apache-2.0
"""The scorer reads true clips, is at chance on other captions, and does not see motion where there is none."""

import numpy as np
import pytest
import torch

from diffusers_show1.clips.metrics import flicker, mse, psnr
from diffusers_show1.evaluation import read_clip, score_clips, score_readings, to_scoring_size
from diffusers_show1.tiny import world


@pytest.fixture(scope="module")
def clips():
    attributes = world.held_out_attributes(24, seed=5)
    rng = np.random.default_rng(5)
    scenes = [world.sample_scene(a, rng) for a in attributes]
    return world.render(scenes, world.KEYFRAME_TIMES), [a.caption() for a in attributes], scenes


@pytest.fixture(scope="module")
def readings(clips):
    return [read_clip(clip) for clip in clips[0]]


def test_true_clips(clips, readings):
    score = score_readings(readings, clips[1])
    assert score.count == 24
    assert score.all >= 0.97


def test_other_captions_are_near_chance(clips, readings):
    captions = clips[1][1:] + clips[1][:1]
    score = score_readings(readings, captions)
    assert score.all <= 0.05
    assert max(score.colour, score.motion) < 0.45
    assert max(score.shape, score.background) < 0.6


def test_still_clips_have_no_motion(clips):
    still = clips[0][:4, 3:4].expand(-1, 8, -1, -1, -1)
    assert score_clips(still, clips[1][:4]).motion == 0


def test_empty_clip_is_wrong():
    captions = ["a red circle moving right on a white background"]
    assert score_clips(torch.full((1, 8, 3, 16, 24), 0.91), captions).all == 0


def test_open_background_is_always_right(readings, clips):
    captions = [caption.split(" on a ")[0] for caption in clips[1]]
    assert score_readings(readings, captions).background == 1


def test_full_size_videos_are_scored_at_keyframes(clips):
    video = world.render(clips[2][:3], range(world.NUM_FRAMES), scale=4)
    assert torch.allclose(to_scoring_size(video), clips[0][:3], atol=1e-4)
    assert score_clips(video, clips[1][:3]).all == 1


def test_mild_noise_is_tolerated(clips):
    noisy = clips[0][:8] + 0.02 * torch.randn(clips[0][:8].shape, generator=torch.Generator().manual_seed(0))
    assert score_clips(noisy.clamp(0, 1), clips[1][:8]).all >= 0.9


def test_psnr_is_of_the_pooled_error():
    truth = torch.zeros(2, 4)
    frames = torch.stack([torch.zeros(4), torch.full((4,), 0.2)])
    assert mse(frames, truth) == pytest.approx(0.02)
    assert psnr(frames, truth) == pytest.approx(16.9897, abs=1e-3)
    assert mse(torch.tensor([1.5]), torch.tensor([1.0])) == 0


def test_flicker_counts_what_comes_and_goes():
    ramp = torch.linspace(0, 1, 9).view(9, 1, 1, 1).expand(-1, 3, 4, 4)
    assert flicker(ramp) == pytest.approx(0, abs=1e-6)
    blinking = torch.tensor([0.0, 0.2] * 4).view(8, 1, 1, 1).expand(-1, 3, 4, 4)
    assert flicker(blinking) == pytest.approx(0.2)
    assert flicker(torch.stack([ramp[:8], blinking])) == pytest.approx(0.1)
