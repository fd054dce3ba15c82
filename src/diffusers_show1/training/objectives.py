# SPDX-License-Identifier: Apache-2.0
"""The losses of the cascade. Section and equation numbers are those of the Show-1 paper (arXiv:2309.15818).

All frames are (b, c, f, h, w) in [-1, 1]; `embeds` is the last hidden state of the frozen text encoder (b, tokens,
width). Every function draws its noise from `generator`, so a loss is a pure function of its arguments. The paper
writes all objectives as noise prediction; here the scheduler's `prediction_type` decides what the network predicts
(velocity for keyframes, the clean sample for the three stages that start from a good guess).
"""

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler
from torch import nn


def _randn(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)


def _randint(low: int, high: int, count: int, generator: torch.Generator, device: torch.device) -> torch.Tensor:
    return torch.randint(low, high, (count,), generator=generator).to(device)


def _uniform(count: int, generator: torch.Generator, device: torch.device) -> torch.Tensor:
    """(count, 1, 1, 1, 1), one number per clip."""
    return torch.rand((count, 1, 1, 1, 1), generator=generator).to(device)


def diffusion_target(
    scheduler: DDPMScheduler, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """What the network has to predict under the scheduler's `prediction_type`."""
    if scheduler.config.prediction_type == "epsilon":
        return noise
    if scheduler.config.prediction_type == "v_prediction":
        return scheduler.get_velocity(clean, noise, timesteps)
    return clean


def keyframe_loss(
    unet: nn.Module,
    scheduler: DDPMScheduler,
    frames: torch.Tensor,
    embeds: torch.Tensor,
    generator: torch.Generator,
    power: float = 1.0,
) -> torch.Tensor:
    """Eq. 5, Sec. 3.3: denoise x_t given the caption. A clip of one frame trains the image model inside the network.

    Args:
        unet: maps (b, c, f, h, w) to (b, c, f, h, w).
        power: timesteps are the number of timesteps times a uniform number to this power; below 1 favours strong
            noise, where the caption and not the noisy clip decides about the motion.
    """
    noise = _randn(frames, generator)
    fraction = _uniform(len(frames), generator, frames.device).flatten() ** power
    timesteps = (scheduler.config.num_train_timesteps * fraction).long()
    noisy = scheduler.add_noise(frames, noise, timesteps)
    prediction = unet(noisy, timesteps, encoder_hidden_states=embeds).sample
    return F.mse_loss(prediction, diffusion_target(scheduler, frames, noise, timesteps))


def interpolation_condition(first: torch.Tensor, last: torch.Tensor, frames: int) -> torch.Tensor:
    """Conditioning channels of the interpolation stage (b, 4, frames, h, w), Sec. 3.4.

    Three channels hold the linear blend from `first` to `last` (each (b, 3, h, w), found exactly at the two ends), the
    fourth is the mask, 1 on the two given frames. (The paper's text has zeros between them; the released model, and
    so this stage, has the blend.)
    """
    weight = torch.linspace(0, 1, frames, device=first.device).view(1, 1, frames, 1, 1)
    blend = torch.lerp(first[:, :, None], last[:, :, None], weight)
    mask = torch.zeros_like(blend[:, :1])
    mask[:, :, 0] = mask[:, :, -1] = 1
    return torch.cat([blend, mask], dim=1)


def interpolation_loss(
    unet: nn.Module,
    scheduler: DDPMScheduler,
    frames: torch.Tensor,
    embeds: torch.Tensor,
    generator: torch.Generator,
    max_augmentation: float = 0.1,
) -> torch.Tensor:
    """Eq. 6, Sec. 3.4: denoise all frames of a window given its two end frames, with noise on those end frames.

    Args:
        max_augmentation: standard deviations of the conditioning noise are uniform in 0..this, one a clip.
    """
    noise = _randn(frames, generator)
    timesteps = _randint(0, scheduler.config.num_train_timesteps, len(frames), generator, frames.device)
    level = max_augmentation * _uniform(len(frames), generator, frames.device)[:, :, 0]
    first, last = (end + level * _randn(end, generator) for end in (frames[:, :, 0], frames[:, :, -1]))
    condition = interpolation_condition(first, last, frames.shape[2])
    noisy = scheduler.add_noise(frames, noise, timesteps)
    prediction = unet(torch.cat([noisy, condition], dim=1), timesteps, encoder_hidden_states=embeds).sample
    return F.mse_loss(prediction, diffusion_target(scheduler, frames, noise, timesteps))


def upsample_frames(frames: torch.Tensor, factor: int) -> torch.Tensor:
    """Bilinear, corners aligned, frame by frame: (b, c, f, h, w) -> (b, c, f, h * factor, w * factor)."""
    scale = (1, factor, factor)
    size = [side * by for side, by in zip(frames.shape[2:], scale, strict=True)]
    return F.interpolate(frames, size=size, mode="trilinear", align_corners=True)


def superres_loss(
    unet: nn.Module,
    scheduler: DDPMScheduler,
    image_noising_scheduler: DDPMScheduler,
    frames: torch.Tensor,
    upsampled: torch.Tensor,
    embeds: torch.Tensor,
    generator: torch.Generator,
    max_noise_level: int = 400,
    first_frame_probability: float = 0.7,
    power: float = 1.0,
) -> torch.Tensor:
    """Eq. 5 with three more channels, Sec. 3.5: denoise a window given its noised, upsampled low-resolution frames.

    Per clip a noise level is drawn and told to the network as its class label. In a share of the clips the condition's
    frame 0 is the true frame (slightly noised, since at inference it is the previous window's output).

    Args:
        frames: truth (b, 3, f, h, w).
        upsampled: `upsample_frames` of the low-resolution clip, same shape (both may be the same crop).
        power: as in `keyframe_loss`; a sampling of one or two steps depends on strong noise only.
    """
    count = len(frames)
    levels = _randint(0, max_noise_level, count, generator, frames.device)
    condition = image_noising_scheduler.add_noise(upsampled, _randn(upsampled, generator), levels)
    chained = _uniform(count, generator, frames.device)[:, :, 0] < first_frame_probability
    wobble = 0.06 * _uniform(count, generator, frames.device)[:, :, 0]
    first = frames[:, :, 0] + wobble * _randn(frames[:, :, 0], generator)
    condition[:, :, 0] = torch.where(chained, first, condition[:, :, 0])

    noise = _randn(frames, generator)
    fraction = _uniform(count, generator, frames.device).flatten() ** power
    timesteps = (scheduler.config.num_train_timesteps * fraction).long()
    noisy = scheduler.add_noise(frames, noise, timesteps)
    prediction = unet(
        torch.cat([noisy, condition], dim=1), timesteps, encoder_hidden_states=embeds, class_labels=levels
    ).sample
    return F.mse_loss(prediction, diffusion_target(scheduler, frames, noise, timesteps))


def refinement_loss(
    unet: nn.Module,
    scheduler: DDPMScheduler,
    clean: torch.Tensor,
    degraded: torch.Tensor,
    embeds: torch.Tensor,
    generator: torch.Generator,
    max_timestep: int = 900,
    power: float = 1.0,
) -> torch.Tensor:
    """Eq. 5 in latents on timesteps below 900 only (expert adaption), Sec. 3.6.

    The network sees a noised *degraded* latent and has to return the clean one: with SDEdit the previous stage's
    latents, not the true ones, are what is noised at inference. With `prediction_type="sample"` the target is the
    same whatever was noised.

    Args:
        clean, degraded: scaled latents (b, c, f, h, w) of the true frames and of what the previous stage would give.
        power: timesteps are `max_timestep` times a uniform number to this power; above 1 favours small ones, where
            a sampling of low strength spends its steps.
    """
    noise = _randn(clean, generator)
    timesteps = (max_timestep * _uniform(len(clean), generator, clean.device).flatten() ** power).long()
    noisy = scheduler.add_noise(degraded, noise, timesteps)
    prediction = unet(noisy, timesteps, encoder_hidden_states=embeds).sample
    return F.mse_loss(prediction, diffusion_target(scheduler, clean, noise, timesteps))


def vae_loss(
    vae: AutoencoderKL, images: torch.Tensor, generator: torch.Generator, kl_weight: float = 1e-4
) -> torch.Tensor:
    """Reconstruction of images (b, 3, h, w): absolute and squared error, plus a little KL divergence per latent.

    A heavy KL term switches channels off: at 1.5e-2 only two of six carried anything.
    """
    posterior = vae.encode(images).latent_dist
    latents = posterior.mean + posterior.std * _randn(posterior.mean, generator)
    decoded = vae.decode(latents).sample
    kl = posterior.kl().mean() / posterior.mean[0].numel()
    return F.l1_loss(decoded, images) + 5 * F.mse_loss(decoded, images) + kl_weight * kl
