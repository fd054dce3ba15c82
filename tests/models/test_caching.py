# SPDX-License-Identifier: Apache-2.0
"""DeepCache: what runs and what does not, whose features are used, and what else lives beside it in a network."""

import pytest
import torch
from accelerate import cpu_offload, cpu_offload_with_hook
from accelerate.hooks import remove_hook_from_module
from diffusers import (
    FasterCacheConfig,
    FirstBlockCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
)
from diffusers.guiders import ClassifierFreeGuidance
from torch import nn

from diffusers_show1 import DeepCacheConfig, Show1UNet3DConditionModel

from ..contract.components import clip, pipeline, seeded
from ..golden.cases import max_difference


PIXEL = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("ResnetDownsampleBlock3D", "ResnetDownsampleBlock3D", "SimpleCrossAttnDownBlock3D"),
    "mid_block_type": "UNetMidBlock3DSimpleCrossAttn",
    "up_block_types": ("SimpleCrossAttnUpBlock3D", "ResnetUpsampleBlock3D", "ResnetUpsampleBlock3D"),
}
LATENT = {
    "down_block_types": ("CrossAttnDownBlock3D", "CrossAttnDownBlock3D", "DownBlock3D"),
    "mid_block_type": "UNetMidBlock3DCrossAttn",
    "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D", "CrossAttnUpBlock3D"),
}
PROMPT = "a red car driving on the rainbow road."


def network(dialect=PIXEL) -> Show1UNet3DConditionModel:
    torch.manual_seed(0)
    unet = Show1UNet3DConditionModel(
        **dialect,
        block_out_channels=(32, 32, 32),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=8,
    )
    for parameter in unet.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    return unet.eval().requires_grad_(False)


def inputs(seed=0, batch=1, frames=2, channels=3):
    return {
        "sample": torch.randn(batch, channels, frames, 8, 12, generator=seeded(seed)),
        "timestep": 500 - seed,
        "encoder_hidden_states": torch.randn(batch, 4, 32, generator=seeded(7)),
    }


def call(unet, context="cond", **changes):
    with unet.cache_context(context):
        return unet(**{**inputs(), **changes}, return_dict=False)[0]


class Runs:
    """How often each layer with parameters of its own ran."""

    def __init__(self, unet: nn.Module):
        self.counts = {}
        for name, module in unet.named_modules():
            if any(True for _ in module.parameters(recurse=False)):
                self.counts[name] = 0
                module.register_forward_pre_hook(lambda _, __, name=name: self.count(name))

    def count(self, name: str) -> None:
        self.counts[name] += 1


DEEP = {
    1: ("down_blocks.0.downsamplers", "down_blocks.1", "down_blocks.2", "mid_block", "up_blocks.0", "up_blocks.1"),
    2: ("down_blocks.1.downsamplers", "down_blocks.2", "mid_block", "up_blocks.0"),
}


@pytest.mark.parametrize("dialect", [PIXEL, LATENT], ids=["pixel", "latent"])
@pytest.mark.parametrize("outer_blocks", [1, 2])
def test_deep_blocks_really_do_not_run(dialect, outer_blocks):
    """Of five calls the deep layers run in the first, third and fifth, all others in each."""
    unet = network(dialect)
    runs = Runs(unet)
    unet.enable_cache(DeepCacheConfig(interval=2, outer_blocks=outer_blocks))
    for step in range(5):
        call(unet, **inputs(step, channels=unet.config.in_channels))
    for name, count in runs.counts.items():
        assert count == (3 if name.startswith(DEEP[outer_blocks]) else 5), name


@pytest.mark.parametrize("dialect", [PIXEL, LATENT], ids=["pixel", "latent"])
def test_numbers(dialect):
    """Whole steps are those without a cache. A cached one sees its own input, beside the kept features."""
    unet = network(dialect)
    steps = [inputs(step, channels=unet.config.in_channels) for step in range(3)]
    plain = [unet(**step).sample for step in steps]
    unet.enable_cache(DeepCacheConfig(interval=2))
    first, second, third = (call(unet, **step) for step in steps)
    assert torch.equal(first, plain[0])
    assert torch.equal(third, plain[2])
    assert 1e-3 < max_difference(second, plain[1])
    assert max_difference(second, plain[0]) > 1e-3
    unet._reset_stateful_cache()
    assert torch.equal(call(unet, **steps[0]), plain[0])
    assert torch.equal(call(unet, **steps[0]), plain[0])  # from features of the very same input
    unet.disable_cache()
    assert not unet.is_cache_enabled
    assert torch.equal(unet(**steps[1]).sample, plain[1])


