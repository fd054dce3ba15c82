# SPDX-License-Identifier: Apache-2.0
"""Videos as batches of images, and as the latents of an image autoencoder, frame by frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor

from .noise import Generators, draw_frames


def fold(video: Tensor) -> Tensor:
    """(b, c, f, h, w) -> (b·f, c, h, w)"""
    return video.transpose(1, 2).flatten(0, 1)


def unfold(images: Tensor, batch: int) -> Tensor:
    """(b·f, c, h, w) -> (b, c, f, h, w)"""
    return images.unflatten(0, (batch, -1)).transpose(1, 2)


def scale_factor(vae: Any) -> int:
    """How many pixels of a side one latent stands for."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def encode_frames(
    vae: Any,
    video: Tensor,
    generator: Generators,
    batch_size: int | None,
    prepare: Callable[[Tensor], Tensor] = lambda part: part,
) -> Tensor:
    """A sample of a video's latents, scaled for the networks.

    Args:
        vae: an image autoencoder, as diffusers' `AutoencoderKL`.
        video: (b, 3, f, h, w) in model space.
        generator: of the posterior sample; one generator, or a list of one a video.
        batch_size: frames encoded at once (`None`: all).
        prepare: what is done to some frames (1, 3, f', h, w) before: resized on the way, a large video never exists
            as a whole.

    Returns:
        (b, c, f, h', w').
    """
    images, parameters = fold(video), []
    for part in images.split(batch_size or len(images)):
        # `vae.encode` runs through the offload hooks; moments of all frames are small: one draw serves any slicing
        parameters.append(vae.encode(fold(prepare(unfold(part, 1)))).latent_dist.parameters)
    posterior = DiagonalGaussianDistribution(torch.cat(parameters))
    mean = unfold(posterior.mean, len(video))
    latents = mean + unfold(posterior.std * draw_frames(mean, generator), len(video))
    return latents * vae.config.scaling_factor


def decode_frames(vae: Any, latents: Tensor, batch_size: int | None, stage: str) -> Tensor:
    """Latents -> pixels.

    Args:
        vae: an image autoencoder, as diffusers' `AutoencoderKL`.
        latents: (b, c, f, h, w), scaled for the networks.
        batch_size: frames decoded at once (`None`: all).
        stage: whose they are, for the message.

    Returns:
        (b, 3, f, h', w') in model space.

    Raises:
        FloatingPointError: the autoencoder made NaN or infinity.
    """
    images = fold(latents) / vae.config.scaling_factor
    height, width = (side * scale_factor(vae) for side in images.shape[-2:])
    decoded = images.new_empty(len(images), vae.config.out_channels, height, width)
    size = batch_size or len(images)
    for start in range(0, len(images), size):
        part = vae.decode(images[start : start + size]).sample
        if not torch.isfinite(part).all():
            raise FloatingPointError(f"stage {stage!r}: decoding made NaN or infinity, in {part.dtype}.")
        decoded[start : start + size] = part
    return unfold(decoded, len(latents))
