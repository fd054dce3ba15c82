# SPDX-License-Identifier: Apache-2.0
"""Every example runs as it stands, but for the one that downloads published weights, and its result is looked at."""

import os
import runpy
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from diffusers_show1 import read_fps, read_video, save_video
from diffusers_show1.evaluation import read_clip
from diffusers_show1.evaluation.scorer import object_mask, read_background
from diffusers_show1.tiny import world


EXAMPLES = Path(__file__).parents[1] / "examples"
DOWNLOADS = {"published_weights.py"}
SERVES = {"app.py"}  # tests/demo/test_browser.py starts it


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs an example in a folder of its own; returns what it printed."""

    def go(name, *arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return go


def frames_of(path):
    """A clip as a tensor (f, 3, h, w) in 0..1."""
    return torch.from_numpy(read_video(path)).permute(0, 3, 1, 2) / 255


def small(frames):
    """At the scorer's size, (f, 3, 16, 24)."""
    return F.adaptive_avg_pool2d(frames, (world.HEIGHT, world.WIDTH))


def track(frames):
    """Where the object's centre is, (f, 2) as x and y in pixels of 24x16."""
    clip = small(frames)
    mask = object_mask(clip, read_background(clip)[1])
    area = mask.sum(dim=(1, 2))
    x = (mask * (torch.arange(world.WIDTH) + 0.5)).sum(dim=(1, 2)) / area
    y = (mask * (torch.arange(world.HEIGHT) + 0.5)[:, None]).sum(dim=(1, 2)) / area
    return torch.stack([x, y], dim=1)


def shows(frames, caption):
    """Whether eight frames, evenly spread, show colour, shape, ground and motion of a caption."""
    spread = torch.linspace(0, len(frames) - 1, 8).round().long()
    reading, wanted = read_clip(small(frames[spread])), world.parse_caption(caption)
    return [getattr(reading, name) == getattr(wanted, name) for name in ("colour", "shape", "background", "motion")]


def psnr(a, b):
    return -10 * (a - b).square().mean().log10().item()


def test_text_to_video(run):
    run("text_to_video.py")
    video = frames_of("out.mp4")
    assert video.shape == (29, 3, 128, 192)
    assert all(shows(video, "a large blue triangle growing on a pink background"))


def test_one_stage(run):
    assert "8 frames of 16x24" in run("one_stage.py")
    board = np.asarray(Image.open("out.png").resize((96, 32), Image.Resampling.BOX))
    clip = board.reshape(2, 16, 4, 24, 3).transpose(0, 2, 1, 3, 4).reshape(8, 16, 24, 3)
    frames = torch.from_numpy(clip).permute(0, 3, 1, 2) / 255
    assert all(shows(frames, "a purple square moving up on a white background"))


def test_interpolate_images(run):
    run("interpolate_images.py")
    x, y = track(frames_of("out.webp")).T
    assert x.tolist() == pytest.approx([9, 10, 11, 12, 13], abs=0.4)
    assert y.tolist() == pytest.approx([8] * 5, abs=0.4)


@pytest.mark.parametrize("name", ["own_step_between.py", "modular_blocks.py"])
def test_a_step_of_ones_own(run, name):
    assert "29 frames of 128x192" in run(name).replace("192x128", "128x192")
    # what was asked for moves left, and is played backwards
    assert all(shows(frames_of("out.webp"), "a yellow square moving right on a black background"))


def test_video_to_video(run, tmp_path):
    run("video_to_video.py")
    video, source = frames_of("out.webp"), frames_of("source.webp")
    scene = world.sample_scene(
        world.parse_caption("a green circle growing on a pink background"), np.random.default_rng(0)
    )
    truth = world.render([scene], range(8, 23, 2), scale=8)[0]
    assert video.shape == truth.shape == (8, 3, 128, 192)
    enlarged = F.interpolate(source, scale_factor=2, mode="bilinear", antialias=True)
    assert psnr(video, truth) > psnr(enlarged, truth) + 1  # it adds detail that is right
    assert all(shows(video, "a green circle growing on a pink background")[:3])

    # any file, any size, any rate
    grey = np.linspace(40, 200, 3 * 50 * 70 * 3).reshape(3, 50, 70, 3).astype(np.uint8)
    save_video(grey, tmp_path / "mine.gif", fps=12)
    assert "3 frames: 50x70 became 128x192" in run("video_to_video.py", "mine.gif", "a gray background")
    assert [read_fps(tmp_path / name) for name in ("source.webp", "out.webp")] == [12, 12]


