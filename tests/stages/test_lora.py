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
from ..contract.test_pipelines import (
    Show1InterpolationPipelineTesterConfig,
    Show1KeyframePipelineTesterConfig,
    Show1RefinementPipelineTesterConfig,
    Show1SuperResolutionPipelineTesterConfig,
)
from ..golden.cases import max_difference
from . import lora_formats


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
        (
            {"text_encoder.x.lora_A.weight": layers[key]},
            r"nothing for \['unet'\]; its keys are 'text_encoder.x.lora_A",
        ),
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


# --- files of others -------------------------------------------------------------------------------------------------

STAGES = {
    "base": Show1KeyframePipelineTesterConfig,
    "interpolation": Show1InterpolationPipelineTesterConfig,
    "superres": Show1SuperResolutionPipelineTesterConfig,
    "refine": Show1RefinementPipelineTesterConfig,
}


def any_stage(name: str):
    """A stage whose network takes adapters, and what makes its frames."""
    pipe = pipeline(name)
    if name == "refine":
        pipe.unet = as_ours(pipe.unet).eval()
    return pipe, lambda pipe: pipe(**{**STAGES[name]().get_dummy_inputs(), "output_type": "pt"}).frames


@pytest.mark.parametrize("name", STAGES)
def test_one_adapter_in_every_spelling(name, tmp_path):
    """Alpha over rank, layer by layer, wherever a file says it: the video is that of peft set by hand, and that of
    weights which are changed by alpha / rank * B A."""
    pipe, frames = any_stage(name)
    layers = lora_formats.mixed(pipe.unet)
    assert len({layer.alpha / len(layer.a) for layer in layers.values()}) > 4
    assert any("temp_attentions" in key for key in layers)
    assert any(layer.a.ndim == 4 for layer in layers.values())
    before = frames(pipe)

    hand, _ = any_stage(name)
    lora_formats.by_hand(hand.unet, layers)
    expected = frames(hand)
    lora_formats.changed_weights(changed := any_stage(name)[0].unet, layers)
    hand.unet = changed
    assert max_difference(expected, before) > 1e-2
    assert max_difference(frames(hand), expected) < 1e-3

    files = {spelling: spell(layers) for spelling, spell in lora_formats.SPELLINGS.items()}
    files["a file"] = lora_formats.write(tmp_path / "kohya.safetensors", lora_formats.kohya(layers))
    files["metadata"] = lora_formats.with_metadata(tmp_path / "metadata.safetensors", layers)
    for spelling, file in files.items():
        pipe.load_lora_weights(file, adapter_name="x")
        assert torch.equal(frames(pipe), expected), spelling
        pipe.unet.save_lora_adapter(tmp_path / "saved", adapter_name="x")
        pipe.unload_lora_weights()
    pipe.load_lora_weights(tmp_path / "saved")  # the scales are saved with the layers, and diffusers reads them, too
    assert torch.equal(frames(pipe), expected)
    pipe.unload_lora_weights()
    pipe.unet.load_lora_adapter(tmp_path / "saved", prefix=None, weight_name=FILE)
    assert torch.equal(frames(pipe), expected)


def scale(pipe, file, **options) -> float:
    """How much of B A a layer of the network gets from a file with one layer: measured on its output."""
    name = temporal_linears(pipe.unet)[0]
    x = torch.randn(2, pipe.unet.get_submodule(name).in_features, generator=seeded())
    with torch.no_grad():
        bare = pipe.unet.get_submodule(name)(x)
        pipe.load_lora_weights(file, adapter_name="x", **options)
        layer = pipe.unet.get_submodule(name)
        change = layer(x) - bare
        product = layer.lora_B["x"](layer.lora_A["x"](x))
        measured = (change * product).sum() / product.square().sum()
    assert max_difference(change, measured * product) < 1e-5
    pipe.unload_lora_weights()
    return measured.item()


@pytest.fixture
def one(pipe):
    """An adapter of one layer, of rank 4."""
    name = temporal_linears(pipe.unet)[0]
    linear = pipe.unet.get_submodule(name)
    a = torch.randn(4, linear.in_features, generator=seeded(1))
    return {name: lora_formats.Layer(a, torch.randn(linear.out_features, 4, generator=seeded(2)), 6.0)}


