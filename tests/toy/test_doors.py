# SPDX-License-Identifier: Apache-2.0
"""What an owner does with a cascade, done with the toy: loading, the command, jobs, the Hub, training, the page."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml
from diffusers import AutoModel, DiffusionPipeline

from diffusers_show1 import GenerationJob, JobSettings, cli, read_metadata, read_video, save_video
from diffusers_show1.demo.engine import Engine
from diffusers_show1.evaluation import score_clips
from diffusers_show1.hub.bundle import write_remote_code
from diffusers_show1.hub.convert import convert
from diffusers_show1.hub.publish import publish
from diffusers_show1.hub.recognise import load_cascade, recognise
from diffusers_show1.runs.settings import Settings

from ..contract.components import seeded
from ..golden.cases import max_difference
from ..hub.upload_hub import TOKEN, UploadHub
from .cascade import ToyCascadePipeline
from .frames import ToyFramesPipeline
from .make import components, pipeline
from .unet import ToyUNet


ROOT = Path(__file__).parents[2]
PROMPT = "a red circle moving right on a white background"


def run(*arguments) -> int:
    return cli.main([os.fspath(argument) for argument in arguments])


def frames_of(pipe, **changes):
    pipe.set_progress_bar_config(disable=True)
    return pipe(**{"prompt": PROMPT, "generator": seeded(), "output_type": "pt", **changes}).frames


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy") / "toy"
    pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def expected():
    return frames_of(pipeline())


@pytest.fixture(scope="module")
def hub():
    with pytest.MonkeyPatch.context() as patch, UploadHub() as hub:
        patch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        yield hub


# --- loading ---------------------------------------------------------------------------------------------------------


def test_loading(folder, expected):
    """By diffusers' own loader and by ours; a network by `AutoModel`."""
    assert str(recognise(folder))
    for load in (DiffusionPipeline.from_pretrained, load_cascade):
        pipe = load(folder, dtype=torch.float32)
        assert type(pipe) is ToyCascadePipeline
        assert max_difference(frames_of(pipe), expected) < 1e-5
    assert type(AutoModel.from_pretrained(str(folder), subfolder="between_unet")) is ToyUNet


# --- the command, jobs -----------------------------------------------------------------------------------------------


def test_generate(folder, tmp_path, capsys):
    """A file with its record, of which the command makes the same video again."""
    clip = tmp_path / "toy.mp4"
    assert run("generate", PROMPT, "--model", folder, "-o", clip, "--seed", "3", "--steps", "between2=2") == 0
    assert read_video(clip).shape == (5, 16, 24, 3)
    record = json.loads(clip.with_suffix(".json").read_text())
    options = record["settings"]["stage_options"] if "settings" in record else record["stage_options"]
    assert options["between2"]["num_inference_steps"] == 2
    assert read_metadata(clip)
    assert run("generate", PROMPT, "--model", folder, "-o", tmp_path / "x.mp4", "--steps", "refine=2") != 0
    assert "frames, between, between2, upscale" in capsys.readouterr().err


def test_a_job_is_stopped_and_gone_on_with(expected, tmp_path):
    """In the last stage's second window: the frames are those of an undisturbed run."""
    pipe, seen = pipeline(), []

    def stop(stage, step, timestep, tensors):
        seen.append(stage.stage_name)
        if seen.count("upscale") == 3:
            raise KeyboardInterrupt
        return {}

    settings = JobSettings(PROMPT, seed=0)
    with pytest.raises(KeyboardInterrupt):
        GenerationJob(pipe, tmp_path / "job", settings).run("pt", callback_on_step_end=stop)
    whole = GenerationJob(pipe, tmp_path / "whole", settings).run("pt").frames
    seen.clear()
    job = GenerationJob(pipe, tmp_path / "job")
    assert torch.equal(job.run("pt", callback_on_step_end=lambda s, *_: seen.append(s.stage_name) or {}).frames, whole)
    assert seen == ["upscale", "upscale"]  # the window that was not finished
    assert max_difference(whole, expected) < 1e-5


# --- the Hub ---------------------------------------------------------------------------------------------------------


