# SPDX-License-Identifier: Apache-2.0
"""The measure of form: true drawings are nearly perfect, and each way of being drawn badly lowers its own figure."""

import itertools
import math
import time

import numpy as np
import pytest
import torch

from diffusers_show1.evaluation.form import (
    Form,
    _known_colours,
    fit_shape,
    mean_form,
    measure_form,
    roundness,
    wrong_colours,
)
from diffusers_show1.tiny import world


GROUNDS = tuple(world.BACKGROUNDS)


def drawing(shape: str, radius: float, colour: str = "red", background: str = "white", scale: int = 8) -> torch.Tensor:
    """Three frames (3, 3, h, w) of a whole object that moves a little, off the pixels' grid."""
    attributes = world.Attributes(colour, shape, "moving right", background)
    scene = world.Scene(attributes, (11.3, 8.21, radius), (12.9, 8.21, radius))
    return world.render([scene], [0.0, 13.0, 28.0], scale)[0]


def asked(shape: str, colour: str = "red", background: str | None = "white") -> world.Attributes:
    return world.Attributes(colour, shape, "moving right", background)


def painted(inside: torch.Tensor) -> torch.Tensor:
    """A red object of any form, given where its body is (f, h, w), with no outline, on flat white."""
    red, white = (torch.tensor(colour) for colour in (world.COLOURS["red"], world.BACKGROUNDS["white"]))
    return torch.where(inside[..., None], red, white).permute(0, 3, 1, 2)


def pixels() -> tuple[torch.Tensor, torch.Tensor]:
    """x and y from the middle of a frame of 128 x 192."""
    return torch.arange(192) + 0.5 - 96, (torch.arange(128) + 0.5 - 64)[:, None]


@pytest.mark.parametrize("turn", range(4))
@pytest.mark.parametrize(("place", "radius"), enumerate((1.6, 2.6, 4.0, 5.9)))
def test_true_drawings(turn, place, radius):
    """The figures that a perfect model would have: every shape on every ground, every size on every ground."""
    shape, background = world.SHAPES[turn], GROUNDS[(turn + place) % 4]
    colour = {"white": "yellow", "black": "purple", "gray": "green", "pink": "orange"}[background]  # the faintest
    form = measure_form(drawing(shape, radius, colour, background), asked(shape, colour, background))
    if form.frames == 0:
        assert radius < 2, "only the smallest may be below the least area"
        return
    assert form.frames == 3
    assert form.iou > 0.99
    assert form.best == 1
    assert form.wrong_in_frame == form.wrong_in_object == 0
    if shape == "circle":
        assert form.roundness < 0.02 * 2.6 / radius
    else:
        assert form.roundness is None


@pytest.mark.parametrize("shape", world.SHAPES)
@pytest.mark.parametrize(("width", "height"), [(24.0, 36.0), (36.0, 24.0), (11.0, 14.0)])
def test_aspect_is_free(shape, width, height):
    """A drawing that was stretched is still one of its shape, and where it stands and how wide it is comes out."""
    x, y = pixels()
    mask = (world.signed_distance(shape, (x - 5.3) / width, (y + 3.8) / height) < 0)[None]
    iou, place = fit_shape(mask, shape)
    assert iou.item() > 0.99
    assert torch.allclose(place[0], torch.tensor([96 + 5.3, 64 - 3.8, width, height]), atol=0.4)
    others = [fit_shape(mask, other)[0] for other in world.SHAPES if other != shape]
    assert torch.stack(others).max() < iou.item() - 0.03


def test_whole_clips_of_the_world():
    """Held-out clips as they are sampled: each frame's best fit is the prompted shape, and it takes no time."""
    rng = np.random.default_rng(11)
    forms, seconds = [], []
    for attributes in world.held_out_attributes(6, seed=11):
        clip = world.render([world.sample_scene(attributes, rng)], range(world.NUM_FRAMES), 8)[0]
        begun = time.process_time()
        forms.append(measure_form(clip, attributes))
        seconds.append(time.process_time() - begun)
    total = mean_form(forms)
    assert total.frames > 60
    assert total.iou > 0.995
    assert total.best == 1
    assert total.wrong_in_frame == 0
    assert min(seconds) < 5  # about 0.6 on one core; a machine may be busy


@pytest.mark.parametrize("scale", [4, 16])
def test_other_sizes_are_resized(scale):
    """Super-resolution's 64 x 96 has softer edges; larger videos than 128 x 192 lose nothing."""
    form = measure_form(drawing("triangle", 4.0, scale=scale), asked("triangle"))
    assert form.frames == 3
    assert form.iou > 0.98
    assert form.best == 1


