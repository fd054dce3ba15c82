# SPDX-License-Identifier: Apache-2.0
"""`show1 train` from the recipe to the stage that is loaded again, in this process."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import UNet2DConditionModel
from PIL import Image

from diffusers_show1 import (
    Show1InterpolationPipeline,
    Show1KeyframePipeline,
    Show1RefinementPipeline,
    Show1SuperResolutionPipeline,
    read_video,
)
from diffusers_show1.cli import main
from diffusers_show1.training.checkpoint import checkpoints, read_checkpoint
from diffusers_show1.training.report import activation_bytes, grid
from diffusers_show1.training.start import start_unet

from .small import LATENT_NETWORK, NETWORK, write_recipe


def train(path: Path, output: Path, *overrides: str, stage: str = "base", extra: tuple[str, ...] = ()) -> int:
    changes = [part for override in overrides for part in ("--set", override)]
    return main(["train", stage, "--config", str(path), "-o", str(output), *changes, *extra])


def metrics(folder: Path) -> list[dict]:
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(checkpoints(folder / "checkpoints")[-1][1])["model"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run of the base stage with validation, images among the clips, and a stage to load at its end."""
    folder = tmp_path_factory.mktemp("base")
    prompts = {"prompts": ["a red circle moving right"], "options": {"num_inference_steps": 1, "guidance_scale": 1.0}}
    path = write_recipe(folder, objective={"image_share": 0.5}, run={"validate_every": 2}, validation=prompts)
    assert train(path, folder / "run") == 0
    return folder


def test_what_a_run_leaves(trained, capsys):
    run = trained / "run"
    assert [line["step"] for line in metrics(run)] == [1, 2, 3, 4]
    assert metrics(run)[0].keys() == {"step", "loss", "learning_rate", "grad_norm", "clips_per_second"}
    assert [step for step, _ in checkpoints(run / "checkpoints")] == [2, 4]
    for step in ("step-00000000", "step-00000002", "step-00000004"):
        assert read_video(run / "validation" / step / "0.mp4").shape == (2, 16, 24, 3)
        assert Image.open(run / "validation" / step / "grid.png").size == (2 * 24 + 2, 16)
        assert (run / "validation" / step / "captions.txt").read_text() == "a red circle moving right\n"
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert saved["objective"]["caption_dropout"] == 0.1  # defaults too


def test_the_exported_stage_loads_and_has_the_averaged_weights(trained):
    pipe = Show1KeyframePipeline.from_pretrained(trained / "run" / "export")
    state = read_checkpoint(checkpoints(trained / "run" / "checkpoints")[-1][1])
    names = [name for name, _ in pipe.unet.named_parameters()]
    for name, shadow in zip(names, state["ema"]["shadow_params"], strict=True):
        assert torch.equal(dict(pipe.unet.named_parameters())[name], shadow)
    assert pipe.scheduler.config.prediction_type == "v_prediction"  # what it was trained to predict
    frames = pipe("a red circle", num_frames=2, num_inference_steps=1, output_type="pt").frames
    assert frames.shape == (1, 2, 3, 16, 24)


def test_a_finished_run_is_left_as_it_is_and_another_recipe_is_refused(trained, capsys):
    path, run = trained / "recipe.yaml", trained / "run"
    before = weights(run)
    assert train(path, run) == 0
    assert len(metrics(run)) == 4
    assert all(torch.equal(before[name], value) for name, value in weights(run).items())
    capsys.readouterr()
    assert train(path, run, "run.steps=9", "objective.image_share=0") == 2
    message = capsys.readouterr().err
    assert "`--output` must be a new folder or hold a run of the same recipe" in message
    assert "objective.image_share: 0.5 -> 0.0; run.steps: 4 -> 9" in message


def test_accumulation_and_checkpointing_of_gradients_change_nothing(trained, tmp_path):
    path = trained / "recipe.yaml"
    changes = (
        "run.accumulation=2",
        "model.gradient_checkpointing=true",
        "run.validate_every=0",
        "validation.prompts=[]",
    )
    assert train(path, tmp_path, *changes, "validation.clips=0") == 0
    for one, two in zip(metrics(trained / "run"), metrics(tmp_path), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)


