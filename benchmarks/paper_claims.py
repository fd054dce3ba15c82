# SPDX-License-Identifier: Apache-2.0
"""Two claims of the paper, tested at the scale of the tiny cascade: whatever comes out is printed.

    python benchmarks/paper_claims.py alignment --work FOLDER --image-steps 1000 --video-steps 5000
    python benchmarks/paper_claims.py expert --work FOLDER --steps 600

**alignment** (Table 3): a pixel low-resolution stage follows the text better than a latent one of equal size and
training. The latent keyframe model has the same blocks and as many parameters (two levels instead of three: its
"frames" are the 4 x 6 latents of 16 x 24 frames), and is trained for as many steps on the same batches with the same
noise levels, curriculum and learning rates. Its autoencoder is trained on frames of that size, and what the scorer
reads off reconstructed *true* clips is printed as the ceiling it sets.

**expert** (Figure 6): a refinement network trained on timesteps 0-900 refines better than one trained on 0-1000.
Both are trained from nothing with the same steps, batches and noise, and refine the same videos.

Runs are resumable: the same command goes on from its checkpoints in `--work`.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel

from diffusers_show1 import TINY_PATH, Show1CascadePipeline, Show1UNet3DConditionModel
from diffusers_show1.evaluation import evaluate_stage, score_clips
from diffusers_show1.evaluation.protocol import held_out_scenes
from diffusers_show1.learning import objectives
from diffusers_show1.learning.task import clip_random
from diffusers_show1.sampling.latents import fold, unfold
from diffusers_show1.tiny import world
from diffusers_show1.training.autoencoder import standardise_latents
from diffusers_show1.training.batches import make_dataset
from diffusers_show1.training.catalogue import recipes
from diffusers_show1.training.config import load_config, read_recipe
from diffusers_show1.training.data import ClipBatch, ClipDataset, choose, collate
from diffusers_show1.training.embeddings import TextEmbeddings
from diffusers_show1.training.loop import FitOptions, fit
from diffusers_show1.training.trainer import Trainer


FACTOR, LATENT_CHANNELS = 4, 6
Embed = Callable[[list[str]], torch.Tensor]


def batch(dataset: ClipDataset, seed: int, step: int, count: int) -> tuple[ClipBatch, list[torch.Generator]]:
    """Clips of a step, a tenth of the captions empty, and the random numbers of each: as `show1 train` has them."""
    clips = collate([choose(dataset, seed, step, index) for index in range(count)])
    streams = [clip_random(seed, step, index) for index in range(count)]
    pairs = zip(streams, clips["captions"], strict=True)
    clips["captions"] = ["" if rng.random() < 0.1 else caption for (rng, _), caption in pairs]
    return clips, [noise for _, noise in streams]


def recipe_options(name: str, steps: int, stage: str) -> FitOptions:
    """The optimiser's part of a recipe of the package, for so many steps."""
    optimizer = load_config(stage, name).optimizer
    return FitOptions(
        steps=steps,
        learning_rate=optimizer.learning_rate,
        final_learning_rate=optimizer.final_learning_rate,
        ema_decay=optimizer.ema_decay,
    )


@torch.no_grad()
def encode_frames(vae: AutoencoderKL, frames: torch.Tensor) -> torch.Tensor:
    """The most likely latents (b, c, f, h / 4, w / 4) of frames (b, 3, f, h, w)."""
    return unfold(vae.encode(fold(frames)).latent_dist.mode() * vae.config.scaling_factor, len(frames))


# --- Table 3 ---------------------------------------------------------------------------------------------------------


