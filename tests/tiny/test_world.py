# SPDX-License-Identifier: Apache-2.0
"""The synthetic world: captions, held-out combinations, and drawings that agree across resolutions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from diffusers_show1.tiny import world


def scenes_of(attributes: list[world.Attributes], seed: int = 0) -> list[world.Scene]:
    rng = np.random.default_rng(seed)
    return [world.sample_scene(a, rng) for a in attributes]


def test_captions_are_read_back():
    for attributes in world.combinations(held_out=False)[::7] + world.held_out_attributes(40):
        assert world.parse_caption(attributes.caption()) == attributes


def test_caption_of_the_documented_form():
    attributes = world.Attributes("red", "circle", "moving right", "white", "large")
    assert attributes.caption() == "a large red circle moving right on a white background"


def test_varied_captions_say_the_same():
    rng = np.random.default_rng(0)
    without_ground = 0
    for _ in range(300):
        attributes = world.sample_attributes(rng)
        parsed = world.parse_caption(world.vary_caption(attributes, rng))
        without_ground += parsed.background is None
        assert (parsed.colour, parsed.shape, parsed.motion, parsed.size) == (
            attributes.colour,
            attributes.shape,
            attributes.motion,
            attributes.size,
        )
        assert parsed.background in (None, attributes.background)
    assert 10 < without_ground < 60


@pytest.mark.parametrize("text", ["a red circle", "red moving up", "circle moving left on a white background", ""])
def test_other_captions_are_refused(text):
    with pytest.raises(ValueError, match="not a caption"):
        world.parse_caption(text)


def test_held_out_combinations_are_a_fifth_and_never_sampled():
    held_out, trained = world.combinations(held_out=True), world.combinations(held_out=False)
    assert len(held_out) + len(trained) == 6 * 4 * 6 * 4
    assert not set(held_out) & set(trained)
    assert 0.15 < len(held_out) / 576 < 0.25
    rng = np.random.default_rng(1)
    assert not any(world.is_held_out(world.sample_attributes(rng)) for _ in range(500))


def test_held_out_prompts_are_stable_and_different():
    prompts = world.held_out_prompts(96, seed=0)
    assert prompts == world.held_out_prompts(96, seed=0)
    assert prompts != world.held_out_prompts(96, seed=1)
    combos = {(a.colour, a.shape, a.motion, a.background) for a in map(world.parse_caption, prompts)}
    assert len(combos) == 96
    more = world.held_out_prompts(192)  # more than there are combinations: some in another size
    assert len(set(more)) == 192
    assert all(world.is_held_out(world.parse_caption(prompt)) for prompt in more)
    assert all(world.is_held_out(world.parse_caption(prompt)) for prompt in prompts)


def test_drawing_is_deterministic_and_in_range():
    scenes = scenes_of(world.held_out_attributes(6))
    again = scenes_of(world.held_out_attributes(6))
    first, second = world.render(scenes, [0, 3.5, 28], 4), world.render(again, [0, 3.5, 28], 4)
    assert first.shape == (6, 3, 3, 64, 96)
    assert torch.equal(first, second)
    assert first.min() >= 0
    assert first.max() <= 1


@pytest.mark.parametrize(("fine", "coarse"), [(8, 4), (4, 1), (4, 2), (8, 1)])
def test_low_resolution_is_the_area_average(fine, coarse):
    scenes = scenes_of(world.held_out_attributes(12))
    high, low = world.render(scenes, [5.0], fine), world.render(scenes, [5.0], coarse)
    averaged = F.avg_pool3d(high, (1, fine // coarse, fine // coarse))
    assert (averaged - low).square().mean().sqrt() < 0.004
    assert (averaged - low).abs().max() < 0.3  # a corner of an outline


def test_texture_vanishes_at_the_lowest_resolution():
    for background, colour in world.BACKGROUNDS.items():
        outside = (-50.0, -50.0, 1.0)
        scene = world.Scene(world.Attributes("red", "circle", "growing", background), outside, outside)
        low, high = world.render([scene], [0.0], 1)[0, 0], world.render([scene], [0.0], 8)[0, 0]
        assert torch.allclose(low, torch.tensor(colour)[:, None, None].expand_as(low), atol=1e-5)
        assert high.std(dim=(1, 2)).min() > 0.03
        assert torch.allclose(high[:, :8, :8], high[:, 8:16, 16:24], atol=1e-6)  # period of 8


def test_window_is_a_crop():
    scenes = scenes_of(world.held_out_attributes(3))
    full, part = world.render(scenes, [9.0], 4), world.render(scenes, [9.0], 4, window=(3, 7, 8, 12))
    assert torch.allclose(part, full[..., 12:44, 28:76], atol=1e-5)


def test_every_clip_has_its_own_times():
    scenes = scenes_of(world.held_out_attributes(2))
    both = world.render(scenes, torch.tensor([[0.0, 7.0], [4.0, 5.0]]), 1)
    assert torch.equal(both[1], world.render(scenes[1:], [4.0, 5.0], 1)[0])


def test_motion_is_fast_enough_to_defeat_a_cross_fade():
    truth = world.render(scenes_of(world.held_out_attributes(48)), range(world.NUM_FRAMES))
    fade = F.interpolate(truth[:, ::4].transpose(1, 2), size=(29, 16, 24), mode="trilinear", align_corners=True)
    error = (fade.transpose(1, 2) - truth)[:, [t for t in range(29) if t % 4]]
    assert -10 * error.square().mean().log10() < 28


def test_objects_travel_or_grow():
    for attributes in world.held_out_attributes(60):
        scene = scenes_of([attributes])[0]
        (x0, y0, r0), (x1, y1, r1) = scene.start, scene.end
        change = {
            "moving right": x1 - x0,
            "moving left": x0 - x1,
            "moving down": y1 - y0,
            "moving up": y0 - y1,
            "growing": r1 / r0 * 3,
            "shrinking": r0 / r1 * 3,
        }[attributes.motion]
        assert change > 8


# --- bent outlines ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rms", [0.2, 0.5])
def test_a_bend_shifts_by_what_was_asked(rms):
    """Over an object and its clip, on the average of many bends."""
    x, y = torch.meshgrid(torch.linspace(-1, 1, 9), torch.linspace(-1, 1, 9), indexing="ij")
    times = torch.linspace(0, 28, 15)[:, None, None]
    squares = []
    for seed in range(60):
        dx, dy = world.sample_bend(rms, np.random.default_rng(seed)).shift(x, y, times)
        squares.append((dx.square() + dy.square()).mean())
    assert torch.stack(squares).mean().sqrt().item() == pytest.approx(rms, rel=0.15)


@pytest.mark.parametrize("rms", [0.25, 0.5])
def test_a_bent_outline_leaves_the_true_one_by_about_that_much(rms):
    """The area between a circle's outline and the bent one is the outline's length times the mean distance, which of a
    normal distance with half of the mean square is rms / sqrt(pi)."""
    scene = world.Scene(world.Attributes("red", "circle", "moving right", "white"), (12.0, 8.0, 5.0), (12.0, 8.0, 5.0))
    bends = [world.sample_bend(rms, np.random.default_rng(seed)) for seed in range(40)]
    true = world.render([scene], [0.0, 14.0, 28.0], 8)
    bent = world.render([scene] * 40, [0.0, 14.0, 28.0], 8, bend=bends)

    def inside(frames: torch.Tensor) -> torch.Tensor:
        ground = torch.tensor(world.BACKGROUNDS["white"])[:, None, None]
        return ((frames - ground).abs().amax(dim=2) > 0.3).float()

    between = (inside(bent) - inside(true)).abs().sum(dim=(-2, -1)).mean().item() / 8**2
    distance = between / (2 * torch.pi * 5.0)
    assert distance == pytest.approx(rms / torch.pi**0.5, rel=0.25)


def test_bends_drift_and_leave_the_ground_alone():
    scene = scenes_of([world.Attributes("red", "circle", "moving right", "white")])[0]
    still = replace(scene, start=(12.0, 8.0, 4.0), end=(12.0, 8.0, 4.0))
    bend = world.sample_bend(0.5, np.random.default_rng(3))
    bent, true = (world.render([still], [0.0, 14.0, 28.0], 4, bend=each)[0] for each in ([bend], [None]))
    assert torch.equal(true, world.render([still], [0.0, 14.0, 28.0], 4)[0])  # off: bit for bit
    assert (bent[1] - bent[0]).abs().amax() > 0.1
    assert torch.equal(bent[..., :8, :], true[..., :8, :])  # two units above the object
    assert torch.equal(bent, world.render([still], [0.0, 14.0, 28.0], 4, bend=[bend])[0])
    low = F.avg_pool3d(bent[None], (1, 4, 4))[0]
    assert torch.allclose(world.render([still], [0.0, 14.0, 28.0], 1, bend=[bend])[0], low, atol=1e-6)
