# SPDX-License-Identifier: Apache-2.0
"""Training samples of the synthetic world."""

import numpy as np
import torch

from diffusers_show1.tiny import world
from diffusers_show1.training.data import WorldClips, area_downsample, collate, drop_captions, step_rng


def test_batches_are_a_function_of_seed_and_step():
    data = WorldClips()
    first, again, other = (data.keyframes(3, step_rng(7, step)[0]) for step in (5, 5, 6))
    assert torch.equal(first["frames"], again["frames"])
    assert first["captions"] == again["captions"]
    assert not torch.equal(first["frames"], other["frames"])


def test_layout_and_range():
    batch = WorldClips(scale=4).windows(2, 8, np.random.default_rng(0))
    assert batch["frames"].shape == (2, 3, 8, 64, 96)
    assert -1 <= batch["frames"].min() < -0.5
    assert 0.5 < batch["frames"].max() <= 1
    assert WorldClips().stills(5, np.random.default_rng(0))["frames"].shape == (5, 3, 1, 16, 24)
    assert area_downsample(batch["frames"], 4).shape == (2, 3, 8, 16, 24)


def test_samples_collate_into_a_batch():
    data = WorldClips()
    clips = [data.sample(world.KEYFRAME_TIMES, np.random.default_rng(seed)) for seed in (1, 2)]
    assert clips[0]["frames"].shape == (8, 3, 16, 24)
    batch = collate(clips)
    assert batch["frames"].shape == (2, 3, 8, 16, 24)
    assert batch["captions"] == [clip["caption"] for clip in clips]


def test_held_out_combinations_are_not_in_training_data():
    captions = WorldClips().keyframes(200, np.random.default_rng(0))["captions"]
    parsed = [world.parse_caption(caption) for caption in captions]
    assert not any(world.is_held_out(attributes) for attributes in parsed if attributes.background)


def test_caption_dropping():
    dropped = drop_captions(["x"] * 1000, 0.1, np.random.default_rng(0))
    assert 60 < dropped.count("") < 140
