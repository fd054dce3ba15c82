# SPDX-License-Identifier: Apache-2.0
"""Attention through diffusers' dispatcher, with an optional mask, rotary positions, relative bias, slices of heads."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention import AttentionMixin, AttentionModuleMixin
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor, nn

from .positions import RelativePositionBias, rotate


class DispatchAttnProcessor:
    """Attention through diffusers' dispatcher, so that `set_attention_backend` reaches every layer.

    Args:
        slice_size: how many heads are computed at once; `None` for all of them.
    """

    _attention_backend = None
    _parallel_config = None

    def __init__(self, slice_size: int | None = None):
        self.slice_size = slice_size

    def __call__(
        self, attn: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, rotary_size: int = 0
    ) -> Tensor:
        """softmax(Q Kᵀ / √size + mask) V in each head.

        Axes between tokens and heads are counted among the heads: what is at one place there meets only that place.

        Args:
            attn: the module, which has `heads`.
            query: (n, tokens, ..., heads·size).
            key: the same, with a token count of its own.
            value: as the key.
            mask: (queries, keys), or (n or 1, heads or 1, queries, keys): boolean, True where a query may look at a
                key (every query at one at least), or numbers that are added to the scores.
            rotary_size: channels of each head of queries and keys that are rotated by their place; 0 for none.

        Returns:
            As the query.
        """
        heads = [t.unflatten(-1, (attn.heads, -1)).flatten(2, -2) for t in (query, key, value)]
        if rotary_size:
            heads[:2] = (rotate(t, rotary_size) for t in heads[:2])
        places = heads[0].shape[2] // attn.heads
        by_head = mask is not None and mask.ndim == 4 and mask.shape[1] > 1
        if mask is not None and mask.dtype != torch.bool:
            mask = mask.to(query.dtype)
        if by_head:
            mask = mask.repeat(1, places, 1, 1)  # heads run fastest
        if self.slice_size is None:
            return self._dispatch(heads, mask).reshape(query.shape)
        size = self.slice_size * places
        parts = list(zip(*(t.split(size, dim=2) for t in heads), strict=True))
        masks = mask.split(size, dim=1) if by_head else [mask] * len(parts)
        out = [self._dispatch(part, part_mask) for part, part_mask in zip(parts, masks, strict=True)]
        return torch.cat(out, dim=2).reshape(query.shape)

    def _dispatch(self, heads: Any, mask: Tensor | None) -> Tensor:
        return dispatch_attention_fn(
            *heads, attn_mask=mask, backend=self._attention_backend, parallel_config=self._parallel_config
        )


class DispatchedAttention(AttentionModuleMixin):
    """What attention modules share with diffusers' own. They have `heads`."""

    _default_processor_cls = DispatchAttnProcessor
    _available_processors = [DispatchAttnProcessor]
    _supports_qkv_fusion = False

    def set_use_memory_efficient_attention_xformers(self, valid: bool, attention_op: Any = None) -> None:
        """xFormers, or with `valid=False` the backend that was there by default: diffusers' own method stays with it.

        Raises:
            ModuleNotFoundError, ValueError: there is no xFormers, or no GPU; it has no operators for a CPU.
        """
        super().set_use_memory_efficient_attention_xformers(valid, attention_op)
        if not valid:
            self.processor._attention_backend = None

    def set_slice_size(self, slice_size: int | None) -> None:
        """So many heads at once, `None` for all, with the backend that was chosen."""
        before = self.processor
        self.set_processor(DispatchAttnProcessor(slice_size))
        for name in ("_attention_backend", "_parallel_config"):
            setattr(self.processor, name, getattr(before, name, None))


