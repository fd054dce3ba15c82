# SPDX-License-Identifier: Apache-2.0
"""Every objective: formulas against closed forms, random numbers, and that it trains what the stage runs."""

import math
from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKL, ConfigMixin, DDIMScheduler, DDPMScheduler, ModelMixin
from diffusers.configuration_utils import register_to_config
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from diffusers_show1 import (
    Show1InterpolationPipeline,
    Show1KeyframePipeline,
    Show1RefinementPipeline,
    Show1SuperResolutionPipeline,
)
from diffusers_show1.families.show1.unet import Show1UNet3DConditionModel
from diffusers_show1.learning import objectives
from diffusers_show1.learning.task import area_downsample


KINDS = ("epsilon", "v_prediction", "sample")
NETWORK = {
    "out_channels": 3,
    "down_block_types": ("ResnetDownsampleBlock3D",),
    "mid_block_type": "UNetMidBlock3DSimpleCrossAttn",
    "up_block_types": ("ResnetUpsampleBlock3D",),
    "block_out_channels": (32,),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 32,
    "encoder_hid_dim": 16,
    "attention_head_dim": 16,
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 2,
    "cross_attention_norm": "group_norm",
    "resnet_time_scale_shift": "scale_shift",
}


def forward_process(kind: str) -> DDPMScheduler:
    """The forward process of every tiny stage."""
    return DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type=kind, clip_sample=False)


