# SPDX-License-Identifier: Apache-2.0
"""A run that is killed, whenever that happens, and started again ends with the weights of one that was not."""

import json
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from diffusers_show1.training.checkpoint import checkpoints, read_checkpoint

from .small import write_recipe


STEPS = 5
RUN = {"steps": STEPS, "batch_size": 2, "checkpoint_every": 1, "keep": 2}


def train_here(recipe: Path, output: Path) -> None:
    """What a child process does: the whole command; what it says goes to a file beside the run's folder."""
    from diffusers_show1.cli import main

    torch.set_num_threads(1)
    sys.stdout = output.with_suffix(".log").open("a", buffering=1, encoding="utf-8")
    sys.exit(main(["train", "base", "--config", str(recipe), "-o", str(output)]))


@pytest.fixture(scope="module")
def processes() -> multiprocessing.context.BaseContext:
    """Starts real processes that have imported everything already: they are killed in training, not in imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["diffusers_show1.training.trainer", "diffusers_show1.cli", __name__])
    return context


def state(folder: Path) -> dict:
    return read_checkpoint(checkpoints(folder / "checkpoints")[-1][1])


def assert_equal(expected: object, actual: object) -> None:
    """Bit for bit, but for the time that it took."""
    if isinstance(expected, dict):
        assert expected.keys() == actual.keys()
        for key in expected.keys() - {"elapsed"}:
            assert_equal(expected[key], actual[key])
    elif isinstance(expected, list):
        for one, two in zip(expected, actual, strict=True):
            assert_equal(one, two)
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(expected, actual)
    else:
        assert expected == actual


def test_killed_at_random_moments(processes, tmp_path):
    recipe = write_recipe(tmp_path, run=RUN)

    def run(output: Path) -> multiprocessing.process.BaseProcess:
        process = processes.Process(target=train_here, args=(recipe, output))
        process.start()
        return process

    whole = run(tmp_path / "whole")
    whole.join()
    assert whole.exitcode == 0

    # Each time the run gets to a checkpoint further than the last one and is killed a random moment later: in the
    # middle of a step, of writing the next checkpoint, or of deleting an old one.
    random.seed(0)
    output = tmp_path / "killed"
    folder = output / "checkpoints"
    for goal in range(1, STEPS):
        process = run(output)
        while process.is_alive() and not (checkpoints(folder) and checkpoints(folder)[-1][0] >= goal):
            time.sleep(0.002)
        if goal % 2:  # while a checkpoint is being written
            while process.is_alive() and not list(folder.glob(".partial-*")):
                time.sleep(0.0005)
        time.sleep(random.uniform(0, 0.05))
        process.kill()
        process.join()
        assert process.exitcode in (-signal.SIGKILL, 0)
    last = run(output)
    last.join()
    assert last.exitcode == 0

    assert_equal(state(tmp_path / "whole"), state(output))
    assert [step for step, _ in checkpoints(folder)] == [STEPS - 1, STEPS]
    logs = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("whole", "killed")
    ]
    assert [[line["step"] for line in log] for log in logs] == [list(range(1, STEPS + 1))] * 2
    assert [line["loss"] for line in logs[0]] == [line["loss"] for line in logs[1]]
    weights = [(tmp_path / name / "export" / "unet").glob("*.safetensors") for name in ("whole", "killed")]
    assert [path.read_bytes() for path in weights[0]] == [path.read_bytes() for path in weights[1]]


def test_asked_to_stop_it_saves_says_so_and_goes_on(processes, tmp_path):
    recipe = write_recipe(tmp_path, run={**RUN, "steps": 3, "checkpoint_every": 100})
    run, log = tmp_path / "run", tmp_path / "run.log"
    process = processes.Process(target=train_here, args=(recipe, run))
    process.start()
    while process.is_alive() and not (log.exists() and "step 1/" in log.read_text()):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    assert process.exitcode == 128 + signal.SIGTERM
    assert "the same command goes on from there" in log.read_text()
    stopped = checkpoints(run / "checkpoints")[-1][0]
    assert stopped in (1, 2, 3)
    again = processes.Process(target=train_here, args=(recipe, run))
    again.start()
    again.join()
    assert again.exitcode == 0
    assert "resumed at step" in log.read_text()
    assert state(run)["step"] == 3
