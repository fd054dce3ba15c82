# SPDX-License-Identifier: Apache-2.0
"""Attention and what it may be asked for, against the same written out in plain torch."""

import pytest
import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.embeddings import apply_rotary_emb, get_1d_rotary_pos_embed
from transformers.models.t5.modeling_t5 import T5Attention

from diffusers_show1.nn.attention import Attention, DispatchAttnProcessor, SlicedAttentionMixin
from diffusers_show1.nn.positions import RelativePositionBias, rotate

from ..contract.components import seeded
from ..golden.cases import max_difference


DIM, HEADS, SIZE = 24, 3, 8


def attention(**options) -> Attention:
    torch.manual_seed(0)
    return Attention(DIM, HEADS, SIZE, **options).eval().requires_grad_(False)


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, DIM, generator=seeded(seed))


def rotated(x: torch.Tensor, size: int) -> torch.Tensor:
    """(tokens, heads, size): pairs of channels as complex numbers, turned by the token's place."""
    place = torch.arange(len(x))[:, None]
    angle = place / 10000 ** (torch.arange(0, size, 2) / size)
    pairs = torch.view_as_complex(x[..., :size].contiguous().unflatten(-1, (-1, 2)))
    turned = pairs * torch.polar(torch.ones_like(angle), angle)[:, None]
    return torch.cat([torch.view_as_real(turned).flatten(-2), x[..., size:]], dim=-1)


def row(attn: Attention, x: torch.Tensor, context: torch.Tensor | None, mask: torch.Tensor | None) -> torch.Tensor:
    """One row of tokens (tokens, dim), with scores and softmax as they stand in the textbook."""
    heads = [
        t.unflatten(-1, (attn.heads, -1)) for t in (attn.to_q(x), *attn.project(x if context is None else context))
    ]
    if attn.rotary_size:
        heads[:2] = [rotated(t, attn.rotary_size) for t in heads[:2]]
    query, key, value = (t.transpose(0, 1) for t in heads)
    scores = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5
    if attn.time_rel_pos_bias is not None:
        place = torch.arange(len(x))
        table = attn.time_rel_pos_bias
        buckets = T5Attention._relative_position_bucket(
            place[None] - place[:, None], True, table.relative_attention_bias.num_embeddings, table.max_distance
        )
        scores = scores + table.relative_attention_bias.weight[buckets].permute(2, 0, 1)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    out = scores.softmax(-1) @ value
    return attn.to_out[0](out.transpose(0, 1).flatten(1))


def near(frames: int, distance: int) -> torch.Tensor:
    place = torch.arange(frames)
    return (place[None] - place[:, None]).abs() <= distance