ONE_STEP = {"num_inference_steps": 1, "guidance_scale": 1.0}


@pytest.mark.parametrize(
    ("stage", "pipeline", "sections"),
    [
        (
            "interpolation",
            Show1InterpolationPipeline,
            {"data": {"frames": 3}, "model": {"config": {**NETWORK, "in_channels": 7}}},
        ),
        (
            "superres",
            Show1SuperResolutionPipeline,
            {
                "model": {"config": {**NETWORK, "in_channels": 6, "class_embed_type": "timestep", "out_channels": 6}},
                "objective": {"factor": 2, "prediction_type": "epsilon", "min_snr_gamma": 5},
                "validation": {"clips": 1, "options": {**ONE_STEP, "noise_level": 20}},
            },
        ),
        (
            "refine",
            Show1RefinementPipeline,
            {
                "model": {"config": LATENT_NETWORK},
                "objective": {"degrade": 2, "prediction_type": "sample", "image_share": 0.5},
                "run": {"export_text_encoder": False},
                "validation": {"clips": 1, "options": {**ONE_STEP, "strength": 1.0}},
            },
        ),
    ],
)
def test_the_other_stages(tmp_path, stage, pipeline, sections):
    sections = {"validation": {"clips": 1, "options": ONE_STEP}, **sections}
    sections["run"] = {"steps": 2, "batch_size": 2, **sections.get("run", {})}
    path = write_recipe(tmp_path, stage, **sections)
    assert train(path, tmp_path / "run", stage=stage) == 0
    assert (tmp_path / "run" / "validation" / "step-00000002" / "grid.png").exists()
    assert "validation_psnr" in metrics(tmp_path / "run")[-1]
    pipe = pipeline.from_pretrained(tmp_path / "run" / "export")
    assert (pipe.text_encoder is None) == (stage == "refine")


def test_starting_from_another_run_and_from_an_image_network(trained, tmp_path, capsys):
    export = str(trained / "run" / "export")
    interpolation = {"data": {"frames": 3}, "run": {"steps": 1, "batch_size": 2}}
    previous = {"start": "previous", "path": export, "config": {"in_channels": 7}}
    path = write_recipe(tmp_path, "interpolation", **interpolation, model=previous)
    assert train(path, tmp_path / "run", stage="interpolation") == 0
    assert "1 extended (conv_in)" in capsys.readouterr().out

    two_d = {
        **NETWORK,
        "down_block_types": ["SimpleCrossAttnDownBlock2D"],
        "up_block_types": ["SimpleCrossAttnUpBlock2D"],
    }
    torch.manual_seed(0)
    image = UNet2DConditionModel(**{**two_d, "mid_block_type": "UNetMidBlock2DSimpleCrossAttn"})
    image.save_pretrained(tmp_path / "image")
    start = {"start": "from_2d", "path": str(tmp_path / "image"), "config": {}}
    assert train(write_recipe(tmp_path, run={"steps": 1}, model=start), tmp_path / "run2") == 0
    assert "copied" in capsys.readouterr().out


def test_from_video_files_with_some_that_cannot_be_read(tmp_path, capsys):
    from diffusers_show1.training.world_files import write_world

    write_world(tmp_path / "clips", count=3, seed=0, scale=1, fps=8)
    with next((tmp_path / "clips").glob("*.csv")).open("a") as manifest:
        manifest.write("missing,a video that is not there,00\n")
    data = {"kind": "files", "path": str(tmp_path / "clips"), "embeddings": str(tmp_path / "embeddings")}
    path = write_recipe(tmp_path, data=data, run={"steps": 3})
    assert train(path, tmp_path / "run") == 0
    assert "1 of 4 files skipped: 1 missing" in capsys.readouterr().out
    assert list((tmp_path / "embeddings").rglob("*.safetensors"))


