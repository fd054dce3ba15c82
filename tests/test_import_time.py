# SPDX-License-Identifier: Apache-2.0
"""What importing the package and asking the command for help load: nothing heavy, so that both answer at once."""

import subprocess
import sys


def loaded(*arguments: str) -> set[str]:
    """Top-level packages that `python ARGUMENTS` imports."""
    run = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, check=True, timeout=120
    )
    lines = [line for line in run.stderr.splitlines() if line.startswith("import time:")]
    return {line.rsplit("|", 1)[1].strip().split(".")[0] for line in lines}


def test_import_adds_nothing_to_diffusers():
    """Only diffusers' front door and the package's own modules: no torch, no networks, no pipelines."""
    added = loaded("-c", "import diffusers_show1") - loaded("-c", "import diffusers")
    assert added == {"diffusers_show1"}


def test_own_modules_come_when_they_are_used():
    code = "import sys, diffusers_show1; print(*[n for n in sys.modules if n.startswith('diffusers_show1.')])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = run.stdout.split()
    assert modules
    assert not [name for name in modules if name.split(".")[1] in ("models", "stages", "cascades", "cli", "training")]


def test_help_loads_neither_torch_nor_diffusers():
    assert not loaded("-m", "diffusers_show1", "--help") & {"torch", "diffusers", "transformers", "numpy"}
