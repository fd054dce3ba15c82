# SPDX-License-Identifier: Apache-2.0
"""A video network made from an image network: its weights in the spatial layers, temporal layers silent."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Inflation:
    """Where the parameters of a video network come from.

    Args:
        copied: parameters that are the image network's.
        extended: parameters that are the image network's with zeros behind them.
        fresh: parameters that the image network does not have: the temporal layers', as they were made.
    """

    copied: tuple[str, ...]
    extended: tuple[str, ...]
    fresh: tuple[str, ...]


@torch.no_grad()
def inflate(
    image: nn.Module,
    video: nn.Module,
    is_temporal: Callable[[str], bool],
    rename: Callable[[str], str] = str,
    growing: Collection[str] = ("conv_in.weight",),
) -> Inflation:
    """Copies the parameters of an image network into a video network.

    Temporal layers are left as they were made: silent, if their last layer starts at zero. Then the video network
    predicts at first what the image network does, frame by frame.

    Args:
        image: is read only.
        video: is changed, and moved to the image network's device; its number format stays.
        is_temporal: whether a parameter of the video network belongs to a temporal layer, told by its name.
        rename: a parameter's name in the image network -> in the video network; by default the same.
        growing: names (of the video network) that may have more input channels than the image network: the new ones
            have weight zero.

    Returns:
        What was copied, extended, and is fresh.

    Raises:
        ValueError: a parameter without a counterpart in the other network, or of another shape.
    """
    source = {rename(name): weight for name, weight in image.state_dict().items()}
    target = video.state_dict()
    extended = []
    for name, weight in source.items():
        if name not in target:
            raise ValueError(f"`unet` has a parameter that the video UNet lacks: {name}.")
        wanted = target[name].shape
        more = wanted[1] - weight.shape[1] if name in growing and weight.ndim > 1 else 0
        if more > 0:
            source[name] = torch.cat([weight, weight.new_zeros(weight.shape[0], more, *weight.shape[2:])], dim=1)
            extended.append(name)
        if source[name].shape != wanted:
            raise ValueError(
                f"`{name}` is {tuple(weight.shape)} in `unet` and {tuple(wanted)} in the video UNet: only "
                f"`in_channels` may grow."
            )
    fresh = [name for name in target if name not in source]
    if spatial := [name for name in fresh if not is_temporal(name)]:
        raise ValueError(f"`unet` lacks parameters of the spatial layers: {spatial[:5]}.")
    video.load_state_dict(source, strict=False)
    video.to(next(image.parameters()).device)
    return Inflation(tuple(name for name in source if name not in extended), tuple(extended), tuple(fresh))