def test_each_context_has_features_of_its_own():
    """Guidance by two calls: the second branch neither uses nor counts as a step of the first."""
    unet = network()
    texts = {name: torch.randn(1, 4, 32, generator=seeded(i)) for i, name in enumerate(("cond", "uncond"))}
    alone = {}
    unet.enable_cache(DeepCacheConfig(interval=3))
    for name, text in texts.items():
        unet._reset_stateful_cache()
        alone[name] = [call(unet, name, **{**inputs(s), "encoder_hidden_states": text}) for s in range(4)]
    unet._reset_stateful_cache()
    for step in range(4):
        for name, text in texts.items():
            out = call(unet, name, **{**inputs(step), "encoder_hidden_states": text})
            assert torch.equal(out, alone[name][step])


@pytest.mark.parametrize("change", [{"batch": 2}, {"frames": 3}, {"batch": 2, "frames": 1}])
def test_another_batch_is_computed_anew(change):
    """As many images in the batch do not make the same batch."""
    unet = network()
    expected = unet(**inputs(1, **change)).sample
    unet.enable_cache(DeepCacheConfig(interval=4))
    call(unet)
    assert torch.equal(call(unet, **inputs(1, **change)), expected)


def test_an_unnamed_call_is_told():
    unet = network()
    unet.enable_cache(DeepCacheConfig())
    with pytest.raises(ValueError, match="cache_context"):
        unet(**inputs())


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"interval": 1}, "interval"),
        ({"interval": 2.0}, "interval"),
        ({"interval": True}, "interval"),
        ({"outer_blocks": 0}, "outer_blocks"),
        ({"outer_blocks": 3}, "in 1..2"),
    ],
)
def test_bad_configs_are_told(config, word):
    unet = network()
    with pytest.raises(ValueError, match=word):
        unet.enable_cache(DeepCacheConfig(**config))
    assert not unet.is_cache_enabled
    assert unet(**inputs()).sample.shape == (1, 3, 2, 8, 12)


def test_one_cache_at_a_time():
    unet = network()
    unet.enable_cache(DeepCacheConfig())
    for other in (DeepCacheConfig(3), PyramidAttentionBroadcastConfig(current_timestep_callback=lambda: 1)):
        with pytest.raises(ValueError, match="disable"):
            unet.enable_cache(other)


# --- beside other things ------------------------------------------------------------------------------------------


def test_saving_and_loading(tmp_path):
    """A cache is no part of the network: it is not saved."""
    unet = network()
    expected = unet(**inputs()).sample
    names = list(unet.state_dict())
    unet.enable_cache(DeepCacheConfig())
    assert list(unet.state_dict()) == names
    unet.save_pretrained(tmp_path)
    loaded = Show1UNet3DConditionModel.from_pretrained(tmp_path).eval()
    assert not loaded.is_cache_enabled
    assert max_difference(loaded(**inputs()).sample, expected) < 1e-5


def test_adapters():
    """An adapter that comes when the cache is enabled works in the steps that run."""
    from peft import LoraConfig

    unet = network()
    unet.enable_cache(DeepCacheConfig())
    without = call(unet)
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    unet._reset_stateful_cache()
    with_adapter = call(unet)
    assert max_difference(with_adapter, without) > 1e-4
    unet.disable_cache()
    assert torch.equal(unet(**inputs()).sample, with_adapter)


OFFLOADS = {
    "sequential": lambda unet: cpu_offload(unet, execution_device=torch.device("cpu")),
    "group": lambda unet: unet.enable_group_offload(torch.device("cpu"), offload_type="leaf_level"),
    "block_group": lambda unet: unet.enable_group_offload(
        torch.device("cpu"), offload_type="block_level", num_blocks_per_group=1
    ),
}


@pytest.mark.parametrize("offload", OFFLOADS)
@pytest.mark.parametrize("cache_first", [True, False])
def test_offloading(offload, cache_first):
    unet = network()
    unet.enable_cache(DeepCacheConfig())
    expected = [call(unet, **inputs(step)) for step in range(4)]
    if not cache_first:
        unet.disable_cache()
    OFFLOADS[offload](unet)
    if not cache_first:
        unet.enable_cache(DeepCacheConfig())
    unet._reset_stateful_cache()
    for step in range(4):
        assert torch.equal(call(unet, **inputs(step)), expected[step])