def test_what_a_scale_is(pipe, one, tmp_path):
    """Metadata as peft means it; a tensor says more than metadata; nothing said is 1."""
    name, path = next(iter(one)), tmp_path / "x.safetensors"
    last = name.rpartition(".")[2]
    assert scale(pipe, lora_formats.peft_keys(one)) == pytest.approx(1)
    assert scale(pipe, lora_formats.kohya(one)) == pytest.approx(6 / 4)
    for changes, expected in (
        ({"alpha_pattern": {}}, 8 / 4),
        ({"alpha_pattern": {}, "use_rslora": True}, 8 / 2),
        ({"alpha_pattern": {last: 10}}, 10 / 4),
        ({"alpha_pattern": {f"^{last}": 10}}, 8 / 4),
        ({"alpha_pattern": {"other": 3, name: 5, last: 7}}, 5 / 4),
        ({"alpha_pattern": {f"^{name.replace('.', chr(92) + '.')}": 5}}, 5 / 4),
        ({"alpha_pattern": {}, "lora_dropout": 0.5}, 8 / 4),
        # what a file says of itself is not believed
        ({"alpha_pattern": {}, "r": 10**9}, 8 / 4),
        ({"alpha_pattern": {}, "rank_pattern": {last: 10**8}}, 8 / 4),
        ({"alpha_pattern": {}, "rank_pattern": {"(.*.*.*.*.*.*.*.*)*x": 4}}, 8 / 4),
        ({"alpha_pattern": {}, "target_modules": "(([a-z_0-9.])+)+!"}, 8 / 4),
        ({"alpha_pattern": {}, "target_modules": None, "exclude_modules": ".*"}, 8 / 4),
        ({"alpha_pattern": {f"a{i}.b": i for i in range(10**5)}}, 8 / 4),
    ):
        assert scale(pipe, lora_formats.with_metadata(path, one, **changes)) == pytest.approx(expected), changes
    both = lora_formats.peft_with_alpha(one)
    assert scale(pipe, lora_formats.write(path, both, {"unet.lora_alpha": 2.0, "unet.r": 4})) == pytest.approx(6 / 4)


def test_dora_and_biases_are_peft_s_own(pipe, plain, tmp_path):
    """Adapters with more than two matrices are loaded as they were saved, and half of one is refused."""
    for extra in ({"use_dora": True}, {"lora_bias": True}, {"use_rslora": True}):
        network = copy.deepcopy(pipe.unet)
        targets = temporal_linears(network)[:4]
        config = LoraConfig(r=2, lora_alpha=6, target_modules=targets, init_lora_weights=False, **extra)
        network.add_adapter(config)
        for key, value in network.named_parameters():
            if "magnitude" in key or "lora_B.default.bias" in key:
                value.data += 0.3
        other = pipeline("base")
        other.unet = network.eval()
        layers = get_peft_model_state_dict(network)
        made = {"layers": layers, "settings": network.peft_config["default"].to_dict()}
        save(Show1KeyframePipeline, tmp_path, made)
        pipe.load_lora_weights(tmp_path)
        assert max_difference(run(pipe), plain) > 1e-3
        assert torch.equal(run(pipe), run(other)), extra
        pipe.unload_lora_weights()
    before = lora_formats.snapshot(pipe)
    made = {"layers": made["layers"], "settings": {**made["settings"], "use_dora": True}}
    save(Show1KeyframePipeline, tmp_path, made)
    with pytest.raises(ValueError, match="uses DoRA and must have a `lora_magnitude_vector`"):
        pipe.load_lora_weights(tmp_path)
    assert lora_formats.same(before, lora_formats.snapshot(pipe))


def test_lokr(pipe, tmp_path):
    """LoKr's factors have alpha over rank too; what peft would lay out otherwise is refused, and nothing is left."""
    from peft import LoKrConfig, inject_adapter_in_model

    network, before = copy.deepcopy(pipe.unet), lora_formats.snapshot(pipe)
    config = LoKrConfig(r=2, alpha=6, target_modules=temporal_linears(network)[:3], init_weights=False)
    inject_adapter_in_model(config, network, adapter_name="default")
    factors = get_peft_model_state_dict(network, adapter_name="default")
    settings = {"unet.r": 2, "unet.alpha": 6, "unet.target_modules": "((.*)*)*!", "unet.peft_type": "LOKR"}
    path = lora_formats.write(tmp_path / "x", {f"unet.{k}": v.contiguous() for k, v in factors.items()}, settings)
    other = pipeline("base")
    other.unet = network.eval()
    pipe.load_lora_weights(path.rename(tmp_path / "x.safetensors"))
    assert max_difference(run(pipe), run(other)) < 1e-5
    pipe.unload_lora_weights()
    key = next(key for key in factors if "lokr_w1" in key)
    for wrong, message in (
        ({k: v for k, v in factors.items() if k != key}, "must have `lokr_w1`"),
        ({**factors, key: factors[key][:, :-1]}, r"LoKr factors for `\S+` must make \(\d+, \d+\), got"),
        ({**factors, key: factors[key] * float("nan")}, "must have finite numbers"),
        ({**factors, key: torch.tensor(1.0)}, "must be matrices"),
    ):
        with pytest.raises(ValueError, match=message):
            pipe.load_lora_weights(wrong)
        assert lora_formats.same(before, lora_formats.snapshot(pipe)), message
    split = {k.replace("w1", "w1_a"): v for k, v in factors.items()} | {
        k.replace("w1", "w1_b"): torch.eye(v.shape[1]) for k, v in factors.items() if "w1" in k
    }
    with pytest.raises(ValueError, match="are not those that peft would make"):  # the same change, laid out otherwise
        pipe.load_lora_weights(split)
    assert lora_formats.same(before, lora_formats.snapshot(pipe))


