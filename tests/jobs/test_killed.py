# SPDX-License-Identifier: Apache-2.0
"""A job that is killed, whenever that happens, and started again makes the video of one that was not."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from .small import WINDOWS, finished, work


@pytest.mark.long
def test_killed_at_twenty_random_moments(processes, tmp_path):
    """In encoding text, denoising, writing a window, between files: of every window of every stage, twice and more."""

    def start(folder: Path) -> multiprocessing.process.BaseProcess:
        process = processes.Process(target=work, args=(folder, folder.with_suffix(".pt")))
        process.start()
        return process

    whole = start(tmp_path / "whole")
    began = None
    while whole.is_alive():  # how long a window takes here, to choose moments by
        began = began or (time.monotonic() if finished(tmp_path / "whole") else None)
        time.sleep(0.001)
    window = (time.monotonic() - began) / (sum(WINDOWS.values()) - 1)
    assert whole.exitcode == 0
    expected = torch.load(tmp_path / "whole.pt")

    random.seed(0)
    kills, stages, jobs = 0, set(), 0
    while kills < 20:
        folder = tmp_path / f"killed-{jobs}"
        jobs += 1
        for goal in range(min(sum(WINDOWS.values()), 20 - kills)):
            process = start(folder)
            while process.is_alive() and len(finished(folder)) < goal:
                time.sleep(0.001)
            time.sleep(random.uniform(0, window))
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            if process.exitcode == -signal.SIGKILL:
                kills += 1
                stages.add((finished(folder) or ["base-000"])[-1].split("-")[0])
        last = start(folder)
        last.join()
        assert last.exitcode == 0
        assert torch.equal(torch.load(folder.with_suffix(".pt")), expected)
        assert not list(folder.rglob(".show1-*"))
    assert stages >= {"base", "interpolation", "superres"}
