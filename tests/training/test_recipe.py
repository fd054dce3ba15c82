# SPDX-License-Identifier: Apache-2.0
"""The recipe of the tiny cascade: every part trains for two steps and leaves what the next one reads."""

import json

import pytest
import torch

from diffusers_show1.tiny import world
from diffusers_show1.training import text
from diffusers_show1.training.__main__ import main
from diffusers_show1.training.tiny import (
    PARTS,
    degrade,
    encode_frames,
    few_step_scheduler,
    make_vae,
    standardise_latents,
)


@pytest.mark.long
def test_every_part_trains_and_exports(tmp_path):
    main(["tiny", "--out", str(tmp_path / "out"), "--steps", "2", "--batch-size", "1"])
    folders = {path.name for path in (tmp_path / "out").iterdir()} - {"checkpoints"}
    assert folders == {
        "model_index.json",
        "tokenizer",
        "text_encoder",
        "base_unet",
        "base_scheduler",
        "interpolation_unet",
        "interpolation_scheduler",
        "superres_unet",
        "superres_scheduler",
        "superres_image_noising_scheduler",
        "refine_tokenizer",
        "refine_text_encoder",
        "refine_unet",
        "refine_vae",
        "refine_scheduler",
    }
    config = json.loads((tmp_path / "out" / "superres_unet" / "config.json").read_text())
    assert config["_class_name"] == "Show1UNet3DConditionModel"
    assert config["in_channels"] == 6
    weights = [path for path in (tmp_path / "out").rglob("*.safetensors") if "checkpoints" not in path.parts]
    assert sum(path.stat().st_size for path in weights) < 20e6


def test_unknown_part_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["tiny", "nonsense", "--out", "x"])
    assert "nonsense" in capsys.readouterr().err
    assert list(PARTS)[0] == "text"


def test_world_words_are_single_pieces():
    tokenizer = text.train_t5_tokenizer()
    caption = "a large red circle moving right on a white background"
    assert len(tokenizer(caption).input_ids) == len(caption.split()) + 1
    clip = text.train_clip_tokenizer()
    assert len(clip(caption).input_ids) == len(caption.split()) + 2
    printable = "".join(chr(code) for code in range(33, 127)).lower()
    assert clip.unk_token_id not in clip(printable).input_ids[1:-1]
    # a lone word boundary is unknown to it, no character is
    assert tokenizer.unk_token_id not in tokenizer("x" + printable).input_ids[1:]


def test_padding_does_not_change_what_t5_reads():
    torch.manual_seed(0)
    tokenizer = text.train_t5_tokenizer()
    encoder = text.make_t5_encoder(tokenizer).eval()
    with torch.no_grad():
        padded = text.encode(tokenizer, encoder, ["a red circle"])
        ids = tokenizer("a red circle", return_tensors="pt").input_ids
        short = encoder(ids).last_hidden_state
    assert padded.shape == (1, text.T5_TOKENS, 64)
    assert torch.allclose(padded[:, : ids.shape[1]], short, atol=1e-5)


@torch.no_grad()
def test_standardised_latents_decode_to_the_same_images():
    torch.manual_seed(0)
    vae, images = make_vae().eval(), torch.rand(4, 3, 32, 32) * 2 - 1
    before = vae.encode(images).latent_dist
    decoded = vae.decode(before.mean).sample
    standardise_latents(vae, images)
    after = vae.encode(images).latent_dist
    assert torch.allclose(vae.decode(after.mean).sample, decoded, atol=1e-4)
    assert torch.allclose(after.mean.std(dim=(0, 2, 3)), torch.ones(6), atol=1e-3)
    assert torch.allclose(after.mean.mean(dim=(0, 2, 3)), torch.zeros(6), atol=1e-3)
    scale = before.mean.std(dim=(0, 2, 3))[None, :, None, None]
    assert torch.allclose(after.std * scale, before.std, rtol=1e-3)
    clip = images[:, :, None].transpose(0, 2)  # (1, 3, 4, 32, 32)
    assert encode_frames(vae, clip).shape == (1, 6, 4, 8, 8)


def test_degraded_frames_keep_their_size_and_resemble_the_truth():
    import numpy as np

    frames = torch.zeros(1, 3, 2, 8 * world.HEIGHT, 8 * world.WIDTH)
    made = degrade(None, frames, None, (2, 3, 8, 12), np.random.default_rng(0), torch.Generator().manual_seed(0))
    assert made.shape == (1, 3, 2, 64, 96)
    assert 0 < made.abs().mean() < 0.3


def test_few_step_scheduler_ends_on_the_estimate():
    scheduler = few_step_scheduler()
    scheduler.set_timesteps(4)
    assert scheduler.timesteps[0] == 999
    x, clean = torch.randn(1, 3, 4, 4), torch.full((1, 3, 4, 4), 1.7)
    for timestep in scheduler.timesteps:
        x = scheduler.step(clean, timestep, x).prev_sample
    assert torch.allclose(x, clean, atol=1e-5)
