# SPDX-License-Identifier: Apache-2.0
"""Pixel metrics on frames in [0, 1]; videos are (..., f, c, h, w)."""

import torch


def mse(frames: torch.Tensor, truth: torch.Tensor) -> float:
    """Mean squared error over everything; `frames` is clipped to [0, 1] first."""
    return (frames.clamp(0, 1) - truth).square().mean().item()


def psnr(frames: torch.Tensor, truth: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB of the mean squared error over all clips together (not a mean of ratios)."""
    return -10 * torch.tensor(mse(frames, truth)).log10().item()


def flicker(videos: torch.Tensor) -> float:
    """Mean distance of a frame from the mean of its two neighbours, on clips of at least three frames.

    Steady motion leaves little of it; what changes there and back from frame to frame counts in full. Compare it with
    that of true clips: edges that move are worth something too.
    """
    before, here, after = videos[..., :-2, :, :, :], videos[..., 1:-1, :, :, :], videos[..., 2:, :, :, :]
    return (here - (before + after) / 2).abs().mean().item()
