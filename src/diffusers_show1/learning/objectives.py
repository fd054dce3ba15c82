# SPDX-License-Identifier: Apache-2.0
"""The losses of the cascade. Section and equation numbers are those of the Show-1 paper (arXiv:2309.15818).

All frames are (b, c, f, h, w) in [-1, 1]; `embeds` is the last hidden state of the frozen text encoder (b, tokens,
width). `generator` is one CPU generator for the batch, or a list of one a clip: clip i then draws from generator i
only, and the loss of a batch is the mean of the losses of its clips, however they are spread over processes and
accumulation steps. A loss is a pure function of its arguments, on every device.

The paper writes all objectives as noise prediction. Here the scheduler says what the network predicts
(`prediction_type`: "epsilon", "v_prediction" or "sample"), and whether it predicts the variance as well
(`variance_type="learned_range"`, then with the hybrid loss of `denoising_loss`). A network with channels for a
variance that the scheduler takes from its schedule is trained in the others. docs/objectives.md has the formulas.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler
from torch import Tensor, nn

from ..sampling.checks import check_count, check_generator, check_number


Generators = torch.Generator | list[torch.Generator]

VLB_WEIGHT = 0.001  # lambda of the hybrid loss (arXiv:2102.09672, Sec. 3.1)


# --- random numbers --------------------------------------------------------------------------------------------------


class _Draws:
    """Random numbers for the clips of a batch, made on the CPU: the same ones on every device."""

    def __init__(self, generator: Generators, clips: Tensor):
        check_generator(generator, len(clips))
        self.generator, self.count, self.device = generator, len(clips), clips.device

    def _draw(self, sample: Callable[..., Tensor], *shape: int) -> Tensor:
        if isinstance(self.generator, list):
            drawn = torch.cat([sample((1, *shape), generator=generator) for generator in self.generator])
        else:
            drawn = sample((self.count, *shape), generator=self.generator)
        return drawn.to(self.device)

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal numbers in the shape and dtype of `like`."""
        return self._draw(
            lambda shape, generator: torch.randn(shape, generator=generator, dtype=like.dtype), *like.shape[1:]
        )

    def uniform(self) -> Tensor:
        """(b,) in [0, 1)."""
        return self._draw(torch.rand)

    def integers(self, high: int) -> Tensor:
        """(b,) in 0..high-1."""
        return self._draw(lambda shape, generator: torch.randint(high, shape, generator=generator))


def skewed_timesteps(fraction: Tensor, limit: int, power: float) -> Tensor:
    """Uniform numbers (b,) in [0, 1) -> timesteps in 0..limit-1, `limit` times `fraction` to the power of `power`.

    Above 1 the power favours weak noise, below 1 strong noise (and rounds the largest fractions up to 1).
    """
    check_number(power, "power", low=0, above=True)
    return (limit * fraction**power).long().clamp_(max=limit - 1)


# --- the loss of one prediction --------------------------------------------------------------------------------------


def check_scheduler(scheduler: DDPMScheduler, min_snr_gamma: float | None = None) -> None:
    """That a network can be trained under `scheduler`; every loss begins with it.

    Raises:
        ValueError: an unknown `prediction_type`; "epsilon" with a schedule that ends in pure noise, where the clean
            frames are not in the noisy ones and so can't be had by subtracting noise; `variance_type="learned"`,
            whose range has no bounds; or a `min_snr_gamma` that is not above 0.
    """
    kind = scheduler.config.prediction_type
    if kind not in ("epsilon", "v_prediction", "sample"):
        raise ValueError(f"`prediction_type` must be 'epsilon', 'v_prediction' or 'sample', got {kind!r}.")
    if kind == "epsilon" and scheduler.alphas_cumprod[-1] == 0:
        raise ValueError(
            "`prediction_type` must be 'v_prediction' or 'sample' with a schedule whose last timestep is pure noise "
            "(`rescale_betas_zero_snr`), got 'epsilon'."
        )
    if scheduler.config.get("variance_type") == "learned":
        raise ValueError(
            "`variance_type` must be 'learned_range' to train a predicted variance (or one of the fixed ones to leave "
            "it out), got 'learned'."
        )
    if min_snr_gamma is not None:
        check_number(min_snr_gamma, "min_snr_gamma", low=0, above=True)


