# SPDX-License-Identifier: Apache-2.0
"""The recipe of the tiny cascade: every part in order, each with its network, its data and its share of the time.

Parts are trained one after another, or each in a process of its own: a part reads what it needs from the export
folder, which is laid out like the cascade's repository (`base_unet`, `base_scheduler`, ...) and always holds the
averaged weights of the last checkpoint.

    text            the two tokenisers and text encoders, which stay frozen from then on
    vae             the autoencoder of the refinement stage
    image           a text-to-image UNet on single frames
    keyframes       `image` inflated to video (Sec. 3.2, 3.3)
    interpolation   Sec. 3.4
    superres        Sec. 3.5
    refine          Sec. 3.6, on inputs made by `superres`
    detail          the keyframe network again, at weaker noise
"""

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    SchedulerMixin,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from ..families.show1.cascade import Show1CascadePipeline
from ..families.show1.unet import Show1UNet3DConditionModel
from ..tiny import world
from . import objectives, text
from .data import ClipBatch, WorldClips, area_downsample, drop_captions, step_rng
from .loop import FitOptions, fit
from .start import start_unet


# Minutes on one free CPU core for each part. The shipped weights were made by several runs: see docs/tiny.md.
MINUTES = {
    "text": 2.0,
    "vae": 13.0,
    "image": 8.0,
    "keyframes": 92.0,
    "interpolation": 14.0,
    "superres": 41.0,
    "refine": 32.0,
    "detail": 14.0,
}
# What may be trained side by side once the text encoders are there: every part needs the ones before it in its lane.
LANES = (("image", "keyframes", "detail"), ("vae", "interpolation", "superres", "refine"))
# Options of each stage's call: `stage_defaults` of the cascade's model_index.json.
STAGE_DEFAULTS: dict[str, dict[str, Any]] = {
    "base": {"num_frames": 8, "height": 16, "width": 24, "num_inference_steps": 20, "guidance_scale": 3.0},
    "interpolation": {"frames_between": 3, "num_inference_steps": 8, "guidance_scale": 1.0},
    "superres": {
        "height": 64,
        "width": 96,
        "num_inference_steps": 1,
        "guidance_scale": 1.0,
        "noise_level": 20,
        "window_size": 8,
    },
    "refine": {"height": 128, "width": 192, "num_inference_steps": 10, "strength": 0.1, "guidance_scale": 1.0},
    # for the recipe of that name: the fewest steps that lose next to nothing (benchmarks/fewer_calls.py)
    "fast": {"base": {"num_inference_steps": 12}, "interpolation": {"num_inference_steps": 5}},
}
NETWORKS = ("base_unet", "interpolation_unet", "superres_unet", "refine_unet")
SEEDS = {name: 100 + index for index, name in enumerate(MINUTES)}

# ---------------------------------------------------------------------------------------------------------------------
# Networks and schedulers

PIXEL_UNET = {
    "act_fn": "gelu",
    "norm_num_groups": 4,  # a group of one channel would lose its mean, and with it the colours
    "cross_attention_dim": 64,
    "encoder_hid_dim": 64,  # width of the tiny T5
    "encoder_hid_dim_type": "text_proj",
    "attention_head_dim": 16,
    "addition_embed_type": "text",  # pooled text in the time embedding: carries colour and background
    "addition_embed_type_num_heads": 4,
    "cross_attention_norm": "group_norm",
    "resnet_time_scale_shift": "scale_shift",
    "layers_per_block": 1,
}


def pixel_blocks(dims: int = 3) -> dict:
    """Block names of a three-level pixel UNet that attends in its lowest level; `dims` is 2 for the image model."""
    return {
        "down_block_types": (f"ResnetDownsampleBlock{dims}D",) * 2 + (f"SimpleCrossAttnDownBlock{dims}D",),
        "mid_block_type": f"UNetMidBlock{dims}DSimpleCrossAttn",
        "up_block_types": (f"SimpleCrossAttnUpBlock{dims}D",) + (f"ResnetUpsampleBlock{dims}D",) * 2,
    }


