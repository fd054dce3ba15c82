# SPDX-License-Identifier: Apache-2.0
"""Motions and styles for customisation: their scenes, and that the scorer sees them there and nowhere else."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks.tiny_customisation import coloured_as
from diffusers_show1.evaluation.custom import CustomReading, read_custom_clips, read_custom_motion, share
from diffusers_show1.evaluation.scorer import object_mask, read_background
from diffusers_show1.tiny import world


def scenes(count, motion=None, style=None, seed=0):
    """Clips of random combinations; of an ordinary motion each, unless one is given."""
    rng = np.random.default_rng(seed)
    chosen = [world.sample_attributes(rng) for _ in range(count)]
    return [world.custom_scene(replace(a, motion=motion or a.motion), rng, style) for a in chosen]


def motions(made):
    clips = world.render(made, world.KEYFRAME_TIMES)
    return [read_custom_motion(object_mask(clip, read_background(clip)[1])) for clip in clips]


@pytest.mark.parametrize("motion", world.CUSTOM_MOTIONS)
def test_custom_motions_are_read(motion):
    assert motions(scenes(24, motion)).count(motion) >= 23


def test_no_false_alarms():
    """Ordinary motions, whatever the style, are read as what they are."""
    for style in (None, *world.STYLES):
        made = scenes(24, style=style, seed=1)
        found = motions(made)
        assert not set(found) & set(world.CUSTOM_MOTIONS)
        assert sum(a == b.attributes.motion for a, b in zip(found, made, strict=True)) >= 23


@pytest.mark.parametrize("style", [None, *world.STYLES])
def test_styles_are_read(style):
    """Of every shape one clip; shape, colour and ground are read under each style, too."""
    rng = np.random.default_rng(2)
    made = [
        world.custom_scene(world.Attributes(colour, shape, "moving up", ground, "large"), rng, style)
        for colour, shape, ground in zip(
            ("red", "blue", "green", "purple"), world.SHAPES, world.BACKGROUNDS, strict=True
        )
    ]
    expected = [
        CustomReading(a.colour, a.shape, a.background, "moving up", style)
        for a in (scene.attributes for scene in made)
    ]
    readings = read_custom_clips(world.render(made, world.KEYFRAME_TIMES, scale=4))
    assert readings == expected
    assert read_custom_clips(world.render(made[:1], world.KEYFRAME_TIMES)) == [replace(expected[0], style=None)]
    assert share(readings, style=style) == 1
    assert share(readings, colour="red", motion="moving up") == 0.25


def test_a_plain_custom_scene_is_the_ordinary_one():
    """Same numbers drawn, same pixels."""
    attributes = world.Attributes("blue", "cross", "growing", "pink")
    custom = world.custom_scene(attributes, np.random.default_rng(0))
    plain = world.sample_scene(attributes, np.random.default_rng(0))
    assert torch.equal(world.render([custom], [0.0, 13.0], 4), world.render([plain], [0.0, 13.0], 4))


def test_a_circle_closes():
    (scene,) = scenes(1, "circling")
    first, half, last = world.render([scene], [0.0, 14.0, 28.0])[0]
    assert (first - last).abs().max() < 1e-5
    assert (first - half).abs().max() > 0.2


def test_bad_arguments():
    attributes = world.Attributes("red", "circle", "hopping", "white")
    with pytest.raises(ValueError, match="`attributes.motion` must be one of .*'circling'.*got 'hopping'"):
        world.custom_scene(attributes, np.random.default_rng(0))
    with pytest.raises(ValueError, match="`style` must be one of .*got 'dotted'"):
        world.custom_scene(replace(attributes, motion="growing"), np.random.default_rng(0), "dotted")


@pytest.mark.parametrize("style", world.STYLES)
def test_colours_come_back_after_refinement(style):
    """A large clip in other colours gets those of the small one, and keeps what is finer than its pixels."""
    attributes = world.Attributes("orange", "triangle", "moving up", "pink", "large")
    scene = world.custom_scene(attributes, np.random.default_rng(2), style)
    true = world.render([scene], world.KEYFRAME_TIMES, scale=8)
    small = world.render([scene], world.KEYFRAME_TIMES, scale=4)
    recoloured = true[:, :, [2, 0, 1]]
    coloured = coloured_as(small, recoloured)
    expected = CustomReading("orange", "triangle", "pink", "moving up", style)
    wrong, right = read_custom_clips(torch.cat([recoloured, coloured]))
    assert wrong.colour != expected.colour
    assert right == expected

    plain = F.interpolate(small[0], scale_factor=2, mode="bilinear")[None]  # nothing finer in it
    error, blurred = ((clip - true).square().mean() for clip in (coloured_as(small, true), plain))
    assert error < 0.5 * blurred
