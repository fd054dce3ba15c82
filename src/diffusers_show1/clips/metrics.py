# SPDX-License-Identifier: Apache-2.0
"""Pixel metrics on frames in [0, 1]; videos are (..., f, c, h, w)."""

import torch


def mse(frames: torch.Tensor, truth: torch.Tensor) -> float:
    """Mean squared error over everything.

    Args:
        frames: videos (..., f, c, h, w), clipped to [0, 1] first.
        truth: likewise, in [0, 1].

    Returns:
        A number of at least 0.
    """
    return (frames.clamp(0, 1) - truth).square().mean().item()


def psnr(frames: torch.Tensor, truth: torch.Tensor) -> float:
    """Peak signal-to-noise ratio of the mean squared error over all clips together (not a mean of ratios).

    Args:
        frames: videos (..., f, c, h, w), clipped to [0, 1] first.
        truth: likewise, in [0, 1].

    Returns:
        Decibels; infinity for equal videos.
    """
    return -10 * torch.tensor(mse(frames, truth)).log10().item()


def flicker(videos: torch.Tensor) -> float:
    """Mean distance of a frame from the mean of its two neighbours, on clips of at least three frames.

    Steady motion leaves little of it; what changes there and back from frame to frame counts in full. Compare it with
    that of true clips: edges that move are worth something too.

    Args:
        videos: (..., f, c, h, w) in [0, 1].

    Returns:
        The mean absolute distance, in 0..1.
    """
    before, here, after = videos[..., :-2, :, :, :], videos[..., 1:-1, :, :, :], videos[..., 2:, :, :, :]
    return (here - (before + after) / 2).abs().mean().item()