def train_small_vae(folder: Path, steps: int) -> AutoencoderKL:
    """An autoencoder of factor 4 for frames of 16 x 24, with latents of mean 0 and deviation 1."""
    stills = make_dataset(load_config("image", "tiny-image").data)
    torch.manual_seed(901)
    vae = AutoencoderKL(
        block_out_channels=(32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=world.HEIGHT,
    )

    def loss_at(step: int) -> torch.Tensor:
        clips, noise = batch(stills, 901, step, 32)
        return objectives.vae_loss(vae, clips["frames"][:, :, 0], noise)

    fit(vae, loss_at, FitOptions(steps=steps, learning_rate=2e-3, ema_decay=0.995), folder / "small_vae")
    standardise_latents(vae, batch(stills, 902, 0, 256)[0]["frames"][:, :, 0])
    return vae.eval().requires_grad_(False)


def make_latent_image_unet() -> UNet2DConditionModel:
    """The image model of the latent keyframe model: the pixel one's with a level less."""
    config = read_recipe(recipes()["tiny-image"])["model"]["config"]
    return UNet2DConditionModel(
        **config
        | {
            "in_channels": LATENT_CHANNELS,
            "out_channels": LATENT_CHANNELS,
            "sample_size": (world.HEIGHT // FACTOR, world.WIDTH // FACTOR),
            "block_out_channels": (64, 96),
            "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        }
    )


def train_latent_keyframes(
    folder: Path, image_steps: int, video_steps: int, vae: AutoencoderKL, embed: Embed
) -> Show1UNet3DConditionModel:
    """The recipes tiny-image and tiny-base, on latents."""
    schedule = DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", clip_sample=False)
    recipe = load_config("base", "tiny-base")
    clips_of = make_dataset(recipe.data)
    torch.manual_seed(102)
    image = make_latent_image_unet()

    def frame(sample: torch.Tensor, timestep: torch.Tensor, encoder_hidden_states: torch.Tensor) -> torch.Tensor:
        output = image(sample[:, :, 0], timestep, encoder_hidden_states)
        output.sample = output.sample[:, :, None]
        return output

    def image_loss(step: int) -> torch.Tensor:
        clips, noise = batch(clips_of.stills(), 102, step, 48)
        latents = encode_frames(vae, clips["frames"])
        return objectives.keyframe_loss(frame, schedule, latents, embed(clips["captions"]), noise)

    fit(image, image_loss, recipe_options("tiny-image", image_steps, "image"), folder / "latent_image")
    unet = Show1UNet3DConditionModel.from_2d(image)

    def video_loss(step: int) -> torch.Tensor:
        turn = recipe.turn(step)
        clips, noise = batch(clips_of.stills() if turn.stills else clips_of, 103, step, 8 * turn.times)
        latents, power = encode_frames(vae, clips["frames"]), recipe.objective_of(turn).timestep_power
        return objectives.keyframe_loss(unet, schedule, latents, embed(clips["captions"]), noise, power=power)

    fit(unet, video_loss, recipe_options("tiny-base", video_steps, "base"), folder / "latent_keyframes")
    return unet.eval()


@torch.no_grad()
def latent_keyframes(
    pipe: Show1CascadePipeline, embed: Embed, unet: Show1UNet3DConditionModel, vae: AutoencoderKL, prompts: list[str]
) -> torch.Tensor:
    """Keyframes (b, 8, 3, 16, 24) in [0, 1], with the pixel stage's sampler, steps and guidance (that stage itself has
    three channels)."""
    options, clips = pipe.config.stage_defaults["base"], []
    for index in range(0, len(prompts), 24):
        group = prompts[index : index + 24]
        embeds = torch.cat([embed([""] * len(group)), embed(group)])
        scheduler = type(pipe.base_scheduler).from_config(pipe.base_scheduler.config)
        scheduler.set_timesteps(options["num_inference_steps"])
        size = (LATENT_CHANNELS, options["num_frames"], world.HEIGHT // FACTOR, world.WIDTH // FACTOR)
        latents = torch.stack(
            [torch.randn(size, generator=torch.Generator().manual_seed(index + i)) for i in range(len(group))]
        )
        for timestep in scheduler.timesteps:
            without, given = unet(torch.cat([latents, latents]), timestep, encoder_hidden_states=embeds).sample.chunk(
                2
            )
            guided = without + options["guidance_scale"] * (given - without)
            latents = scheduler.step(guided, timestep, latents).prev_sample
        clips.append(latents)
    return decode_frames(vae, torch.cat(clips))


def decode_frames(vae: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    """(b, c, f, h, w) latents -> (b, f, 3, H, W) in [0, 1]."""
    flat = vae.decode(latents.transpose(1, 2).flatten(0, 1) / vae.config.scaling_factor).sample
    return (flat / 2 + 0.5).clamp(0, 1).unflatten(0, (len(latents), -1))


def alignment(options: argparse.Namespace) -> dict:
    """Table 3 at this scale."""
    folder = options.work / "alignment"
    vae = train_small_vae(folder, options.vae_steps)
    pipe = Show1CascadePipeline.from_pretrained(options.cascade)
    embed = TextEmbeddings(pipe.tokenizer, pipe.text_encoder)
    unet = train_latent_keyframes(folder, options.image_steps, options.video_steps, vae, embed)
    scenes = held_out_scenes(options.count, 0)
    captions = [scene.attributes.caption() for scene in scenes]
    truth = world.render(scenes, world.KEYFRAME_TIMES)
    with torch.no_grad():
        again = decode_frames(vae, encode_frames(vae, truth.transpose(1, 2) * 2 - 1))
    prompts = world.held_out_prompts(options.count)
    pixel = []
    pipe.set_progress_bar_config(disable=True)
    for index in range(0, len(prompts), 24):
        group = prompts[index : index + 24]
        generators = [torch.Generator().manual_seed(index + i) for i in range(len(group))]
        pixel.append(
            pipe.base(
                prompt=group, generator=generators, output_type="pt", **pipe.config.stage_defaults["base"]
            ).frames
        )
    sizes = {"pixel": pipe.base_unet, "latent": unet}
    return {
        "parameters": {name: sum(p.numel() for p in model.parameters()) for name, model in sizes.items()},
        "latent ceiling (true clips through the autoencoder)": str(score_clips(again, captions)),
        "pixel": str(score_clips(torch.cat(pixel), prompts)),
        "latent": str(score_clips(latent_keyframes(pipe, embed, unet, vae, prompts), prompts)),
    }


# --- Figure 6 --------------------------------------------------------------------------------------------------------


def expert(options: argparse.Namespace) -> dict:
    """Figure 6 at this scale: gain in dB over the input at several strengths."""
    results: dict = {}
    for most in (900, 1000):
        changes = {
            "model.components": options.cascade,
            "objective.degrade_by": options.cascade,
            "objective.max_timestep": most,
            "run.steps": options.steps,
            "validation.clips": 0,
        }
        recipe = load_config("refine", "tiny-refine", [f"{key}={value}" for key, value in changes.items()])
        export = Trainer(recipe, options.work / f"below_{most}").run()
        unet = Show1UNet3DConditionModel.from_pretrained(export, subfolder="unet", torch_dtype=torch.float32)
        pipe = Show1CascadePipeline.from_pretrained(options.cascade, refine_unet=unet)
        pipe.set_progress_bar_config(disable=True)
        for strength in (0.1, 0.3, 0.6, 0.9):
            defaults = {**pipe.config.stage_defaults, "refine": dict(pipe.config.stage_defaults["refine"])}
            defaults["refine"]["strength"] = strength
            pipe.register_to_config(stage_defaults=defaults)
            result = evaluate_stage(pipe, "refine", options.count, frames=15, made_by="superres", batch_size=1)
            results[f"trained below {most}, strength {strength}"] = str(result)
    return results


def main() -> None:
    """Train what is missing, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    claims = parser.add_subparsers(dest="claim", required=True)
    table = claims.add_parser("alignment", help="Table 3")
    table.add_argument("--image-steps", type=int, required=True, help="those of the cascade that is compared with")
    table.add_argument("--video-steps", type=int, required=True)
    table.add_argument("--vae-steps", type=int, default=3000)
    table.add_argument("--count", type=int, default=96)
    figure = claims.add_parser("expert", help="Figure 6")
    figure.add_argument("--steps", type=int, required=True)
    figure.add_argument("--count", type=int, default=6)
    for claim in (table, figure):
        claim.add_argument("--work", type=Path, required=True, help="folder of checkpoints")
        claim.add_argument("--cascade", default=str(TINY_PATH))
        claim.add_argument("--json", type=Path)
        claim.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = {"alignment": alignment, "expert": expert}[options.claim](options)
    for name, value in results.items():
        print(f"{name}: {value}")
    if options.json:
        settings = {k: v for k, v in vars(options).items() if k.endswith("steps") or k == "count"}
        options.json.write_text(json.dumps({"claim": options.claim, **settings, **results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