def test_layers_of_text_encoders_are_left_out(pipe, one, diffusers_log):
    """They are said to be, and the network's are loaded."""
    for key in ("lora_te_text_model_x.lora_down.weight", "lora_te1_x.alpha", "text_encoder.x.lora_A.weight"):
        assert scale(pipe, {**lora_formats.kohya(one), key: torch.ones(2, 2)}) == pytest.approx(6 / 4)
        assert f"layers of text encoders, which take none, are left out: '{key}'" in diffusers_log.text


def test_hotswap_of_other_alphas(pipe):
    """The scale that a layer gets is that of the file that is swapped in, also when weights are chosen later."""
    first, second = lora_formats.mixed(pipe.unet), lora_formats.mixed(pipe.unet, seed=1)
    second = {name: lora_formats.Layer(x.a, x.b, 4 * x.alpha + i % 2) for i, (name, x) in enumerate(second.items())}
    pipe.load_lora_weights(lora_formats.kohya(second), adapter_name="x")
    expected = run(pipe)
    pipe.unload_lora_weights()
    pipe.load_lora_weights(lora_formats.kohya(first), adapter_name="x")
    pipe.load_lora_weights(lora_formats.kohya(second), adapter_name="x", hotswap=True)
    assert max_difference(run(pipe), expected) < 1e-6
    pipe.set_adapters("x")
    assert max_difference(run(pipe), expected) < 1e-6
    more = {"conv_out": first.get("conv_out") or lora_formats.Layer(torch.ones(1, 8, 3, 3), torch.ones(3, 1, 1, 1), 1)}
    if "conv_out" not in second:
        with pytest.raises(ValueError, match="`hotswap` must be of layers that 'x' has|does not fit"):
            pipe.load_lora_weights(lora_formats.kohya({**second, **more}), adapter_name="x", hotswap=True)


def without(layers: dict, end: str) -> dict:
    return {key: value for key, value in layers.items() if not key.endswith(end)}


def changed(layers: dict, end: str, change) -> dict:
    return {key: change(value) if key.endswith(end) else value for key, value in layers.items()}


BAD_TENSORS = {
    "only B": (
        lambda x: without(x, "lora_down.weight"),
        r"must have both matrices .* got only '\S+lora_up.weight' \(",
    ),
    "only A": (
        lambda x: without(x, "lora_up.weight"),
        r"must have both matrices .* got only '\S+lora_down.weight' \(",
    ),
    "alpha alone": (lambda x: without(x, ".weight"), r"got only '\S+.alpha' \(\)"),
    "other ranks": (
        lambda x: changed(x, "down.weight", lambda a: a[:2]),
        r"one rank, got '\S+' \(2, \d+\), '\S+' \(\d+, 4\)",
    ),
    "no rank": (
        lambda x: changed(x, "down.weight", lambda a: a[:0]),
        r"'\S+down.weight' is \(0, \d+\), must be \(rank, \d+\)",
    ),
    "a scalar": (
        lambda x: changed(x, "up.weight", lambda b: b[0, 0].clone()),
        r"'\S+up.weight' is \(\), must be \(\d+, rank\)",
    ),
    "a vector": (lambda x: changed(x, "up.weight", lambda b: b[0]), r"'\S+up.weight' is \(4,\), must be"),
    "four sides": (lambda x: changed(x, "up.weight", lambda b: b[..., None, None]), r"is \(\d+, 4, 1, 1\), must be"),
    "NaN": (lambda x: changed(x, "up.weight", lambda b: b * float("nan")), r"'\S+up.weight' must have finite numbers"),
    "infinity": (lambda x: changed(x, "down.weight", lambda a: a / 0), r"'\S+down.weight' must have finite numbers"),
    "booleans": (lambda x: changed(x, "up.weight", lambda b: b > 0), r"'\S+' must be a tensor of real numbers"),
    "no tensor": (
        lambda x: changed(x, "up.weight", lambda b: "b"),
        r"'\S+' must be a tensor of real numbers, got str",
    ),
    "alpha of NaN": (
        lambda x: changed(x, "alpha", lambda y: y * float("nan")),
        r"'\S+.alpha' must have finite numbers",
    ),
    "two alphas": (
        lambda x: changed(x, "alpha", lambda y: torch.ones(2)),
        r"'\S+.alpha' must be one number, got \(2,\)",
    ),
    "alpha of 1e30": (
        lambda x: changed(x, "alpha", lambda y: y + 1e30),
        r"`\S+.alpha` of the adapter must be a number",
    ),
    "a stranger": (lambda x: {**x, "lora_unet_x_y.alpha": torch.ones(())}, "match no layer of `unet`: 'x_y.alpha'"),
    "twice": (lambda x: {**x, **{k.replace("lora_unet_", "unet."): v for k, v in x.items()}}, "two|twice"),
    "a norm": (
        lambda x: {**x, "unet.conv_norm_out.lora_A.weight": torch.ones(2, 2)},
        "is for a GroupNorm, which takes",
    ),
}


