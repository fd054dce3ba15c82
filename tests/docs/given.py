# SPDX-License-Identifier: Apache-2.0
"""What lies in a user's folder, and on the Hub, before the blocks of a page run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from diffusers_show1 import TINY_PATH, Show1CascadePipeline, Show1KeyframePipeline
from diffusers_show1.hub.bundle import write_remote_code
from diffusers_show1.training.lora import temporal_layers
from diffusers_show1.training.world_files import write_world


def prompts(folder: Path, models: Any) -> None:
    (folder / "prompts.txt").write_text("a blue square growing on a black background\n")


def clip(folder: Path, models: Any) -> None:
    (folder / "circle.mp4").write_bytes(b"a clip that is there already")


def checkpoint(folder: Path, models: Any) -> None:
    """A network's weights as a training script leaves them, and the models of others on the Hub."""
    weights = models("published")["show-1-base"] / "unet" / "diffusion_pytorch_model.bin"
    torch.save({"state_dict": torch.load(weights, weights_only=True), "step": 9000}, folder / "checkpoint-9000.pt")


def card(folder: Path, models: Any) -> None:
    """A card of one's own, and an example clip."""
    head = "---\nlicense: mit\nlibrary_name: diffusers\npipeline_tag: text-to-video\n---\n"
    (folder / "my_card.md").write_text(f"{head}\n# Mine\n")
    write_world(folder / "world", count=1)
    shutil.copyfile(next((folder / "world").rglob("*.mp4")), folder / "circle.mp4")


def clips(folder: Path, models: Any) -> None:
    """Videos in WebVid's layout, and a folder of videos for `datasets`."""
    write_world(folder / "webvid" / "videos", count=2, scale=4)
    shutil.move(folder / "webvid" / "videos" / "world.csv", folder / "webvid" / "results_2M_train.csv")
    write_world(folder / "clips", count=2, layout="plain")
    table = (folder / "clips" / "world.csv").read_text().replace("file,caption", "file_name,caption", 1)
    (folder / "clips" / "world.csv").unlink()
    (folder / "clips" / "metadata.csv").write_text(table)


def adapters(folder: Path, models: Any) -> None:
    """Two untrained adapters of the keyframe stage, and clips to learn from."""
    unet = Show1CascadePipeline.from_pretrained(TINY_PATH).base_unet
    unet.add_adapter(LoraConfig(r=2, target_modules=temporal_layers(unet)))
    for name in ("circling", "striped"):
        layers = get_peft_model_state_dict(unet)
        Show1KeyframePipeline.save_lora_weights(folder / "runs" / name / "export", unet_lora_layers=layers)
    write_world(folder / "world", count=1)
    (folder / "clips").mkdir()
    for name in ("clips/clip.mp4", "plain.mp4", "striped.mp4"):
        shutil.copyfile(next((folder / "world").rglob("*.mp4")), folder / name)
    caption = "a red circle moving right on a white background"
    (folder / "clips" / "clips.csv").write_text(f"file,caption\nclip.mp4,{caption}\n")


def remote_code(folder: Path, models: Any) -> None:
    models("hub").add("OWNER/show-1", write_remote_code(TINY_PATH, folder / "show-1"), revision="remote-code")


# page -> what is given; `models` gives the fixtures of tests/hub by name
GIVEN: dict[str, Callable[[Path, Any], None]] = {
    "README.md": prompts,
    "docs/hub.md": checkpoint,
    "docs/troubleshooting.md": clip,
    "docs/publishing.md": card,
    "docs/customisation.md": adapters,
    "docs/data.md": clips,
    "docs/remote_code.md": remote_code,
}
