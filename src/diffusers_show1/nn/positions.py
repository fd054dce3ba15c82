# SPDX-License-Identifier: Apache-2.0
"""Where a token stands in its row, told to an attention: by rotation (RoPE), or by a bias for each distance (T5)."""

from __future__ import annotations

import math

import torch
from diffusers.models.embeddings import apply_rotary_emb, get_1d_rotary_pos_embed
from torch import Tensor, nn


def rotate(heads: Tensor, size: int) -> Tensor:
    """Turns the first `size` channels of each head by angles that grow with the token's place (RoFormer, Eq. 34).

    Neighbouring channels make a pair, and pair i of a token at place m turns by m / 10000^(2i/size).

    Args:
        heads: (n, tokens, heads, head size), queries or keys.
        size: an even number, at most the head size; the channels behind it stay as they are.
    """
    angles = get_1d_rotary_pos_embed(size, torch.arange(heads.shape[1], device=heads.device), use_real=True)
    turned = apply_rotary_emb(heads[..., :size], angles, use_real_unbind_dim=-1, sequence_dim=1)
    return torch.cat([turned, heads[..., size:]], dim=-1)


class RelativePositionBias(nn.Module):
    """A learned number for each head and each distance between query and key, distances in buckets (T5, Sec. 2.1).

    Half of the buckets are for keys behind the query. Of each half, the first half holds one distance each, the second
    ever more, up to `max_distance`; the last bucket has all beyond.

    Raises:
        ValueError: `buckets` is odd or less than 4, or `max_distance` is within the exact ones.
    """

    def __init__(self, buckets: int, heads: int, max_distance: int):
        super().__init__()
        if buckets < 4 or buckets % 2:
            raise ValueError(f"`buckets` must be an even number of at least 4, got {buckets}.")
        if max_distance <= buckets // 4:
            raise ValueError(f"`max_distance` must be more than {buckets // 4}, got {max_distance}.")
        self.max_distance = max_distance
        self.relative_attention_bias = nn.Embedding(buckets, heads)

    def forward(self, tokens: int) -> Tensor:
        """What is added to the scores of a row of so many tokens, (heads, queries, keys)."""
        place = torch.arange(tokens, device=self.relative_attention_bias.weight.device)
        return self.relative_attention_bias(self._bucket(place[None, :] - place[:, None])).permute(2, 0, 1)

    def _bucket(self, offset: Tensor) -> Tensor:
        """The bucket of a key that stands `offset` places behind its query."""
        half = self.relative_attention_bias.num_embeddings // 2
        exact = half // 2
        distance = offset.abs()
        # log(0) is never looked at
        beyond = torch.log(distance.clamp(min=1) / exact) / math.log(self.max_distance / exact) * (half - exact)
        coarse = (exact + beyond.long()).clamp(max=half - 1)
        return torch.where(distance < exact, distance, coarse) + half * (offset > 0)
