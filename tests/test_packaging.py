# SPDX-License-Identifier: Apache-2.0
"""What is shipped: the wheel holds all that runs, and the constraints pin all that it needs."""

import configparser
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import diffusers_show1


ROOT = Path(__file__).parents[1]


def setup_cfg() -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def requirements() -> list[Requirement]:
    """The requirements in setup.cfg, those of every extra included, without references to other extras."""
    parser = setup_cfg()
    blocks = [parser["options"]["install_requires"], *parser["options.extras_require"].values()]
    lines = [line for block in blocks for line in block.split("\n") if line.strip() and not line.startswith("#")]
    return [Requirement(line) for line in lines if not line.startswith("diffusers-show1[")]


def constraints() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {normal(pin.name): Version(next(iter(pin.specifier)).version) for pin in pins}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The names in the wheel, built in a copy so that nothing is left in the tree."""
    folder = tmp_path_factory.mktemp("build")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", "out", "."]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (path,) = (folder / "out").glob("diffusers_show1-*.whl")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


def test_the_wheel_holds_every_file_of_the_package(wheel):
    source = ROOT / "src"
    shipped = {path.relative_to(wheel) for path in wheel.rglob("*") if path.is_file()}
    expected = {
        path.relative_to(source)
        for path in (source / "diffusers_show1").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert expected - shipped == set()
    assert Path("diffusers_show1/tiny/weights/show1/model_index.json") in shipped


def test_the_wheel_runs_from_anywhere(wheel, tmp_path):
    code = "import diffusers_show1, diffusers_show1.tiny as t; print(diffusers_show1.__file__); print(t.TINY_PATH)"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(wheel)}, check=True, capture_output=True
    )
    assert all(line.startswith(str(wheel)) for line in result.stdout.decode().splitlines())


def test_the_wheel_names_its_command_version_and_license(wheel):
    (folder,) = wheel.glob("*.dist-info")
    assert "show1 = diffusers_show1.cli:main" in (folder / "entry_points.txt").read_text()
    meta = (folder / "METADATA").read_text()
    assert f"\nVersion: {diffusers_show1.__version__}\n" in meta
    assert "Apache-2.0" in meta
    assert list(folder.rglob("LICENSE"))


def test_every_requirement_is_pinned_within_its_range():
    pins = constraints()
    assert pins["torch"] == Version("2.13.0")  # without a local label, so that any build of it fits
    for requirement in requirements():
        if requirement.name == "xformers":
            continue  # an optional GPU library that no target of the Makefile installs
        assert normal(requirement.name) in pins, requirement.name
        assert requirement.specifier.contains(pins[normal(requirement.name)]), requirement


def test_xformers_is_asked_for_only_where_it_has_wheels():
    (xformers,) = (requirement for requirement in requirements() if requirement.name == "xformers")
    for system, machine, wanted in (
        ("Linux", "x86_64", True),
        ("Linux", "aarch64", False),
        ("Darwin", "arm64", False),
        ("Windows", "AMD64", False),
    ):
        assert xformers.marker.evaluate({"platform_system": system, "platform_machine": machine}) is wanted


def test_every_source_file_names_its_license():
    for folder in ("src", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert not text or text.startswith("# SPDX-License-Identifier: Apache-2.0\n"), path
