# SPDX-License-Identifier: Apache-2.0
"""Training adapters: what is trained, what comes out, going on after a stop, and one clip from a file."""

import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file

from diffusers_show1 import TINY_PATH, Show1CascadePipeline, Show1UNet3DConditionModel, save_video
from diffusers_show1.families.show1.tasks import SuperresTask
from diffusers_show1.families.show1.unet import TemporalTransformer
from diffusers_show1.learning.options import ConfigError
from diffusers_show1.learning.task import Lesson
from diffusers_show1.tiny import world
from diffusers_show1.training.catalogue import recipes
from diffusers_show1.training.config import build
from diffusers_show1.training.lora import load_lora_config, prepare, temporal_layers, train_lora
from diffusers_show1.training.source import Source

from .small import NETWORK, recipe


FILE = "pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A network that is no longer fresh: its temporal attentions do something."""
    torch.manual_seed(0)
    unet = Show1UNet3DConditionModel(**NETWORK)
    for module in unet.modules():
        if isinstance(module, TemporalTransformer):
            torch.nn.init.normal_(module.proj_out.weight, std=0.1)
    folder = tmp_path_factory.mktemp("network")
    unet.save_pretrained(folder)
    return folder


@pytest.fixture
def config(network, tmp_path):
    """Writes a recipe for an adapter of `network`, with changes of its sections."""

    def write(name="recipe.yaml", **sections):
        model = {"start": "run", "path": str(network), "config": {}}
        lora = sections.pop("lora", {"rank": 2})
        sections["model"] = model | sections.get("model", {})
        sections["run"] = {"batch_size": 1} | sections.get("run", {})
        values = recipe(**sections) | {"lora": lora}
        path = tmp_path / name
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
        return path

    return write


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_only_the_temporal_attentions_are_trained(config, network, tmp_path):
    """The file has their layers and no other, all of them moved, and changes the network that it is loaded into."""
    folder = train_lora(config(), tmp_path / "run", echo=lambda _: None)
    unet = Show1UNet3DConditionModel.from_pretrained(network)
    layers = load_file(folder / FILE)
    assert {key.removeprefix("unet.").split(".lora_")[0] for key in layers} == set(temporal_layers(unet))
    assert all(value.any() for key, value in layers.items())
    states = torch.load(next((tmp_path / "run" / "checkpoints").glob("*/*")), weights_only=True)["model"]
    assert all(".lora_" in key for key in states)

    inputs = (torch.randn(1, 3, 3, 8, 8), 500, torch.randn(1, 4, 64))
    with torch.no_grad():
        plain = unet(*inputs).sample
        unet.load_lora_adapter(folder, prefix="unet", weight_name=FILE)
        assert (unet(*inputs).sample - plain).abs().max() > 1e-4


def test_single_frames_teach_no_motion(config, tmp_path):
    """Over one frame, queries and keys get no gradient: what looks at what stays as it was."""
    folder = train_lora(config(data={"frames": 1}), tmp_path / "run", echo=lambda _: None)
    changes = {key: value for key, value in load_file(folder / FILE).items() if "lora_B" in key}
    still = {key for key in changes if ".to_q." in key or ".to_k." in key}
    assert still
    assert all(bool(value.any()) == (key not in still) for key, value in changes.items())


def test_pairs_are_what_is_given_and_what_is_to_come_out():
    """Side by side in one video: of two equal halves the loss is that of the clip, of others it depends on both."""
    network = NETWORK | {"in_channels": 6, "class_embed_type": "timestep"}
    sections = {"model": {"config": network}, "objective": {"prediction_type": "sample", "factor": 4}}

    def task_of(**sections):
        config, device = build(recipe("superres", **sections)), torch.device("cpu")
        return SuperresTask(config, device, Source(config, device))

    single = task_of(**sections)
    sections |= {"data": {"width": 48}, "objective": sections["objective"] | {"pairs": True}}
    pairs = task_of(**sections)
    assert pairs.sample_size == single.sample_size == (16, 24)
    assert pairs.call_options() == single.call_options()

    plain, styled = torch.rand(2, 1, 3, 1, 16, 24) * 2 - 1
    assert torch.equal(pairs.given(torch.cat([plain, styled], dim=-1)), single.given(plain))
    embeds = torch.zeros(1, 4, 64)

    def loss(task, *parts):
        generators = [torch.Generator().manual_seed(0)]
        lesson = Lesson(torch.cat(parts, dim=-1), embeds, generators, task.config.objective)
        return task.loss(single.network, lesson).item()

    assert loss(pairs, plain, plain) == loss(single, plain)
    found = [loss(pairs, *parts) for parts in ((plain, plain), (plain, styled), (styled, plain))]
    assert len(set(found)) == 3


def test_pairs_can_not_be_validated(tmp_path):
    path = tmp_path / "recipe.yaml"
    values = yaml.safe_load(recipes("lora")["tiny-style"].read_text())
    path.write_text(yaml.safe_dump(values | {"validation": {"clips": 2}}), encoding="utf-8")
    with pytest.raises(ConfigError, match="`validation.clips` must be 0 with objective.pairs, got 2"):
        load_lora_config(path)