def test_published_and_loaded_from_the_hub(folder, hub, expected, tmp_path):
    """Both revisions: one that needs the package, one that brings its code."""
    repo = "someone/toy"
    clip = save_video(torch.zeros(2, 16, 24, 3).numpy(), tmp_path / "clip.mp4")
    publish(folder, repo, media={PROMPT: clip}, output=tmp_path / "out", endpoint=hub.url, token=TOKEN)
    there = hub.files(repo)
    assert {"model_index.json", "README.md", "between_unet/config.json"} <= set(there)
    assert "pipeline_toy.py" in hub.files(repo, "remote-code")
    script = (
        "import torch\n"
        "from diffusers_show1 import families\n"
        "from tests.toy import FAMILY\n"
        "families.add(FAMILY)\n"
        "from diffusers import DiffusionPipeline\n"
        f"pipe = DiffusionPipeline.from_pretrained('{repo}', dtype=torch.float32)\n"
        f"call = dict(prompt={PROMPT!r}, generator=torch.Generator().manual_seed(0), output_type='pt')\n"
        f"torch.save(pipe(**call).frames, {str(tmp_path / 'frames.pt')!r})\n"
    )
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache"), "HF_TOKEN": TOKEN}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert max_difference(torch.load(tmp_path / "frames.pt"), expected) < 1e-5


def test_remote_code_needs_no_package(folder, expected, tmp_path):
    """Loaded where neither the package nor the toy is."""
    code = write_remote_code(folder, tmp_path / "code")
    script = (
        "import sys, torch\n"
        "class Hidden:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.partition('.')[0] in ('diffusers_show1', 'tests'): raise ImportError(name)\n"
        "sys.meta_path.insert(0, Hidden())\n"
        "from diffusers import DiffusionPipeline\n"
        f"pipe = DiffusionPipeline.from_pretrained({str(code)!r}, trust_remote_code=True, dtype=torch.float32)\n"
        f"call = dict(prompt={PROMPT!r}, generator=torch.Generator().manual_seed(0), output_type='pt')\n"
        f"torch.save(pipe(**call).frames, {str(tmp_path / 'frames.pt')!r})\n"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path / "cache"), "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert max_difference(torch.load(tmp_path / "frames.pt"), expected) < 1e-5


def test_an_original_checkpoint_becomes_a_network(tmp_path):
    """By the key map of the family, each number to its place."""
    unet = components("frames")["unet"]
    ours = ("time_embedding.linear_1.", "time_embedding.linear_2.", "conv_in.", "blocks.", "conv_out.")
    theirs = dict(zip(ours, ("time_mlp.0.", "time_mlp.2.", "stem.", "body.", "head."), strict=True))
    original = {}
    for name, weight in unet.state_dict().items():
        start = next((start for start in ours if name.startswith(start)), "")
        original[theirs.get(start, "") + name.removeprefix(start)] = weight
    torch.save(original, tmp_path / "original.pt")
    convert(tmp_path / "original.pt", tmp_path / "unet")
    made = ToyUNet.from_pretrained(tmp_path / "unet")
    assert all(torch.equal(weight, unet.state_dict()[name]) for name, weight in made.state_dict().items())


# --- training, evaluation, the page ----------------------------------------------------------------------------------


def test_training(folder, tmp_path):
    """The recipe of the family, to a stage that is loaded again and stands in the cascade."""
    recipe = yaml.safe_load((ROOT / "tests/toy/recipes/toy-frames.yaml").read_text())
    recipe["model"]["components"] = str(folder)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert run("train", "frames", "--config", tmp_path / "recipe.yaml", "-o", tmp_path / "run") == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    stage = ToyFramesPipeline.from_pretrained(tmp_path / "run" / "export", dtype=torch.float32)
    pipe = pipeline()
    before = frames_of(pipe)
    pipe.frames_unet = stage.unet
    assert max_difference(frames_of(pipe), before) > 1e-2


def test_the_scorer_reads_its_videos():
    """What the toy makes is coloured noise, which shows no prompt."""
    prompts = [PROMPT, "a blue square moving up on a black background"]
    frames = frames_of(pipeline(), prompt=prompts, generator=[seeded(1), seeded(2)], num_frames=8)
    score = score_clips(frames, prompts)
    assert score.count == 2
    assert score.all == 0


def test_the_page_makes_a_clip_of_every_stage(folder):
    engine = Engine(str(folder), device="cpu", dtype="float32")
    try:
        request = engine.submit(Settings(PROMPT, 3, model=str(folder)))
        while not request.view.over:
            time.sleep(0.01)
        assert request.view.state == "done", request.view
        assert list(request.view.clips) == list(ToyCascadePipeline.stage_names)
        assert read_video(request.view.clips["between2"]).shape == (5, 8, 12, 3)
    finally:
        engine.close()