def few_step_scheduler() -> DDIMScheduler:
    """The sampler of the tiny stages that start from a good guess."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="sample", clip_sample=False, timestep_spacing="trailing"
    )


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def generators(count: int) -> list[torch.Generator]:
    return [generator(seed) for seed in range(count)]


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=dtype)


@pytest.fixture
def frames() -> torch.Tensor:
    return torch.rand(3, 3, 4, 8, 8, generator=generator(1)) * 2 - 1


@pytest.fixture
def embeds() -> torch.Tensor:
    return noise(3, 4, 16, seed=2)


def small_unet(in_channels: int, **changes) -> Show1UNet3DConditionModel:
    torch.manual_seed(0)
    return Show1UNet3DConditionModel(in_channels=in_channels, **{**NETWORK, **changes}).eval()


def scheduler_for(kind: str, **changes) -> DDPMScheduler:
    return DDPMScheduler.from_config(forward_process(kind).config, **changes)


class Linear(torch.nn.Module):
    """A network without weights: the noisy channels minus half of the last ones. Keeps what it was given."""

    def __init__(self, out_channels: int = 3):
        super().__init__()
        self.out_channels = out_channels

    def forward(self, sample, timestep, encoder_hidden_states, class_labels=None):
        self.sample, self.timestep, self.class_labels = sample, timestep, class_labels
        answer = sample[:, :3] - 0.5 * sample[:, -3:]
        return SimpleNamespace(sample=answer.repeat(1, self.out_channels // 3, 1, 1, 1))


def losses(kind: str, **scheduler_changes):
    """Name -> (input channels, loss of (network, frames, embeds, generator, options))."""
    scheduler, noising = scheduler_for(kind, **scheduler_changes), forward_process("epsilon")
    return {
        "keyframes": (3, lambda unet, x, e, g, **o: objectives.keyframe_loss(unet, scheduler, x, e, g, **o)),
        "interpolation": (7, lambda unet, x, e, g, **o: objectives.interpolation_loss(unet, scheduler, x, e, g, **o)),
        "superres": (
            6,
            lambda unet, x, e, g, **o: objectives.superres_loss(unet, scheduler, noising, x, x / 2, e, g, **o),
        ),
        "refinement": (3, lambda unet, x, e, g, **o: objectives.refinement_loss(unet, scheduler, x, None, e, g, **o)),
        "degraded refinement": (
            3,
            lambda unet, x, e, g, **o: objectives.refinement_loss(unet, scheduler, x, x * 0.9, e, g, **o),
        ),
    }


NAMES = tuple(losses("sample"))


# --- random numbers --------------------------------------------------------------------------------------------------


# Recorded when `generator` could only be one generator: the tiny recipe's runs start from these numbers.
RECORDED = {
    "keyframes": 0.7285769581794739,
    "interpolation": 1.041146993637085,
    "superres": 0.6216090321540833,
    "degraded refinement": 0.24044857919216156,
}


@pytest.mark.parametrize("name", RECORDED)
def test_one_generator_draws_the_numbers_it_always_drew(name, frames):
    _, loss = losses("v_prediction" if name != "degraded refinement" else "sample")[name]
    value = loss(Linear(), frames, None, generator(), **({} if name == "interpolation" else {"power": 0.5}))
    assert value.item() == pytest.approx(RECORDED[name], rel=1e-5)


@pytest.mark.parametrize("kind", ["epsilon", "sample"])
@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_the_mean_of_its_clips_alone(name, kind, frames, embeds):
    channels, loss = losses(kind, variance_type="learned_range")[name]
    unet = small_unet(channels, out_channels=6, class_embed_type="timestep" if name == "superres" else None)
    with torch.no_grad():
        whole = loss(unet, frames, embeds, generators(3), min_snr_gamma=5.0)
        alone = [loss(unet, frames[i : i + 1], embeds[i : i + 1], [generator(i)], min_snr_gamma=5.0) for i in range(3)]
    assert len({value.item() for value in alone}) == 3
    assert whole.item() == pytest.approx(torch.stack(alone).mean().item(), rel=1e-4)


def test_a_list_of_one_generator_is_that_generator(frames):
    _, loss = losses("sample")["superres"]
    assert loss(Linear(), frames[:1], None, generator(5)) == loss(Linear(), frames[:1], None, [generator(5)])


@pytest.mark.parametrize("name", NAMES)
def test_a_list_of_generators_has_one_a_clip(name, frames):
    _, loss = losses("sample")[name]
    with pytest.raises(ValueError, match="`generator` must be one generator or 3"):
        loss(Linear(), frames, None, generators(2))


def test_a_loss_is_a_function_of_its_generator(frames):
    _, loss = losses("sample")["keyframes"]
    first, again, other = (loss(Linear(), frames, None, generator(seed)) for seed in (3, 3, 4))
    assert first == again != other


@pytest.mark.parametrize("power", [1 / 6, 0.5, 1.0, 3.0])
def test_timesteps_stay_in_range(power):
    largest = torch.nextafter(torch.tensor([1.0]), torch.tensor(0.0))  # to the power of 1/6 it is 1.0
    assert objectives.skewed_timesteps(largest, 900, power).item() == 899
    assert objectives.skewed_timesteps(torch.zeros(1), 900, power).item() == 0


def test_a_low_power_favours_strong_noise():
    fraction = torch.rand(1000, generator=generator())
    weak, even, strong = (objectives.skewed_timesteps(fraction, 1000, power).float().mean() for power in (3, 1, 1 / 3))
    assert weak < 300 < even < 600 < strong


# --- targets and weights ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_targets_of_every_prediction_type_stand_for_the_clean_sample(kind):
    scheduler, clean, eps = scheduler_for(kind), noise(3, 3, 1, 4, 4), noise(3, 3, 1, 4, 4, seed=1)
    timesteps = torch.tensor([0, 100, 700])
    target = objectives.diffusion_target(scheduler, clean, eps, timesteps)
    noisy = scheduler.add_noise(clean, eps, timesteps)
    assert torch.allclose(objectives.predicted_clean(scheduler, target, noisy, timesteps), clean, atol=1e-4)
    # and the scheduler that samples reads it so
    for row, t in enumerate(timesteps.tolist()):
        step = scheduler.step(target[row : row + 1], t, noisy[row : row + 1], generator=generator())
        assert torch.allclose(step.pred_original_sample, clean[row : row + 1], atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_min_snr_weights_the_clean_samples_error_alike_for_all_predictions(kind):
    """Hang et al.: min(SNR, gamma) times the squared error of x_0, however it is predicted."""
    scheduler, timesteps = scheduler_for(kind), torch.tensor([0, 3, 200, 500, 900])
    clean, eps, guess = (noise(5, 3, 2, 4, 4, seed=seed, dtype=torch.float64) for seed in range(3))
    noisy = scheduler.add_noise(clean, eps, timesteps)
    alpha_bar = scheduler.alphas_cumprod[timesteps].double()
    snr = alpha_bar / (1 - alpha_bar)
    errors = (objectives.predicted_clean(scheduler, guess, noisy, timesteps) - clean).square().flatten(1).mean(dim=1)
    expected = (torch.minimum(snr, torch.tensor(5.0)) * errors).mean()
    loss = objectives.denoising_loss(scheduler, guess, clean, eps, noisy, timesteps, min_snr_gamma=5.0)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-3)


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_min_snr_with_pure_noise_at_the_end(kind):
    scheduler = scheduler_for(kind, rescale_betas_zero_snr=True)
    weights = objectives.min_snr_weights(scheduler, torch.arange(1000), 5.0)
    assert weights.isfinite().all()
    assert weights[-1] == 0
    assert (weights[:-1] > 0).all()


def test_min_snr_of_noise_is_one_where_noise_prevails():
    weights = objectives.min_snr_weights(scheduler_for("epsilon"), torch.arange(1000), 5.0)
    assert torch.equal(weights[-400:], torch.ones(400))
    assert weights[0] < 1e-3


# --- the variational bound -------------------------------------------------------------------------------------------


def posterior_of_scheduler(scheduler: DDPMScheduler, prediction, noisy, t: int) -> Normal:
    """The Gaussian that diffusers draws the next sample from, read off one draw with known noise."""
    _, v = prediction.chunk(2, dim=1)
    deviation = (0.5 * scheduler._get_variance(t, predicted_variance=v)).exp()
    drawn = scheduler.step(prediction, t, noisy, generator=generator(9)).prev_sample
    known = torch.randn(noisy.shape, generator=generator(9), dtype=noisy.dtype)
    return Normal(drawn - deviation * known, deviation)


def true_posterior(scheduler: DDPMScheduler, clean, noisy, t: int) -> Normal:
    """q(x_{t-1} | x_t, x_0) by Bayes' rule: the product of two Gaussians in x_{t-1}."""
    alpha, before = 1 - scheduler.betas[t].double(), scheduler.alphas_cumprod[t - 1].double()
    precision = alpha / (1 - alpha) + 1 / (1 - before)
    mean = (alpha.sqrt() * noisy / (1 - alpha) + before.sqrt() * clean / (1 - before)) / precision
    return Normal(mean, precision.rsqrt().expand_as(mean))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("t", [1, 2, 50, 500, 900])
