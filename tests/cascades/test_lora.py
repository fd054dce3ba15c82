# SPDX-License-Identifier: Apache-2.0
"""Adapters of the cascade: whose they are, from stages and to stages, several networks at once, and in bundles."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from diffusers_show1 import Show1CascadePipeline, Show1InterpolationPipeline, Show1KeyframePipeline
from diffusers_show1.ladder.cascade import CascadePipeline
from diffusers_show1.ladder.rung import Rung

from ..contract.components import pipeline, seeded
from ..golden.cases import max_difference
from ..stages import lora_formats
from ..stages.test_lora import adapter, as_ours, save
from ..toy.between import ToyBetweenPipeline
from ..toy.make import pipeline as toy


BUNDLE = Path(__file__).parents[2] / "pipelines" / "pipeline_show1.py"


def make_pipe():
    """A cascade whose four networks all take adapters."""
    pipe = pipeline("cascade", first_frame_unet=None, first_frame_scheduler=None)
    pipe.refine_unet = as_ours(pipe.refine_unet).eval()
    return pipe


@pytest.fixture
def pipe():
    return make_pipe()


def run(pipe, **options):
    """Keyframes and the frames between them."""
    options = {"prompt": "a red car", "stop_after": "interpolation", "return_stages": True, **options}
    return pipe(**options, generator=seeded(), output_type="pt").stages


@pytest.fixture(scope="module")
def plain():
    return run(make_pipe())


@pytest.fixture(scope="module")
def motion(tmp_path_factory):
    """A keyframe stage's adapter."""
    folder = tmp_path_factory.mktemp("motion")
    save(Show1KeyframePipeline, folder, adapter(pipeline("base").unet))
    return folder


def test_a_stages_adapter_in_the_cascade(pipe, plain, motion):
    """Told whose it is, it acts there as in that stage, and unloads to the very cascade."""
    with pytest.raises(ValueError, match=r"`stage` must be one of \['base', .* got None"):
        pipe.load_lora_weights(motion)
    with pytest.raises(ValueError, match="`stage` must be one of .* got 'first'"):
        pipe.load_lora_weights(motion, stage="first")
    pipe.load_lora_weights(motion, adapter_name="motion", stage="base")
    assert pipe.get_list_adapters() == {"base_unet": ["motion"]}
    assert pipe.get_active_adapters() == pipe.base.get_active_adapters() == ["motion"]
    assert pipe.interpolation.get_active_adapters() == []
    adapted = run(pipe)
    assert max_difference(adapted["base"], plain["base"]) > 1e-2
    pipe.disable_lora()
    assert torch.equal(run(pipe)["base"], plain["base"])
    pipe.enable_lora()
    pipe.unload_lora_weights()
    assert torch.equal(run(pipe)["interpolation"], plain["interpolation"])

    pipe.base.load_lora_weights(motion, adapter_name="motion")  # through the stage: the same network
    assert torch.equal(run(pipe)["base"], adapted["base"])
    pipe.base.fuse_lora()
    assert pipe.fused_loras == {"motion"}
    pipe.unfuse_lora()
    assert pipe.num_fused_loras == 0


def test_adapters_of_several_stages_in_one_file(pipe, tmp_path):
    """Saved by a cascade under its own names; each network takes its part, and a stage takes its own only."""
    made = {name: adapter(getattr(pipe, f"{name}_unet"), seed=i) for i, name in enumerate(("base", "interpolation"))}
    Show1CascadePipeline.save_lora_weights(
        tmp_path,
        weight_name="both.safetensors",
        base_unet_lora_layers=made["base"]["layers"],
        base_unet_lora_adapter_metadata=made["base"]["settings"],
        interpolation_unet_lora_layers=made["interpolation"]["layers"],
        interpolation_unet_lora_adapter_metadata=made["interpolation"]["settings"],
    )
    pipe.load_lora_weights(tmp_path, weight_name="both.safetensors", adapter_name="both")
    assert pipe.get_list_adapters() == {"base_unet": ["both"], "interpolation_unet": ["both"]}
    adapted = run(pipe)
    pipe.delete_adapters("both")
    pipe.load_lora_weights(tmp_path / "both.safetensors", stage="base")  # of several, one stage's part
    assert pipe.get_list_adapters() == {"base_unet": ["default_0"]}
    assert torch.equal(run(pipe)["base"], adapted["base"])

    stage = pipeline("interpolation")
    stage.load_lora_weights(tmp_path)
    assert stage.unet.peft_config["default_0"].lora_alpha == 6
    layers = Show1InterpolationPipeline.lora_state_dict(tmp_path)
    assert layers.keys() == {f"unet.{key}" for key in made["interpolation"]["layers"]}


