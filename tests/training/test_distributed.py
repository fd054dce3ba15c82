# SPDX-License-Identifier: Apache-2.0
"""Two processes under `accelerate launch` do what one does with the same global batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diffusers_show1.cli import main
from diffusers_show1.training.checkpoint import checkpoints, read_checkpoint

from .small import write_recipe


def results(folder: Path) -> tuple[list[dict], dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return lines, read_checkpoint(checkpoints(folder / "checkpoints")[-1][1])


@pytest.mark.long
def test_two_processes_with_half_of_the_batch_each(tmp_path):
    # Clips in one step, single frames in the next; the smallest steps of the optimiser, which would turn the rounding
    # of gradients that are zero but for it into a step of full size.
    recipe = write_recipe(
        tmp_path, objective={"image_share": 0.5}, run={"steps": 3, "accumulation": 1}, optimizer={"warmup_steps": 100}
    )
    arguments = ["train", "base", "--config", str(recipe), "-o"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    # On a machine without accelerators, or told to use none, accelerate's processes meet through gloo.
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [*launch, "-m", "diffusers_show1", *arguments, str(tmp_path / "two"), "--set", "run.accumulation=2"]
    launched = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert launched.returncode == 0, launched.stderr[-2000:]
    assert launched.stdout.count("step 1/3") == 1  # one of the two speaks
    assert main([*arguments, str(tmp_path / "one")]) == 0

    (one, state), (two, other) = results(tmp_path / "one"), results(tmp_path / "two")
    assert other["positions"] == [0, 0]  # there were two
    for a, b in zip(one, two, strict=True):
        assert b["step"] == a["step"]
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-4)
    for name, value in state["model"].items():
        assert torch.allclose(value, other["model"][name], atol=1e-4), name
    # The state of two goes on in one.
    assert main([*arguments, str(tmp_path / "two")]) == 0
