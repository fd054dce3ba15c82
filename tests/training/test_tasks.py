# SPDX-License-Identifier: Apache-2.0
"""Tasks: the engine's own, what refinement is given by the stage before, parts of frames, and bent outlines."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from diffusers_show1 import TINY_PATH
from diffusers_show1.families.show1.tasks import worsen
from diffusers_show1.learning import objectives
from diffusers_show1.learning.options import ConfigError
from diffusers_show1.learning.task import Lesson
from diffusers_show1.tiny import world
from diffusers_show1.training import text
from diffusers_show1.training.autoencoder import standardise_latents
from diffusers_show1.training.batches import Batches
from diffusers_show1.training.catalogue import recipes, task_of
from diffusers_show1.training.config import build, read_recipe
from diffusers_show1.training.embeddings import TextEmbeddings
from diffusers_show1.training.source import Source
from diffusers_show1.training.trainer import Trainer

from .small import NETWORK, recipe
from .test_train_command import metrics


CPU = torch.device("cpu")


def task_from(values: dict):
    config = build(values)
    return task_of(config.stage)(config, CPU, Source(config, CPU))


def lesson_of(task, frames: torch.Tensor, **parts) -> Lesson:
    """A lesson of clips (b, 3, f, h, w), with random streams of their own."""
    count = len(frames)
    return Lesson(
        frames,
        task.embed(["a red circle"] * count),
        [torch.Generator().manual_seed(seed) for seed in range(count)],
        task.config.objective,
        captions=["a red circle"] * count,
        rngs=[np.random.default_rng(seed) for seed in range(count)],
        **parts,
    )


def train(values: dict, folder) -> list[dict]:
    Trainer(build(values), folder, lambda line: None).run()
    return metrics(folder)


# --- text encoders ---------------------------------------------------------------------------------------------------


def test_a_text_encoder_learns_to_read_captions_and_is_read_again(tmp_path):
    for name, tokenizer, model in (
        ("tiny-text", T5Tokenizer, T5EncoderModel),
        ("tiny-clip", CLIPTokenizer, CLIPTextModel),
    ):
        values = read_recipe(recipes()[name])
        values["run"] |= {"steps": 40, "batch_size": 16, "validate_every": 0, "log_every": 1}
        values["optimizer"] |= {"warmup_steps": 5, "ema_decay": 0.9}
        lines = train(values, tmp_path / name)
        losses = [line["loss"] for line in lines if "loss" in line]
        assert losses[-1] < 0.8 * losses[0]
        assert 0 <= lines[-1]["validation_right"] <= 1
        export = tmp_path / name / "export"
        read = tokenizer.from_pretrained(export / "tokenizer")
        encoder = model.from_pretrained(export / "text_encoder")
        shipped = "text_encoder" if name == "tiny-text" else "refine_text_encoder"
        ours, theirs = encoder.config.to_dict(), model.from_pretrained(TINY_PATH, subfolder=shipped).config.to_dict()
        assert {key for key in ours if ours[key] != theirs.get(key)} <= {"_name_or_path", "dtype"}
        assert TextEmbeddings(read, encoder)(["a red circle"]).shape == (1, 32, encoder.config.hidden_size)


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


@pytest.mark.parametrize(
    ("train_tokenizer", "folder"),
    [(text.train_t5_tokenizer, "tokenizer"), (text.train_clip_tokenizer, "refine_tokenizer")],
)
def test_tokenisers_are_those_that_are_shipped(tmp_path, train_tokenizer, folder):
    train_tokenizer().save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").read_text() == (TINY_PATH / folder / "tokenizer.json").read_text()


def test_padding_does_not_change_what_t5_reads():
    torch.manual_seed(0)
    tokenizer = text.train_t5_tokenizer()
    encoder = text.make_t5_encoder(tokenizer, **read_recipe(recipes()["tiny-text"])["model"]["config"]).eval()
    with torch.no_grad():
        padded = text.encode(tokenizer, encoder, ["a red circle"])
        ids = tokenizer("a red circle", return_tensors="pt").input_ids
        short = encoder(ids).last_hidden_state
    assert padded.shape == (1, 32, 64)
    assert torch.allclose(padded[:, : ids.shape[1]], short, atol=1e-5)


# --- images and autoencoders -----------------------------------------------------------------------------------------


def test_an_image_network_learns_and_is_inflated(tmp_path):
    values = read_recipe(recipes()["tiny-image"])
    two_d = {
        key: [name.replace("3D", "2D") for name in v] if "block_types" in key else v for key, v in NETWORK.items()
    }
    values["model"]["config"] = two_d | {"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"}
    values["run"] |= {"steps": 12, "batch_size": 8, "log_every": 1}
    values["optimizer"] |= {"warmup_steps": 2}
    losses = [line["loss"] for line in train(values, tmp_path / "image")]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    image = UNet2DConditionModel.from_pretrained(tmp_path / "image" / "export", subfolder="unet")
    start = {"start": "from_2d", "path": str(tmp_path / "image" / "export"), "config": {}}
    video = task_from(recipe(model=start)).network
    assert torch.equal(video.conv_in.weight, image.conv_in.weight)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("tiny-image", {"data": {"frames": 2}}, "`data.frames` must be 1 for image"),
        ("tiny-vae", {"data": {"frames": 2}}, "`data.frames` must be 1 for autoencoder"),
        ("tiny-vae", {"validation": {"clips": 0}}, "`validation.clips` must be at least 1 with objective.standardise"),
        ("tiny-text", {"model": {"start": "run", "path": "x"}}, "`model.start` must be scratch for text"),
        ("tiny-text", {"objective": {"encoder": "bert"}}, "`objective.encoder` must be one of t5, clip, got 'bert'"),
        ("tiny-image", {"model": {"schedulers": {"scheduler": {"_class_name": "X"}}}}, "`model.schedulers.scheduler`"),
        ("tiny-image", {"model": {"schedulers": {}}}, "`model.components` must have a scheduler for image"),
    ],
)
def test_what_the_engines_own_tasks_cannot_do(name, change, message):
    values = read_recipe(recipes()[name])
    for section, keys in change.items():
        values[section] |= keys
    with pytest.raises(ConfigError, match=message):
        task_from(values)


def test_an_autoencoder_learns_and_its_latents_are_standardised(tmp_path):
    values = read_recipe(recipes()["tiny-vae"])
    values["data"] |= {"height": 64, "width": 96}
    values["turns"] = [{"crop": [32, 32]}]
    values["run"] |= {"steps": 30, "batch_size": 2, "log_every": 1, "validate_every": 0, "export_dtype": "fp32"}
    values["validation"] = {"clips": 3}
    values["optimizer"] |= {"learning_rate": 5e-3, "warmup_steps": 2, "ema_decay": 0.5}
    lines = train(values, tmp_path)
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.8 * losses[0]
    figures = [line["validation_psnr"] for line in lines if "validation_psnr" in line]
    assert figures[-1] > figures[0] + 1
    vae = AutoencoderKL.from_pretrained(tmp_path / "export", subfolder="vae")
    frames, _ = Trainer(build(values), tmp_path, lambda line: None).true_clips
    with torch.no_grad():
        latents = vae.encode(frames[:, :, 0]).latent_dist.mode()
    assert torch.allclose(latents.std(dim=(0, 2, 3)), torch.ones(6), atol=1e-2)


@torch.no_grad()
def test_standardised_latents_decode_to_the_same_images():
    torch.manual_seed(0)
    config = read_recipe(recipes()["tiny-vae"])["model"]["config"]
    vae, images = AutoencoderKL(**config).eval(), torch.rand(4, 3, 32, 32) * 2 - 1
    before = vae.encode(images).latent_dist
    decoded = vae.decode(before.mean).sample
    standardise_latents(vae, images)
    after = vae.encode(images).latent_dist
    assert torch.allclose(vae.decode(after.mean).sample, decoded, atol=1e-4)
    assert torch.allclose(after.mean.std(dim=(0, 2, 3)), torch.ones(6), atol=1e-3)
    assert torch.allclose(after.mean.mean(dim=(0, 2, 3)), torch.zeros(6), atol=1e-3)
    scale = before.mean.std(dim=(0, 2, 3))[None, :, None, None]
    assert torch.allclose(after.std * scale, before.std, rtol=1e-3)


# --- what refinement is given ----------------------------------------------------------------------------------------


def refinement(**turn):
    values = read_recipe(recipes()["tiny-refine"])
    values["turns"] = [turn]
    values["data"]["frames"] = 2
    return task_from(values)


@torch.no_grad()
def test_frames_of_the_stage_before_keep_their_size_and_resemble_the_truth():
    task = refinement()
    scenes = [world.sample_scene(a, np.random.default_rng(0)) for a in world.held_out_attributes(6)]
    frames = (world.render(scenes, [0.0, 1.0], 8) * 2 - 1).transpose(1, 2)
    made = task.before(lesson_of(task, frames))
    assert made.shape == frames.shape
    errors = (made - frames).square().mean(dim=(1, 2, 3, 4))
    assert (errors > 1e-4).all()
    assert (errors < 0.05).all()
    # a clip depends on no other, and a part is cut out of what is enlarged as a whole
    window = [(16, 24, 64, 96)]
    alone, part = (task.before(lesson_of(task, frames[:1], windows=each)) for each in (None, window))
    assert torch.allclose(alone, made[:1], atol=1e-5)
    assert part.shape == (1, 3, 2, 64, 96)
    assert (part - frames[:1, :, :, 16:80, 24:120]).square().mean() < 0.05
    assert task.latents(frames[:1]).shape == (1, 6, 2, 32, 48)


def test_worsened_frames_keep_their_size():
    frames = torch.zeros(1, 3, 2, 32, 48)
    made = worsen(frames, np.random.default_rng(0), torch.Generator().manual_seed(0))
    assert made.shape == frames.shape
    assert 0 < made.abs().mean() < 0.3


# --- parts of frames, and bent outlines ------------------------------------------------------------------------------


class Ideal(torch.nn.Module):
    """Answers with what it is asked for; keeps what it was given."""

    def __init__(self, answer: torch.Tensor):
        super().__init__()
        self.answer = answer

    def forward(self, sample, timestep, encoder_hidden_states, class_labels=None):
        self.given = sample
        return type("Output", (), {"sample": self.answer})


def test_a_part_is_cut_out_of_what_was_enlarged():
    """Corners on the grid, the same place in the truth and in the condition, every clip its own."""
    network = NETWORK | {"in_channels": 6, "class_embed_type": "timestep"}
    values = recipe(
        "superres",
        data={"frames": 1, "height": 64, "width": 96},
        model={"config": network},
        objective={"prediction_type": "sample", "max_noise_level": 1},
    ) | {"turns": [{"crop": [32, 48], "stills": True, "times": 2}]}
    task = task_from(values)

    class Rank0:
        num_processes, process_index = 1, 0

    batch = next(iter(Batches(task.config, Rank0())(0)))
    assert batch.indices == list(range(8))
    frames = batch.clips["frames"]
    unet = Ideal(torch.zeros(8, 3, 1, 32, 48))
    task.batch_loss(unet, batch, 0)
    upsampled = objectives.upsample_frames(task.given(frames), 4)
    condition = unet.given[:, 3:]
    places = [
        (top, left)
        for clip, whole in zip(condition, upsampled, strict=True)
        for top in range(0, 33, 4)
        for left in range(0, 49, 4)
        if (clip - whole[:, :, top : top + 32, left : left + 48]).abs().mean() < 0.02
    ]
    assert len({*places}) > 3
    assert len(places) >= 8


def test_whoever_is_shown_bent_frames_has_to_return_the_true_ones():
    """A network that answers with the truth has no loss; what it sees is not the truth."""
    frames = torch.rand(2, 3, 5, 16, 24) * 2 - 1
    shown = frames + 0.3 * torch.randn(frames.shape)
    for stage, network, section in (
        ("base", NETWORK, {}),
        ("interpolation", NETWORK | {"in_channels": 7}, {"max_augmentation": 0.0}),
        (
            "superres",
            NETWORK | {"in_channels": 6, "class_embed_type": "timestep"},
            {"max_noise_level": 1, "first_frame_probability": 0.0},
        ),
    ):
        objective = {"prediction_type": "sample"} | section
        task = task_from(recipe(stage, data={"frames": 5}, model={"config": network}, objective=objective))
        unet = Ideal(frames)
        assert task.loss(unet, lesson_of(task, frames, shown=shown)).item() == pytest.approx(0, abs=1e-6)
        seen = unet.given
        task.loss(unet, lesson_of(task, frames))
        assert not torch.allclose(seen, unet.given, atol=1e-2)
        if stage == "interpolation":  # the ends are bent, and what is noised is true
            assert torch.equal(seen[:, :3], unet.given[:, :3])
            assert torch.allclose(seen[:, 3:6, [0, -1]], shown[:, :, [0, -1]])
        if stage == "superres":
            assert torch.equal(seen[:, :3], unet.given[:, :3])
            low = objectives.upsample_frames(task.given(shown), 4)
            assert torch.allclose(seen[:, 3:], low, atol=0.1)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_sampling_with_the_answers_to_bent_frames_leads_to_the_true_ones(kind):
    """What is asked for under every prediction type stands for the true clip, at the noise that was added."""
    schedule = DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type=kind, clip_sample=False)
    true, shown = torch.rand(2, 1, 3, 2, 8, 8) * 2 - 1
    asked = {}

    class Spy(torch.nn.Module):
        def forward(self, sample, timestep, encoder_hidden_states):
            asked.update(noisy=sample, timestep=timestep)
            answer = torch.zeros_like(sample, requires_grad=True)
            asked["answer"] = answer
            return type("Output", (), {"sample": answer})

    draws = torch.Generator().manual_seed(0)
    loss = objectives.keyframe_loss(Spy(), schedule, true, None, draws, max_timestep=550, shown=shown)
    loss.backward()
    # the loss is the mean square of answer - target: its gradient at zero is -2 target / count
    target = -asked["answer"].grad * true.numel() / 2
    assert int(asked["timestep"]) < 550
    clean = objectives.predicted_clean(schedule, target, asked["noisy"], asked["timestep"])
    assert torch.allclose(clean, true, atol=1e-3)


@pytest.mark.parametrize("stage", ["base", "interpolation", "superres"])
def test_the_loss_on_bent_clips_falls(stage, tmp_path):
    """From the shipped recipe's turns and objective, on a small network."""
    shipped = read_recipe(recipes()[f"tiny-{stage}-straight"])
    network = NETWORK | {"in_channels": {"base": 3, "interpolation": 7, "superres": 6}[stage]}
    if stage == "superres":
        network["class_embed_type"] = "timestep"
    for turn in shipped["turns"]:  # smaller ones
        turn.pop("crop", None)
        turn["times"] = min(2, turn.get("times", 1))
    values = recipe(
        stage,
        data={"frames": 3},
        model={"config": network},
        objective=shipped["objective"],
        optimizer={"learning_rate": 5e-3},
        run={"steps": 15, "batch_size": 2, "checkpoint_every": 100},
    ) | {"turns": shipped["turns"]}
    losses = [line["loss"] for line in train(values, tmp_path)]
    # kinds of batches have losses of their own size: each is compared with itself
    kinds = len(shipped["turns"]) + sum(turn.get("steps", 1) - 1 for turn in shipped["turns"])
    rounds = np.reshape(losses, (-1, kinds))
    first, last = rounds[:2].mean(axis=0), rounds[-2:].mean(axis=0)
    assert (last < first).mean() > 0.5
    assert last.sum() < 0.9 * first.sum()