def make_image_unet() -> UNet2DConditionModel:
    """The text-to-image model that the keyframe model starts from (DeepFloyd IF in the paper)."""
    return UNet2DConditionModel(
        in_channels=3,
        out_channels=3,
        sample_size=(world.HEIGHT, world.WIDTH),
        block_out_channels=(32, 64, 96),
        **pixel_blocks(dims=2),
        **PIXEL_UNET,
    )


def make_interpolation_unet() -> Show1UNet3DConditionModel:
    """7 input channels: noisy frames, blended end frames, mask."""
    return Show1UNet3DConditionModel(
        in_channels=7,
        out_channels=3,
        sample_size=(world.HEIGHT, world.WIDTH),
        block_out_channels=(32, 64, 64),
        **pixel_blocks(),
        **PIXEL_UNET,
    )


def make_superres_unet() -> Show1UNet3DConditionModel:
    """6 input channels: noisy frames and upsampled frames; the class label is the noise level of the latter."""
    return Show1UNet3DConditionModel(
        in_channels=6,
        out_channels=3,
        sample_size=(4 * world.HEIGHT, 4 * world.WIDTH),
        block_out_channels=(32, 32, 64),
        class_embed_type="timestep",
        **pixel_blocks(),
        **PIXEL_UNET,
    )


# Attention in one more level of super-resolution: silent, so that no video changes, for adapters to learn styles in
# (docs/customisation.md). It attends to the text and not within frames, and over frames in four heads: that is cheap.
SILENT = {
    "up_block_types": ("SimpleCrossAttnUpBlock3D", "SimpleCrossAttnUpBlock3D", "ResnetUpsampleBlock3D"),
    "only_cross_attention": (True, True, False),
    "attention_head_dim": (16, 4, 16),
}