def test_model_offloading_sets_its_hooks_anew():
    """After a call diffusers takes accelerate's hook off a network and puts a new one on: the cache stays whole."""
    unet = network()
    unet, _ = cpu_offload_with_hook(unet, "cpu")
    unet.enable_cache(DeepCacheConfig())
    expected = [call(unet, **inputs(step)) for step in range(3)]
    remove_hook_from_module(unet, recurse=True)
    unet._reset_stateful_cache()
    unet, _ = cpu_offload_with_hook(unet, "cpu")
    for step in range(3):
        assert torch.equal(call(unet, **inputs(step)), expected[step])


# --- in the stages ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared():
    return pipeline("base")


@pytest.fixture
def base(shared):
    yield shared
    shared.guider = None
    if shared.unet.is_cache_enabled:
        shared.unet.disable_cache()


def run(stage, **options):
    defaults = {"num_frames": 2, "height": 8, "width": 12, "num_inference_steps": 4}
    return stage(PROMPT, generator=seeded(), output_type="pt", **{**defaults, **options}).frames


def test_calls_do_not_see_each_other(base):
    """The same call gives the same video, after others, after one that was interrupted, and after one that broke."""
    base.unet.enable_cache(DeepCacheConfig(3))
    expected = run(base)

    def interrupt(stage, step, timestep, tensors):
        stage._interrupt = step == 1
        return {}

    def fail(stage, step, timestep, tensors):
        raise RuntimeError("on purpose")

    run(base, num_frames=3)
    assert torch.equal(run(base), expected)
    run(base, callback_on_step_end=interrupt)
    assert torch.equal(run(base), expected)
    with pytest.raises(RuntimeError, match="on purpose"):
        run(base, callback_on_step_end=fail)
    assert torch.equal(run(base), expected)


def test_views_that_share_a_network():
    """Two stages of a cascade over one network, one called in the middle of the other: neither takes the other's."""
    cascade = pipeline("cascade", first_frame_unet=None, first_frame_scheduler=None)
    cascade.base_unet.enable_cache(DeepCacheConfig(4))
    outer, inner = cascade.base, cascade.base
    alone = run(inner, num_inference_steps=2)
    seen = []

    def preview(stage, step, timestep, tensors):
        if step == 0:
            seen.append(run(inner, num_inference_steps=2))
        return {}

    made = run(outer, num_inference_steps=2, callback_on_step_end=preview)
    assert torch.equal(seen[0], alone)
    # the outer loop lost its features to the inner one, and so computed its second step
    cascade.base_unet.disable_cache()
    assert torch.equal(made, run(outer, num_inference_steps=2))


@pytest.mark.parametrize("interval", [(0.0, 0.5), (0.25, 0.75), (0.0, 0.0)])
def test_guidance_that_starts_and_stops(base, interval):
    """Where guidance halves or doubles the batch, the network is run as a whole."""
    plain = run(base, guidance_interval=interval, num_inference_steps=4)
    assert torch.equal(run(base, guidance_interval=interval), plain)
    switches = len({0, int(4 * interval[0]), int(4 * interval[1])} - {4}) if interval[1] else 1
    runs = Runs(base.unet)
    base.unet.enable_cache(DeepCacheConfig(4))
    run(base, guidance_interval=interval)
    assert runs.counts["mid_block.resnets.0.conv1"] == switches
    assert runs.counts["conv_out"] == 4


def test_split_guidance(base):
    """Two calls a step: the second does not take the first one's features."""
    plain = run(base, num_inference_steps=1, split_guidance=True)
    base.unet.enable_cache(DeepCacheConfig())
    assert torch.equal(run(base, num_inference_steps=1, split_guidance=True), plain)


def test_guiders(base):
    """A guider calls the network branch by branch: at the first step each branch is computed."""
    base.guider = ClassifierFreeGuidance(guidance_scale=3.0)
    plain = run(base, num_inference_steps=1)
    base.unet.enable_cache(DeepCacheConfig())
    assert torch.equal(run(base, num_inference_steps=1), plain)


def test_windows_of_refinement():
    """Each window of a long video has features of its own."""
    stage = pipeline("refine", unet=network(LATENT))

    def refine(steps):
        options = {"window_size": 3, "window_overlap": 1, "strength": 1.0, "num_inference_steps": steps}
        video = clip(5, 16, 24)
        return stage(video, PROMPT, input_type="latent", output_type="latent", generator=seeded(), **options).frames

    plain = refine(1)
    runs = Runs(stage.unet)
    stage.unet.enable_cache(DeepCacheConfig())
    assert torch.equal(refine(1), plain)
    assert runs.counts["mid_block.resnets.0.conv1"] == 2
    refine(2)
    assert runs.counts["mid_block.resnets.0.conv1"] == 2 + 2
    assert runs.counts["conv_out"] == 2 + 4


