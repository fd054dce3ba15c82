# SPDX-License-Identifier: Apache-2.0
"""Captioned clips for training.

A training sample is `{"frames": (f, 3, h, w) float in [-1, 1], "caption": str}`; a batch stacks the frames and lists
the captions. `WorldClips` draws them from the synthetic world: batch number `step` is a pure function of (seed, step),
so a resumed run sees the data that an uninterrupted one would have seen.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypedDict

import numpy as np
import torch
import torch.nn.functional as F

from ..tiny import world


class Clip(TypedDict):
    """One sample: frames (f, 3, h, w) in [-1, 1]."""

    frames: torch.Tensor
    caption: str


class ClipBatch(TypedDict):
    """A batch: frames (b, 3, f, h, w) in [-1, 1], the layout of the networks."""

    frames: torch.Tensor
    captions: list[str]


def collate(clips: Sequence[Clip]) -> ClipBatch:
    """Stack samples of equal size into the layout of the networks."""
    return ClipBatch(
        frames=torch.stack([clip["frames"].transpose(0, 1) for clip in clips]),
        captions=[clip["caption"] for clip in clips],
    )


def step_rng(seed: int, step: int) -> tuple[np.random.Generator, torch.Generator]:
    """The two random streams of one training step."""
    return np.random.default_rng((seed, step)), torch.Generator().manual_seed(seed * 1_000_003 + step)


def drop_captions(captions: list[str], probability: float, rng: np.random.Generator) -> list[str]:
    """Empty some captions, for classifier-free guidance."""
    return ["" if rng.random() < probability else caption for caption in captions]


FORWARD = {"moving left": "moving right", "moving up": "moving down", "shrinking": "growing"}


class WorldClips:
    """Random clips of training combinations of the synthetic world.

    Args:
        scale: pixels per unit (1, 4 or 8: the native sizes of the keyframe, super-resolution and refinement stages).
    """

    def __init__(self, scale: int = 1):
        self.scale = scale
        self.forward_bias = 0.0

    def scenes(self, count: int, rng: np.random.Generator) -> list[world.Scene]:
        """Random scenes whose combination is not held out; a share `forward_bias` of backward motions is turned."""
        scenes: list[world.Scene] = []
        while len(scenes) < count:
            attributes = world.sample_attributes(rng)
            if attributes.motion in FORWARD and rng.random() < self.forward_bias:
                attributes = replace(attributes, motion=FORWARD[attributes.motion])
                if world.is_held_out(attributes):
                    continue
            scenes.append(world.sample_scene(attributes, rng))
        return scenes

    def batch(self, times: torch.Tensor, rng: np.random.Generator) -> ClipBatch:
        """Clips at the given times (b, f)."""
        scenes = self.scenes(len(times), rng)
        frames = world.render(scenes, times, self.scale) * 2 - 1
        return ClipBatch(
            frames=frames.transpose(1, 2).contiguous(),
            captions=[world.vary_caption(scene.attributes, rng) for scene in scenes],
        )

    def sample(self, times: Sequence[float], rng: np.random.Generator) -> Clip:
        """One clip."""
        batch = self.batch(torch.tensor([list(times)], dtype=torch.float32), rng)
        return Clip(frames=batch["frames"][0].transpose(0, 1), caption=batch["captions"][0])

    def keyframes(self, count: int, rng: np.random.Generator) -> ClipBatch:
        """The eight keyframes of each clip."""
        return self.batch(torch.tensor(world.KEYFRAME_TIMES, dtype=torch.float32).expand(count, -1), rng)

    def windows(self, count: int, frames: int, rng: np.random.Generator) -> ClipBatch:
        """Runs of `frames` neighbouring frames, starting anywhere."""
        start = torch.from_numpy(rng.integers(0, world.NUM_FRAMES - frames + 1, (count, 1)))
        return self.batch((start + torch.arange(frames)).float(), rng)

    def stills(self, count: int, rng: np.random.Generator) -> ClipBatch:
        """Single frames: clips of length one, at random times."""
        return self.batch(torch.from_numpy(rng.uniform(0, world.NUM_FRAMES - 1, (count, 1))).float(), rng)


def area_downsample(frames: torch.Tensor, factor: int) -> torch.Tensor:
    """(b, c, f, h, w) -> (b, c, f, h / factor, w / factor), by averaging."""
    return F.avg_pool3d(frames, (1, factor, factor))
