# SPDX-License-Identifier: Apache-2.0
"""What the network does for speed and must not show in its numbers: the text cache, parts, compiled blocks."""

import copy

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from diffusers_show1 import Show1UNet3DConditionModel
from diffusers_show1.nn import cpu

from ..contract.components import components, seeded
from ..golden.cases import max_difference


@pytest.fixture(params=["base", "superres", "refine"])
def unet(request) -> Show1UNet3DConditionModel:
    """A network of each dialect, and one that is told a noise level."""
    unet = components(request.param)["unet"]
    if not isinstance(unet, Show1UNet3DConditionModel):  # refinement's is diffusers' own
        weights = unet.state_dict()
        unet = Show1UNet3DConditionModel.from_config(unet.config)
        unet.load_state_dict(weights)
    return unet.eval()


def arguments(unet, batch: int = 2, seed: int = 0) -> dict:
    config = unet.config
    width = config.encoder_hid_dim or config.cross_attention_dim
    return {
        "sample": torch.randn(batch, config.in_channels, 3, 16, 16, generator=seeded(seed)),
        "timestep": 300,
        "encoder_hidden_states": torch.randn(batch, 7, width, generator=seeded(seed + 1)),
        "class_labels": torch.full((batch,), 250) if config.class_embed_type else None,
    }


class Runs:
    """Counts the forward calls of each layer of a network that reads text and nothing else."""

    def __init__(self, unet: nn.Module):
        ends = ("add_k_proj", "add_v_proj", "norm_cross", "attn2.to_k", "encoder_hid_proj", "add_embedding")
        names = [name for name, _ in unet.named_modules() if name.endswith(ends)]
        self.counts = {name: 0 for name in names if "temp_attentions" not in name and "transformer_in" not in name}
        for name in self.counts:
            unet.get_submodule(name).register_forward_hook(lambda *_, name=name: self._add(name))

    def _add(self, name: str) -> None:
        self.counts[name] += 1


@torch.no_grad()
def test_text_is_projected_once(unet):
    """All that the text alone decides is computed in the first call, and the numbers stay what they were."""
    inputs = arguments(unet)
    expected = [unet(**{**inputs, "timestep": t}).sample for t in (300, 10)]
    runs, cache = Runs(unet), unet.text_cache()
    got = [unet(**{**inputs, "timestep": t}, text_cache=cache).sample for t in (300, 10)]
    assert [max_difference(a, b) for a, b in zip(got, expected, strict=True)] == [0, 0]
    assert runs.counts
    assert set(runs.counts.values()) == {1}
    unet(**inputs)
    assert set(runs.counts.values()) == {2}, "a call without a cache computes everything"


@torch.no_grad()
def test_cache_belongs_to_its_text(unet):
    """The cache decides, not the tensor: another text needs another cache."""
    inputs, cache = arguments(unet), unet.text_cache()
    first = unet(**inputs, text_cache=cache).sample
    other = {**inputs, "encoder_hidden_states": -inputs["encoder_hidden_states"]}
    assert max_difference(unet(**other, text_cache=cache).sample, first) == 0
    assert max_difference(unet(**other, text_cache=unet.text_cache()).sample, first) > 1e-5


def test_cache_stays_empty_with_gradients(unet):
    """Gradients reach the text and its projections in every call, whatever cache is passed."""
    inputs, cache = arguments(unet, batch=1), unet.text_cache()
    text = inputs["encoder_hidden_states"].requires_grad_()
    for _ in range(2):
        text.grad = None
        unet(**inputs, text_cache=cache).sample.square().mean().backward()
        assert text.grad.abs().max() > 0
    assert not cache._kept


@torch.no_grad()
def test_no_cache_where_layers_are_offloaded_one_by_one():
    """Layer-wise group offloading loads ahead in the order of the first call, which must not change."""
    unet = components("base")["unet"].eval()
    inputs = arguments(unet)
    expected = unet(**inputs).sample
    for kind, has_cache in (("leaf_level", False), ("block_level", True)):
        offloaded = copy.deepcopy(unet)
        more = {"num_blocks_per_group": 1} if kind == "block_level" else {}
        offloaded.enable_group_offload(
            onload_device=torch.device("cpu"), offload_device=torch.device("cpu"), offload_type=kind, **more
        )
        cache = offloaded.text_cache()
        assert (cache is not None) == has_cache
        for _ in range(2):
            assert max_difference(offloaded(**inputs, text_cache=cache).sample, expected) == 0


@torch.no_grad()
def test_feed_forward_in_parts(unet, monkeypatch):
    """On a CPU the feed-forwards take some tokens at a time: the same numbers with parts of any size."""
    inputs = arguments(unet)
    expected = unet(**inputs).sample
    monkeypatch.setattr(cpu, "ROWS", 5)
    assert max_difference(unet(**inputs).sample, expected) < 1e-5


@torch.no_grad()
def test_compiled_blocks_are_compiled_once(unet):
    """No recompilation from step to step, nor in the next window or call of the same shape; without graph breaks."""
    expected = [unet(**arguments(unet, seed=seed), return_dict=False)[0] for seed in (0, 1)]
    counter = CompileCounter()
    torch.compiler.reset()
    # a tiny network has as many shapes as a large one, and all of them are different
    with torch._dynamo.config.patch(recompile_limit=64):
        unet.compile_repeated_blocks(backend=counter, fullgraph=True)
        unet(**arguments(unet), text_cache=unet.text_cache())
        compiled = counter.frame_count
        assert compiled > 0
        with torch._dynamo.config.patch(error_on_recompile=True):
            for seed in (0, 1):
                cache, inputs = unet.text_cache(), arguments(unet, seed=seed)
                for t in (300, torch.tensor(12), 5):
                    unet(**{**inputs, "timestep": t}, text_cache=cache)
                got = unet(**inputs, text_cache=cache).sample
                assert max_difference(got, expected[seed]) < 1e-5
    assert counter.frame_count == compiled
    torch.compiler.reset()


@torch.no_grad()
def test_compiled_whole(unet):
    """Compiled as a whole, in one graph, the network projects the text in every call and is not compiled again."""
    counter = CompileCounter()
    torch.compiler.reset()
    compiled = torch.compile(unet, backend=counter, fullgraph=True)
    for seed in (0, 1):
        cache, inputs = compiled.text_cache(), arguments(unet, seed=seed)
        for t in (300, 12):
            inputs["timestep"] = torch.tensor(t)
            assert max_difference(compiled(**inputs, text_cache=cache).sample, unet(**inputs).sample) < 1e-5
        assert not cache._kept
    assert counter.frame_count == 1
    torch.compiler.reset()