def test_a_bent_outline_scores_lower_in_proportion():
    """Five bumps around a circle: what they take from the overlap, and from roundness, is known in advance."""
    x, y = pixels()
    angle, distance = torch.atan2(y, x), (x * x + y * y).sqrt()
    ious, rounds = [], []
    bends = (0.0, 0.05, 0.10, 0.15)
    for bend in bends:
        inside = (distance < 34 * (1 + bend * (5 * angle).cos())).expand(2, -1, -1)
        form = measure_form(painted(inside), asked("circle"))
        ious.append(form.iou)
        rounds.append(form.roundness)
    assert ious[0] > 0.99
    for bend, iou, error in zip(bends[1:], ious[1:], rounds[1:], strict=True):
        lost = 4 * bend / math.pi  # the mean of |cos| is 2/pi, and area goes with the square of the radius
        assert ious[0] - iou == pytest.approx(lost, rel=0.25)
        assert error == pytest.approx(bend / math.sqrt(2), rel=0.12)


def test_roundness_sees_an_ellipse():
    """Its aspect is free in the overlap but not here: radii of 1.1 and 0.9 deviate by 0.1 / sqrt(2)."""
    x, y = pixels()
    inside = ((x / 33).square() + (y / 27).square() < 1)[None]
    assert roundness(inside).item() == pytest.approx(0.1 / math.sqrt(2), rel=0.05)
    assert measure_form(painted(inside), asked("circle")).iou > 0.99


@pytest.mark.parametrize(("drawn", "wanted"), [(a, b) for a, b in itertools.permutations(world.SHAPES, 2)])
def test_another_shape_is_told(drawn, wanted):
    """A square for "circle": another shape fits better in every frame, and the overlap is far from a true one's."""
    form = measure_form(drawing(drawn, 4.0), asked(wanted))
    assert form.best == 0
    assert form.iou < 0.95


def test_a_square_with_round_corners_falls_with_their_radius():
    """A pillow: between square and circle, at some radius of its corners the circle wins."""
    x, y = pixels()
    forms = []
    for corner in (0, 8, 16, 24):
        out = torch.stack(torch.broadcast_tensors(x.abs() - 30 + corner, y.abs() - 30 + corner)).clamp(min=0)
        forms.append(measure_form(painted((out.norm(dim=0) <= corner)[None]), asked("square")))
    ious = [form.iou for form in forms]
    assert ious[0] > 0.99
    assert ious == sorted(ious, reverse=True)
    assert ious[1] - ious[3] > 0.04
    assert [form.best for form in forms] == [1, 1, 1, 0]


def test_painted_spots_are_counted():
    """12 x 10 pixels of another colour in the body of one frame of three, and as many in the ground of another."""
    clip = drawing("square", 5.0, "green", "pink")
    clean = measure_form(clip, asked("square", "green", "pink"))
    clip[0, :, 60:70, 90:102] = torch.tensor(world.COLOURS["blue"])[:, None, None]
    area = (2 * 0.88 * 40) ** 2
    spotted = measure_form(clip, asked("square", "green", "pink"))
    assert clean.wrong_in_frame == 0
    assert spotted.wrong_in_frame == pytest.approx(120 / (3 * 128 * 192))
    assert spotted.wrong_in_object == pytest.approx(120 / (3 * area), rel=0.02)
    assert spotted.iou == pytest.approx(clean.iou, abs=1e-3)  # a spot within is no matter of the outline
    clip[1, :, 10:20, 10:22] = torch.tensor((0.2, 0.9, 0.9))[:, None, None]
    assert measure_form(clip, asked("square", "green", "pink")).wrong_in_frame == pytest.approx(240 / (3 * 128 * 192))


@pytest.mark.parametrize("background", GROUNDS)
@pytest.mark.parametrize("colour", world.COLOURS)
def test_every_other_colour_of_the_palette_is_wrong(colour, background):
    """An object of another colour than asked for is wrong all over its body, on each ground."""
    known = _known_colours(colour, background)
    assert known.float().mean() < 0.35
    palette = torch.tensor([value for name, value in world.COLOURS.items() if name != colour])
    assert wrong_colours(palette.T[None, :, None], colour, background).all()
    assert not wrong_colours(torch.tensor(world.COLOURS[colour])[None, :, None, None], colour, background).any()