def test_bound_is_the_divergence_from_what_diffusers_samples(kind, t):
    scheduler = scheduler_for(kind, variance_type="learned_range")
    clean, eps, error, v = (noise(2, 3, 2, 4, 4, seed=seed, dtype=torch.float64) for seed in range(4))
    timesteps = torch.full((2,), t)
    noisy = scheduler.add_noise(clean, eps, timesteps)
    target = objectives.diffusion_target(scheduler, clean, eps, timesteps)
    prediction = torch.cat([target + 0.1 * error, v.clamp(-1.5, 1.5)], dim=1)
    bits = kl_divergence(
        true_posterior(scheduler, clean, noisy, t), posterior_of_scheduler(scheduler, prediction, noisy, t)
    ) / math.log(2)
    bound = objectives.variational_bound(scheduler, prediction, clean, noisy, timesteps)
    # float32 schedules, in which diffusers computes beta as 1 - alpha_bar_t / alpha_bar_{t-1}
    assert torch.allclose(bound, 1000 * bits.flatten(1).mean(dim=1), rtol=5e-3)


def test_variance_bounds_are_those_of_diffusers():
    scheduler = scheduler_for("epsilon", variance_type="learned_range")
    lower, upper = objectives.posterior_log_variances(scheduler)
    for t in (1, 2, 30, 600, 999):
        ends = (scheduler._get_variance(t, predicted_variance=torch.tensor(v)).item() for v in (-1.0, 1.0))
        assert (lower[t].item(), upper[t].item()) == pytest.approx(tuple(ends), abs=2e-3)
    assert upper[0].item() == pytest.approx(
        scheduler._get_variance(0, predicted_variance=torch.tensor(1.0)).item(), abs=2e-3
    )
    assert lower[0] == lower[1] < upper[0]  # diffusers: log(1e-20), which would make v at t = 0 worth 20 nats