def test_names_and_weights_across_stages(pipe, motion):
    """Adapters of different stages, weighed by one list, or by network."""
    pipe.load_lora_weights(motion, adapter_name="motion", stage="base")
    pipe.load_lora_weights(adapter(pipe.refine_unet)["layers"], adapter_name="style", stage="refine")
    pipe.load_lora_weights(adapter(pipe.base_unet, seed=3)["layers"], stage="base")
    assert pipe.get_list_adapters() == {"base_unet": ["motion", "default_0"], "refine_unet": ["style"]}
    pipe.set_adapters(["motion", "style"], [0.5, 0.8])
    assert sorted(pipe.get_active_adapters()) == ["motion", "style"]
    half = run(pipe, stop_after="base")["base"]
    pipe.set_adapters(["motion", "style"], {"base_unet": 0.5, "refine_unet": 0.1})
    assert torch.equal(run(pipe, stop_after="base")["base"], half)
    with pytest.raises(ValueError, match=r"`adapter_name` must be new to \['base_unet'\]"):
        pipe.load_lora_weights(motion, adapter_name="motion", stage="base")
    with pytest.raises(ValueError, match="does not fit|no layer of `superres_unet`"):
        pipe.load_lora_weights(adapter(pipe.refine_unet)["layers"], stage="superres")


def test_fused_in_every_stage_is_unfused(pipe):
    """The whole cascade with four adapters, fused: the same video up to rounding."""
    for i, name in enumerate(pipe.stage_names):
        pipe.load_lora_weights(adapter(getattr(pipe, f"{name}_unet"), seed=i)["layers"], name, stage=name)
    pipe.set_adapters(list(pipe.stage_names), [0.2] * 4)
    adapted = run(pipe, stop_after=None, num_frames=3)["refine"]
    pipe.fuse_lora()
    assert pipe.fused_loras == set(pipe.stage_names)
    assert max_difference(run(pipe, stop_after=None, num_frames=3)["refine"], adapted) < 5e-3


def test_offloading_and_batches(pipe, motion):
    """Loaded under offloading; each video of a batch is the one it is alone."""
    pipe.enable_model_cpu_offload(device="cpu")
    pipe.load_lora_weights(motion, stage="base")
    assert all(hasattr(getattr(pipe, f"{name}_unet"), "_hf_hook") for name in pipe.stage_names)
    prompts = ["a red car", "a green house"]
    options = {"stop_after": "base", "output_type": "pt"}
    both = pipe(prompts, generator=[seeded(5), seeded(6)], **options).frames
    for prompt, seed, video in zip(prompts, (5, 6), both, strict=True):
        assert max_difference(pipe(prompt, generator=seeded(seed), **options).frames[0], video) < 1e-4


def test_in_a_bundle(pipe, motion, monkeypatch):
    """The generated file of `pipelines/` has the same methods."""
    spec = importlib.util.spec_from_file_location("bundled_show1", BUNDLE)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    bundled = module.Show1CascadePipeline(**pipe.components, stage_defaults=pipe.config.stage_defaults)
    bundled.set_progress_bar_config(disable=True)
    bundled.load_lora_weights(motion, adapter_name="motion", stage="base")
    assert bundled.base.get_active_adapters() == ["motion"]
    assert torch.equal(run(bundled)["base"], run(pipe)["base"])  # one network in both


def test_one_adapter_in_every_spelling_for_every_stage(pipe, tmp_path):
    """Alpha over rank in all four networks: files of one stage each, and one of them all, are peft set by hand."""
    layers = {name: lora_formats.mixed(getattr(pipe, f"{name}_unet"), i) for i, name in enumerate(pipe.stage_names)}
    plain = run(pipe, stop_after=None, num_frames=3)["refine"]
    hand = make_pipe()
    for name, own in layers.items():
        lora_formats.by_hand(getattr(hand, f"{name}_unet"), own)
    expected = run(hand, stop_after=None, num_frames=3)["refine"]
    assert max_difference(expected, plain) > 1e-2

    spellings = list(lora_formats.SPELLINGS.values())
    for name, spell in zip(pipe.stage_names, spellings, strict=True):
        pipe.load_lora_weights(spell(layers[name]), "x", stage=name)
    assert torch.equal(run(pipe, stop_after=None, num_frames=3)["refine"], expected)
    pipe.unload_lora_weights()
    tensors, metadata = {}, {}
    for name, own in layers.items():
        tensors.update({f"{name}_unet.{key}": value for key, value in lora_formats.peft_keys(own).items()})
        metadata.update({f"{name}_unet.{key}": value for key, value in lora_formats.settings(own).items()})
    path = lora_formats.write(tmp_path / "all.safetensors", tensors, metadata)
    pipe.load_lora_weights(path, "x")
    assert torch.equal(run(pipe, stop_after=None, num_frames=3)["refine"], expected)


