# SPDX-License-Identifier: Apache-2.0
"""Adapters of a stage: every temporal attention is reachable; files, names, weights, fusing; what does not fit."""

import copy
import json
import tempfile

import pytest
import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from torch import nn

from diffusers_show1 import Show1KeyframePipeline, Show1UNet3DConditionModel

from ..contract.components import FOLDERS, pipeline, seeded
from ..golden.cases import max_difference


FILE = "pytorch_lora_weights.safetensors"


def temporal_linears(unet: nn.Module) -> list[str]:
    """The names of all linear layers of the temporal attentions."""
    return [
        name
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear) and ("temp_attentions." in name or name.startswith("transformer_in."))
    ]


def adapter(unet: nn.Module, seed: int = 0, rank: int = 2, targets: list[str] | None = None) -> dict:
    """Layers and settings of a random adapter for `unet`, which is left alone."""
    network = copy.deepcopy(unet)
    network.unload_lora()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = LoraConfig(
            r=rank, lora_alpha=3 * rank, target_modules=targets or temporal_linears(network), init_lora_weights=False
        )
        network.add_adapter(config)
    return {"layers": get_peft_model_state_dict(network), "settings": network.peft_config["default"].to_dict()}


def save(pipe_class, folder, made: dict, component: str = "unet", **options) -> None:
    layers = {f"{component}_lora_layers": made["layers"], f"{component}_lora_adapter_metadata": made["settings"]}
    pipe_class.save_lora_weights(folder, **layers, **options)


def as_ours(unet: nn.Module) -> Show1UNet3DConditionModel:
    """A network of diffusers' own class, loaded as ours."""
    with tempfile.TemporaryDirectory() as folder:
        unet.save_pretrained(folder)
        return Show1UNet3DConditionModel.from_pretrained(folder)


@pytest.fixture
def pipe():
    return pipeline("base")


def run(pipe, **options):
    options = {"prompt": "a red car", "height": 8, "width": 12, "num_frames": 3, "num_inference_steps": 2, **options}
    generator = options.pop("generator", None) or seeded()
    return pipe(**options, generator=generator, output_type="latent").frames


@pytest.fixture(scope="module")
def plain():
    """What the stage makes without an adapter."""
    return run(pipeline("base"))


@pytest.fixture(scope="module")
def motion(tmp_path_factory):
    """An adapter's file, as a stage saves it."""
    folder = tmp_path_factory.mktemp("motion")
    save(Show1KeyframePipeline, folder, adapter(pipeline("base").unet))
    return folder


@pytest.mark.parametrize("name", FOLDERS)
def test_every_temporal_attention_is_reachable(name):
    """Each linear layer of each temporal attention takes an adapter, which the output depends on."""
    unet = pipeline(name).unet
    if name == "refine":  # published as diffusers' own class
        unet = as_ours(unet)
    targets = temporal_linears(unet)
    assert len(targets) == 12 * sum(type(module).__name__ == "TemporalTransformer" for module in unet.modules())
    unet.load_lora_adapter(adapter(unet)["layers"], prefix=None)
    channels, width = unet.config.in_channels, unet.config.encoder_hid_dim or unet.config.cross_attention_dim
    labels = {"class_labels": torch.tensor([3])} if unet.class_embedding is not None else {}
    sample = torch.randn(1, channels, 3, 8, 8, generator=seeded())
    unet(sample, 500, torch.randn(1, 4, width, generator=seeded(1)), **labels).sample.square().mean().backward()
    reached = {key.split(".lora_B")[0] for key, p in unet.named_parameters() if "lora_B" in key and p.grad.any()}
    assert reached == set(targets)


def test_saved_and_loaded(pipe, plain, motion):
    """The file says rank and scale; loaded by folder or file it is the network with that adapter, and unloads to
    the very network."""
    with safe_open(motion / FILE, "pt") as file:
        settings = json.loads(file.metadata()["lora_adapter_metadata"])
        assert all(key.startswith("unet.") for key in file.keys())
    assert (settings["unet.r"], settings["unet.lora_alpha"]) == (2, 6)
    pipe.load_lora_weights(motion, adapter_name="motion")
    assert pipe.get_list_adapters() == {"unet": ["motion"]}
    assert pipe.get_active_adapters() == ["motion"]
    assert pipe.unet.peft_config["motion"].lora_alpha == 6
    adapted = run(pipe)
    assert max_difference(adapted, plain) > 1e-2

    other = pipeline("base")
    other.unet.load_lora_adapter(adapter(other.unet)["layers"], prefix=None, adapter_name="as made")
    other.set_adapters("as made", 3.0)  # alpha over rank, which bare layers do not say
    assert max_difference(run(other), adapted) < 1e-5

    pipe.unload_lora_weights()
    assert torch.equal(run(pipe), plain)
    assert all(parameter.requires_grad for parameter in pipe.unet.parameters())  # as before, and not frozen by peft
    pipe.load_lora_weights(str(motion / FILE), local_files_only=True)
    assert torch.equal(run(pipe), adapted)
    assert pipe.get_list_adapters() == {"unet": ["default_0"]}