def test_last_term_is_the_likelihood_of_8_bit_pixels():
    scheduler = scheduler_for("epsilon", variance_type="learned_range")
    clean = (torch.randint(256, (2, 3, 2, 4, 4), generator=generator()) / 127.5 - 1).double()
    clean[0, 0, 0, 0, :2] = torch.tensor([-1.0, 1.0])
    eps, v = noise(*clean.shape, seed=1, dtype=torch.float64), noise(*clean.shape, seed=2, dtype=torch.float64)
    timesteps = torch.zeros(2, dtype=torch.long)
    noisy = scheduler.add_noise(clean, eps, timesteps)
    prediction = torch.cat([eps + 0.1 * noise(*clean.shape, seed=3), v], dim=1)
    mean = scheduler.step(prediction, 0, noisy).prev_sample  # the last step of sampling is its mean
    lower, upper = objectives.posterior_log_variances(scheduler)
    fraction = (v + 1) / 2
    pixel = Normal(mean, (0.5 * (fraction * upper[0] + (1 - fraction) * lower[0])).exp())
    above = torch.where(clean == 1, 1.0, pixel.cdf(clean + 1 / 255))
    below = torch.where(clean == -1, 0.0, pixel.cdf(clean - 1 / 255))
    expected = -1000 * (above - below).clamp(min=1e-12).log2().flatten(1).mean(dim=1)
    bound = objectives.variational_bound(scheduler, prediction, clean, noisy, timesteps)
    assert torch.allclose(bound, expected, rtol=1e-3)


@given(st.floats(-2, 2), st.floats(-6, 1))
@settings(max_examples=50, deadline=None)
def test_probabilities_of_all_8_bit_values_sum_to_one(mean, log_deviation):
    values = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    log_probability = objectives.discretised_log_likelihood(
        values, torch.full_like(values, mean), torch.full_like(values, log_deviation)
    )
    assert log_probability.exp().sum().item() == pytest.approx(1, abs=1e-6)


@given(st.integers(0, 999), st.sampled_from(KINDS), st.floats(-1.5, 1.5), st.floats(0, 1), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_bound_is_never_negative(t, kind, v, error, seed):
    scheduler, timesteps = scheduler_for(kind, variance_type="learned_range"), torch.tensor([t])
    clean, eps = noise(1, 3, 1, 4, 4, seed=seed).clamp(-1, 1), noise(1, 3, 1, 4, 4, seed=seed + 1)
    noisy = scheduler.add_noise(clean, eps, timesteps)
    guess = objectives.diffusion_target(scheduler, clean, eps, timesteps) + error * noise(1, 3, 1, 4, 4, seed=7)
    prediction = torch.cat([guess, torch.full_like(guess, v)], dim=1)
    assert objectives.variational_bound(scheduler, prediction, clean, noisy, timesteps).item() >= -1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_bound_is_zero_for_the_true_posterior(kind):
    scheduler, timesteps = scheduler_for(kind, variance_type="learned_range"), torch.tensor([1, 40, 300, 800])
    clean, eps = (noise(4, 3, 2, 4, 4, seed=seed, dtype=torch.float64) for seed in range(2))
    noisy = scheduler.add_noise(clean, eps, timesteps)
    target = objectives.diffusion_target(scheduler, clean, eps, timesteps)
    exact = torch.cat([target, -torch.ones_like(target)], dim=1)  # v = -1: the variance of the true posterior
    assert objectives.variational_bound(scheduler, exact, clean, noisy, timesteps).abs().max() < 1e-4
    wider = torch.cat([target, torch.ones_like(target)], dim=1)
    assert (objectives.variational_bound(scheduler, wider, clean, noisy, timesteps) > 2e-4).all()


def test_hybrid_loss_trains_the_variance_and_leaves_the_mean_alone(frames):
    hybrid, simple = scheduler_for("epsilon", variance_type="learned_range"), scheduler_for("epsilon")
    timesteps, eps = torch.tensor([0, 300, 800]), noise(*frames.shape)
    noisy = hybrid.add_noise(frames, eps, timesteps)
    gradients = []
    for scheduler in (hybrid, simple):
        prediction = noise(3, 6, 4, 8, 8, seed=4).requires_grad_()
        objectives.denoising_loss(scheduler, prediction, frames, eps, noisy, timesteps).backward()
        gradients.append(prediction.grad.chunk(2, dim=1))
    assert torch.equal(gradients[0][0], gradients[1][0])
    assert (gradients[0][1].flatten(1).abs().amax(dim=1) > 0).all()
    assert not gradients[1][1].any()  # a fixed variance: the published schedulers


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_costs_rounding_only(name, frames):
    _, loss = losses("v_prediction", variance_type="learned_range")[name]
    full, half = (loss(Linear(6), x, None, generators(3), min_snr_gamma=5.0) for x in (frames, frames.bfloat16()))
    assert half.item() == pytest.approx(full.item(), rel=0.02)


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("scheduler", "options", "message"),
    [
        ({"prediction_type": "flow"}, {}, "`prediction_type` must be .* got 'flow'"),
        (
            {"rescale_betas_zero_snr": True},
            {},
            "`prediction_type` must be 'v_prediction' or 'sample' with .* pure noise",
        ),
        ({"variance_type": "learned"}, {}, "`variance_type` must be 'learned_range' .* got 'learned'"),
        ({}, {"min_snr_gamma": 0}, "`min_snr_gamma` must be a finite number above 0, got 0"),
    ],
)
def test_schedules_that_cannot_be_trained_are_refused_before_the_network_runs(
    name, scheduler, options, message, frames
):
    unet = Linear()
    _, loss = losses("epsilon", **scheduler)[name]
    with pytest.raises(ValueError, match=message):
        loss(unet, frames, None, generator(), **options)
    assert not hasattr(unet, "sample")