def test_silent_attention_of_the_tiny_cascade():
    """Super-resolution attends in a level more than it was trained with, and computes the same, bit for bit."""
    unet = Show1UNet3DConditionModel.from_pretrained(TINY_PATH, subfolder="superres_unet")
    blocks = ["SimpleCrossAttnUpBlock3D", "ResnetUpsampleBlock3D", "ResnetUpsampleBlock3D"]
    trained = Show1UNet3DConditionModel.from_config(unet.config, up_block_types=blocks)
    left_out = set(trained.load_state_dict(unet.state_dict(), strict=False).unexpected_keys)
    assert {name for name in temporal_layers(unet) if f"{name}.weight" in left_out}
    assert all(name.startswith("up_blocks.1.") and "attentions." in name for name in left_out)
    inputs = (torch.randn(1, 6, 2, 16, 24), 999, torch.randn(1, 4, 64), torch.tensor([20]))
    with torch.no_grad():
        assert torch.equal(unet(*inputs).sample, trained.eval()(*inputs).sample)


def test_an_interrupted_run_ends_the_same(config, tmp_path):
    path = config()
    whole = load_file(train_lora(path, tmp_path / "whole", echo=lambda _: None) / FILE)
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "export")
    shutil.rmtree(sorted((tmp_path / "again" / "checkpoints").iterdir())[-1])  # as if stopped after step 2 of 4
    said = []
    again = load_file(train_lora(path, tmp_path / "again", echo=said.append) / FILE)
    assert "resumed at step 2" in said
    assert again.keys() == whole.keys()
    assert all(torch.equal(again[key], whole[key]) for key in whole)


def test_one_clip_from_a_file_is_learned(config, tmp_path):
    """A video file and its caption; the loss on it falls."""
    clips = tmp_path / "clips"
    clips.mkdir()
    scene = world.CustomScene(
        world.Attributes("red", "circle", "circling", "white"), (12.0, 8.0, 4.0), (12.0, 8.0, 4.0), 4.0
    )
    frames = world.render([scene], range(0, 29, 4), scale=2)[0].permute(0, 2, 3, 1).numpy()
    save_video(frames, clips / "clip.mp4", fps=2)
    (clips / "clips.csv").write_text("file,caption\nclip.mp4,a red circle circling on a white background\n")
    run = tmp_path / "run"
    path = config(
        data={"kind": "files", "path": str(clips), "frames": 4, "height": 8, "width": 12, "fps": 1},
        objective={"prediction_type": "v_prediction", "timestep_power": 0.05},  # almost all noise: like from like
        optimizer={"learning_rate": 0.03},
        run={"steps": 20, "checkpoint_every": 20},
        lora={"rank": 8, "alpha": 16},
    )
    folder = train_lora(path, run, ["objective.caption_dropout=0.0"], echo=lambda _: None)
    assert folder == run / "export"
    found = losses(run)
    assert sum(found[-5:]) < 0.8 * sum(found[:5])
    assert yaml.safe_load((run / "lora.yaml").read_text()) == {"rank": 8, "alpha": 16.0}
    with pytest.raises(ConfigError, match=r"`--output` must be a new folder .* whose lora is .*'rank': 8.* not .*4"):
        train_lora(path, run, ["objective.caption_dropout=0.0", "lora.rank=4"])


@pytest.mark.parametrize("name", sorted(recipes("lora")))
def test_shipped_recipes(name):
    config, lora = load_lora_config(name, ["data.path=elsewhere"])
    assert config.data.path == "elsewhere"
    assert lora.rank >= 1


def test_dry_run_of_the_tiny_recipe(tmp_path):
    """On the cascade in the package: what would be trained is a small part; nothing is."""
    said = []
    overrides = ["data.kind=world", "data.path=null", "run.batch_size=1"]
    prepare("tiny-motion", tmp_path / "run", overrides, dry_run=True, echo=said.append)()
    unet = Show1CascadePipeline.from_pretrained(TINY_PATH).base_unet
    rank = load_lora_config("tiny-motion")[1].rank
    modules = [unet.get_submodule(layer) for layer in temporal_layers(unet)]
    trained = sum(rank * (module.in_features + module.out_features) for module in modules)
    assert any(f"{trained:,} parameters trained" in line for line in said)
    assert not (tmp_path / "run" / "export").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lora": {"rank": 0}}, "`lora.rank` must be a whole number of at least 1"),
        ({"lora": {"ranks": 1}}, "`lora.ranks` must be one of the keys of lora: rank, alpha"),
        ({"lora": 3}, "`lora` must be a section with keys rank, alpha, got 3"),
        ({"model": {"start": "scratch", "path": None, "config": NETWORK}}, "`model.start` must be run"),
    ],
)
def test_bad_recipes(config, change, message):
    with pytest.raises(ConfigError, match=message):
        load_lora_config(config(**change))


def test_unknown_recipe():
    with pytest.raises(ConfigError, match="`--config` must be a YAML file or one of .*tiny-motion.*, got 'tiny-walk'"):
        load_lora_config("tiny-walk")