def test_refine_another_pipeline(run):
    assert "4 frames of 128x192" in run("refine_another_pipeline.py")
    video, source = frames_of("out.webp"), frames_of("source.webp")
    assert video.shape == (4, 3, 128, 192)
    # each frame is a refinement of its own: it is most like the one that it came from
    alike = torch.corrcoef(torch.cat([small(video).flatten(1), small(source).flatten(1)]))[:4, 4:]
    assert alike.argmax(dim=1).tolist() == alike.argmax(dim=0).tolist() == [0, 1, 2, 3]
    assert alike.diagonal().min() > 0.6


def test_image_to_video(run):
    run("image_to_video.py")
    first, video = frames_of("first.webp"), frames_of("out.webp")
    assert video.shape == (29, 3, 64, 96)
    assert all(shows(video, "a blue square moving left on a black background"))  # colour, shape, motion
    assert psnr(small(video[:1]), small(first)) > 22  # it begins with the picture
    where = track(video)
    assert (where[0] - track(first)[0]).norm() < 0.7
    assert (where[1:] - where[:-1]).norm(dim=1).max() < 2  # and goes on from there without a jump,
    assert (where[:24, 1] - where[0, 1]).abs().max() < 1.5  # at the height where it was


@pytest.mark.long
def test_longer_video(run):
    assert "15 keyframes became 57 frames" in run("longer_video.py")
    video = frames_of("out.webp")
    assert all(shows(video[:29], "a red circle moving right on a white background"))
    assert all(shows(video[28:], "a red circle moving left on a white background"))
    where = track(video)
    assert (where[1:] - where[:-1]).norm(dim=1).max() < 2  # one motion, across the seam at frame 28 too,
    assert (where[24:33, 1] - where[28, 1]).abs().max() < 1  # at one height


def launch(folder, processes):
    """The example under accelerate; its output goes to a file, a pipe would outlive the killed."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(processes)]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command += ["--main_process_port", "0"] + ["--multi_gpu"] * (processes > 1) + [str(EXAMPLES / "many_prompts.py")]
    # On a machine without accelerators, or told to use none, accelerate's processes meet through gloo.
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    folder.mkdir(exist_ok=True)
    with (folder / "log.txt").open("a") as log:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)


@pytest.mark.long
def test_many_prompts_over_processes_killed_and_begun_again(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    killed = launch(two, 2)
    while not (done := sorted((two / "videos").glob("*.webp"))):
        assert killed.poll() is None, (two / "log.txt").read_text()[-2000:]
        time.sleep(0.02)
    for process in [*psutil.Process(killed.pid).children(recursive=True), killed]:
        process.kill()  # by SIGKILL; the workers have sessions of their own, which outlive the launcher's
    killed.wait()
    assert len(done) < 4
    before = {path: path.stat().st_mtime_ns for path in (two / "videos").glob("*.webp")}
    (two / "log.txt").unlink()

    assert launch(two, 2).wait() == 0, (two / "log.txt").read_text()[-2000:]
    made = [line for line in (two / "log.txt").read_text().splitlines() if "by process" in line]
    assert len(made) == 4 - len(before)  # only what was left, and that once
    assert {line[-1] for line in made} <= {"0", "1"}
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())

    assert launch(one, 1).wait() == 0, (one / "log.txt").read_text()[-2000:]
    names = [f"{i:03d}.webp" for i in range(4)]
    assert sorted(path.name for path in (two / "videos").glob("*.webp")) == names
    for name in names:
        assert (two / "videos" / name).read_bytes() == (one / "videos" / name).read_bytes(), name
    assert all(shows(frames_of(one / "videos" / names[0]), "a red circle moving right on a white background"))


def test_examples_are_short_and_tested():
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text().splitlines()) <= 40, f"{path.name} has more than 40 lines"
        assert path.name in Path(__file__).read_text()
