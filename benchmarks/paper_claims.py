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
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from diffusers_show1 import TINY_PATH, Show1CascadePipeline, Show1UNet3DConditionModel
from diffusers_show1.evaluation import evaluate_refinement, score_clips
from diffusers_show1.evaluation.protocol import held_out_scenes
from diffusers_show1.tiny import world
from diffusers_show1.training import objectives, tiny
from diffusers_show1.training.data import WorldClips, drop_captions, step_rng


FACTOR, LATENT_CHANNELS = 4, 6


def workshop(options: argparse.Namespace, name: str, steps: int) -> tiny.Workshop:
    """A recipe's workshop whose frozen parts (text, VAE, super-resolution) are those of the cascade."""
    folder = options.work / name
    folder.mkdir(parents=True, exist_ok=True)
    for part in (
        "tokenizer",
        "text_encoder",
        "refine_tokenizer",
        "refine_text_encoder",
        "refine_vae",
        "superres_unet",
    ):
        if not (folder / part).exists():
            (folder / part).symlink_to(Path(options.cascade).resolve() / part)
    return tiny.Workshop(folder=folder, checkpoints=folder / "checkpoints", steps=steps)


# --- Table 3 ---------------------------------------------------------------------------------------------------------


def train_small_vae(shop: tiny.Workshop) -> AutoencoderKL:
    """An autoencoder of factor 4 for frames of 16 x 24, with latents of mean 0 and deviation 1."""
    data = WorldClips()
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
        rng, generator = step_rng(901, step)
        return objectives.vae_loss(vae, data.stills(32, rng)["frames"][:, :, 0], generator)

    shop.fit("small_vae", vae, loss_at, lambda model: None, learning_rate=2e-3, ema_decay=0.995)
    rng, _ = step_rng(902, 0)
    tiny.standardise_latents(vae, data.stills(256, rng)["frames"][:, :, 0])
    return vae.eval().requires_grad_(False)


def make_latent_image_unet() -> UNet2DConditionModel:
    """The image model of the latent keyframe model."""
    return UNet2DConditionModel(
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        sample_size=(world.HEIGHT // FACTOR, world.WIDTH // FACTOR),
        block_out_channels=(64, 96),
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        **tiny.PIXEL_UNET,
    )


def train_latent_keyframes(shop: tiny.Workshop, image_steps: int, vae: AutoencoderKL) -> Show1UNet3DConditionModel:
    """`tiny.train_image` and `tiny.train_keyframes`, on latents."""
    data, encode, scheduler = WorldClips(), shop.encoder(), tiny.forward_process("v_prediction")
    image = make_latent_image_unet()
    stills = tiny._Stills(image)

    def image_loss(step: int) -> torch.Tensor:
        rng, generator = step_rng(tiny.SEEDS["image"], step)
        batch = data.stills(48, rng)
        embeds = encode(drop_captions(batch["captions"], 0.1, rng))
        with torch.no_grad():
            latents = tiny.encode_frames(vae, batch["frames"])
        return objectives.keyframe_loss(stills, scheduler, latents, embeds, generator)

    first = tiny.Workshop(**{**vars(shop), "steps": image_steps})
    first.fit(
        "latent_image",
        image,
        image_loss,
        lambda model: None,
        learning_rate=1.5e-3,
        final_learning_rate=3e-4,
        ema_decay=0.997,
    )
    unet = Show1UNet3DConditionModel.from_2d(image)

    def video_loss(step: int) -> torch.Tensor:
        rng, generator = step_rng(tiny.SEEDS["keyframes"], step)
        still = step % 4 == 3
        data.forward_bias = tiny.direction_curriculum(step)
        batch = data.stills(32, rng) if still else data.keyframes(8, rng)
        embeds = encode(drop_captions(batch["captions"], 0.1, rng))
        with torch.no_grad():
            latents = tiny.encode_frames(vae, batch["frames"])
        return objectives.keyframe_loss(unet, scheduler, latents, embeds, generator, power=1.0 if still else 1 / 6)

    shop.fit("latent_keyframes", unet, video_loss, lambda model: None, learning_rate=1.6e-3, ema_decay=0.998)
    return unet.eval()


@torch.no_grad()
def latent_keyframes(shop: tiny.Workshop, unet, vae: AutoencoderKL, prompts: list[str]) -> torch.Tensor:
    """Keyframes (b, 8, 3, 16, 24) in [0, 1], with the pixel stage's sampler, steps and guidance (that stage itself has
    three channels)."""
    options, encode, clips = tiny.STAGE_DEFAULTS["base"], shop.encoder(), []
    for index in range(0, len(prompts), 24):
        group = prompts[index : index + 24]
        embeds = torch.cat([encode([""] * len(group)), encode(group)])
        scheduler = tiny.keyframe_scheduler()
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
    shop = workshop(options, "alignment", options.video_steps)
    vae = train_small_vae(tiny.Workshop(**{**vars(shop), "steps": options.vae_steps}))
    pipe = Show1CascadePipeline.from_pretrained(options.cascade)
    unet = train_latent_keyframes(shop, options.image_steps, vae)
    scenes = held_out_scenes(options.count, 0)
    captions = [scene.attributes.caption() for scene in scenes]
    truth = world.render(scenes, world.KEYFRAME_TIMES)
    with torch.no_grad():
        again = decode_frames(vae, tiny.encode_frames(vae, truth.transpose(1, 2) * 2 - 1))
    prompts = world.held_out_prompts(options.count)
    pixel = []
    pipe.set_progress_bar_config(disable=True)
    for index in range(0, len(prompts), 24):
        group = prompts[index : index + 24]
        generators = [torch.Generator().manual_seed(index + i) for i in range(len(group))]
        pixel.append(
            pipe.base(prompt=group, generator=generators, output_type="pt", **tiny.STAGE_DEFAULTS["base"]).frames
        )
    sizes = {"pixel": pipe.base_unet, "latent": unet}
    return {
        "parameters": {name: sum(p.numel() for p in model.parameters()) for name, model in sizes.items()},
        "latent ceiling (true clips through the autoencoder)": str(score_clips(again, captions)),
        "pixel": str(score_clips(torch.cat(pixel), prompts)),
        "latent": str(score_clips(latent_keyframes(shop, unet, vae, prompts), prompts)),
    }


# --- Figure 6 --------------------------------------------------------------------------------------------------------


def expert(options: argparse.Namespace) -> dict:
    """Figure 6 at this scale: gain in dB over the input at several strengths."""
    results: dict = {}
    for most in (900, 1000):
        shop = workshop(options, f"below_{most}", options.steps)
        torch.manual_seed(tiny.SEEDS["refine"])
        tiny.train_refine(shop, max_timestep=most)
        unet = shop.load(Show1UNet3DConditionModel, "refine_unet")
        pipe = Show1CascadePipeline.from_pretrained(options.cascade, refine_unet=unet)
        pipe.set_progress_bar_config(disable=True)
        for strength in (0.1, 0.3, 0.6, 0.9):
            defaults = {**pipe.config.stage_defaults, "refine": {**tiny.STAGE_DEFAULTS["refine"]}}
            defaults["refine"]["strength"] = strength
            pipe.register_to_config(stage_defaults=defaults)
            result = evaluate_refinement(pipe, count=options.count)
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
