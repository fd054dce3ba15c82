# SPDX-License-Identifier: Apache-2.0
"""The toy as a repository that needs neither this package nor the toy's."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest
import torch

from diffusers_show1 import families
from diffusers_show1.hub import bundle

from . import FAMILY
from .make import SMALL_RUN, components


BUNDLES = {
    "ToyUNet": "unet_toy",
    "ToyFramesPipeline": "pipeline_toy_frames",
    "ToyBetweenPipeline": "pipeline_toy_between",
    "ToyUpscalePipeline": "pipeline_toy_upscale",
    "ToyCascadePipeline": "pipeline_toy",
}
STRANGER = """
import json, sys
sys.modules["diffusers_show1"] = sys.modules["tests"] = None  # importing them fails
import torch
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True)
torch.set_num_threads(int(sys.argv[4]))
generator = torch.Generator().manual_seed(0)
video = pipe("a red circle", stage_options=json.loads(sys.argv[2]), generator=generator, output_type="pt")
torch.save(video.frames, sys.argv[3])
"""


@pytest.fixture
def bundled():
    """The toy with names for its files; the toy of all tests is back afterwards."""
    classes = {"scheduler": "diffusers.DDIMScheduler"}
    families._added["toy"] = dataclasses.replace(FAMILY, bundles=BUNDLES, components=classes)
    yield families._added["toy"]
    families._added["toy"] = FAMILY


def test_base_classes_leave_a_component_open(bundled):
    """The toy's stages take any tokenizer and text encoder: an index can't name a base class."""
    with pytest.raises(ValueError, match="`components` of Toy must say which class `tokenizer` is of"):
        bundle.index_template(bundle.Repository(bundled, "ToyUpscalePipeline"))


def test_cascade_without_the_packages(bundled, tmp_path):
    """A latent rung before pixel rungs, and one network of two rungs: the same video, bit for bit."""
    bundled.cascade_class(**components()).save_pretrained(tmp_path / "saved")
    pipe = bundled.cascade_class.from_pretrained(tmp_path / "saved")  # weights where a loader puts them
    pipe.set_progress_bar_config(disable=True)
    repository = bundle.write_remote_code(tmp_path / "saved", tmp_path / "repository")
    code = {path.relative_to(repository).as_posix() for path in repository.rglob("*.py")}
    networks = ("between", "frames", "upscale")
    assert code == {"pipeline_toy.py", *(f"{name}_unet/unet_toy.py" for name in networks)}
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    more = (str(tmp_path / "frames.pt"), str(torch.get_num_threads()))
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, str(repository), json.dumps(SMALL_RUN), *more],
        env=environment,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    options = {"stage_options": SMALL_RUN, "generator": torch.Generator().manual_seed(0), "output_type": "pt"}
    expected = pipe("a red circle", **options).frames
    assert expected.shape == (1, 5, 3, 16, 24)
    assert torch.equal(torch.load(tmp_path / "frames.pt"), expected)