def make_vae() -> AutoencoderKL:
    """A KL autoencoder of factor 4 without attention."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=6,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=8 * world.HEIGHT,
    )


def make_refine_unet(latent_channels: int = 6, text_width: int = 32) -> Show1UNet3DConditionModel:
    """A latent video UNet in the Stable Diffusion block style of the published refinement model."""
    return Show1UNet3DConditionModel(
        in_channels=latent_channels,
        out_channels=latent_channels,
        sample_size=(2 * world.HEIGHT, 2 * world.WIDTH),
        down_block_types=("DownBlock3D", "CrossAttnDownBlock3D"),
        mid_block_type="UNetMidBlock3DCrossAttn",
        up_block_types=("CrossAttnUpBlock3D", "UpBlock3D"),
        block_out_channels=(32, 32),
        layers_per_block=1,
        act_fn="silu",
        norm_num_groups=4,
        cross_attention_dim=text_width,
        attention_head_dim=4,  # in these blocks the number of heads
        use_linear_projection=True,
        transfromer_in_opt=False,
    )


def forward_process(prediction_type: str) -> DDPMScheduler:
    """The forward process of every stage: squared cosine, 1000 steps."""
    return DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type=prediction_type, clip_sample=False)


def keyframe_scheduler() -> DPMSolverMultistepScheduler:
    """Sampler of the keyframe stage."""
    return DPMSolverMultistepScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", algorithm_type="dpmsolver++"
    )


def few_step_scheduler() -> DDIMScheduler:
    """Sampler of the other three: few steps, the last of which returns the network's estimate of the clean sample.

    No clipping: DDIM with clipped samples and unclipped noise loses most of its quality on a network this small.
    """
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="sample",
        clip_sample=False,
        timestep_spacing="trailing",
    )


# ---------------------------------------------------------------------------------------------------------------------
# The workshop: where things are read, written and trained


@dataclass
class Workshop:
    """Where a recipe works.

    Args:
        folder: the cascade folder that parts are exported to and read from.
        checkpoints: resumable training states, one file per part.
        minutes: budget of a part instead of `MINUTES`; or `steps`, which makes a run reproducible.
    """

    folder: Path
    checkpoints: Path
    minutes: float | None = None
    steps: int | None = None
    device: str = "cpu"
    batch_size: int | None = None

    def options(self, part: str, **changes) -> FitOptions:
        """Budget of a part, with its optimiser settings."""
        minutes = None if self.steps is not None else self.minutes or MINUTES[part]
        return FitOptions(steps=self.steps, minutes=minutes, **changes)

    def save(self, name: str, thing, half: bool = True) -> None:
        """Export a model (fp16 safetensors, in a copy), tokeniser or scheduler to its subfolder."""
        target = self.folder / name
        if not isinstance(thing, torch.nn.Module):
            thing.save_pretrained(target)
            return
        dtype = thing.dtype
        thing.to(torch.float16 if half else dtype).save_pretrained(target)
        thing.to(dtype)
        config = json.loads((target / "config.json").read_text())
        config.pop("_name_or_path", None)  # a place on this machine, where it was loaded from
        (target / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")

    def load(self, cls: type, name: str):
        """A frozen exported model in fp32."""
        model = cls.from_pretrained(self.folder / name, torch_dtype=torch.float32)
        return model.to(self.device).eval().requires_grad_(False)

    def encoder(self, prefix: str = "") -> Callable[[Sequence[str]], torch.Tensor]:
        """captions -> embeddings, by the exported T5, or by CLIP with prefix "refine_"."""
        tokenizer_class, model_class = (CLIPTokenizer, CLIPTextModel) if prefix else (T5Tokenizer, T5EncoderModel)
        tokenizer = tokenizer_class.from_pretrained(self.folder / f"{prefix}tokenizer")
        model = self.load(model_class, f"{prefix}text_encoder")

        @torch.no_grad()
        def encode(captions: Sequence[str]) -> torch.Tensor:
            return text.encode(tokenizer, model, captions)

        return encode

    def fit(self, part: str, model: torch.nn.Module, loss_at, export, parameters=None, **options) -> None:
        """Train a part with its checkpoint file; `export(model)` follows every checkpoint."""
        model.to(self.device)
        fit(
            model,
            loss_at,
            self.options(part, **options),
            self.checkpoints / f"{part}.ckpt",
            export,
            parameters=parameters,
            log=lambda line: print(f"{part}: {line}", flush=True),
        )


# ---------------------------------------------------------------------------------------------------------------------
# Parts


def train_text(shop: Workshop) -> None:
    """Both text encoders, half of the budget each."""
    half = Workshop(**{**vars(shop), "minutes": (shop.minutes or MINUTES["text"]) / 2})
    for prefix, make_tokenizer, make_encoder in (
        ("", text.train_t5_tokenizer, text.make_t5_encoder),
        ("refine_", text.train_clip_tokenizer, text.make_clip_encoder),
    ):
        tokenizer = make_tokenizer()
        reader = text.AttributeReader(tokenizer, make_encoder(tokenizer))
        shop.save(f"{prefix}tokenizer", tokenizer)

        def export(model: text.AttributeReader, prefix: str = prefix) -> None:
            shop.save(f"{prefix}text_encoder", model.encoder)

        half.fit(f"{prefix}text", reader, reader.loss_at, export, learning_rate=2e-3, log_every=200)
        print(f"{prefix}text: captions read right {reader.accuracy(world.held_out_prompts(96)):.3f}")


def train_vae(shop: Workshop) -> None:
    """The autoencoder, on crops of 64 x 64 of frames at 128 x 192; the latents' scale is measured at every export."""
    data, vae = WorldClips(scale=8), make_vae()
    count = shop.batch_size or 8

    def crops(number: int, rng: np.random.Generator, window: tuple[int, int, int, int] | None) -> torch.Tensor:
        times = torch.from_numpy(rng.uniform(0, world.NUM_FRAMES - 1, (number, 1))).float()
        return world.render(data.scenes(number, rng), times, data.scale, window)[:, 0].to(shop.device) * 2 - 1

    def loss_at(step: int) -> torch.Tensor:
        rng, generator = step_rng(SEEDS["vae"], step)
        window = (int(rng.integers(world.HEIGHT - 7)), int(rng.integers(world.WIDTH - 7)), 8, 8)
        return objectives.vae_loss(vae, crops(count, rng, window), generator)

    validation = crops(12, np.random.default_rng(0), None)

    @torch.no_grad()
    def export(model: AutoencoderKL) -> None:
        shipped = copy.deepcopy(model)
        standardise_latents(shipped, validation)
        latents = shipped.encode(validation).latent_dist.mode()
        error = (shipped.decode(latents).sample.clamp(-1, 1) - validation) / 2
        print(f"vae: {-10 * error.square().mean().log10():.2f} dB", flush=True)
        shop.save("refine_vae", shipped)

    shop.fit("vae", vae, loss_at, export, learning_rate=1.5e-3, ema_decay=0.995)


