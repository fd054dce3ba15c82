# SPDX-License-Identifier: Apache-2.0
"""Every example runs as it stands, but for the one that downloads the published weights."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


EXAMPLES = Path(__file__).parents[1] / "examples"
DOWNLOADS = {"published_weights.py"}


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py") if path.name not in DOWNLOADS))
def test_example(name, tmp_path):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(EXAMPLES / name)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "frames" in done.stdout
    made = list(tmp_path.iterdir())
    assert made, "it wrote no video"
    assert all(path.stat().st_size > 500 for path in made)


def test_examples_are_short():
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text().splitlines()) <= 40, f"{path.name} has more than 40 lines"
        compile(path.read_text(), str(path), "exec")