@pytest.mark.parametrize(
    ("variance_type", "channels", "allowed"), [("learned_range", 3, "6"), ("fixed_small", 9, "3 or 6")]
)
def test_networks_with_another_number_of_channels_are_refused(variance_type, channels, allowed, frames):
    _, loss = losses("epsilon", variance_type=variance_type)["keyframes"]
    with pytest.raises(ValueError, match=f"`out_channels` of the network must be {allowed} .* got {channels}"):
        loss(Linear(channels), frames, None, generator())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("interpolation", {"max_augmentation": -1}, "`max_augmentation` must be .* got -1"),
        ("superres", {"max_noise_level": 1001}, "`max_noise_level` must be an integer in 1..1000, got 1001"),
        ("superres", {"first_frame_probability": 2}, "`first_frame_probability` must be .* got 2"),
        ("superres", {"first_frame_noise": -0.1}, "`first_frame_noise` must be .* got -0.1"),
        ("keyframes", {"power": 0}, "`power` must be a finite number above 0, got 0"),
        ("refinement", {"max_timestep": 0}, "`max_timestep` must be an integer in 1..1000, got 0"),
    ],
)
def test_options_out_of_range_are_refused(name, options, message, frames):
    _, loss = losses("sample")[name]
    with pytest.raises(ValueError, match=message):
        loss(Linear(), frames, None, generator(), **options)


def test_interpolation_needs_a_frame_between(frames):
    with pytest.raises(ValueError, match="`frames` must be windows of at least 3 frames, got 2"):
        objectives.interpolation_loss(Linear(), scheduler_for("sample"), frames[:, :, :2], None, generator())


# --- conditions: those of the stages ---------------------------------------------------------------------------------


def test_interpolation_condition_is_the_stages(frames):
    condition = objectives.interpolation_condition(frames[:, :, 0], frames[:, :, 1], 5)
    assert torch.allclose(condition, Show1InterpolationPipeline.prepare_condition(frames[:, :, :2], 5), atol=1e-6)
    assert torch.equal(condition[:, :3, 0], frames[:, :, 0])
    assert torch.equal(condition[:, :3, -1], frames[:, :, 1])
    assert condition[0, 3, :, 0, 0].tolist() == [1, 0, 0, 0, 1]


def test_interpolation_loss_feeds_that_condition_and_does_not_see_the_middle(frames):
    unet = Linear()
    objectives.interpolation_loss(unet, scheduler_for("sample"), frames, None, generator(), max_augmentation=0)
    expected = Show1InterpolationPipeline.prepare_condition(frames[:, :, [0, -1]], 4)
    assert unet.sample.shape == (3, 7, 4, 8, 8)
    assert torch.allclose(unet.sample[:, 3:], expected, atol=1e-6)


def test_noise_on_the_given_frames_is_of_one_level_a_clip():
    unet, still = Linear(), torch.zeros(64, 3, 3, 16, 16)
    objectives.interpolation_loss(unet, scheduler_for("sample"), still, None, generators(64), max_augmentation=0.5)
    levels = unet.sample[:, 3:6, [0, -1]].transpose(1, 2).flatten(2).std(dim=2)  # clips, two ends
    assert torch.allclose(levels[:, 0], levels[:, 1], rtol=0.25)
    assert levels.min() < 0.1 < 0.4 < levels.max() < 0.55


