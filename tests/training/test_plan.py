# SPDX-License-Identifier: Apache-2.0
"""Plans: the tiny cascade from nothing in one command, a step a part; going on; and what cannot be used."""

import json
import signal
import subprocess
import sys
import time

import pytest
import yaml

from diffusers_show1 import TINY_PATH, Show1CascadePipeline
from diffusers_show1.cli import main
from diffusers_show1.learning.options import ConfigError
from diffusers_show1.training.checkpoint import checkpoints
from diffusers_show1.training.plan import PartFailed, Workshop, load_plan, prepare

from .small import NETWORK, recipe


SMALL = ["run.batch_size=1", "validation.clips=1", "validation.prompts=[]"]
SMALL += [f"{part}:validation.options.num_inference_steps=1" for part in ("keyframes", "detail")]


def silent(_line: str) -> None:
    pass


def configs(folder) -> dict[str, dict]:
    """Of every component, without what is no part of it."""
    found = {}
    for path in folder.glob("*/*config.json"):
        if path.name != "tokenizer_config.json":
            values = json.loads(path.read_text())
            found[str(path.relative_to(folder))] = {
                key: v for key, v in values.items() if not key.endswith("_version")
            }
    return found


def test_the_tiny_cascade_from_nothing(tmp_path):
    """Every part trains for a step and leaves what the next one reads; what comes out has the shipped form."""
    said = []
    prepare("tiny", tmp_path, SMALL, scale=1e-6, echo=said.append)()
    made = tmp_path / "cascade"
    assert {path.name for path in made.iterdir()} == {path.name for path in TINY_PATH.iterdir()}
    assert configs(made) == configs(TINY_PATH)
    index, shipped = (json.loads((place / "model_index.json").read_text()) for place in (made, TINY_PATH))
    assert {key: index[key] for key in shipped if key != "_diffusers_version"} == {
        key: value for key, value in shipped.items() if key != "_diffusers_version"
    }
    sizes = [sum(path.stat().st_size for path in place.rglob("*.safetensors")) for place in (made, TINY_PATH)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01)
    pipe = Show1CascadePipeline.from_pretrained(made)
    # the keyframes are those of the last part, and silent attention is silent
    state = pipe.superres_unet.state_dict()
    fresh = [name for name in state if name.startswith("up_blocks.1.attentions") and "to_out.0" in name]
    assert fresh
    assert not any(state[name].any() for name in fresh)
    taken = (made / "base_unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    assert taken == (tmp_path / "runs/detail/export/unet/diffusion_pytorch_model.safetensors").read_bytes()

    # again: all is done; a part that is missing is made anew, with the same weights
    again = []
    gone = tmp_path / "runs/detail"
    for path in sorted(gone.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    gone.rmdir()
    prepare("tiny", tmp_path, SMALL, scale=1e-6, echo=again.append)()
    assert [line for line in again if " (tiny-" in line] == ["detail (tiny-detail)"]
    assert taken == (made / "base_unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="a run of the same recipe.*run.batch_size: 1 -> 2"):
        prepare("tiny", tmp_path, ["run.batch_size=2", *SMALL[1:]], scale=1e-6, echo=silent)()


def test_what_the_plan_changes_in_its_recipes(tmp_path):
    shop = Workshop(load_plan("tiny"), tmp_path, ("run.keep=7", "detail:run.seed=1"), scale=0.5)
    shop.check()
    keyframes, detail = (shop.recipe(name) for name in ("keyframes", "detail"))
    assert (keyframes.model.start, keyframes.model.path) == ("from_2d", str(tmp_path / "runs/image/export"))
    assert detail.model.path == str(tmp_path / "runs/keyframes/export")
    assert {keyframes.run.keep, detail.run.keep} == {7}
    assert (keyframes.run.seed, detail.run.seed) == (103, 1)
    assert (keyframes.run.steps, detail.run.steps) == (2900, 575)
    components = {shop.recipe(name).model.components for name, part in shop.plan.parts.items() if part.after}
    assert components == {str(tmp_path / "cascade")}  # nothing of what is shipped
    assert shop.recipe("refine").objective.degrade_by == str(tmp_path / "cascade")


def test_lanes_need_nothing_of_each_other():
    """What may be trained side by side: keyframes and all else."""
    parts = load_plan("tiny").parts

    def before(name: str) -> set[str]:
        return {name}.union(*(before(each) for each in parts[name].after))

    assert before("detail") == {"text", "image", "keyframes", "detail"}
    assert before("refine") & {"image", "keyframes", "detail"} == set()


@pytest.fixture
def small_plan(tmp_path):
    """Two keyframe trainings, neither of which needs the other, and one after both."""
    (tmp_path / "small.yaml").write_text(
        yaml.safe_dump(recipe(run={"steps": 20, "checkpoint_every": 1}, model={"config": NETWORK}))
    )
    part = {"task": "base", "config": "small.yaml"}
    last = part | {"after": ["one", "two"], "set": {"model.start": "run", "model.path": "{two}", "model.config": {}}}
    path = tmp_path / "plan.yaml"
    values = {"cascade": "Show1CascadePipeline", "parts": {"one": part, "two": dict(part), "three": last}}
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


@pytest.mark.long
def test_side_by_side_is_one_after_another_and_goes_on(small_plan, tmp_path):
    """In processes of their own the parts come out as in this one; and stopped half-way they save and go on."""
    here, there = (
        Workshop(load_plan(str(small_plan)), tmp_path / name, processes=n, echo=silent)
        for name, n in (("here", 1), ("there", 2))
    )
    for name in here.plan.parts:
        here._train_here(name)
    command = [
        sys.executable,
        "-m",
        "diffusers_show1",
        "train",
        str(small_plan),
        "-o",
        str(there.folder),
        "--processes",
        "2",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while process.poll() is None and not checkpoints(there.folder / "runs/one/checkpoints"):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 128 + signal.SIGTERM
    log = (there.folder / "runs/one.log").read_text()
    assert "the same command goes on from there" in log
    assert not (there.folder / "runs/three").exists()
    there._side_by_side()
    for name in here.plan.parts:
        files = [shop.export(name) / "unet/diffusion_pytorch_model.safetensors" for shop in (here, there)]
        assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.long
def test_a_part_that_fails_is_named(small_plan, tmp_path):
    shop = Workshop(
        load_plan(str(small_plan)), tmp_path / "out", ("model.components=nowhere",), processes=2, echo=silent
    )
    with pytest.raises(PartFailed, match=r"(one|two).* failed \(see runs/NAME.log\)"):
        shop.run()
    assert "`model.components` must be tiny" in (tmp_path / "out/runs/one.log").read_text()


def test_a_plan_that_is_only_told(tmp_path, capsys):
    assert main(["train", "tiny", "-o", str(tmp_path / "out"), "--dry-run", "--scale", "0.1"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert "keyframes: base by tiny-base, 580 steps, after image" in told
    assert len(told) == len(load_plan("tiny").parts)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["base"], "`--config` must be given for base"),
        (["lora"], "`--config` must be given for lora"),
        (
            ["tinny"],
            "`STAGE` must be one of base, interpolation, superres, refine, image, autoencoder, text, lora, tiny",
        ),
        (["tiny", "--set", "run.steps=0"], "text: `run.steps` must be a whole number of at least 1"),
        (["tiny", "--set", "run.stepz=1"], "text: `run.stepz` must be one of the keys of run"),
        (["tiny", "--config", "tiny-base"], "`STAGE` must be one of base"),
    ],
)
def test_one_line_for_a_command_that_cannot_be(tmp_path, capsys, arguments, message):
    assert main(["train", *arguments, "-o", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"partz": 1}, "`partz` must be one of the keys of a plan: cascade, stage_defaults, vocabulary, parts"),
        ({"cascade": "Cascade"}, "`cascade` must be one of Show1CascadePipeline"),
        ({"cascade": []}, "`cascade` must be one of Show1CascadePipeline"),
        ({"stage_defaults": 3}, "`stage_defaults` must be stages, each with options"),
        ({"parts": {}}, "`parts` must be trainings by names"),
        ({"parts": {"../x": {}}}, "`parts` must be trainings by names"),
        ({"parts": {"a": 3}}, "`parts.a` must be a section with keys task, config, after"),
        ({"parts": {"a": {"task": "base"}}}, "`parts.a.config` must be given"),
        ({"parts": {"a": {"task": "base", "config": "tiny-base", "after": ["b"]}}}, "`parts.a.after` must be one of"),
        ({"parts": {"a": {"task": "refine", "config": "tiny-base"}}}, "`parts.a.task` must be base, which tiny-base"),
        ({"parts": {"a": {"task": "base", "config": "tiny"}}}, "a: `--config` must be a YAML file or one of"),
        (
            {"parts": {"a": {"task": "base", "config": "tiny-base", "set": {"model.path": "{b}"}}}},
            "a: `parts.a.set.model.path` must be in braces one of a, cascade, got '{b}'",
        ),
    ],
)
def test_plans_that_cannot_be_used(tmp_path, capsys, change, message):
    values = {"cascade": "Show1CascadePipeline", "parts": {"a": {"task": "base", "config": "tiny-base"}}}
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(values | change, sort_keys=False))
    assert main(["train", str(path), "-o", str(tmp_path / "out")]) == 2
    assert f"show1: {message}" in capsys.readouterr().err.splitlines()[-1]


def test_another_part_that_is_no_component(small_plan, tmp_path):
    plan = load_plan(str(small_plan))
    plan.parts["one"].gives = {"vae": "refine_vae"}
    shop = Workshop(plan, tmp_path, echo=silent)
    (shop.export("one") / "unet").mkdir(parents=True)
    with pytest.raises(ConfigError, match="`parts.one.gives` must be a folder of .*, got 'vae'"):
        shop._take("one")
