# SPDX-License-Identifier: Apache-2.0
"""FreeU (arXiv:2309.11497) on a UNet: the backbone's features amplified, low frequencies of the skips attenuated."""

from __future__ import annotations

from diffusers.utils.torch_utils import apply_freeu
from torch import Tensor


class FreeUBlock:
    """Of an up block: what it has to do with FreeU. Off as it is made."""

    freeu: tuple[int, dict[str, float]] | None = None

    def weigh(self, x_NCHW: Tensor, skip_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Backbone features and a skip, before a layer joins them (Eq. 4 and 5, with a constant factor b)."""
        if self.freeu is None:
            return x_NCHW, skip_NCHW
        # diffusers scales in place: a copy, since caches and callers may keep what they were given
        return apply_freeu(self.freeu[0], x_NCHW.clone(), skip_NCHW, **self.freeu[1])


class FreeUMixin:
    """Doors of a network with `up_blocks` that are `FreeUBlock`s, as diffusers' UNets have them."""

    def enable_freeu(self, s1: float, s2: float, b1: float, b2: float) -> None:
        """Less noise and more detail without training, where the four factors suit the network.

        Args:
            s1: of the lowest frequencies of the skips, in the innermost up block; 1 leaves them.
            s2: the same in the next one. Later blocks stay as they are.
            b1: of half of the backbone's channels in the innermost up block; 1 leaves them.
            b2: the same in the next one.
        """
        for i, block in enumerate(self.up_blocks[:2]):
            block.freeu = (i, {"s1": s1, "s2": s2, "b1": b1, "b2": b2})

    def disable_freeu(self) -> None:
        """Takes it out again."""
        for block in self.up_blocks:
            block.freeu = None