def test_upsampling_is_the_stages():
    low = noise(2, 3, 2, 4, 6)
    high = objectives.upsample_frames(low, 4)
    for i in range(2):
        assert torch.allclose(high[:, :, i], Show1SuperResolutionPipeline.upsample(low[:, :, i], 16, 24), atol=1e-6)


@pytest.mark.parametrize("chained", [True, False])
def test_superres_condition_is_the_stages(chained, frames):
    unet, noising = Linear(), forward_process("epsilon")
    truth, upsampled = frames[:1], frames[1:2]
    objectives.superres_loss(
        unet,
        scheduler_for("sample"),
        noising,
        truth,
        upsampled,
        None,
        generator(3),
        first_frame_probability=float(chained),
        first_frame_noise=0,
    )
    stage = Show1SuperResolutionPipeline(None, None, small_unet(6), few_step_scheduler(), noising)
    drawn = generator(3)
    level = int(torch.randint(400, (1,), generator=drawn))  # the objective draws the level before the noise
    expected = stage.prepare_condition(upsampled, truth[:, :, :1] if chained else None, level, drawn)
    assert unet.class_labels.tolist() == [level]
    assert torch.equal(unet.sample[:, 3:], expected)
    if chained:
        assert torch.equal(unet.sample[:, 3:, 0], truth[:, :, 0])


def test_superres_levels_are_the_class_labels(frames):
    unet, noising = Linear(), forward_process("epsilon")
    clips = torch.zeros(32, 3, 3, 16, 16)
    objectives.superres_loss(unet, scheduler_for("sample"), noising, clips, clips, None, generators(32))
    sigma = (1 - noising.alphas_cumprod[unet.class_labels]).sqrt()
    assert torch.allclose(unet.sample[:, 3:, 1:].flatten(1).std(dim=1), sigma, rtol=0.1)
    assert 300 < unet.class_labels.max() < 400


def test_a_share_of_first_frames_is_true_and_slightly_noised():
    unet, noising = Linear(), forward_process("epsilon")
    truth = torch.full((100, 3, 2, 8, 8), 0.5)
    objectives.superres_loss(unet, scheduler_for("sample"), noising, truth, -truth, None, generators(100))
    first = unet.sample[:, 3:, 0].flatten(1)
    chained = first.mean(dim=1) > 0.4  # the others are near the upsampled -0.5, or noise
    assert 55 < chained.sum() < 85
    assert 0.03 < first[chained].std(dim=1).max() < 0.07


def test_a_lone_frame_is_never_given_its_own_answer(frames):
    unet, clip = Linear(), frames[:, :, :1]
    objectives.superres_loss(
        unet,
        scheduler_for("sample"),
        forward_process("epsilon"),
        clip,
        torch.zeros_like(clip),
        None,
        generator(),
        max_noise_level=1,
        first_frame_probability=1.0,
    )
    assert unet.sample[:, 3:].abs().max() < 0.1


def test_refinement_is_limited_to_the_expert_range():
    unet, clips = Linear(), torch.zeros(200, 3, 1, 2, 2)
    objectives.refinement_loss(unet, scheduler_for("epsilon"), clips, None, None, generators(200))
    assert 850 < unet.timestep.max() < 900
    objectives.refinement_loss(unet, scheduler_for("epsilon"), clips, None, None, generators(200), max_timestep=20)
    assert unet.timestep.max() == 19


@pytest.mark.parametrize("kind", KINDS)
def test_refinement_of_degraded_latents_asks_for_the_clean_ones(kind):
    """A network whose every answer stands for the clean latents has no loss, whatever was noised."""
    scheduler, clean = scheduler_for(kind), noise(8, 3, 2, 4, 4)

    class Oracle(torch.nn.Module):
        def forward(self, sample, timestep, encoder_hidden_states):
            alpha_bar = scheduler.alphas_cumprod[timestep].view(-1, 1, 1, 1, 1)
            eps = (sample - alpha_bar.sqrt() * clean) / (1 - alpha_bar).sqrt()
            return SimpleNamespace(sample=objectives.diffusion_target(scheduler, clean, eps, timestep))

    for degraded in (None, clean + 1):
        loss = objectives.refinement_loss(Oracle(), scheduler, clean, degraded, None, generators(8))
        assert loss.item() < 1e-3