@torch.no_grad()
def standardise_latents(vae: AutoencoderKL, images: torch.Tensor) -> None:
    """Give every latent channel mean 0 and deviation 1 on `images`, by changing the two 1 x 1 convolutions only.

    What the autoencoder reconstructs stays the same. Without this the same diffusion noise would hide some channels
    and not others; `scaling_factor` can only scale all of them alike.
    """
    latents = vae.encode(images).latent_dist.mode()
    mean, scale = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    encode, decode = vae.quant_conv, vae.post_quant_conv
    channels = len(mean)
    decode.bias += decode.weight[:, :, 0, 0] @ mean
    decode.weight *= scale[None, :, None, None]
    encode.weight[:channels] /= scale[:, None, None, None]
    encode.bias[:channels] = (encode.bias[:channels] - mean) / scale
    encode.bias[channels:] -= 2 * scale.log()  # the second half is the logarithm of the variance
    vae.register_to_config(scaling_factor=1.0)


class _Stills(torch.nn.Module):
    """An image UNet with the interface of a video UNet, for clips of one frame."""

    def __init__(self, unet: UNet2DConditionModel):
        super().__init__()
        self.unet = unet

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, encoder_hidden_states: torch.Tensor):
        output = self.unet(sample[:, :, 0], timestep, encoder_hidden_states)
        output.sample = output.sample[:, :, None]
        return output


def train_image(shop: Workshop) -> None:
    """The text-to-image model on single frames. It is no part of the cascade and lands beside the checkpoints."""
    data, encode, unet = WorldClips(), shop.encoder(), make_image_unet()
    scheduler, stills = forward_process("v_prediction"), _Stills(unet)

    def loss_at(step: int) -> torch.Tensor:
        rng, generator = step_rng(SEEDS["image"], step)
        batch = data.stills(shop.batch_size or 48, rng)
        embeds = encode(drop_captions(batch["captions"], 0.1, rng))
        return objectives.keyframe_loss(stills, scheduler, batch["frames"].to(shop.device), embeds, generator)

    def export(model: UNet2DConditionModel) -> None:
        model.save_pretrained(shop.checkpoints / "image_unet")

    shop.fit("image", unet, loss_at, export, learning_rate=1.5e-3, final_learning_rate=3e-4, ema_decay=0.997)


def direction_curriculum(step: int) -> float:
    """Share of backward motions that are turned: nearly all at first. See "what was learned" in docs/tiny.md."""
    return 0.95 * min(1.0, max(0.0, (360 - step) / 160))


def train_keyframes(shop: Workshop) -> None:
    """The inflated image model on eight keyframes, nearly always at strong noise, where a clip's motion is decided."""
    image = UNet2DConditionModel.from_pretrained(shop.checkpoints / "image_unet")
    unet = Show1UNet3DConditionModel.from_2d(image)
    shop.save("base_scheduler", keyframe_scheduler())
    _fit_keyframes(shop, "keyframes", unet, direction_curriculum, power=1 / 6, learning_rate=1.6e-3)