def test_dry_run_checks_estimates_and_draws(tmp_path, capsys):
    path = write_recipe(tmp_path, objective={"image_share": 0.5})
    assert train(path, tmp_path / "run", extra=("--dry-run",)) == 0
    told = capsys.readouterr().out
    parameters = sum(p.numel() for p in start_unet("scratch", NETWORK).unet.parameters())
    assert f"network: {parameters:,} parameters trained, 0 frozen" in told
    assert "batch: 4 clips of 2x16x24" in told
    assert "activations counted" in told
    assert told.count("background") >= 2  # captions
    assert [entry.name for entry in (tmp_path / "run").iterdir()] == ["first_batch.png"]
    assert Image.open(tmp_path / "run" / "first_batch.png").size == (2 * 24 + 2, 4 * 18 - 2)


def test_counted_activations_are_those_that_a_real_pass_keeps():
    def example() -> dict[str, torch.Tensor]:
        return {
            "sample": torch.zeros(2, 3, 2, 16, 24),
            "timestep": torch.zeros(2, dtype=torch.long),
            "encoder_hidden_states": torch.zeros(2, 5, 64),
        }

    unet = start_unet("scratch", NETWORK).unet
    of_weights = {parameter.untyped_storage().data_ptr() for parameter in unet.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        unet(**example())
    real = sum(storage.nbytes() for place, storage in kept.items() if place not in of_weights)
    counted = activation_bytes(unet, example)
    assert counted == pytest.approx(real, rel=0.1)
    unet.enable_gradient_checkpointing()
    assert activation_bytes(unet, example) < 0.7 * counted


def test_grids_enlarge_small_videos_and_spread_short_ones():
    small, large = -torch.ones(3, 2, 4, 4), torch.zeros(3, 3, 8, 8)
    image = grid([small, large], gap=1)
    assert image.size == (3 * 9 - 1, 2 * 9 - 1)
    columns = [image.getpixel((9 * column + 4, 4))[0] for column in range(3)]
    assert columns == [0, 255, 0]  # the first, a gap, the last
    assert image.getpixel((13, 13)) == (128, 128, 128)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.width=32"], "`data.height` and `data.width` must be 16 and 24"),
        (["data.frames=9", "data.fps=2"], "`data.frames` and `data.fps` must make a clip of the world's 29 frames"),
        (["data.kind=files", "data.path=nowhere"], "'nowhere', which is not there"),
        (["model.components=nowhere"], "`model.components` must be tiny, or a folder or Hub id"),
        (["model.config.in_channels=7"], "`model.config.in_channels` must be 3 for base, got 7"),
        (["objective.variance_type=learned_range"], "`model.config.out_channels` must be 6 for base"),
        (["model.config.out_channels=4"], "`model.config.out_channels` must be 3 or 6 for base"),
        (["model.config.encoder_hid_dim=48"], "`model.components` must have a text encoder of width 48"),
        (["model.config.depth=3"], "['depth']"),
        (["model.start=run", "model.path=nowhere/at/all"], "nowhere/at/all"),
        (["run.trackers=[wandb]"], "`run.trackers wandb` needs the package wandb"),
        (["optimizer.kind=adamw8bit"], "pip install 'diffusers-show1[train-8bit]'"),
    ],
)
def test_one_line_for_what_does_not_fit_before_any_work(tmp_path, capsys, overrides, message):
    assert train(write_recipe(tmp_path), tmp_path / "run", *overrides) == 2
    told = capsys.readouterr().err.splitlines()
    assert told[-1].startswith("show1: ")
    assert message in told[-1]
    assert not [line for line in told[:-1] if line and "Loading weights" not in line]
    assert not (tmp_path / "run").exists()


def test_what_the_pipeline_refuses_shows_before_training(tmp_path, capsys):
    validation = {"clips": 1, "options": {"num_inference_steps": 0}}
    assert train(write_recipe(tmp_path, validation=validation), tmp_path / "run") == 2
    assert "`validation.options` must fit the pipeline" in capsys.readouterr().err
    assert not metrics(tmp_path / "run")


def test_an_empty_folder_is_no_dataset(tmp_path, capsys):
    (tmp_path / "clips").mkdir()
    path = write_recipe(tmp_path, data={"kind": "files", "path": str(tmp_path / "clips")})
    assert train(path, tmp_path / "run") == 2
    assert "must be a folder with one .csv or .jsonl file" in capsys.readouterr().err
