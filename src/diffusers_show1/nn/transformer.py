# SPDX-License-Identifier: Apache-2.0
"""Transformer blocks, and the transformer over the positions of a frame."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention import FeedForward
from torch import Tensor, nn

from .attention import Attention
from .cpu import in_parts


class TransformerBlock(nn.Module):
    """Self-attention, second attention (to the text, or to itself again when there is none), gated feed-forward.

    Args:
        dim: width of the tokens.
        heads: their number.
        head_size: channels of each.
        text_dim: width of the text; `None` where the second attention is to the tokens, too.
        only_cross_attention: the first attention is to the text as well.
        positions: how attentions to the tokens themselves know places: `rotary_size`, `relative_buckets`,
            `relative_distance`, as `Attention` takes them.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        head_size: int,
        text_dim: int | None = None,
        only_cross_attention: bool = False,
        **positions: int,
    ):
        super().__init__()
        self.only_cross_attention = only_cross_attention
        own = {} if only_cross_attention else positions
        self.norm1 = nn.LayerNorm(dim)
        self.attn1 = Attention(dim, heads, head_size, text_dim if only_cross_attention else None, **own)
        self.norm2 = nn.LayerNorm(dim)
        self.attn2 = Attention(dim, heads, head_size, text_dim, **(positions if text_dim is None else {}))
        self.norm3 = nn.LayerNorm(dim)
        self.ff = FeedForward(dim, activation_fn="geglu")
        self._chunk: tuple[int, int] | None = None

    def forward(
        self, x: Tensor, text: tuple[tuple[Tensor, Tensor] | None, ...] = (None, None), mask: Tensor | None = None
    ) -> Tensor:
        """(n, tokens, ..., C); `text` holds the keys and values of both attentions, None where they are its own.

        `mask` (see `DispatchAttnProcessor`) is for attentions to the tokens themselves: they all see the whole text.
        """
        x = x + self._attend(self.attn1, self.norm1(x), text[0], mask)
        x = x + self._attend(self.attn2, self.norm2(x), text[1], mask)
        return x + self._feed_forward(self.norm3(x))

    def project_text(self, text_BLD: Tensor) -> tuple[tuple[Tensor, Tensor] | None, ...]:
        return (self.attn1.project(text_BLD) if self.only_cross_attention else None), self.attn2.project(text_BLD)

    @staticmethod
    def _attend(attn: Attention, x: Tensor, text: tuple[Tensor, Tensor] | None, mask: Tensor | None) -> Tensor:
        if text is None:
            return attn(x, mask=mask)
        # Queries never meet in cross-attention, so all frames of a video share one row and the text is not repeated.
        return attn(x.reshape(text[0].shape[0], -1, x.shape[-1]), text).reshape(x.shape)

    def set_chunk_feed_forward(self, chunk_size: int | None, dim: int = 0) -> None:
        """For `ForwardChunkingMixin`; `chunk_size=None` undoes it."""
        self._chunk = None if chunk_size is None else (chunk_size, dim)

    def _feed_forward(self, x: Tensor) -> Tensor:
        if self._chunk is None:
            return in_parts(self.ff, x)
        size, dim = self._chunk
        # tokens (n, tokens, C) in space, (n, frames, positions, C) in time, where it is positions that make up a batch
        axis = dim if x.ndim == 3 else 2 - dim
        return torch.cat([in_parts(self.ff, part) for part in x.split(size, axis)], axis)


class ForwardChunkingMixin:
    """Doors of a network, over all its `TransformerBlock`s, that diffusers' UNets have."""

    def enable_forward_chunking(self, chunk_size: int | None = None, dim: int = 0) -> None:
        """Runs feed-forwards a part at a time: the same numbers within rounding, with less memory for their inside.

        Args:
            chunk_size: how many at once, by default one. Any number: the last part may be smaller.
            dim: of what: 0 of what is a batch to the layer (frames in spatial layers, positions in temporal ones),
                1 of its tokens (positions in spatial layers, frames in temporal ones).

        Raises:
            ValueError: another `dim`, or `chunk_size` is less than 1.
        """
        if dim not in (0, 1):
            raise ValueError(f"`dim` must be 0 or 1, got {dim!r}.")
        if chunk_size is not None and chunk_size < 1:
            raise ValueError(f"`chunk_size` must be at least 1, got {chunk_size!r}.")
        self._set_chunk(chunk_size or 1, dim)

    def disable_forward_chunking(self) -> None:
        """Runs feed-forwards as a whole again."""
        self._set_chunk(None, 0)

    def _set_chunk(self, chunk_size: int | None, dim: int) -> None:
        for module in self.modules():
            if isinstance(module, TransformerBlock):
                module.set_chunk_feed_forward(chunk_size, dim)


class SpatialTransformer(nn.Module):
    """Transformer over the positions of a frame: self-attention, then cross-attention to the text."""

    def __init__(
        self,
        channels: int,
        heads: int,
        text_dim: int,
        norm_num_groups: int,
        use_linear_projection: bool,
        only_cross_attention: bool,
    ):
        super().__init__()
        self.use_linear_projection = use_linear_projection
        self.norm = nn.GroupNorm(norm_num_groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels) if use_linear_projection else nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList(
            [TransformerBlock(channels, heads, channels // heads, text_dim, only_cross_attention)]
        )
        self.proj_out = nn.Linear(channels, channels) if use_linear_projection else nn.Conv2d(channels, channels, 1)

    def project_text(self, text_BLD: Tensor) -> tuple[Any, ...]:
        """The text's keys and values for each block, (B, L, C)."""
        return tuple(block.project_text(text_BLD) for block in self.transformer_blocks)

    def forward(self, x_NCHW: Tensor, text: tuple[Any, ...], num_frames: int) -> Tensor:
        """`text` is `project_text`'s of each video, which all of its frames share."""
        h, (height, width) = self.norm(x_NCHW), x_NCHW.shape[-2:]
        if self.use_linear_projection:
            h_NPC = self.proj_in(h.flatten(2).transpose(1, 2))
        else:
            h_NPC = self.proj_in(h).flatten(2).transpose(1, 2)
        for block, block_text in zip(self.transformer_blocks, text, strict=True):
            h_NPC = block(h_NPC, block_text)
        if self.use_linear_projection:
            h = self.proj_out(h_NPC).transpose(1, 2).unflatten(2, (height, width))
        else:
            h = self.proj_out(h_NPC.transpose(1, 2).unflatten(2, (height, width)))
        return x_NCHW + h
