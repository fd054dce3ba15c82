# SPDX-License-Identifier: Apache-2.0
"""Colours that a refined video keeps from the video that it was made of."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .latents import fold, unfold


def keep_colours(refined: Tensor, source: Tensor, sigma: float) -> Tensor:
    """`refined` with the low frequencies of `source`: refined - blur(refined) + blur(source), frame by frame.

    Refinement by SDEdit is to add detail; a latent autoencoder and the network behind it shift colours on the way.
    What is wider than the blur comes back from the source, finer detail stays as it was refined. StableSR's colour
    correction (arXiv 2305.07015) does likewise, by channel statistics or wavelets; this is its plainest form.

    Args:
        refined: (b, 3, f, h, w) in [-1, 1].
        source: likewise; a video of another size is resized to `refined`'s by the caller.
        sigma: standard deviation of the Gaussian blur in pixels, above 0. The smaller, the more of the source is kept.

    Returns:
        A video like `refined`, in its dtype; it may leave [-1, 1] a little at edges.

    Raises:
        ValueError: another size of `source`, or a `sigma` that is not a finite number above 0.
    """
    if source.shape != refined.shape:
        raise ValueError(f"`source` must be of `refined`'s shape {tuple(refined.shape)}, got {tuple(source.shape)}.")
    if not 0 < sigma < math.inf:
        raise ValueError(f"`sigma` must be a finite number of pixels above 0, got {sigma!r}.")
    change = blur(
        fold(source.to(refined.device).float() - refined.float()), sigma
    )  # blurring is linear: once is enough
    return (refined.float() + unfold(change, len(refined))).to(refined.dtype)


def blur(images: Tensor, sigma: float) -> Tensor:
    """Images (n, c, h, w) under a Gaussian of `sigma` pixels, cut at three sigma; borders are reflected."""
    for dim in (2, 3):
        reach = min(math.ceil(3 * sigma), images.shape[dim] - 1)  # a reflection shows each pixel once
        weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=images.device) / sigma).square())
        kernel = (
            (weights / weights.sum()).view(1, 1, -1, 1) if dim == 2 else (weights / weights.sum()).view(1, 1, 1, -1)
        )
        padding = (0, 0, reach, reach) if dim == 2 else (reach, reach, 0, 0)
        padded = F.pad(images, padding, mode="reflect")
        images = F.conv2d(padded.flatten(0, 1)[:, None], kernel)[:, 0].unflatten(0, images.shape[:2])
    return images