def test_a_part_that_does_not_fit_leaves_all_networks_alone(pipe):
    """One of two networks' layers are bad: neither is touched."""
    good = {f"base_unet.{key}": value for key, value in adapter(pipe.base_unet)["layers"].items()}
    bad = {f"superres_unet.{key}": value for key, value in adapter(pipe.superres_unet)["layers"].items()}
    key = next(key for key in bad if key.endswith("lora_A.weight"))
    before = lora_formats.snapshot(pipe)
    for wrong in (
        {**good, **bad, key: bad[key][:, 1:]},
        {**good, **{k: v for k, v in bad.items() if k != key}},
        {**good, **bad, "superres_unet.x.alpha": torch.ones(())},
    ):
        with pytest.raises(ValueError, match="superres_unet|must have both matrices"):
            pipe.load_lora_weights(wrong, "x")
        assert lora_formats.same(before, lora_formats.snapshot(pipe))


def test_two_rungs_of_one_network():
    """`stage` names a rung; the adapter is in the network, and so in both."""
    pipe = toy()
    layers = lora_formats.mixed(pipe.between_unet)
    assert pipe._lora_loadable_modules == ["frames_unet", "between_unet", "upscale_unet"]
    for stage in ("between", "between2"):
        pipe.load_lora_weights(lora_formats.kohya(layers), "x", stage=stage)
        assert pipe.get_list_adapters() == {"between_unet": ["x"]}
        assert pipe.between.get_active_adapters() == pipe.between2.get_active_adapters() == ["x"]
        with pytest.raises(ValueError, match=r"`adapter_name` must be new to \['between_unet'\]"):
            pipe.load_lora_weights(lora_formats.kohya(layers), "x", stage="between2")
        pipe.unload_lora_weights()
    saved = {f"between_unet.{key}": value for key, value in lora_formats.peft_keys(layers).items()}
    pipe.between2.load_lora_weights(saved, "x")  # a cascade's file, through either stage
    assert pipe.get_list_adapters() == {"between_unet": ["x"]}
    with pytest.raises(ValueError, match=r"nothing for \['unet'\]"):
        pipe.upscale.load_lora_weights(saved)


class OneNetwork(CascadePipeline):
    """Two rungs, one network, under a name of its own."""

    rungs = (
        Rung(
            "first",
            ToyBetweenPipeline,
            shared=("tokenizer", "text_encoder", "scheduler"),
            components={"unet": "painter"},
        ),
        Rung(
            "second",
            ToyBetweenPipeline,
            shared=("tokenizer", "text_encoder", "scheduler"),
            components={"unet": "painter"},
        ),
    )


def test_a_network_with_a_name_of_its_own():
    """No name has to end in `_unet`; of one network alone a file need not say whose it is."""
    parts = toy().components
    pipe = OneNetwork(
        tokenizer=parts["tokenizer"],
        text_encoder=parts["text_encoder"],
        scheduler=parts["between_scheduler"],
        painter=parts["between_unet"],
    )
    layers = lora_formats.mixed(pipe.painter)
    own = {f"painter.{key}": value for key, value in lora_formats.peft_keys(layers).items()}
    for file, options in (
        (lora_formats.kohya(layers), {}),
        (lora_formats.kohya(layers), {"stage": "second"}),
        (own, {}),
        (own, {"stage": "first"}),
    ):
        pipe.load_lora_weights(file, "x", **options)
        assert pipe.get_list_adapters() == {"painter": ["x"]}
        pipe.unload_lora_weights()
    with pytest.raises(ValueError, match=r"`stage` must be one of \['first', 'second'\], got 'painter'"):
        pipe.load_lora_weights(own, stage="painter")
    pipe.second.load_lora_weights(own, "x")
    assert pipe.first.get_active_adapters() == ["x"]
    assert ToyBetweenPipeline.lora_state_dict(own).keys() == {f"unet.{key}" for key in lora_formats.peft_keys(layers)}