# --- images among the clips ------------------------------------------------------------------------------------------


@given(st.floats(0, 1), st.integers(0, 10**9), st.integers(1, 200))
def test_images_come_at_even_distances(share, start, count):
    images = sum(objectives.is_image(index, share) for index in range(start, start + count))
    assert abs(images - share * count) < 1 + 1e-3


def test_an_image_is_a_clip_of_one_frame(frames, embeds):
    """What joint training needs of the losses whose stages run on any number of frames."""
    for name in ("keyframes", "superres", "refinement"):
        channels, loss = losses("v_prediction")[name]
        unet = small_unet(channels, class_embed_type="timestep" if name == "superres" else None)
        loss(unet, frames[:1, :, :1], embeds[:1], [generator()]).backward()
        # the temporal layers take part: nothing of the network is bypassed
        assert unet.down_blocks[0].temp_convs[0].conv4[-1].weight.grad.any()


# --- what a loss trains is what the stage samples --------------------------------------------------------------------


def learn(unet: torch.nn.Module, loss_of, steps: int = 45, rate: float = 3e-3) -> None:
    optimiser, draws = torch.optim.Adam(unet.parameters(), lr=rate), generator()
    for _ in range(steps):
        loss = loss_of(draws)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def sample(pipe, *inputs, **options) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    options = {"prompt_embeds": noise(1, 4, 16, seed=2), "guidance_scale": 1.0, "generator": generator(9), **options}
    return pipe(*inputs, **options, output_type="latent").frames


def error(video: torch.Tensor, truth: torch.Tensor) -> float:
    return (video - truth).square().mean().item()


def one_clip(count: int) -> torch.Tensor:
    """(1, 3, f, 8, 8): a ramp that turns round, a ramp that stays, and a brightness that grows."""
    down, right = torch.meshgrid(torch.linspace(-1, 1, 8), torch.linspace(-1, 1, 8), indexing="ij")
    frames = [
        torch.stack([right * (-1) ** k, down, torch.full_like(down, 1.6 * k / (count - 1) - 0.8)])
        for k in range(count)
    ]
    return torch.stack(frames, dim=1)[None]


class OneClip(ModelMixin, ConfigMixin):
    """The best network for one clip, but for the clip itself and for the variance, which are its parameters."""

    size_divisor = 1

    @register_to_config
    def __init__(self, kind: str, out_channels: int = 6, encoder_hid_dim: int = 16):
        super().__init__()
        self.scheduler = scheduler_for(kind)
        self.clip = torch.nn.Parameter(torch.zeros(1, 3, 3, 8, 8))
        self.v = torch.nn.Parameter(torch.zeros(1, 3, 3, 8, 8))

    def forward(self, sample, timestep, encoder_hidden_states, return_dict=True):
        timesteps = torch.as_tensor(timestep).expand(len(sample))
        alpha_bar = self.scheduler.alphas_cumprod[timesteps].view(-1, 1, 1, 1, 1)
        eps = (sample - alpha_bar.sqrt() * self.clip) / (1 - alpha_bar).sqrt()
        mean = objectives.diffusion_target(self.scheduler, self.clip.expand_as(sample), eps, timesteps)
        answer = torch.cat([mean, self.v.expand_as(mean)], dim=1)
        return SimpleNamespace(sample=answer) if return_dict else (answer,)


@pytest.mark.parametrize("kind", KINDS)
def test_keyframes_learn_mean_and_variance(kind):
    truth, scheduler = one_clip(3), scheduler_for(kind, variance_type="learned_range")
    unet = OneClip(kind)

    def loss_of(draws: torch.Generator, **options) -> torch.Tensor:
        return objectives.keyframe_loss(unet, scheduler, truth, None, draws, **options)

    learn(unet, lambda draws: loss_of(draws, min_snr_gamma=5.0), steps=200, rate=0.05)
    unet.clip.requires_grad_(False)
    # at weak noise, where the bounds of the variance differ
    learn(unet, lambda draws: loss_of(draws, power=4), steps=80, rate=0.05)
    assert unet.v.mean() < -0.7  # one clip's posterior has the lower bound, -1; v began at 0
    pipe = Show1KeyframePipeline(None, None, unet, scheduler)
    made = sample(pipe, num_frames=3, height=8, width=8, num_inference_steps=20)
    assert error(made, truth) < 1e-3 * truth.square().mean().item()


