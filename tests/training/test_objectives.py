# SPDX-License-Identifier: Apache-2.0
"""Every objective: its conditioning channels, its determinism, and that it can be learned."""

import pytest
import torch
from diffusers import AutoencoderKL

from diffusers_show1.models import Show1UNet3DConditionModel
from diffusers_show1.training import objectives
from diffusers_show1.training.tiny import make_refine_unet, pixel_blocks, training_scheduler


SMALL = {
    "block_out_channels": (32, 32, 32),
    "layers_per_block": 1,
    "cross_attention_dim": 32,
    "encoder_hid_dim": 16,
    "encoder_hid_dim_type": "text_proj",
    "attention_head_dim": 16,
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 2,
    "cross_attention_norm": "group_norm",
    "resnet_time_scale_shift": "scale_shift",
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def frames() -> torch.Tensor:
    return torch.rand(2, 3, 5, 8, 8, generator=generator(1)) * 2 - 1


@pytest.fixture
def embeds() -> torch.Tensor:
    return torch.randn(2, 4, 16, generator=generator(2))


def small_unet(in_channels: int, **changes) -> Show1UNet3DConditionModel:
    torch.manual_seed(0)
    unet = Show1UNet3DConditionModel(in_channels=in_channels, out_channels=3, **pixel_blocks(), **SMALL, **changes)
    return unet.eval()


def assert_learns(model: torch.nn.Module, loss_of, steps: int = 12) -> None:
    """The loss on one fixed batch with fixed noise falls."""
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(steps):
        loss = loss_of()
        assert loss.shape == ()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.75 * losses[0]


class Recorder(torch.nn.Module):
    """Stands in for a UNet: keeps what it was given, and answers zeros."""

    def forward(self, sample, timestep, encoder_hidden_states, class_labels=None):
        self.sample, self.timestep, self.class_labels = sample, timestep, class_labels
        self.sample_output = sample[:, :3] * 0
        return type("Output", (), {"sample": self.sample_output})


def test_keyframe_loss_learns(frames, embeds):
    unet = small_unet(3)
    assert_learns(
        unet, lambda: objectives.keyframe_loss(unet, training_scheduler("v_prediction"), frames, embeds, generator())
    )


def test_keyframe_loss_is_a_function_of_the_generator(frames, embeds):
    unet, scheduler = small_unet(3), training_scheduler("v_prediction")
    with torch.no_grad():
        first, again, other = (
            objectives.keyframe_loss(unet, scheduler, frames, embeds, generator(seed)) for seed in (3, 3, 4)
        )
    assert first == again != other


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_target_of_every_prediction_type(prediction_type):
    scheduler = training_scheduler(prediction_type)
    clean, noise = torch.randn(2, 3, 1, 4, 4), torch.randn(2, 3, 1, 4, 4)
    timesteps = torch.tensor([100, 700])
    target = objectives.diffusion_target(scheduler, clean, noise, timesteps)
    noisy = scheduler.add_noise(clean, noise, timesteps)
    alpha = scheduler.alphas_cumprod[timesteps].sqrt().view(-1, 1, 1, 1, 1)
    sigma = (1 - alpha**2).sqrt()
    recovered = {
        "epsilon": lambda: (noisy - sigma * target) / alpha,
        "v_prediction": lambda: alpha * noisy - sigma * target,
        "sample": lambda: target,
    }[prediction_type]()
    assert torch.allclose(recovered, clean, atol=1e-4)


def test_interpolation_condition_is_a_blend_with_exact_ends():
    first, last = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    condition = objectives.interpolation_condition(first, last, 5)
    assert condition.shape == (2, 4, 5, 4, 4)
    assert torch.equal(condition[:, :3, 0], first)
    assert torch.equal(condition[:, :3, -1], last)
    assert torch.allclose(condition[:, :3, 1], 0.75 * first + 0.25 * last)
    assert condition[0, 3, :, 0, 0].tolist() == [1, 0, 0, 0, 1]


def test_interpolation_loss_does_not_see_the_middle(frames, embeds):
    unet = Recorder()
    objectives.interpolation_loss(unet, training_scheduler("sample"), frames, embeds, generator(), max_augmentation=0)
    assert unet.sample.shape == (2, 7, 5, 8, 8)
    expected = objectives.interpolation_condition(frames[:, :, 0], frames[:, :, -1], 5)
    assert torch.allclose(unet.sample[:, 3:], expected)


def test_interpolation_loss_learns(frames, embeds):
    unet = small_unet(7)
    assert_learns(
        unet, lambda: objectives.interpolation_loss(unet, training_scheduler("sample"), frames, embeds, generator())
    )


def test_upsampling_keeps_corners_and_frames():
    low = torch.randn(1, 3, 2, 4, 6)
    high = objectives.upsample_frames(low, 4)
    assert high.shape == (1, 3, 2, 16, 24)
    for row, column in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        assert torch.allclose(high[..., row, column], low[..., row, column], atol=1e-6)
    assert torch.allclose(high[:, :, 1], objectives.upsample_frames(low[:, :, 1:], 4)[:, :, 0])


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_superres_condition_is_noised_except_for_the_first_frame(frames, embeds, probability):
    unet, upsampled = Recorder(), torch.zeros_like(frames)
    schedulers = training_scheduler("sample"), training_scheduler("epsilon")
    objectives.superres_loss(
        unet, *schedulers, frames, upsampled, embeds, generator(), first_frame_probability=probability
    )
    condition = unet.sample[:, 3:]
    assert unet.class_labels.shape == (2,)
    assert unet.class_labels.max() < 400
    # the upsampled frames are zero, so the condition is pure noise of the deviation that the label says
    sigma = (1 - schedulers[1].alphas_cumprod[unet.class_labels]).sqrt()
    assert torch.allclose(condition[:, :, 1:].flatten(1).std(dim=1), sigma, rtol=0.1)
    is_truth = (condition[:, :, 0] - frames[:, :, 0]).abs().mean() < 0.06
    assert is_truth == (probability == 1)


def test_superres_loss_learns(frames, embeds):
    unet = small_unet(6, class_embed_type="timestep")
    schedulers = training_scheduler("sample"), training_scheduler("epsilon")
    assert_learns(unet, lambda: objectives.superres_loss(unet, *schedulers, frames, frames, embeds, generator()))


def test_refinement_loss_is_limited_to_the_expert_range_and_targets_the_clean_latents():
    unet, clean = Recorder(), torch.randn(64, 3, 1, 2, 2, generator=generator(1))
    degraded = clean + 1
    loss = objectives.refinement_loss(unet, training_scheduler("sample"), clean, degraded, None, generator())
    assert loss.item() == pytest.approx(clean.square().mean().item(), rel=1e-5)
    assert 600 < unet.timestep.max() < 900


def test_refinement_loss_learns():
    torch.manual_seed(0)
    unet = make_refine_unet(latent_channels=4, text_width=32).eval()
    clean, embeds = torch.randn(1, 4, 3, 8, 8), torch.randn(1, 4, 32)
    degraded = clean + 0.1 * torch.randn_like(clean)
    assert_learns(
        unet,
        lambda: objectives.refinement_loss(unet, training_scheduler("sample"), clean, degraded, embeds, generator()),
    )


def test_vae_loss_learns():
    torch.manual_seed(0)
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=2)
    images = torch.rand(2, 3, 8, 8) * 2 - 1
    assert_learns(vae, lambda: objectives.vae_loss(vae, images, generator()), steps=20)