def test_objects_that_are_cut_off_or_tiny_are_left_out():
    """One frame of four is whole and large enough; figures are of that one alone."""
    attributes = asked("circle")
    places = [(12.0, 8.0, 4.0), (2.0, 8.0, 4.0), (12.0, 14.5, 4.0), (12.0, 8.0, 1.0)]
    clip = torch.cat([world.render([world.Scene(attributes, place, place)], [0.0], 8)[0] for place in places])
    form = measure_form(clip, attributes)
    assert form.frames == 1
    assert form.iou == measure_form(clip[:1], attributes).iou


@pytest.mark.parametrize("clip", [torch.full((4, 3, 128, 192), 0.91), drawing("circle", 1.0), drawing("cross", 9.5)])
def test_a_clip_with_nothing_to_measure_says_so(clip):
    """Empty, tiny, and larger than the frame: no figure at all, and none in a mean."""
    nothing = measure_form(clip, asked("circle"))
    assert nothing == Form(0)
    assert nothing.iou is None
    some = measure_form(drawing("circle", 4.0), asked("circle"))
    assert mean_form([nothing, some]) == some
    assert mean_form([nothing, nothing]) == mean_form([]) == Form(0)


def test_the_order_of_frames_is_no_matter():
    rng = np.random.default_rng(3)
    attributes = world.Attributes("blue", "cross", "growing", "gray")
    clip = world.render([world.sample_scene(attributes, rng)], range(0, world.NUM_FRAMES, 3), 8)[0]
    clip = (clip + 0.03 * torch.randn(clip.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    form = measure_form(clip, attributes)
    turned = measure_form(clip[torch.randperm(len(clip), generator=torch.Generator().manual_seed(1))], attributes)
    assert form.frames == turned.frames > 3
    for name in ("iou", "best", "wrong_in_object", "wrong_in_frame"):
        assert getattr(form, name) == pytest.approx(getattr(turned, name), abs=1e-5)
    assert form.iou > 0.98


def test_an_open_background_is_read_off_the_clip():
    clip = drawing("square", 4.0, "yellow", "black")
    assert measure_form(clip, asked("square", "yellow", None)) == measure_form(
        clip, asked("square", "yellow", "black")
    )


def test_another_ground_than_asked_for_is_wrong_all_over():
    form = measure_form(drawing("square", 4.0, "yellow", "black"), asked("square", "yellow", "pink"))
    assert form.iou > 0.99  # its outline is as it should be
    assert form.wrong_in_frame > 0.4  # and the pattern's lines are near to a drawing's mixed edges


def test_a_fit_finds_the_same_from_any_shape_and_size():
    """Against a search by brute force: of a near shape, least squares find the best overlap that there is."""
    generator = torch.Generator().manual_seed(4)
    x, y = pixels()
    angle, distance = torch.atan2(y, x), (x * x + y * y).sqrt()
    bumps = sum((k * angle + p).cos() * a for k, p, a in ((2, 0.4, 0.05), (3, 1.0, 0.06), (5, 2.0, 0.04)))
    masks = (distance < 30 * (1 + bumps))[None]
    for shape in world.SHAPES:
        iou, place = fit_shape(masks, shape)
        tries = place + torch.randn(400, 4, generator=generator) * torch.tensor([1.5, 1.5, 2.0, 2.0])
        cx, cy, rx, ry = (column[:, None, None] for column in tries.unbind(1))
        drawn = world.signed_distance(shape, (x + 96 - cx) / rx, (y + 64 - cy) / ry) < 0
        found = (drawn & masks).sum(dim=(1, 2)) / (drawn | masks).sum(dim=(1, 2))
        assert iou.item() > found.max().item() - (0.002 if iou > 0.85 else 0.03)  # what is small need not be exact


def test_layout_is_checked():
    with pytest.raises(ValueError, match="frames, 3, height, width"):
        measure_form(torch.zeros(4, 128, 192, 3), asked("circle"))


def test_specks_are_no_part_of_the_object():
    """Neither does one on the border cut the object off, nor does one anywhere else cost overlap."""
    clip = drawing("circle", 4.0, "green", "black")
    clean = measure_form(clip, asked("circle", "green", "black"))
    clip[:, :, :3, :4] = clip[:, :, 20:23, 20:24] = torch.tensor(world.COLOURS["green"])[:, None, None]
    assert measure_form(clip, asked("circle", "green", "black")) == clean
