# SPDX-License-Identifier: Apache-2.0
"""Save, push, load, save again; and the ways of loading that diffusers' own pipelines have, on ours.

Each test id names the door that it guards (`docs/hub.md`).
"""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoModel, DDIMScheduler, DDPMScheduler, DiffusionPipeline

from diffusers_show1 import (
    Show1CascadePipeline,
    Show1InterpolationPipeline,
    Show1KeyframePipeline,
    Show1RefinementPipeline,
    Show1SuperResolutionPipeline,
    Show1UNet3DConditionModel,
)

from .upload_hub import TOKEN, UploadHub


SOURCES = {
    "base": ("show-1-base", Show1KeyframePipeline),
    "interpolation": ("show-1-interpolation", Show1InterpolationPipeline),
    "superres": ("show-1-sr1", Show1SuperResolutionPipeline),
    "refine": ("show-1-sr2", Show1RefinementPipeline),
}
ALL = [*SOURCES, "cascade"]

TRIP = """
import json, sys
sys.path.insert(0, ROOT)
from diffusers import DiffusionPipeline
import diffusers_show1
from huggingface_hub import HfApi
from tests.hub.conftest import run_cascade, run_stage
import torch

report = {}
for name, folder in FOLDERS.items():
    pipe = DiffusionPipeline.from_pretrained(folder)
    again = WORK + "/" + name  # diffusers wants a string to push
    pipe.save_pretrained(again, push_to_hub=True, repo_id="me/" + name, token=TOKEN)
    HfApi(token=TOKEN).create_branch("me/" + name, branch="tried")
    pulled = DiffusionPipeline.from_pretrained("me/" + name, revision="tried")
    pulled.save_pretrained(again + "-pulled")
    run = run_cascade if name == "cascade" else run_stage
    report[name] = {"class": type(pulled).__name__, "same": torch.equal(run(pulled), run(pipe))}
report["model"] = type(diffusers_show1.Show1UNet3DConditionModel.from_pretrained("me/base", subfolder="unet")).__name__
from diffusers import AutoModel
report["auto"] = type(AutoModel.from_pretrained("me/base", subfolder="unet", revision="tried")).__name__
print("REPORT" + json.dumps(report))
"""


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a saved model, without the note of where it was loaded from, and without what the Hub adds."""
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or name in ("README.md", ".gitattributes"):
            continue
        content = path.read_bytes()
        if path.suffix == ".json":
            parsed = json.loads(content)
            parsed.pop("_name_or_path", None)
            content = json.dumps(parsed).encode()
        files[name] = content
    return files


@pytest.fixture(scope="module")
def saved(published, tmp_path_factory) -> dict[str, Path]:
    """Every stage and the cascade, as `save_pretrained` writes them."""
    root = tmp_path_factory.mktemp("saved")
    pipes = {name: cls.from_pretrained(published[repo]) for name, (repo, cls) in SOURCES.items()}
    whole = {**pipes, "cascade": Show1CascadePipeline.from_stages(**pipes)}
    for name, pipe in whole.items():
        pipe.save_pretrained(root / name)
    return {name: root / name for name in whole}


@pytest.fixture(scope="module")
def trip(saved, process, tmp_path_factory) -> tuple[dict, Path]:
    """What a process reports that pushed all of them to a Hub and loaded them from there; and its folder."""
    work = tmp_path_factory.mktemp("trip")
    values = {"FOLDERS": {name: str(folder) for name, folder in saved.items()}, "WORK": str(work), "TOKEN": TOKEN}
    values["ROOT"] = str(Path(__file__).parents[2])
    head = "".join(f"{name} = {value!r}\n" for name, value in values.items())
    with UploadHub() as hub:
        done = process(head + TRIP, work / "cache", HF_ENDPOINT=hub.url, HF_HUB_DISABLE_XET="1")
    lines = [line for line in done.stdout.splitlines() if line.startswith("REPORT")]
    assert lines, done.stderr[-3000:]
    return json.loads(lines[0][len("REPORT") :]), work


@pytest.mark.parametrize("name", ALL)
def test_door_save_push_load_save(name, trip, saved):
    report, work = trip
    expected = SOURCES[name][1].__name__ if name in SOURCES else "Show1CascadePipeline"
    assert report[name] == {"class": expected, "same": True}
    first, second, third = (contents(folder) for folder in (saved[name], work / name, work / f"{name}-pulled"))
    assert first.keys() == second.keys() == third.keys()
    assert "model_index.json" in first
    assert [key for key in first if not first[key] == second[key] == third[key]] == []


def test_door_subfolder_and_auto_model_on_a_pushed_network(trip):
    assert (trip[0]["model"], trip[0]["auto"]) == ("Show1UNet3DConditionModel", "Show1UNet3DConditionModel")


@pytest.mark.parametrize("name", SOURCES)
def test_door_any_class_on_a_saved_stage(name, saved):
    assert type(DiffusionPipeline.from_pretrained(saved[name])) is SOURCES[name][1]
    assert type(SOURCES[name][1].from_pretrained(saved[name])) is SOURCES[name][1]


# --- one network -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["saved", "published"])
def test_door_auto_model_with_subfolder(where, saved, published):
    folder = saved["base"] if where == "saved" else published["show-1-base"]
    network = AutoModel.from_pretrained(str(folder), subfolder="unet")
    assert type(network) is Show1UNet3DConditionModel


def test_door_auto_model_on_the_network_folder(saved):
    assert type(AutoModel.from_pretrained(str(saved["base"] / "unet"))) is Show1UNet3DConditionModel


@pytest.mark.parametrize("where", ["saved", "published"])
def test_door_network_class_with_subfolder(where, saved, published):
    folder = saved["refine"] if where == "saved" else published["show-1-sr2"]
    network = Show1UNet3DConditionModel.from_pretrained(folder, subfolder="unet", dtype=torch.float16)
    assert network.dtype == torch.float16


# --- flags -------------------------------------------------------------------------------------------------------


def test_door_variant(published, tmp_path):
    pipe = Show1KeyframePipeline.from_pretrained(published["show-1-base"], dtype=torch.float16)
    pipe.save_pretrained(tmp_path, variant="fp16")
    assert not (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").exists()
    again = DiffusionPipeline.from_pretrained(tmp_path, variant="fp16", dtype=torch.float16)
    state = again.unet.state_dict()
    assert all(torch.equal(state[key], value) for key, value in pipe.unet.state_dict().items())
    with pytest.raises(OSError, match="no file named"):
        DiffusionPipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize("device_map", ["cpu", "balanced"])
def test_door_device_map(device_map, saved, run, tiny_embeds):
    """`balanced` has one device to balance here: it places nothing, and must still run."""
    plain = DiffusionPipeline.from_pretrained(saved["base"])
    placed = DiffusionPipeline.from_pretrained(saved["base"], device_map=device_map)
    assert torch.equal(run(placed, **tiny_embeds), run(plain, **tiny_embeds))


def test_door_low_cpu_mem_usage_off(saved):
    pipe = DiffusionPipeline.from_pretrained(saved["superres"], low_cpu_mem_usage=False)
    fast = DiffusionPipeline.from_pretrained(saved["superres"])
    state = fast.unet.state_dict()
    assert all(torch.equal(state[key], value) for key, value in pipe.unet.state_dict().items())


@pytest.mark.parametrize("dtype", [None, torch.float16, {"unet": torch.float16, "default": torch.float32}])
def test_door_dtype(dtype, published):
    pipe = DiffusionPipeline.from_pretrained(published["show-1-sr2"], dtype=dtype)
    mixed = isinstance(dtype, dict)
    assert pipe.unet.dtype == (torch.float16 if dtype is not None else torch.float32)
    # without a dtype, transformers keeps what is stored and diffusers does not: the stage casts embeddings itself
    assert pipe.text_encoder.dtype == (torch.float32 if mixed else torch.float16)


# --- components --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["saved", "published"])
def test_door_swap_network(where, saved, published):
    folder = saved["base"] if where == "saved" else published["show-1-base"]
    unet = Show1UNet3DConditionModel.from_pretrained(published["show-1-base-0.0"], subfolder="unet")
    assert DiffusionPipeline.from_pretrained(folder, unet=unet).unet is unet
    assert Show1KeyframePipeline.from_pretrained(folder, unet=unet).unet is unet


@pytest.mark.parametrize("where", ["saved", "published"])
def test_door_swap_scheduler(where, saved, published, run, tiny_embeds):
    folder = saved["base"] if where == "saved" else published["show-1-base"]
    scheduler = DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
    pipe = DiffusionPipeline.from_pretrained(folder, scheduler=scheduler)
    assert pipe.scheduler is scheduler
    assert not torch.equal(run(pipe, **tiny_embeds), run(DiffusionPipeline.from_pretrained(folder), **tiny_embeds))


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("where", ["saved", "published"])
def test_door_without_text_encoder(where, name, saved, published, run, tiny_embeds):
    repo, cls = SOURCES[name]
    folder = saved[name] if where == "saved" else published[repo]
    pipe = DiffusionPipeline.from_pretrained(folder, text_encoder=None, tokenizer=None)
    assert type(pipe) is cls
    assert pipe.text_encoder is None
    if where == "published":  # it would compute the same
        return
    with pytest.raises(ValueError, match="`prompt_embeds` is required"):
        run(pipe)
    run(pipe, **tiny_embeds)


def test_door_from_pipe_to_the_same_stage(saved, run, tiny_embeds):
    pipe = DiffusionPipeline.from_pretrained(saved["base"])
    again = Show1KeyframePipeline.from_pipe(pipe)
    assert all(again.components[name] is component for name, component in pipe.components.items())
    assert torch.equal(run(again, **tiny_embeds), run(pipe, **tiny_embeds))


def test_door_from_pipe_shares_the_text_encoder(saved):
    """One T5 for two stages, as `from_pipe` is for: the network is passed, the encoder comes along."""
    base = DiffusionPipeline.from_pretrained(saved["base"])
    source = DiffusionPipeline.from_pretrained(saved["superres"], text_encoder=None, tokenizer=None)
    pipe = Show1SuperResolutionPipeline.from_pipe(
        base,
        unet=source.unet,
        scheduler=source.scheduler,
        image_noising_scheduler=DDPMScheduler.from_config(source.image_noising_scheduler.config),
    )
    assert pipe.text_encoder is base.text_encoder
    assert pipe.unet is source.unet


def test_door_from_pipe_on_the_cascade(saved):
    cascade = Show1CascadePipeline.from_pretrained(saved["cascade"])
    again = Show1CascadePipeline.from_pipe(cascade)
    assert all(again.components[name] is component for name, component in cascade.components.items())