def test_keyframe_unet_learns_one_clip():
    truth, embeds = one_clip(3), noise(1, 4, 16, seed=2)
    unet, scheduler = small_unet(3), scheduler_for("v_prediction")
    learn(unet, lambda draws: objectives.keyframe_loss(unet, scheduler, truth, embeds, draws))
    sampler = DDIMScheduler.from_config(scheduler.config, clip_sample=False, timestep_spacing="trailing")
    pipe = Show1KeyframePipeline(None, None, unet, sampler)
    made = sample(pipe, num_frames=3, height=8, width=8, num_inference_steps=8)
    mean_colour = truth.mean(dim=(2, 3, 4), keepdim=True)
    assert error(made, truth) < 0.6 * error(mean_colour.expand_as(truth), truth)


def test_interpolation_learns_frames_that_no_blend_gives():
    ends, embeds = one_clip(2), noise(1, 4, 16, seed=2)
    truth, scheduler, unet = ends[:, :, [0, 0, 1, 1]], scheduler_for("sample"), small_unet(7)
    learn(unet, lambda draws: objectives.interpolation_loss(unet, scheduler, truth, embeds, draws))
    pipe = Show1InterpolationPipeline(None, None, unet, few_step_scheduler())
    made = sample(pipe, ends, num_inference_steps=4, frames_between=2, input_type="latent")
    blend = objectives.interpolation_condition(ends[:, :, 0], ends[:, :, 1], 4)[:, :3]
    assert error(made, truth) < 0.3 * error(blend, truth)


def test_superres_learns_edges_and_chains_its_windows():
    right = torch.linspace(-1, 1, 8).expand(8, 8)
    steps = [torch.stack([(right - k).sign(), (right.T + k).sign(), (k - right).sign()]) for k in (-0.4, 0.0, 0.4)]
    truth, embeds = 0.8 * torch.stack(steps, dim=1)[None], noise(1, 4, 16, seed=2)
    low = area_downsample(truth, 2)
    upsampled = objectives.upsample_frames(low, 2)
    unet, schedulers = small_unet(6, class_embed_type="timestep"), (scheduler_for("sample"), scheduler_for("epsilon"))
    learn(
        unet,
        lambda draws: objectives.superres_loss(
            unet, *schedulers, truth, upsampled, embeds, draws, max_noise_level=100
        ),
        steps=70,
    )
    pipe = Show1SuperResolutionPipeline(None, None, unet, few_step_scheduler(), schedulers[1])
    options = {"height": 8, "width": 8, "num_inference_steps": 2, "noise_level": 20, "input_type": "latent"}
    for window_size in (3, 2):
        made = sample(pipe, low, window_size=window_size, **options)
        assert error(made, truth) < 0.4 * error(upsampled, truth)


def test_refinement_learns_to_undo_a_degradation():
    torch.manual_seed(0)
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=3, scaling_factor=8.0).eval()
    torch.nn.init.zeros_(vae.quant_conv.weight[3:].detach())
    torch.nn.init.constant_(vae.quant_conv.bias[3:].detach(), -20.0)  # latents without noise of their own
    truth, embeds, scheduler = one_clip(3), noise(1, 4, 16, seed=2), scheduler_for("sample")
    given, unet = 0.5 * truth.flip(2), small_unet(3)
    pipe = Show1RefinementPipeline(None, None, unet, vae, few_step_scheduler())
    with torch.no_grad():
        clean, degraded = (pipe.encode_video(video, generator()) for video in (truth, given))
    learn(unet, lambda draws: objectives.refinement_loss(unet, scheduler, clean, degraded, embeds, draws))
    made = sample(pipe, given, num_inference_steps=10, strength=0.3, input_type="latent")
    assert error(made, clean) < 0.3 * error(degraded, clean)


def test_vae_learns():
    torch.manual_seed(0)
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=2)
    images = torch.rand(2, 3, 8, 8) * 2 - 1
    before = objectives.vae_loss(vae, images, generators(2)).item()
    optimiser = torch.optim.Adam(vae.parameters(), lr=2e-3)
    for _ in range(20):
        optimiser.zero_grad()
        objectives.vae_loss(vae, images, generators(2)).backward()
        optimiser.step()
    assert objectives.vae_loss(vae, images, generators(2)).item() < 0.75 * before