@pytest.mark.parametrize("bad", BAD_TENSORS)
def test_bad_tensors_change_nothing(pipe, one, bad):
    """The key and the shapes are named before the network is touched: alone, and beside a loaded adapter."""
    make, message = BAD_TENSORS[bad]
    tensors = make(lora_formats.kohya(one))
    for beside in ("good", None):
        before = lora_formats.snapshot(pipe)
        with pytest.raises(ValueError, match=message):
            pipe.load_lora_weights(tensors, adapter_name="bad")
        assert lora_formats.same(before, lora_formats.snapshot(pipe))
        if beside:
            pipe.load_lora_weights(lora_formats.kohya(one), adapter_name=beside)


BAD_METADATA = {
    "a pattern of patterns": (
        {"alpha_pattern": {"((.*)*)*!": 3}},
        r"`alpha_pattern` of the adapter must name layers, got '\(\(",
    ),
    "half a pattern": ({"alpha_pattern": {"(": 3}}, "`alpha_pattern` of the adapter must name layers"),
    "patterns in a list": ({"alpha_pattern": ["to_q"]}, "`alpha_pattern` of the adapter must be a dict"),
    "alpha of NaN": ({"lora_alpha": float("nan")}, "`lora_alpha` of the adapter must be a number"),
    "alpha of 400 digits": ({"lora_alpha": 10**400}, "`lora_alpha` of the adapter must be a number"),
    "alpha as text": ({"lora_alpha": "8"}, "`lora_alpha` of the adapter must be a number"),
    "alpha as truth": ({"lora_alpha": True}, "`lora_alpha` of the adapter must be a number"),
    "an infinite pattern": (
        {"alpha_pattern": {"to_q": float("inf")}},
        "`alpha_pattern` of the adapter must be a number",
    ),
    "dropout of 2": ({"lora_dropout": 2}, r"`lora_dropout` of the adapter must be in \[0, 1\)"),
    "a flag as text": ({"use_rslora": "no"}, "`use_rslora` of the adapter must be true or false"),
    "an initialisation that decomposes": (
        {"init_lora_weights": "pissa_niter_1000000"},
        "`init_lora_weights` of the adapter",
    ),
    "layers that are repeated": ({"layer_replication": [[0, 10**9]]}, "`layer_replication` is not supported"),
    "a setting that nobody knows": ({"x" * 10**5: 1}, "is not supported"),
}


@pytest.mark.parametrize("bad", BAD_METADATA)
def test_bad_metadata_changes_nothing(pipe, one, bad, tmp_path):
    changes, message = BAD_METADATA[bad]
    before = lora_formats.snapshot(pipe)
    with pytest.raises(ValueError, match=message) as caught:
        pipe.load_lora_weights(lora_formats.with_metadata(tmp_path / "x.safetensors", one, **changes))
    assert len(str(caught.value)) < 2000
    assert lora_formats.same(before, lora_formats.snapshot(pipe))


@pytest.mark.parametrize("metadata", ["[" * 10**5, "{", "[1]", '{"unet.r": ' + "9" * 5000 + "}"])
def test_metadata_that_is_none(pipe, one, metadata, tmp_path):
    before = lora_formats.snapshot(pipe)
    path = lora_formats.write(tmp_path / "x.safetensors", lora_formats.kohya(one), metadata)
    with pytest.raises(ValueError, match="metadata|digits"):
        pipe.load_lora_weights(path)
    assert lora_formats.same(before, lora_formats.snapshot(pipe))


@pytest.mark.parametrize("name", ["", "a.b", "keys", 7])
def test_names_that_no_adapter_can_have(pipe, one, name):
    before = lora_formats.snapshot(pipe)
    with pytest.raises(ValueError, match="`adapter_name` must be a name"):
        pipe.load_lora_weights(lora_formats.kohya(one), adapter_name=name)
    assert lora_formats.same(before, lora_formats.snapshot(pipe))