def test_scaled_disabled_deleted(pipe, plain, motion):
    pipe.load_lora_weights(motion, adapter_name="motion")
    adapted = run(pipe)
    pipe.set_adapters("motion", 0.0)
    assert torch.equal(run(pipe), plain)
    pipe.set_adapters("motion", 0.5)
    half = run(pipe)
    assert max_difference(half, plain) > 1e-3
    assert max_difference(half, adapted) > 1e-3
    pipe.set_adapters("motion")
    pipe.disable_lora()
    assert torch.equal(run(pipe), plain)
    pipe.enable_lora()
    assert torch.equal(run(pipe), adapted)
    pipe.set_lora_device(["motion"], "cpu")
    pipe.delete_adapters("motion")
    assert pipe.get_list_adapters() == {}
    assert torch.equal(run(pipe), plain)


def test_two_adapters_with_weights(pipe, motion):
    """Two adapters at once change a layer by the weighted sum of their changes."""
    second = adapter(pipe.unet, seed=1, rank=4)
    name = temporal_linears(pipe.unet)[0]
    x = torch.randn(2, pipe.unet.get_submodule(name).in_features, generator=seeded())
    with torch.no_grad():
        bare = pipe.unet.get_submodule(name)(x)
        changes = []
        pipe.load_lora_weights(motion, adapter_name="motion")
        changes.append(pipe.unet.get_submodule(name)(x) - bare)
        pipe.load_lora_weights(second["layers"], adapter_name="style")
        pipe.set_adapters("style")
        changes.append(pipe.unet.get_submodule(name)(x) - bare)
        pipe.set_adapters(["motion", "style"], [0.7, 0.4])
        assert sorted(pipe.get_active_adapters()) == ["motion", "style"]
        both = pipe.unet.get_submodule(name)(x) - bare
    assert max_difference(both, 0.7 * changes[0] + 0.4 * changes[1]) < 1e-5


def test_fused(pipe, plain, motion):
    """Fused is the same video up to rounding, and so is unfused again."""
    pipe.load_lora_weights(motion, adapter_name="motion")
    adapted = run(pipe)
    pipe.fuse_lora()
    assert pipe.fused_loras == {"motion"}
    assert pipe.num_fused_loras == 1
    assert max_difference(run(pipe), adapted) < 1e-3
    pipe.unfuse_lora()
    assert pipe.num_fused_loras == 0
    assert max_difference(run(pipe), adapted) < 1e-3
    pipe.unload_lora_weights()
    assert max_difference(run(pipe), plain) < 1e-3


def test_batch_of_prompts(pipe, motion):
    """Each video of a batch is the one it is alone."""
    pipe.load_lora_weights(motion)
    prompts = ["a red car", "a green house"]
    both = run(pipe, prompt=prompts, generator=[seeded(5), seeded(6)])
    for prompt, seed, video in zip(prompts, (5, 6), both, strict=True):
        assert max_difference(run(pipe, prompt=prompt, generator=seeded(seed))[0], video) < 1e-4


def test_from_pipe_keeps_the_adapter(pipe, motion):
    pipe.load_lora_weights(motion, adapter_name="motion")
    pipe.fuse_lora()
    again = Show1KeyframePipeline.from_pipe(pipe)
    assert again.get_list_adapters() == {"unet": ["motion"]}
    assert again.fused_loras == {"motion"}
    assert torch.equal(run(again), run(pipe))


def test_offloading(pipe, motion):
    """Loading under offloading takes the hooks away and puts them back, on the device that was chosen."""
    pipe.load_lora_weights(motion, adapter_name="motion")
    adapted = run(pipe)
    pipe.unload_lora_weights()
    pipe.enable_model_cpu_offload(device="cpu")  # no memory is saved, but the hooks are those of any device
    pipe.load_lora_weights(motion, adapter_name="motion")
    assert hasattr(pipe.unet, "_hf_hook")
    assert torch.equal(run(pipe), adapted)
    with pytest.raises(ValueError, match="`adapter_name` must be new"):
        pipe.load_lora_weights(motion, adapter_name="motion")
    assert hasattr(pipe.unet, "_hf_hook")


