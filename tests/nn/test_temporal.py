# SPDX-License-Identifier: Apache-2.0
"""Layers over the frames: silent at first, with a mask, with text, with places; feed-forwards in chunks."""

import pytest
import torch
from torch import nn

from benchmarks.live_bytes import FlashAttention, LiveBytes
from diffusers_show1.nn.temporal import TemporalConvLayer, TemporalTransformer
from diffusers_show1.nn.transformer import ForwardChunkingMixin, SpatialTransformer, TransformerBlock

from ..contract.components import seeded
from ..golden.cases import max_difference


FRAMES = 5


def video(seed: int = 0, channels: int = 16) -> torch.Tensor:
    """Two videos as images, (N, C, H, W)."""
    return torch.randn(2 * FRAMES, channels, 3, 4, generator=seeded(seed))


def awake(layer: nn.Module) -> nn.Module:
    for parameter in layer.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return layer.eval().requires_grad_(False)


@pytest.mark.parametrize(
    "make",
    [lambda: TemporalTransformer(16, 2, 8, 8), lambda: TemporalConvLayer(16, 8)],
    ids=["transformer", "convolution"],
)
@torch.no_grad()
def test_silent_at_first(make):
    """A fresh layer gives back what it gets; with weights, every frame reaches its neighbours, and no other video."""
    layer, x = make().eval(), video()
    assert torch.equal(layer(x, FRAMES), x)
    awake(layer)
    changed = x.clone()
    changed[1] += torch.randn(x[1].shape, generator=seeded(1))
    difference = (layer(changed, FRAMES) - layer(x, FRAMES)).abs().amax(dim=(1, 2, 3))
    assert difference[:3].min() > 1e-4
    assert difference[FRAMES:].max() == 0


def test_mask():
    """With a mask of distance 1 in front of a norm that pools no frames, frame 0 does not depend on frame 2."""
    torch.manual_seed(0)
    block, x = awake(TransformerBlock(16, 2, 8)), torch.randn(1, FRAMES, 3, 16, generator=seeded())
    place = torch.arange(FRAMES)
    mask = (place[None] - place[:, None]).abs() <= 1
    changed = x.clone()
    changed[:, 4] += torch.randn(16, generator=seeded(1))
    free, held = (((block(changed, mask=m) - block(x, mask=m)).abs().amax(dim=(0, 2, 3))) for m in (None, mask))
    assert free.min() > 1e-4
    assert held[:2].max() == 0  # two attentions: two frames reach it
    assert held[2:].min() > 1e-4
    layer = awake(TemporalTransformer(16, 2, 8, 8))
    assert max_difference(layer(video(), FRAMES, mask=mask), layer(video(), FRAMES)) > 1e-4


def test_text():
    """The second attention reads the text of its own video."""
    torch.manual_seed(0)
    layer, x = awake(TemporalTransformer(16, 2, 8, 8, text_dim=12)), video()
    text = torch.randn(2, 7, 12, generator=seeded(1))
    other = text.clone()
    other[1] += 1
    first, second = (layer(x, FRAMES, layer.project_text(t)) for t in (text, other))
    assert torch.equal(first[:FRAMES], second[:FRAMES])
    assert max_difference(first[FRAMES:], second[FRAMES:]) > 1e-4


@pytest.mark.parametrize("positions", [{"rotary_size": 8}, {"relative_buckets": 8, "relative_distance": 6}])
def test_places(positions):
    """Without places frames are a set: shuffled, they give the same, shuffled. With them they are a row."""
    torch.manual_seed(0)
    x, order = video(), [3, 1, 0, 4, 2]
    shuffled = x.unflatten(0, (2, FRAMES))[:, order].flatten(0, 1)
    for layer, is_a_row in (
        (awake(TemporalTransformer(16, 2, 8, 8)), False),
        (awake(TemporalTransformer(16, 2, 8, 8, **positions)), True),
    ):
        expected = layer(x, FRAMES).unflatten(0, (2, FRAMES))[:, order].flatten(0, 1)
        assert (max_difference(layer(shuffled, FRAMES), expected) > 1e-4) == is_a_row
    names = {name for name, _ in layer.named_parameters() if "time_rel_pos_bias" in name}
    assert len(names) == (2 if "relative_buckets" in positions else 0)


# --- feed-forwards in chunks --------------------------------------------------------------------------------------


class Network(nn.Module, ForwardChunkingMixin):
    def __init__(self):
        super().__init__()
        self.space = SpatialTransformer(16, 2, 12, 8, True, False)
        self.time = TemporalTransformer(16, 2, 8, 8)

    def forward(self, x, text, num_frames=FRAMES):
        return self.time(self.space(x, self.space.project_text(text), num_frames), num_frames)


@pytest.mark.parametrize(
    ("options", "in_space", "in_time"),
    [
        ({}, [(1, 12, 16)] * 10, [(2, 5, 1, 16)] * 12),  # an image; a position
        ({"chunk_size": 4}, [(4, 12, 16)] * 2 + [(2, 12, 16)], [(2, 5, 4, 16)] * 3),
        ({"chunk_size": 5, "dim": 1}, [(10, 5, 16)] * 2 + [(10, 2, 16)], [(2, 5, 12, 16)]),  # positions; frames
        ({"chunk_size": 2, "dim": 1}, [(10, 2, 16)] * 6, [(2, 2, 12, 16)] * 2 + [(2, 1, 12, 16)]),
    ],
)
def test_forward_chunking(options, in_space, in_time):
    torch.manual_seed(0)
    network, x, text = awake(Network()), video(), torch.randn(2, 7, 12, generator=seeded(1))
    # with gradients, since without a CPU cuts further by itself
    expected = network(x, text)
    network.enable_forward_chunking(**options)
    seen = {"space": [], "time": []}
    for name, shapes in seen.items():
        ff = network.get_submodule(name).transformer_blocks[0].ff
        ff.register_forward_pre_hook(lambda _, args, shapes=shapes: shapes.append(tuple(args[0].shape)))
    assert max_difference(network(x, text), expected) < 1e-6
    assert seen == {"space": in_space, "time": in_time}
    network.disable_forward_chunking()
    assert torch.equal(network(x, text), expected)
    assert (len(seen["space"]), len(seen["time"])) == (len(in_space) + 1, len(in_time) + 1)


@torch.no_grad()
def test_forward_chunking_takes_less_memory():
    """Most of a transformer's memory is the inside of its feed-forward, which is eight times as wide."""
    network = Network().to("meta")
    x, text = torch.zeros(16, 16, 32, 32, device="meta"), torch.zeros(2, 7, 12, device="meta")

    def peak() -> int:
        with LiveBytes() as live, FlashAttention():
            network(x, text, 8)
        return live.peak

    whole = peak()
    for options in ({"chunk_size": 4}, {"chunk_size": 2, "dim": 1}):
        network.enable_forward_chunking(**options)
        assert peak() < 0.6 * whole, options
    network.disable_forward_chunking()
    assert peak() == whole


@pytest.mark.parametrize(("options", "word"), [({"dim": 2}, "dim"), ({"chunk_size": 0}, "chunk_size")])
def test_bad_chunks(options, word):
    with pytest.raises(ValueError, match=f"`{word}` must be"):
        Network().enable_forward_chunking(**options)