def diffusion_target(scheduler: DDPMScheduler, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """What the network has to predict under the scheduler's `prediction_type`."""
    if scheduler.config.prediction_type == "epsilon":
        return noise
    if scheduler.config.prediction_type == "v_prediction":
        return scheduler.get_velocity(clean, noise, timesteps)
    return clean


def min_snr_weights(scheduler: DDPMScheduler, timesteps: Tensor, gamma: float) -> Tensor:
    """Weights (b,) of the squared errors at `timesteps`: min-SNR-gamma (arXiv:2303.09556).

    The squared error of the clean sample gets min(SNR, gamma), whatever the network predicts: that of its noise is SNR
    times as large and that of its velocity SNR + 1 times, so these are divided by as much. Where the SNR is 0 (the
    last timestep of a zero-terminal-SNR schedule) so is the weight: nothing is learnt there.
    """
    alpha_bar = scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
    snr = alpha_bar / (1 - alpha_bar)
    clipped = snr.clamp(max=gamma)
    if scheduler.config.prediction_type == "epsilon":
        return clipped / snr
    if scheduler.config.prediction_type == "v_prediction":
        return clipped / (snr + 1)
    return clipped


def denoising_loss(
    scheduler: DDPMScheduler,
    prediction: Tensor,
    clean: Tensor,
    noise: Tensor,
    noisy: Tensor,
    timesteps: Tensor,
    min_snr_gamma: float | None = None,
) -> Tensor:
    """The scalar loss of a network's output: L_simple, or L_simple + 0.001 L_vlb when it predicts the variance.

    L_simple is the mean squared error against `diffusion_target`, weighted clip by clip with `min_snr_gamma`. L_vlb
    (`variational_bound`, unweighted) trains the variance only: it takes the mean as given (arXiv:2102.09672, Eq. 16).

    Args:
        prediction: (b, c or 2c, f, h, w); the second c channels are a predicted variance.
        clean, noise, noisy: (b, c, f, h, w); `noisy` is `clean` with `noise` at `timesteps` (b,).

    Raises:
        ValueError: `prediction` has a number of channels that the scheduler has no use for.
    """
    channels = clean.shape[1]
    learns_variance = scheduler.config.get("variance_type") == "learned_range"
    allowed = (2 * channels,) if learns_variance else (channels, 2 * channels)
    if prediction.shape[1] not in allowed:
        raise ValueError(
            f"`out_channels` of the network must be {' or '.join(map(str, allowed))} for frames of {channels} "
            f"channels and `variance_type={scheduler.config.get('variance_type')!r}`, got {prediction.shape[1]}."
        )
    mean, target = prediction[:, :channels], diffusion_target(scheduler, clean, noise, timesteps)
    if min_snr_gamma is None:
        loss = F.mse_loss(mean, target)
    else:
        errors = (mean - target).square().flatten(1).mean(dim=1)
        loss = (min_snr_weights(scheduler, timesteps, min_snr_gamma) * errors).mean()
    if learns_variance:
        given = torch.cat([mean.detach(), prediction[:, channels:]], dim=1)
        loss = loss + VLB_WEIGHT * variational_bound(scheduler, given, clean, noisy, timesteps).mean()
    return loss


# --- the variational bound -------------------------------------------------------------------------------------------


def _at(table: Tensor, timesteps: Tensor, like: Tensor) -> Tensor:
    """Entries of a table over timesteps, (b, 1, 1, 1, 1), in `like`'s precision but at least float32."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    return table.to(timesteps.device, dtype)[timesteps].view(-1, 1, 1, 1, 1)


def predicted_clean(scheduler: DDPMScheduler, prediction: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
    """The clean sample that a prediction (b, c, f, h, w) stands for: the inverse of `diffusion_target`."""
    alpha_bar = _at(scheduler.alphas_cumprod, timesteps, noisy)
    if scheduler.config.prediction_type == "epsilon":
        return (noisy - (1 - alpha_bar).sqrt() * prediction) / alpha_bar.sqrt()
    if scheduler.config.prediction_type == "v_prediction":
        return alpha_bar.sqrt() * noisy - (1 - alpha_bar).sqrt() * prediction
    return prediction


def _noise_towards(scheduler: DDPMScheduler, noisy: Tensor, clean: Tensor, timesteps: Tensor) -> Tensor:
    """The noise that is to be taken from `noisy` to arrive at `clean`, wherever `noisy` came from."""
    alpha_bar = _at(scheduler.alphas_cumprod, timesteps, clean)
    return (noisy - alpha_bar.sqrt() * clean) / (1 - alpha_bar).sqrt()


def posterior_log_variances(scheduler: DDPMScheduler) -> tuple[Tensor, Tensor]:
    """Logarithms of the bounds of a `learned_range` variance, beta-tilde and beta, (timesteps,) each in float64.

    At timestep 0 beta-tilde is 0; as in arXiv:2102.09672 that of timestep 1 stands in for it. (diffusers has 1e-20
    there, which no sampling reads: its last step adds no noise.)
    """
    betas, alpha_bar = scheduler.betas.double(), scheduler.alphas_cumprod.double()
    lower = betas[1:] * (1 - alpha_bar[:-1]) / (1 - alpha_bar[1:])
    return torch.cat([lower[:1], lower]).log(), betas.log()


def variational_bound(
    scheduler: DDPMScheduler, prediction: Tensor, clean: Tensor, noisy: Tensor, timesteps: Tensor
) -> Tensor:
    """One term of L_vlb for each clip (b,), times the number of timesteps: an estimate of the sum over all of them.

    In bits per dimension. L_t is the divergence of the true posterior q(x_{t-1} | x_t, x_0) from the network's; L_0 is
    the negative log-likelihood of 8-bit pixels under the network's last Gaussian (arXiv:2102.09672, Eq. 4 to 7, 15).

    Args:
        prediction: (b, 2c, f, h, w): what the scheduler's `prediction_type` says, and v, which places the logarithm of
            the variance between its lower bound (-1) and its upper bound (1).
        clean, noisy: (b, c, f, h, w), x_0 and x_t; timesteps: (b,) t, counted from 0.
    """
    mean_part, v = prediction.chunk(2, dim=1)
    clean_guess = predicted_clean(scheduler, mean_part, noisy, timesteps)
    lower, upper = (_at(table, timesteps, clean) for table in posterior_log_variances(scheduler))
    log_variance = torch.lerp(lower.expand_as(v), upper.expand_as(v), ((v + 1) / 2).to(lower))

    # Both means hold the same share of x_t, so that they differ by the share of x_0 only.
    betas, alpha_bar = scheduler.betas.double(), scheduler.alphas_cumprod.double()
    before = F.pad(alpha_bar[:-1], (1, 0), value=1.0)
    share = _at(before.sqrt() * betas / (1 - alpha_bar), timesteps, clean)
    gap = share * (clean - clean_guess)
    divergence = 0.5 * (log_variance - lower - 1 + (lower - log_variance).exp() + gap.square() * (-log_variance).exp())
    likelihood = discretised_log_likelihood(clean, clean_guess, 0.5 * log_variance)
    last = (timesteps == 0).view(-1, 1, 1, 1, 1)
    terms = torch.where(last, -likelihood, divergence).flatten(1).mean(dim=1)
    return terms * scheduler.config.num_train_timesteps / math.log(2)


def discretised_log_likelihood(pixels: Tensor, mean: Tensor, log_deviation: Tensor) -> Tensor:
    """Log-probability, pixel by pixel, of the 1/127.5 wide bin around each 8-bit value under a Gaussian.

    `pixels` are in [-1, 1]; the bins of the darkest and brightest value reach to infinity (arXiv:2006.11239, Eq. 13).
    """
    scale = (-log_deviation).exp() / math.sqrt(2)
    centred = pixels - mean
    below = torch.where(pixels < -0.999, -torch.inf, scale * (centred - 1 / 255))
    above = torch.where(pixels > 0.999, torch.inf, scale * (centred + 1 / 255))
    # Far from the mean both ends are equal to rounding: the floor keeps the logarithm finite.
    return (0.5 * (torch.erf(above) - torch.erf(below))).clamp(min=1e-12).log()


# --- objectives ------------------------------------------------------------------------------------------------------


def keyframe_loss(
    unet: nn.Module,
    scheduler: DDPMScheduler,
    frames: Tensor,
    embeds: Tensor,
    generator: Generators,
    power: float = 1.0,
    min_snr_gamma: float | None = None,
    max_timestep: int | None = None,
    shown: Tensor | None = None,
) -> Tensor:
    """Eq. 5, Sec. 3.3: denoise x_t given the caption. A clip of one frame trains the image model inside the network.

    With `shown` that clip is noised, and the network has to return the true one: noise and velocity are those that
    lead from x_t to it, as in `refinement_loss`. A keyframe network that is shown bent outlines so learns to take out
    what strong noise has left of bends.

    Args:
        unet: maps (b, c, f, h, w) to (b, c, f, h, w), or to 2c channels.
        scheduler: the training schedule, with its `prediction_type`.
        frames: clips (b, c, f, h, w) in [-1, 1].
        embeds: the captions, (b, tokens, width).
        generator: one generator for the batch, or a list of one a clip; on the CPU.
        power: timesteps are the number of timesteps times a uniform number to this power; below 1 favours strong
            noise, where the caption and not the noisy clip decides about the motion.
        min_snr_gamma: weight the clips as `min_snr_weights` does.
        max_timestep: timesteps are below this one, 1 to the number of timesteps; all of them by default.
        shown: clips (b, c, f, h, w) that are noised instead of `frames`.

    Returns:
        The mean loss of the batch, ().
    """
    check_scheduler(scheduler, min_snr_gamma)
    count = scheduler.config.num_train_timesteps
    check_count(count if max_timestep is None else max_timestep, "max_timestep", high=count)
    draws = _Draws(generator, frames)
    noise = draws.normal(frames)
    timesteps = skewed_timesteps(draws.uniform(), max_timestep or count, power)
    noisy = scheduler.add_noise(frames if shown is None else shown, noise, timesteps)
    if shown is not None:
        noise = _noise_towards(scheduler, noisy, frames, timesteps)
    prediction = unet(noisy, timesteps, encoder_hidden_states=embeds).sample
    return denoising_loss(scheduler, prediction, frames, noise, noisy, timesteps, min_snr_gamma)


def interpolation_condition(first: Tensor, last: Tensor, frames: int) -> Tensor:
    """Conditioning channels of the interpolation stage (b, 4, frames, h, w), Sec. 3.4.

    Three channels hold the linear blend from `first` to `last` (each (b, 3, h, w), found exactly at the two ends), the
    fourth is the mask, 1 on the two given frames. (The paper's text has zeros between them; the released model, and
    so this stage, has the blend.)
    """
    weight = torch.linspace(0, 1, frames, device=first.device).view(1, 1, frames, 1, 1)
    blend = torch.lerp(first[:, :, None], last[:, :, None], weight.to(first))
    mask = torch.zeros_like(blend[:, :1])
    mask[:, :, 0] = mask[:, :, -1] = 1
    return torch.cat([blend, mask], dim=1)


def interpolation_loss(
    unet: nn.Module,
    scheduler: DDPMScheduler,
    frames: Tensor,
    embeds: Tensor,
    generator: Generators,
    max_augmentation: float = 0.1,
    min_snr_gamma: float | None = None,
    ends: Tensor | None = None,
) -> Tensor:
    """Eq. 6, Sec. 3.4: denoise all frames of a window given its two end frames, with noise on those end frames.

    Args:
        unet: maps (b, 7, f, h, w) to (b, c, f, h, w), or to 2c channels.
        scheduler: the training schedule, with its `prediction_type`.
        frames: windows (b, 3, f, h, w) of at least 3 frames, in [-1, 1].
        embeds: the captions, (b, tokens, width).
        generator: one generator for the batch, or a list of one a clip; on the CPU.
        max_augmentation: standard deviations of the conditioning noise are uniform in 0..this, one a clip. The network
            is not told them, and the stage adds no such noise.
        min_snr_gamma: weight the clips as `min_snr_weights` does.
        ends: (b, 3, 2, h, w), the two frames that are given instead of the true ones.

    Returns:
        The mean loss of the batch, ().

    Raises:
        ValueError: fewer than 3 frames, or a number out of range.
    """
    check_scheduler(scheduler, min_snr_gamma)
    check_number(max_augmentation, "max_augmentation", low=0)
    if frames.shape[2] < 3:
        raise ValueError(f"`frames` must be windows of at least 3 frames, got {frames.shape[2]}.")
    draws = _Draws(generator, frames)
    noise = draws.normal(frames)
    timesteps = draws.integers(scheduler.config.num_train_timesteps)
    level = (max_augmentation * draws.uniform()).view(-1, 1, 1, 1).to(frames)
    given = frames[:, :, [0, -1]] if ends is None else ends
    first, last = (end + level * draws.normal(end) for end in (given[:, :, 0], given[:, :, 1]))
    condition = interpolation_condition(first, last, frames.shape[2])
    noisy = scheduler.add_noise(frames, noise, timesteps)
    prediction = unet(torch.cat([noisy, condition], dim=1), timesteps, encoder_hidden_states=embeds).sample
    return denoising_loss(scheduler, prediction, frames, noise, noisy, timesteps, min_snr_gamma)


def upsample_frames(frames: Tensor, factor: int) -> Tensor:
    """Bilinear, corners aligned, frame by frame: (b, c, f, h, w) -> (b, c, f, h * factor, w * factor)."""
    scale = (1, factor, factor)
    size = [side * by for side, by in zip(frames.shape[2:], scale, strict=True)]
    return F.interpolate(frames, size=size, mode="trilinear", align_corners=True)


def superres_loss(
    unet: nn.Module,
    scheduler: DDPMScheduler,
    image_noising_scheduler: DDPMScheduler,
    frames: Tensor,
    upsampled: Tensor,
    embeds: Tensor,
    generator: Generators,
    max_noise_level: int = 400,
    first_frame_probability: float = 0.7,
    power: float = 1.0,
    first_frame_noise: float = 0.06,
    min_snr_gamma: float | None = None,
) -> Tensor:
    """Eq. 5 with three more channels, Sec. 3.5: denoise a window given its noised, upsampled low-resolution frames.

    Per clip a noise level is drawn and told to the network as its class label. In a share of the clips the condition's
    frame 0 is the true frame, whatever the level: the stage puts the last frame of the window before there, and leaves
    it as it is for the first window.

    Args:
        unet: maps (b, 6, f, h, w) to (b, c, f, h, w), or to 2c channels.
        scheduler: the training schedule, with its `prediction_type`.
        image_noising_scheduler: the schedule of the condition's noise.
        frames: truth (b, 3, f, h, w) in [-1, 1].
        upsampled: `upsample_frames` of the low-resolution clip, (b, 3, f, h, w) (both may be the same crop).
        embeds: the captions, (b, tokens, width).
        generator: one generator for the batch, or a list of one a clip; on the CPU.
        max_noise_level: levels are uniform in 0..this-1.
        first_frame_probability: share of the clips that are led by their true first frame; of clips of one frame,
            which would be given their own answer, none is.
        power: as in `keyframe_loss`; a sampling of one or two steps depends on strong noise only.
        first_frame_noise: the true first frame gets noise of standard deviations uniform in 0..this, one a clip,
            since at inference it is a generated one.
        min_snr_gamma: weight the clips as `min_snr_weights` does.

    Returns:
        The mean loss of the batch, ().
    """
    check_scheduler(scheduler, min_snr_gamma)
    check_count(max_noise_level, "max_noise_level", high=image_noising_scheduler.config.num_train_timesteps)
    check_number(first_frame_probability, "first_frame_probability", low=0, high=1)
    check_number(first_frame_noise, "first_frame_noise", low=0)
    draws = _Draws(generator, frames)
    levels = draws.integers(max_noise_level)
    condition = image_noising_scheduler.add_noise(upsampled, draws.normal(upsampled), levels)
    chained = draws.uniform().view(-1, 1, 1, 1) < first_frame_probability
    wobble = first_frame_noise * draws.uniform().view(-1, 1, 1, 1)
    first = frames[:, :, 0] + wobble * draws.normal(frames[:, :, 0])
    if frames.shape[2] > 1:
        condition[:, :, 0] = torch.where(chained, first, condition[:, :, 0])

    noise = draws.normal(frames)
    timesteps = skewed_timesteps(draws.uniform(), scheduler.config.num_train_timesteps, power)
    noisy = scheduler.add_noise(frames, noise, timesteps)
    prediction = unet(
        torch.cat([noisy, condition], dim=1), timesteps, encoder_hidden_states=embeds, class_labels=levels
    ).sample
    return denoising_loss(scheduler, prediction, frames, noise, noisy, timesteps, min_snr_gamma)


def refinement_loss(
    unet: nn.Module,
    scheduler: DDPMScheduler,
    clean: Tensor,
    degraded: Tensor | None,
    embeds: Tensor,
    generator: Generators,
    max_timestep: int = 900,
    power: float = 1.0,
    min_snr_gamma: float | None = None,
) -> Tensor:
    """Eq. 5 in latents on timesteps below 900 only (expert adaption), Sec. 3.6.

    With `degraded=None` the true latents are noised, as in the paper. Else the network sees noised *degraded* latents
    and has to return the clean ones: with SDEdit the previous stage's latents are what is noised at inference. Noise
    and velocity are then those that lead from the noisy latents to the clean ones (for "sample" nothing changes). At
    weak noise they hold what is wrong with the latents many times enlarged: with these predictions use
    `min_snr_gamma`, which bounds it.

    Args:
        unet: maps (b, c, f, h, w) to (b, c, f, h, w), or to 2c channels.
        scheduler: the training schedule, with its `prediction_type`.
        clean: scaled latents (b, c, f, h, w) of the true frames.
        degraded: scaled latents (b, c, f, h, w) of what the previous stage would give, or None.
        embeds: the captions, (b, tokens, width).
        generator: one generator for the batch, or a list of one a clip; on the CPU.
        max_timestep: 1 to the number of timesteps.
        power: timesteps are `max_timestep` times a uniform number to this power; above 1 favours small ones, where
            a sampling of low strength spends its steps.
        min_snr_gamma: weight the clips as `min_snr_weights` does.

    Returns:
        The mean loss of the batch, ().
    """
    check_scheduler(scheduler, min_snr_gamma)
    check_count(max_timestep, "max_timestep", high=scheduler.config.num_train_timesteps)
    draws = _Draws(generator, clean)
    noise = draws.normal(clean)
    timesteps = skewed_timesteps(draws.uniform(), max_timestep, power)
    noisy = scheduler.add_noise(clean if degraded is None else degraded, noise, timesteps)
    if degraded is not None:
        noise = _noise_towards(scheduler, noisy, clean, timesteps)
    prediction = unet(noisy, timesteps, encoder_hidden_states=embeds).sample
    return denoising_loss(scheduler, prediction, clean, noise, noisy, timesteps, min_snr_gamma)


def vae_loss(vae: AutoencoderKL, images: Tensor, generator: Generators, kl_weight: float = 1e-4) -> Tensor:
    """Reconstruction of images (b, 3, h, w): absolute and squared error, plus a little KL divergence per latent.

    A heavy KL term switches channels off: at 1.5e-2 only two of six carried anything.
    """
    posterior = vae.encode(images).latent_dist
    latents = posterior.mean + posterior.std * _Draws(generator, images).normal(posterior.mean)
    decoded = vae.decode(latents).sample
    kl = posterior.kl().mean() / posterior.mean[0].numel()
    return F.l1_loss(decoded, images) + 5 * F.mse_loss(decoded, images) + kl_weight * kl


# --- images among the clips ------------------------------------------------------------------------------------------


def is_image(index: int, share: float) -> bool:
    """Whether number `index` of a sequence of training steps is one on single frames, so that `share` of them are.

    Joint training on clips and images is LaVie's remedy against forgetting images (arXiv:2309.15103). An image is a
    clip of one frame and goes through the whole network. With `share` of the steps on images the mean loss is LaVie's
    L_video + alpha L_image for alpha = share / (1 - share), times a constant. The steps come at even distances: any
    run of them holds the share to within one step.
    """
    return math.floor((index + 1) * share) > math.floor(index * share)
