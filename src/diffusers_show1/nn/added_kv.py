# SPDX-License-Identifier: Apache-2.0
"""DeepFloyd IF's attention over the positions of a frame and the text."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .attention import DispatchAttnProcessor, DispatchedAttention


class AddedKVAttention(nn.Module, DispatchedAttention):
    """One softmax over the text tokens *and* the frame's own positions.

    With `only_cross_attention` the frame's own positions are left out and only the text is attended to.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        text_dim: int,
        norm_num_groups: int,
        cross_attention_norm: str | None,
        only_cross_attention: bool,
    ):
        super().__init__()
        self.heads = heads
        self.only_cross_attention = only_cross_attention
        self.group_norm = nn.GroupNorm(norm_num_groups, channels, eps=1e-5)
        if cross_attention_norm == "group_norm":
            self.norm_cross = nn.GroupNorm(32, text_dim, eps=1e-5)
        elif cross_attention_norm == "layer_norm":
            self.norm_cross = nn.LayerNorm(text_dim)
        else:
            self.norm_cross = None
        self.to_q = nn.Linear(channels, channels)
        if not only_cross_attention:
            self.to_k = nn.Linear(channels, channels)
            self.to_v = nn.Linear(channels, channels)
        self.add_k_proj = nn.Linear(text_dim, channels)
        self.add_v_proj = nn.Linear(text_dim, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])
        self.set_processor(DispatchAttnProcessor())

    def project_text(self, text_BLD: Tensor) -> tuple[Tensor, Tensor]:
        """The text's keys and values (B, L, C): the same for all frames of a video, so made once a video."""
        if isinstance(self.norm_cross, nn.GroupNorm):  # pools over the tokens
            text_BLD = self.norm_cross(text_BLD.transpose(1, 2)).transpose(1, 2)
        elif self.norm_cross is not None:
            text_BLD = self.norm_cross(text_BLD)
        return self.add_k_proj(text_BLD), self.add_v_proj(text_BLD)

    def forward(self, x_NCHW: Tensor, text: tuple[Tensor, Tensor], num_frames: int) -> Tensor:
        x_NPC = self.group_norm(x_NCHW).flatten(2).transpose(1, 2)
        query = self.to_q(x_NPC)
        if self.only_cross_attention:  # no softmax across frames: the frames of a video may share one row
            out = self.processor(self, query.reshape(text[0].shape[0], -1, query.shape[-1]), *text)
        else:
            key = self._join(text[0], self.to_k(x_NPC), num_frames)
            value = self._join(text[1], self.to_v(x_NPC), num_frames)
            out = self.processor(self, query, key, value)
        out_NPC = self.to_out[0](out.reshape(x_NPC.shape))
        return x_NCHW + out_NPC.transpose(1, 2).reshape(x_NCHW.shape)

    @staticmethod
    def _join(text_BLC: Tensor, own_NPC: Tensor, num_frames: int) -> Tensor:
        """Tokens of a video's text before those of each of its frames: (N, L+P, C)."""
        text_BFLC = text_BLC.unsqueeze(1).expand(-1, num_frames, -1, -1)
        return torch.cat([text_BFLC, own_NPC.unflatten(0, (-1, num_frames))], dim=2).flatten(0, 1)
