# SPDX-License-Identifier: Apache-2.0
"""Videos as batches of images, and back."""

from __future__ import annotations

from torch import Tensor


def fold(video: Tensor) -> Tensor:
    """(b, c, f, h, w) -> (b·f, c, h, w)"""
    return video.transpose(1, 2).flatten(0, 1)


def unfold(images: Tensor, batch: int) -> Tensor:
    """(b·f, c, h, w) -> (b, c, f, h, w)"""
    return images.unflatten(0, (batch, -1)).transpose(1, 2)