def train_detail(shop: Workshop) -> None:
    """The keyframe network again, at noise of all strengths: the shapes of small objects are decided at weaker noise,
    of which `train_keyframes` shows clips little (below half of the timesteps: 2 of 100)."""
    unet = shop.load(Show1UNet3DConditionModel, "base_unet").requires_grad_(True)
    _fit_keyframes(shop, "detail", unet, lambda step: 0.0, power=1 / 2, learning_rate=5e-4)


def _fit_keyframes(
    shop: Workshop,
    part: str,
    unet: Show1UNet3DConditionModel,
    curriculum: Callable[[int], float],
    power: float,
    learning_rate: float,
) -> None:
    """Every fourth batch is single frames, which keeps them sharp."""
    data, encode = WorldClips(), shop.encoder()
    scheduler, count = forward_process("v_prediction"), shop.batch_size or 8

    def loss_at(step: int) -> torch.Tensor:
        rng, generator = step_rng(SEEDS[part], step)
        still = step % 4 == 3
        data.forward_bias = curriculum(step)
        batch = data.stills(4 * count, rng) if still else data.keyframes(count, rng)
        embeds = encode(drop_captions(batch["captions"], 0.1, rng))
        frames = batch["frames"].to(shop.device)
        return objectives.keyframe_loss(unet, scheduler, frames, embeds, generator, power=1.0 if still else power)

    shop.fit(
        part, unet, loss_at, lambda model: shop.save("base_unet", model), learning_rate=learning_rate, ema_decay=0.998
    )


def train_interpolation(shop: Workshop) -> None:
    """Windows of five frames between two keyframes."""
    data, encode, unet = WorldClips(), shop.encoder(), make_interpolation_unet()
    scheduler = forward_process("sample")
    shop.save("interpolation_scheduler", few_step_scheduler())

    def loss_at(step: int) -> torch.Tensor:
        rng, generator = step_rng(SEEDS["interpolation"], step)
        start = 4 * torch.from_numpy(rng.integers(0, len(world.KEYFRAME_TIMES) - 1, (shop.batch_size or 10, 1)))
        batch = data.batch((start + torch.arange(5)).float(), rng)
        embeds = encode(drop_captions(batch["captions"], 0.1, rng))
        return objectives.interpolation_loss(unet, scheduler, batch["frames"].to(shop.device), embeds, generator)

    shop.fit(
        "interpolation",
        unet,
        loss_at,
        lambda model: shop.save("interpolation_unet", model),
        learning_rate=1.5e-3,
        ema_decay=0.998,
    )