MASKS = {
    "no mask": None,
    "boolean": near(6, 2),
    "numbers": torch.randn(6, 6, generator=seeded(3)),
    "by row": torch.stack([near(6, 1), near(6, 3)])[:, None],
    "by head": torch.randn(2, HEADS, 6, 6, generator=seeded(4)),
}
POSITIONS = {
    "nothing": {},
    "rotary": {"rotary_size": 6},
    "whole rotary": {"rotary_size": 8},
    "bias": {"relative_buckets": 8, "relative_distance": 5},
    "both": {"rotary_size": 4, "relative_buckets": 32, "relative_distance": 32},
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("slice_size", [None, 1, 2])
def test_against_the_textbook(mask, positions, slice_size):
    """Every combination, for rows of tokens, and for frames in whose inner axis each place is a row to itself."""
    attn, mask = attention(**POSITIONS[positions]), MASKS[mask]
    attn.set_slice_size(slice_size)
    flat, video = tokens(2, 6), tokens(2, 6, 5)
    masks = mask if mask is not None and mask.ndim == 4 else [mask] * 2
    expected = torch.stack([row(attn, x, None, m) for x, m in zip(flat, masks, strict=True)])
    assert max_difference(attn(flat, mask=mask), expected) < 1e-5
    for place in range(5):
        expected = torch.stack([row(attn, x, None, m) for x, m in zip(video[:, :, place], masks, strict=True)])
        assert max_difference(attn(video, mask=mask)[:, :, place], expected) < 1e-5


@pytest.mark.parametrize("shape", [(2, 6), (2, 6, 5)])
def test_nothing_asked_for_changes_no_bit(shape):
    """Without mask and positions: projections, the dispatcher over heads and inner axes, the projection out."""
    attn, x = attention(), tokens(*shape)
    heads = (layer(x).unflatten(-1, (HEADS, -1)).flatten(2, -2) for layer in (attn.to_q, attn.to_k, attn.to_v))
    expected = attn.to_out[0](dispatch_attention_fn(*heads).reshape(x.shape))
    assert torch.equal(attn(x), expected)
    assert [name for name, _ in attn.named_parameters()] == [
        *("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight", "to_out.0.bias")
    ]


def test_context():
    attn, x, context = attention(context_dim=16), tokens(2, 6), torch.randn(2, 4, 16, generator=seeded(1))
    mask = torch.rand(6, 4, generator=seeded(2)) > 0.4
    mask[:, 0] = True
    for m in (None, mask):
        expected = torch.stack([row(attn, a, b, m) for a, b in zip(x, context, strict=True)])
        assert max_difference(attn(x, attn.project(context), m), expected) < 1e-5


@pytest.mark.parametrize("options", [{"rotary_size": 4}, {"relative_buckets": 8}])
def test_a_context_has_no_places(options):
    attn, x = attention(**options), tokens(1, 6)
    with pytest.raises(ValueError, match="`keys_values` must be None"):
        attn(x, attn.project(x))


@pytest.mark.parametrize("size", [3, 10, -2])
def test_bad_rotary_size(size):
    with pytest.raises(ValueError, match=rf"`rotary_size` must be an even number in 0\.\.8, got {size}"):
        attention(rotary_size=size)


@pytest.mark.parametrize(("options", "word"), [((2, 32), "buckets"), ((7, 32), "buckets"), ((32, 8), "max_distance")])
def test_bad_buckets(options, word):
    with pytest.raises(ValueError, match=f"`{word}` must be"):
        attention(relative_buckets=options[0], relative_distance=options[1])


def test_rotation_is_diffusers():
    """The first channels as diffusers rotates them, those behind as they were, in half precision too."""
    heads = torch.randn(2, 7, HEADS, 40, generator=seeded())
    angles = get_1d_rotary_pos_embed(32, 7, use_real=True)
    expected = apply_rotary_emb(heads[..., :32].transpose(1, 2), angles, use_real_unbind_dim=-1).transpose(1, 2)
    assert torch.equal(rotate(heads, 32)[..., :32], expected)
    assert torch.equal(rotate(heads, 32)[..., 32:], heads[..., 32:])
    assert max_difference(torch.stack([rotated(x, 32) for x in heads]), rotate(heads, 32)) < 1e-5
    assert rotate(heads.bfloat16(), 32).dtype == torch.bfloat16


@pytest.mark.parametrize(("buckets", "distance"), [(32, 128), (32, 32), (8, 5), (16, 64)])
def test_buckets_are_t5s(buckets, distance):
    offset = torch.arange(-200, 201)
    expected = T5Attention._relative_position_bucket(offset, True, buckets, distance)
    assert torch.equal(RelativePositionBias(buckets, HEADS, distance)._bucket(offset), expected)


def test_positions_are_relative():
    """What both kinds of position tell is a distance: the same tokens two places further on see each other alike."""
    attn = attention(rotary_size=8, relative_buckets=8, relative_distance=6)
    x = tokens(1, 8)
    only = torch.zeros(8, 8, dtype=torch.bool)
    only[:6, :6] = only[6:, 6:] = True
    moved = torch.cat([x[:, 6:], x[:, :6]], dim=1)
    swapped = torch.zeros(8, 8, dtype=torch.bool)
    swapped[:2, :2] = swapped[2:, 2:] = True
    first, second = attn(x, mask=only), attn(moved, mask=swapped)
    assert max_difference(first, torch.cat([second[:, 2:], second[:, :2]], dim=1)) < 1e-5
    assert max_difference(attn(x), attn(x.flip(1)).flip(1)) > 1e-3  # before and behind are not the same


# --- slices of heads ----------------------------------------------------------------------------------------------


class Network(torch.nn.Module, SlicedAttentionMixin):
    def __init__(self):
        super().__init__()
        self.first = Attention(DIM, 3, 8)
        self.second = Attention(DIM, 6, 4, rotary_size=2)

    def forward(self, x):
        return self.second(self.first(x))


@pytest.fixture
def calls(monkeypatch):
    """How many heads each call of the dispatcher had."""
    seen = []

    def count(query, *args, **kwargs):
        seen.append(query.shape[2])
        return dispatch_attention_fn(query, *args, **kwargs)

    monkeypatch.setattr("diffusers_show1.nn.attention.dispatch_attention_fn", count)
    return seen


@pytest.mark.parametrize(
    ("slice_size", "heads"),
    [
        (None, [3, 6]),
        ("auto", [1, 1, 1, 3, 3]),
        ("max", [1] * 9),
        (2, [2, 1, 2, 2, 2]),
        ([3, 4], [3, 4, 2]),
        ([None, 1], [3, *[1] * 6]),
    ],
)
def test_slices(calls, slice_size, heads):
    torch.manual_seed(0)
    network, x = Network().requires_grad_(False), tokens(2, 5)
    expected = network(x)
    calls.clear()
    network.set_attention_slice(slice_size)
    assert max_difference(network(x), expected) < 1e-6
    assert calls == heads
    network.set_attention_slice(None)
    assert torch.equal(network(x), expected)


@pytest.mark.parametrize("slice_size", [4, 0, [1], [1, 7], "half", 1.5])
def test_bad_slices(slice_size):
    """Before anything changes."""
    network = Network()
    with pytest.raises(ValueError, match="`slice_size` must"):
        network.set_attention_slice(slice_size)
    assert {processor.slice_size for processor in network.attn_processors.values()} == {None}


def test_slices_of_inner_axes(calls):
    """A slice has as many heads of every place."""
    attn, x = attention(), tokens(1, 4, 5)
    expected = attn(x)
    calls.clear()
    attn.set_slice_size(2)
    assert max_difference(attn(x), expected) < 1e-6
    assert calls == [10, 5]


def test_slices_keep_the_backend():
    network = Network()
    for module in (network.first, network.second):
        module.set_attention_backend("_native_math")
    network.set_attention_slice("max")
    assert {p._attention_backend.value for p in network.attn_processors.values()} == {"_native_math"}
    network.set_default_attn_processor()
    assert {(p._attention_backend, p.slice_size) for p in network.attn_processors.values()} == {(None, None)}
    assert len({id(p) for p in network.attn_processors.values()}) == 2


def test_default_processor_replaces_custom_ones():
    class Zero(DispatchAttnProcessor):
        def __call__(self, attn, query, *args, **kwargs):
            return torch.zeros_like(query)

    torch.manual_seed(0)
    network, x = Network().requires_grad_(False), tokens(1, 4)
    expected = network(x)
    network.set_attn_processor(Zero())
    assert max_difference(network(x), expected) > 1e-3
    network.set_default_attn_processor()
    assert torch.equal(network(x), expected)


def test_compiles_into_one_graph():
    """With all that it can be asked for, and another length."""
    torch.compiler.reset()
    attn = attention(rotary_size=4, relative_buckets=8, relative_distance=6)
    compiled = torch.compile(attn, backend="eager", fullgraph=True)
    for frames in (6, 4):
        x, mask = tokens(2, frames, 3), near(frames, 2)
        assert max_difference(compiled(x, mask=mask), attn(x, mask=mask)) < 1e-6
    torch.compiler.reset()


def test_gradients_reach_every_parameter():
    attn = Attention(DIM, HEADS, SIZE, bias=True, rotary_size=4, relative_buckets=4, relative_distance=4)
    attn(tokens(2, 6), mask=near(6, 3)).square().mean().backward()
    assert [n for n, p in attn.named_parameters() if p.grad is None or not p.grad.any()] == []
