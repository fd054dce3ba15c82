# SPDX-License-Identifier: Apache-2.0
"""Random numbers: generators for stages, videos and windows, and the draws from them."""

from __future__ import annotations

import math

import torch
from torch import Tensor


Generators = torch.Generator | list[torch.Generator] | list[torch.Generator | None] | None


def replay(generator: torch.Generator | None) -> torch.Generator | None:
    """A generator that will draw the numbers that `generator` is about to draw."""
    if generator is None:
        return None
    copy = torch.Generator(device=generator.device)
    copy.set_state(generator.get_state())
    return copy


def spawn(generator: torch.Generator | None, count: int) -> list[torch.Generator | None]:
    """`count` independent generators, seeded by numbers drawn from `generator`."""
    if generator is None:
        return [None] * count
    seeds = torch.randint(2**63 - 1, (count,), generator=generator, device=generator.device).tolist()
    return [torch.Generator(device=generator.device).manual_seed(seed) for seed in seeds]


def per_video(generator: Generators, batch: int) -> list[torch.Generator | None]:
    """One generator a video: the caller's list, or spawned from the caller's one."""
    if isinstance(generator, list):
        return list(generator)
    return [generator] if batch == 1 else spawn(generator, batch)


def per_frame(generator: Generators, num_frames: int) -> Generators:
    """The generators of folded videos: each video's frames are drawn one by one from that video's generator."""
    if not isinstance(generator, list):
        return generator
    expanded = [g for g in generator for _ in range(num_frames)]
    return None if expanded[0] is None else expanded


def draws_split_evenly(generator: list, image_shape: tuple[int, ...]) -> bool:
    """Whether drawing images one by one gives the numbers of drawing them all at once.

    PyTorch's CPU generator makes normal numbers in blocks of 16; other devices advance per call.
    """
    on_cpu = generator[0] is None or generator[0].device.type == "cpu"
    return on_cpu and math.prod(image_shape) % 16 == 0


def draw_frames(video: Tensor, generator: Generators) -> Tensor:
    """Normal numbers for the folded frames (b·f, c, h, w) of `video` (b, c, f, h, w).

    One generator draws for all frames together; of a list, each draws for its own video's frames together.
    """
    batch, channels, num_frames, height, width = video.shape
    if not isinstance(generator, list):
        return draw((batch * num_frames, channels, height, width), generator, like=video)
    return torch.cat([draw((num_frames, channels, height, width), g, like=video) for g in generator])


def draw(shape: tuple[int, ...], generator: Generators, like: Tensor) -> Tensor:
    """Standard normal numbers on `like`'s device and in its dtype; a list has one generator a row."""
    from diffusers.utils.torch_utils import randn_tensor

    if isinstance(generator, list) and generator[0] is None:
        generator = None
    return randn_tensor(shape, generator=generator, device=like.device, dtype=like.dtype)