class Attention(nn.Module, DispatchedAttention):
    """Multi-head attention to the queries' own tokens, or to `project`ed tokens of a context.

    Args:
        dim: width of the tokens.
        heads: their number.
        head_size: channels of each.
        context_dim: width of the context, where that is not the tokens' own.
        bias: of the three projections; the one behind them always has one.
        rotary_size: channels of each head that are rotated by the token's place; 0 for none.
        relative_buckets: of a relative position bias, named as LaVie names it; 0 for none.
        relative_distance: the distance at which its buckets end.

    Raises:
        ValueError: `rotary_size` is odd or larger than a head.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        head_size: int,
        context_dim: int | None = None,
        bias: bool = False,
        rotary_size: int = 0,
        relative_buckets: int = 0,
        relative_distance: int = 128,
    ):
        super().__init__()
        if rotary_size % 2 or not 0 <= rotary_size <= head_size:
            raise ValueError(f"`rotary_size` must be an even number in 0..{head_size}, got {rotary_size}.")
        self.heads = heads
        self.rotary_size = rotary_size
        inner = heads * head_size
        self.to_q = nn.Linear(dim, inner, bias=bias)
        self.to_k = nn.Linear(context_dim or dim, inner, bias=bias)
        self.to_v = nn.Linear(context_dim or dim, inner, bias=bias)
        self.to_out = nn.ModuleList([nn.Linear(inner, dim)])
        self.time_rel_pos_bias = None
        if relative_buckets:
            self.time_rel_pos_bias = RelativePositionBias(relative_buckets, heads, relative_distance)
        self.set_processor(DispatchAttnProcessor())

    def project(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values."""
        return self.to_k(context), self.to_v(context)

    def forward(
        self, x: Tensor, keys_values: tuple[Tensor, Tensor] | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """(n, tokens, ..., dim) -> the same; `keys_values` and `mask` as in `DispatchAttnProcessor`.

        Raises:
            ValueError: `keys_values` in an attention that knows places: only the queries' own tokens stand where
                they do.
        """
        located = self.rotary_size or self.time_rel_pos_bias is not None
        if located and keys_values is not None:
            raise ValueError("`keys_values` must be None in an attention with rotary or relative positions.")
        key, value = self.project(x) if keys_values is None else keys_values
        options: dict[str, Any] = {"rotary_size": self.rotary_size} if self.rotary_size else {}
        if (bias := self._bias(x, mask)) is not None:
            options["mask"] = bias
        return self.to_out[0](self.processor(self, self.to_q(x), key, value, **options))

    def _bias(self, x: Tensor, mask: Tensor | None) -> Tensor | None:
        """Mask and relative bias in one."""
        if self.time_rel_pos_bias is None:
            return mask
        bias = self.time_rel_pos_bias(x.shape[1]).to(x.dtype)[None]
        if mask is None:
            return bias
        return bias.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else bias + mask


class SlicedAttentionMixin(AttentionMixin):
    """Doors of a network, over all its `DispatchedAttention`s, that diffusers' UNets have."""

    def set_attention_slice(self, slice_size: str | int | list[int | None] | None = "auto") -> None:
        """Computes attention some heads at a time: the same numbers, with less memory for scores that are kept.

        Where a backend keeps no scores (`native` as a rule) it only costs time. `DiffusionPipeline.
        enable_attention_slicing` calls it.

        Args:
            slice_size: `"auto"` half of the heads, `"max"` one at a time, a number that many; a list with a number for
                each attention, in the order of `attn_processors`; `None` all at once.

        Raises:
            ValueError: more than an attention has, less than one, or a list of another length.
        """
        layers = [module for module in self.modules() if isinstance(module, DispatchedAttention)]
        if slice_size == "auto":
            slice_size = [max(layer.heads // 2, 1) for layer in layers]
        elif slice_size == "max":
            slice_size = 1
        sizes = slice_size if isinstance(slice_size, list) else [slice_size] * len(layers)
        if len(sizes) != len(layers):
            raise ValueError(
                f"`slice_size` must hold a number for each of {len(layers)} attentions, got {len(sizes)}."
            )
        for layer, size in zip(layers, sizes, strict=True):
            if size is not None and (not isinstance(size, int) or not 1 <= size <= layer.heads):
                raise ValueError(
                    f"`slice_size` must be 'auto', 'max', None or a number in 1..{layer.heads}, the heads of an "
                    f"attention here; got {size!r}."
                )
        for layer, size in zip(layers, sizes, strict=True):
            layer.set_slice_size(size)

    def set_default_attn_processor(self) -> None:
        """Takes processors, backends and slices away that were set: every attention is as it was made."""
        for module in self.modules():
            if isinstance(module, DispatchedAttention):
                module.set_processor(module._default_processor_cls())
