# SPDX-License-Identifier: Apache-2.0
"""The colour fix: coarse colours are the source's, fine detail the refined video's, each frame by itself."""

import pytest
import torch

from diffusers_show1.sampling.colour import blur, keep_colours


def waves(cycles: float, height: int = 64, width: int = 96) -> torch.Tensor:
    """Cosines (h, w) along both axes, even around the borders, so that a reflection continues them."""
    y, x = ((torch.arange(n) + 0.5) / n for n in (height, width))
    return (torch.pi * cycles * y).cos()[:, None] * (torch.pi * cycles * x).cos()


def video(*frames: torch.Tensor) -> torch.Tensor:
    """The same in three channels of one video, (1, 3, f, h, w)."""
    return torch.stack(frames)[None, None].expand(1, 3, -1, -1, -1)


def test_low_frequencies_are_the_sources_and_high_ones_the_refined():
    """Waves of 64 pixels pass a blur of 2 pixels (gain 0.98); waves of 3 pixels do not (below 0.001)."""
    refined = video(0.3 + 0.2 * waves(2) + 0.1 * waves(60))
    source = video(-0.2 - 0.3 * waves(2) + 0.25 * waves(58))
    wanted = video(-0.2 - 0.3 * waves(2) + 0.1 * waves(60))
    result = keep_colours(refined, source, sigma=2.0)
    assert (result - wanted)[..., 4:-4, 4:-4].abs().max() < 0.03
    assert (result - wanted).abs().mean() < 0.01
    assert (refined - wanted).abs().mean() > 0.4


def test_the_blurred_result_is_the_blurred_source():
    """Of noise too: what a wide blur leaves of the result is what it leaves of the source."""
    generator = torch.Generator().manual_seed(0)
    refined, source = (torch.rand(2, 3, 4, 48, 72, generator=generator) * 2 - 1 for _ in range(2))
    result = keep_colours(refined, source, sigma=1.5)
    wide = [blur(each.transpose(1, 2).flatten(0, 1), 9.0) for each in (result, source, refined)]
    assert (wide[0] - wide[1]).abs().max() < 0.1 * (wide[2] - wide[1]).abs().max()


def test_a_tint_goes_everywhere_up_to_the_border():
    """A constant change of colour is taken back in the corners as in the middle."""
    source = torch.rand(1, 3, 2, 32, 48, generator=torch.Generator().manual_seed(1)) - 0.5
    tint = torch.tensor([0.2, -0.1, 0.05]).view(1, 3, 1, 1, 1)
    assert torch.allclose(keep_colours(source + tint, source, sigma=3.0), source, atol=1e-6)


def test_frames_do_not_mix():
    """Each frame takes the colours of its own source."""
    refined = video(*(torch.full((16, 24), value) for value in (0.0, 0.0, 0.0)))
    source = video(*(torch.full((16, 24), value) for value in (-0.5, 0.1, 0.9)))
    assert torch.allclose(keep_colours(refined, source, sigma=2.0), source, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.3, 2.0, 40.0])
def test_the_blur_keeps_the_mean_and_takes_any_sigma(sigma):
    """Wider than the image too; a flat image stays flat."""
    flat = torch.full((2, 3, 5, 8), 0.7)
    assert torch.allclose(blur(flat, sigma), flat, atol=1e-6)
    image = torch.zeros(1, 1, 31, 31)
    image[..., 15, 15] = 1
    spread = blur(image, sigma)
    assert spread.min() >= 0
    assert spread[0, 0, 15, 15] == spread.max()
    assert torch.allclose(spread, spread.flip(2))
    assert torch.allclose(spread, spread.transpose(2, 3))


def test_dtype_is_the_refined_videos_and_the_sum_is_taken_in_float32():
    """In bfloat16 a tint of 0.01 would be lost."""
    source = torch.zeros(1, 3, 1, 16, 16)
    refined = torch.full((1, 3, 1, 16, 16), 0.01).bfloat16()
    result = keep_colours(refined, source, sigma=2.0)
    assert result.dtype == torch.bfloat16
    assert result.abs().max() < 1e-4


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("inf"), float("nan")])
def test_refusals(sigma):
    """Of sigma, and of a source that was not resized."""
    image = torch.zeros(1, 3, 1, 8, 8)
    with pytest.raises(ValueError, match="`sigma`"):
        keep_colours(image, image, sigma)
    with pytest.raises(ValueError, match="`source`"):
        keep_colours(image, image[..., :4], 1.0)