def test_diffusers_own_network_takes_none():
    """Refinement is published with a network class that has no adapters: said at once, and ours reads its weights."""
    pipe = pipeline("refine")
    layers = adapter(as_ours(pipe.unet))["layers"]
    with pytest.raises(ValueError, match="`unet` must be a network that takes adapters, got a UNet3DConditionModel"):
        pipe.load_lora_weights(layers)
    assert pipe.get_list_adapters() == {}
    pipe.unload_lora_weights()
    pipe.unet = as_ours(pipe.unet)
    pipe.load_lora_weights(layers, adapter_name="style")
    assert pipe.get_active_adapters() == ["style"]


def test_other_spellings(pipe, motion, tmp_path):
    """A network's own file (no name in front), and the keys that diffusers wrote before peft."""
    pipe.load_lora_weights(motion, adapter_name="motion")
    adapted = run(pipe)
    pipe.unet.save_lora_adapter(tmp_path, adapter_name="motion")
    layers = Show1KeyframePipeline.lora_state_dict(motion)
    pipe.unload_lora_weights()
    pipe.load_lora_weights(tmp_path)
    assert torch.equal(run(pipe), adapted)
    pipe.unload_lora_weights()
    old = {k.replace("lora_A", "lora.down").replace("lora_B", "lora.up"): v for k, v in layers.items()}
    pipe.load_lora_weights(old, adapter_name="old")
    pipe.set_adapters("old", 3.0)
    assert max_difference(run(pipe), adapted) < 1e-5


def test_hotswap(pipe, motion):
    """Another adapter of the same layers and rank in the place of a loaded one."""
    second = {f"unet.{key}": value for key, value in adapter(pipe.unet, seed=1)["layers"].items()}
    pipe.load_lora_weights(second, adapter_name="second")
    expected = run(pipe)
    pipe.unload_lora_weights()
    pipe.load_lora_weights(adapter(pipe.unet)["layers"], adapter_name="slot")
    pipe.load_lora_weights(second, adapter_name="slot", hotswap=True)
    assert max_difference(run(pipe), expected) < 1e-6


def test_what_does_not_fit_changes_nothing(pipe, plain, motion):
    layers = adapter(pipe.unet)["layers"]
    key = next(iter(layers))
    for wrong, message in (
        ({"unet.nowhere.to_q.lora_A.weight": layers[key]}, "match no layer of `unet`: 'nowhere.to_q.lora_A.weight'"),
        ({**layers, "text_encoder.x.lora_A.weight": layers[key]}, "no layer of `unet`: 'text_encoder.x.lora_A"),
        ({key.replace(".lora_A", ""): layers[key]}, "match no layer"),
        ({key: layers[key][:, 1:]}, r"does not fit `unet`: .* for a layer of \d+ inputs"),
        ({key.replace("lora_A", "lora_B"): layers[key][:1]}, r"for a layer of \d+ outputs"),
        ({f"refine_unet.{key}": layers[key]}, r"nothing for \['unet'\]; its keys are 'refine_unet"),
        ({}, "nothing for"),
    ):
        with pytest.raises(ValueError, match=message):
            pipe.load_lora_weights(wrong)
    with pytest.raises(ValueError, match="`stage` must be one of .*base.*, got 'refine'"):
        pipe.load_lora_weights(motion, stage="refine")
    assert pipe.get_list_adapters() == {}
    assert torch.equal(run(pipe), plain)
    pipe.load_lora_weights(motion, adapter_name="motion")
    with pytest.raises(ValueError, match=r"`adapter_name` must be new to \['unet'\].*got 'motion'"):
        pipe.load_lora_weights(motion, adapter_name="motion")


def test_saving_checks_its_arguments(tmp_path):
    with pytest.raises(TypeError, match=r"takes \['unet_lora_layers', .*got 'base_unet_lora_layers'"):
        Show1KeyframePipeline.save_lora_weights(tmp_path, base_unet_lora_layers={"a": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"one of \['unet_lora_layers'\], got none"):
        Show1KeyframePipeline.save_lora_weights(tmp_path)
    assert not list(tmp_path.iterdir())


def test_adapters_are_found_on_a_loaded_pipeline(pipe, motion, tmp_path):
    """`save_pretrained` and `from_pretrained`, then an adapter, in half precision."""
    pipe.save_pretrained(tmp_path)
    loaded = DiffusionPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert isinstance(loaded.unet, Show1UNet3DConditionModel)
    loaded.load_lora_weights(motion)
    loaded.set_progress_bar_config(disable=True)
    assert run(loaded).dtype == torch.bfloat16