def superres_pair(
    batch: ClipBatch, window: tuple[int, int, int, int], low_noise: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Crops (truth, upsampled) at 64 x 96 scale of a full-frame batch; `window` in units, as in `world.render`.

    `low_noise` is the standard deviation of noise on the low-resolution frames, an error the stage before might make.
    """
    frames = batch["frames"]
    low = area_downsample(frames, 4)
    low = low + low_noise * torch.randn(low.shape, generator=generator)
    top, left, height, width = (4 * side for side in window)
    crop = (..., slice(top, top + height), slice(left, left + width))
    return frames[crop], objectives.upsample_frames(low, 4)[crop]


def train_superres(shop: Workshop) -> None:
    """In turn: crops of single frames (many scenes for the price), single frames, windows of eight frames at 64 x 96.

    Full frames matter: the network's norms pool over a whole frame, and crops have other statistics.
    """
    data, encode, unet = WorldClips(scale=4), shop.encoder(), make_superres_unet()
    scheduler, noising = forward_process("sample"), forward_process("epsilon")
    shop.save("superres_scheduler", few_step_scheduler())
    shop.save("superres_image_noising_scheduler", noising)

    def loss_at(step: int) -> torch.Tensor:
        rng, generator = step_rng(SEEDS["superres"], step)
        count, window = shop.batch_size or 1, (0, 0, world.HEIGHT, world.WIDTH)
        if step % 3 == 0:
            window = (int(rng.integers(world.HEIGHT - 7)), int(rng.integers(world.WIDTH - 11)), 8, 12)
            batch = data.stills(12 * count, rng)
        else:
            batch = data.stills(5 * count, rng) if step % 3 == 1 else data.windows(count, 8, rng)
        frames, upsampled = superres_pair(batch, window, 0.04 * rng.random(), generator)
        embeds = encode(drop_captions(batch["captions"], 0.1, rng))
        return objectives.superres_loss(
            unet,
            scheduler,
            noising,
            frames.to(shop.device),
            upsampled.to(shop.device),
            embeds,
            generator,
            max_noise_level=160,  # sampling uses 20
            first_frame_probability=0.7 if frames.shape[2] > 1 else 0.0,
            power=1 / 4,
        )

    def export(model: Show1UNet3DConditionModel) -> None:
        shop.save("superres_unet", model)
        add_silent_attention(shop)

    shop.fit("superres", unet, loss_at, export, learning_rate=1.5e-3, ema_decay=0.998)


def add_silent_attention(shop: Workshop) -> None:
    """Give the exported super-resolution network the layers of `SILENT`; what it computes stays the same."""
    torch.manual_seed(SEEDS["superres"])
    shop.save("superres_unet", start_unet("network", shop.folder, "superres_unet", **SILENT).unet)


def degrade(
    superres: Show1UNet3DConditionModel | None,
    frames: torch.Tensor,
    embeds: torch.Tensor,
    window: tuple[int, int, int, int],
    rng: np.random.Generator,
    generator: torch.Generator,
    noise_level: int = STAGE_DEFAULTS["superres"]["noise_level"],
) -> torch.Tensor:
    """What the refinement stage might be given: crops (b, 3, f, h, w) at 128 x 192 scale of full frames `frames`.

    Most of the batches go through the super-resolution network in a single step (the expensive way would be a whole
    sampling); the others are true frames at 64 x 96 with blur, noise, and a change of colour. Both are then resized
    bilinearly by two, as the stage does.
    """
    half = area_downsample(frames, 2)
    top, left, height, width = (4 * side for side in window)
    crop = (..., slice(top, top + height), slice(left, left + width))
    truth = half[crop]
    if superres is not None and rng.random() < 0.7:
        low = area_downsample(half, 4)
        low = low + 0.04 * rng.random() * torch.randn(low.shape, generator=generator).to(low)
        noising = forward_process("sample")
        levels = torch.full((len(frames),), noise_level, device=frames.device)
        noise = [torch.randn(truth.shape, generator=generator).to(truth) for _ in range(2)]
        condition = noising.add_noise(objectives.upsample_frames(low, 4)[crop], noise[0], levels)
        if rng.random() < 0.7:
            condition[:, :, 0] = truth[:, :, 0]
        made = superres(
            torch.cat([noise[1], condition], dim=1), 999, encoder_hidden_states=embeds, class_labels=levels
        ).sample
        # Several steps land between the single-step answer (blurred where it is unsure) and the truth.
        made = torch.lerp(made, truth, 0.3 * rng.random())
    else:
        made = truth
        blur = torch.tensor([1.0, 2.0, 1.0]) / 4
        kernel = (blur[:, None] * blur[None]).expand(3, 1, 1, 3, 3).to(truth)
        smooth = F.conv3d(F.pad(truth, (1, 1, 1, 1, 0, 0), mode="replicate"), kernel, groups=3)
        made = torch.lerp(made, smooth, rng.random())
        shift = 0.05 * torch.randn((len(frames), 3, 1, 1, 1), generator=generator).to(made)
        made = made + shift + 0.1 * rng.random() * torch.randn(made.shape, generator=generator).to(made)
    flat = made.clamp(-1, 1).transpose(1, 2).flatten(0, 1)
    flat = F.interpolate(flat, scale_factor=2, mode="bilinear", align_corners=False)
    return flat.unflatten(0, (len(frames), -1)).transpose(1, 2)


def encode_frames(vae: AutoencoderKL, frames: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Scaled latents (b, c, f, h / 4, w / 4) of frames (b, 3, f, h, w): the mean, or a sample with a generator."""
    posterior = vae.encode(frames.transpose(1, 2).flatten(0, 1)).latent_dist
    latents = posterior.mean
    if generator is not None:
        latents = latents + posterior.std * torch.randn(latents.shape, generator=generator).to(latents)
    latents = latents * vae.config.scaling_factor
    return latents.unflatten(0, (len(frames), -1)).transpose(1, 2)


def train_refine(shop: Workshop, max_timestep: int = 900) -> None:
    """Clips at 128 x 192 that went through the stage before; every fourth batch is crops of 64 x 96 of more scenes."""
    data, encode, vae = WorldClips(scale=8), shop.encoder("refine_"), shop.load(AutoencoderKL, "refine_vae")
    encode_t5, superres = shop.encoder(), shop.load(Show1UNet3DConditionModel, "superres_unet")
    unet = make_refine_unet(vae.config.latent_channels)
    scheduler = forward_process("sample")
    shop.save("refine_scheduler", few_step_scheduler())

    def loss_at(step: int) -> torch.Tensor:
        rng, generator = step_rng(SEEDS["refine"], step)
        if step % 4 == 0:
            window = (int(rng.integers(world.HEIGHT - 7)), int(rng.integers(world.WIDTH - 11)), 8, 12)
            batch = data.windows(shop.batch_size or 2, 8, rng)
        else:
            window, batch = (0, 0, world.HEIGHT, world.WIDTH), data.windows(1, 6, rng)
        frames = batch["frames"].to(shop.device)
        top, left, height, width = (8 * side for side in window)
        with torch.no_grad():
            clean = encode_frames(vae, frames[..., top : top + height, left : left + width])
            made = degrade(superres, frames, encode_t5(batch["captions"]), window, rng, generator)
            degraded = encode_frames(vae, made, generator)
            degraded = torch.lerp(degraded, clean, max(0.0, rng.random() - 0.7))
        return objectives.refinement_loss(
            unet,
            scheduler,
            clean,
            degraded,
            encode(batch["captions"]),
            generator,
            max_timestep=max_timestep,
            power=3.0,
        )

    shop.fit(
        "refine", unet, loss_at, lambda model: shop.save("refine_unet", model), learning_rate=2e-3, ema_decay=0.997
    )


def write_index(folder: Path) -> None:
    """The cascade's `model_index.json`, with `STAGE_DEFAULTS`, once all components lie in `folder`."""

    def scheduler(name: str) -> SchedulerMixin:
        config = json.loads((folder / name / "scheduler_config.json").read_text())
        return getattr(diffusers, config["_class_name"]).from_config(config)

    schedulers = ("base", "interpolation", "superres", "superres_image_noising", "refine")
    Show1CascadePipeline(
        tokenizer=T5Tokenizer.from_pretrained(folder / "tokenizer"),
        text_encoder=T5EncoderModel.from_pretrained(folder / "text_encoder"),
        refine_tokenizer=CLIPTokenizer.from_pretrained(folder / "refine_tokenizer"),
        refine_text_encoder=CLIPTextModel.from_pretrained(folder / "refine_text_encoder"),
        refine_vae=AutoencoderKL.from_pretrained(folder / "refine_vae"),
        **{name: Show1UNet3DConditionModel.from_pretrained(folder / name) for name in NETWORKS},
        **{f"{name}_scheduler": scheduler(f"{name}_scheduler") for name in schedulers},
        stage_defaults=STAGE_DEFAULTS,
    ).save_config(folder)


PARTS: dict[str, Callable[[Workshop], None]] = {
    "text": train_text,
    "vae": train_vae,
    "image": train_image,
    "keyframes": train_keyframes,
    "interpolation": train_interpolation,
    "superres": train_superres,
    "refine": train_refine,
    "detail": train_detail,
}
