# SPDX-License-Identifier: Apache-2.0
"""Pixel metrics on frames in [0, 1]."""

import torch


def mse(frames: torch.Tensor, truth: torch.Tensor) -> float:
    """Mean squared error over everything; `frames` is clipped to [0, 1] first."""
    return (frames.clamp(0, 1) - truth).square().mean().item()


def psnr(frames: torch.Tensor, truth: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB of the mean squared error over all clips together (not a mean of ratios)."""
    return -10 * torch.tensor(mse(frames, truth)).log10().item()