# --- diffusers' own caches ----------------------------------------------------------------------------------------


def test_pyramid_attention_broadcast(base):
    """diffusers' PAB skips our attentions, and computes them again in the next call."""
    plain = run(base)
    config = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(-1, 1000),
        spatial_attention_block_identifiers=("transformer_blocks",),
        current_timestep_callback=lambda: base.current_timestep,
    )
    runs = Runs(base.unet)
    base.unet.enable_cache(config)
    first = run(base)
    layer = "mid_block.temp_attentions.0.transformer_blocks.0.attn1.to_q"
    # at every second step
    assert runs.counts[layer] == 2
    assert runs.counts["mid_block.attentions.0.to_q"] == 4
    assert torch.equal(run(base), first)
    assert torch.equal(run(base, guidance_interval=(0.0, 0.5)), run(base, guidance_interval=(0.0, 0.5)))
    base.unet.disable_cache()
    assert torch.equal(run(base), plain)


TAYLOR = {
    "cache_interval": 3,
    "disable_cache_before_step": 2,
    "taylor_factors_dtype": torch.float32,
    "cache_identifiers": [r".*attentions\.\d+"],
}


def test_taylor_seer(base):
    """diffusers' TaylorSeer foretells what our attentions would give, and forgets it from call to call."""
    plain = run(base, num_inference_steps=6)
    runs = Runs(base.unet)
    base.unet.enable_cache(TaylorSeerCacheConfig(**TAYLOR))
    first = run(base, num_inference_steps=6)
    assert runs.counts["mid_block.resnets.0.conv1"] == 6
    # in the first two steps, and from then on in the second of every three
    assert runs.counts["mid_block.attentions.0.to_q"] == runs.counts["mid_block.temp_attentions.0.proj_in"] == 3
    assert torch.isfinite(first).all()
    assert max_difference(first, plain) > 1e-4
    assert torch.equal(run(base, num_inference_steps=6), first)
    base.unet.disable_cache()
    assert torch.equal(run(base, num_inference_steps=6), plain)


def test_taylor_seer_is_a_straight_line():
    """Of order 1: a foretold layer goes on as from the last step but one to the last."""
    unet = network()
    given = []
    unet.enable_cache(TaylorSeerCacheConfig(**{**TAYLOR, "cache_identifiers": [r"mid_block\.temp_attentions\.0"]}))
    unet.mid_block.resnets[1].register_forward_pre_hook(lambda _, args: given.append(args[0]))
    for step in range(3):
        call(unet, **inputs(step))
    assert max_difference(given[2], 2 * given[1] - given[0]) < 1e-5


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"cache_identifiers": None}, "cache_identifiers"),
        ({"use_lite_mode": True}, "use_lite_mode"),
        ({"cache_identifiers": ["transformer_blocks.*attn"]}, "names none"),
        ({"skip_predict_identifiers": ["nonesuch"]}, "names none"),
        ({"cache_identifiers": [r"down_blocks\.\d+"]}, "a down block gives its skips"),
    ],
)
def test_taylor_seer_must_name_layers(change, word):
    unet = network()
    with pytest.raises(ValueError, match=word):
        unet.enable_cache(TaylorSeerCacheConfig(**{**TAYLOR, **change}))
    assert not unet.is_cache_enabled


def test_freeu_beside_deep_cache():
    """FreeU scales features that DeepCache keeps: what is kept must not be scaled twice."""
    unet = network()
    unet.enable_freeu(s1=0.9, s2=0.2, b1=1.4, b2=1.6)
    expected = unet(**inputs()).sample
    unet.enable_cache(DeepCacheConfig(interval=3))
    for _ in range(3):
        assert torch.equal(call(unet), expected)


@pytest.mark.parametrize(
    "config", [FirstBlockCacheConfig(), FasterCacheConfig(current_timestep_callback=lambda: 1), {"interval": 2}]
)
def test_caches_of_transformers_are_refused(config):
    unet = network()
    with pytest.raises(ValueError, match="DeepCacheConfig"):
        unet.enable_cache(config)
    assert not unet.is_cache_enabled
