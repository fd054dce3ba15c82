# SPDX-License-Identifier: Apache-2.0
"""What tells one model from another: the digest of its components' files, and of nothing else in its folder."""

import os
import shutil

import pytest

from diffusers_show1 import TINY_PATH
from diffusers_show1.hub.recognise import load_cascade
from diffusers_show1.runs.machine import folder_identity, model_identity


@pytest.fixture
def strange(tmp_path):
    """The tiny cascade's folder with what else may lie in it: each of these fails, or never ends, when it is read."""
    folder = shutil.copytree(TINY_PATH, tmp_path / "model", copy_function=os.symlink)
    for place in (folder, folder / "base_unet"):
        (place / "gone.bin").symlink_to("/nowhere")
        (place / "zero.bin").symlink_to("/dev/zero")
        (place / "folder.bin").mkdir()
        os.mkfifo(place / "pipe.safetensors")
    other = folder / "logs"
    other.mkdir()
    (other / "optimizer.bin").write_bytes(b"1")
    return folder


def test_only_components_files_are_read(strange):
    assert folder_identity(strange) == folder_identity(TINY_PATH)
    assert model_identity(str(strange)) == model_identity("tiny")
    assert load_cascade(strange).base_unet.config.sample_size == load_cascade("tiny").base_unet.config.sample_size


def test_another_weight_is_another_model(strange):
    weights = strange / "base_unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.unlink()
    weights.write_bytes(content)
    before, after = folder_identity(TINY_PATH), folder_identity(strange)
    assert before["weights_sha256"] != after["weights_sha256"]
    assert before["index_sha256"] == after["index_sha256"]
