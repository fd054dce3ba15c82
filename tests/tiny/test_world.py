# SPDX-License-Identifier: Apache-2.0
"""The synthetic world: captions, held-out combinations, and drawings that agree across resolutions."""

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
