# SPDX-License-Identifier: Apache-2.0
"""Frames to model space and back, and the windows: properties of pure functions."""

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from diffusers_show1.clips.arrays import from_model_space, resize_uint8, to_model_space, truncate_to_uint8
from diffusers_show1.sampling.windows import chained_windows, interpolated_length


quick = settings(max_examples=40, deadline=None, derandomize=True)
shapes = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.just(3))
uint8_videos = shapes.flatmap(lambda shape: hnp.arrays(np.uint8, shape))
float_videos = shapes.flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=st.floats(0, 1, width=32)))


@quick
@given(uint8_videos)
def test_uint8_round_trip(video):
    """8-bit frames survive the way to model space and back, as numbers and as images."""
    raw = to_model_space(video)
    assert raw.shape == (video.shape[0], 3, video.shape[1], *video.shape[2:4])
    assert raw.dtype == torch.float32
    assert raw.abs().max() <= 1
    assert np.array_equal((from_model_space(raw, "np") * 255).round().astype(np.uint8), video)
    images = from_model_space(raw, "pil")
    assert np.array_equal(np.stack([[np.asarray(frame) for frame in clip] for clip in images]), video)
    assert torch.equal(to_model_space(images), raw)


@quick
@given(float_videos)
def test_float_round_trip(video):
    """np and pt frames come back within rounding; each form gives the same model space."""
    raw = to_model_space(video)
    assert np.abs(from_model_space(raw, "np") - video).max() <= 1e-6
    as_pt = torch.from_numpy(video).permute(0, 1, 4, 2, 3)
    assert torch.equal(to_model_space(as_pt, "pt"), raw)
    assert torch.allclose(from_model_space(raw, "pt"), as_pt, atol=1e-6)
    assert torch.equal(to_model_space(raw, "latent"), raw)
    assert from_model_space(raw, "latent") is raw
    assert torch.equal(to_model_space(video[0]), raw[:1])  # one video without a batch axis
    assert torch.equal(to_model_space([list(clip) for clip in video]), raw)


@quick
@given(
    st.integers(1, 3).flatmap(lambda b: hnp.arrays(np.float32, (b, 3, 2, 3, 4), elements=st.floats(-3, 3, width=32)))
)
def test_out_of_range_is_clamped_not_wrapped(raw):
    video = torch.from_numpy(raw)
    frames = from_model_space(video, "np")
    assert frames.min() >= 0
    assert frames.max() <= 1
    inside = np.abs(raw) <= 1
    assert np.abs((frames * 2 - 1).transpose(0, 4, 1, 2, 3) - raw)[inside].max(initial=0) < 1e-6
    assert np.array_equal(truncate_to_uint8(video), truncate_to_uint8(video.clamp(-1, 1)))


@quick
@given(hnp.arrays(np.float32, (1, 3, 2, 3, 4), elements=st.floats(-1, 1, width=32)))
def test_truncate_to_uint8(raw):
    """Cut off, not rounded: each level holds what lies above it, by less than one level."""
    levels = truncate_to_uint8(torch.from_numpy(raw))
    assert levels.dtype == np.uint8
    assert levels.shape == (1, 2, 3, 4, 3)
    exact = (raw.astype(np.float64) / 2 + 0.5).transpose(0, 2, 3, 4, 1) * 255
    assert (exact - levels >= -1e-4).all()
    assert (exact - levels < 1 + 1e-4).all()


def test_truncation_is_not_rounding():
    assert truncate_to_uint8(torch.full((1, 3, 1, 1, 1), 199.9 / 255 * 2 - 1)).max() == 199


@quick
@given(st.integers(1, 300), st.integers(2, 30))
def test_chained_windows(num_frames, window_size):
    """All frames are covered, neighbours share exactly one, none is too long, and they are even."""
    windows = chained_windows(num_frames, window_size)
    assert windows[0][0] == 0
    assert windows[-1][1] == num_frames
    assert all(later[0] == earlier[1] - 1 for earlier, later in zip(windows, windows[1:], strict=False))
    lengths = [stop - start for start, stop in windows]
    assert max(lengths) <= window_size
    assert max(lengths) - min(lengths) <= 1
    assert min(lengths) >= min(2, num_frames)
    # no more windows than are needed
    assert len(windows) == max(1, -(-(num_frames - 1) // (window_size - 1)))


def test_the_papers_windows():
    assert chained_windows(29, 8) == [(0, 8), (7, 15), (14, 22), (21, 29)]
    assert chained_windows(1, 8) == [(0, 1)]
    assert chained_windows(8, 8) == [(0, 8)]


@quick
@given(st.integers(1, 100), st.integers(1, 10))
def test_interpolated_length(keyframes, between):
    """Each keyframe and `between` new ones in every gap."""
    length = interpolated_length(keyframes, between)
    assert length == keyframes + between * (keyframes - 1)


def test_the_papers_length():
    assert interpolated_length(8) == 29


def test_pil_modes_are_converted():
    """Grey, palette and transparent images are read as RGB."""
    frames = [PIL.Image.new(mode, (4, 2)) for mode in ("L", "P", "RGBA", "RGB")]
    assert to_model_space(frames).shape == (1, 3, 4, 2, 4)


def test_gradients_and_memory_are_not_shared():
    """The input is neither changed nor kept in an autograd graph."""
    video = torch.rand(1, 2, 3, 4, 4, requires_grad=True)
    raw = to_model_space(video)
    assert not raw.requires_grad
    array = np.zeros((2, 4, 4, 3), np.uint8)
    to_model_space(array).add_(1)
    assert not array.any()
    single = np.zeros((2, 4, 4, 3), np.float32)
    to_model_space(single).add_(1)
    assert not single.any()


def test_strided_arrays():
    """Views with negative steps (a video played backwards) are read as they look."""
    array = np.random.default_rng(0).integers(0, 255, (4, 2, 3, 3), np.uint8)
    assert torch.equal(to_model_space(array[::-1]), to_model_space(array.copy()[::-1].copy()))


def test_resize_uint8():
    frames = np.full((1, 2, 4, 6, 3), 77, np.uint8)
    resized = resize_uint8(frames, 8, 18)
    assert resized.shape == (1, 2, 8, 18, 3)
    assert (resized == 77).all()


IMAGE = PIL.Image.new("RGB", (4, 4))
BAD = [
    ("none", None, TypeError, "NoneType"),
    ("path", "video.mp4", TypeError, "str"),
    ("single image", IMAGE, ValueError, "single image"),
    ("empty list", [], ValueError, "empty list"),
    ("empty inner list", [[]], ValueError, "empty list"),
    ("list of paths", ["a.png", "b.png"], TypeError, "str"),
    ("mixed list", [IMAGE, np.zeros((4, 4, 3))], TypeError, "ndarray"),
    ("two sizes", [IMAGE, PIL.Image.new("RGB", (4, 6))], ValueError, "(4, 6)"),
    ("two shapes", [np.zeros((4, 4, 3)), np.zeros((4, 5, 3))], ValueError, "(4, 5, 3)"),
    ("two lengths", [[IMAGE], [IMAGE, IMAGE]], ValueError, "(2, 4, 4, 3)"),
    ("one frame array", np.zeros((4, 4, 3)), ValueError, "(4, 4, 3)"),
    ("four channels", np.zeros((2, 4, 4, 4)), ValueError, "2, 4, 4, 4)"),
    ("channels first", np.zeros((2, 3, 4, 4)), ValueError, "2, 3, 4, 4)"),
    ("six axes", np.zeros((1, 1, 2, 4, 4, 3)), ValueError, "(1, 1, 2, 4, 4, 3)"),
    ("no frames", np.zeros((0, 4, 4, 3)), ValueError, "(1, 0, 4, 4, 3)"),
    ("integers", np.zeros((2, 4, 4, 3), np.int64), ValueError, "int64"),
    ("0..255 floats", np.full((2, 4, 4, 3), 128.0), ValueError, "128"),
    ("-1..1 floats", np.full((2, 4, 4, 3), -1.0), ValueError, "-1"),
    ("NaN", np.full((2, 4, 4, 3), np.nan), ValueError, "nan"),
    ("tensor of 3 axes", torch.zeros(3, 4, 4), ValueError, "(3, 4, 4)"),
    ("uint8 tensor", torch.zeros(1, 2, 3, 4, 4, dtype=torch.uint8), ValueError, "torch.uint8"),
    ("ambiguous tensor", torch.zeros(1, 3, 3, 4, 4), ValueError, "(1, 3, 3, 4, 4)"),
    ("channels last tensor", torch.zeros(1, 2, 4, 4, 3), ValueError, "(1, 2, 4, 4, 3)"),
    ("NaN pt tensor", torch.full((1, 2, 3, 4, 4), torch.nan), ValueError, "nan"),
    ("pt in -1..1", torch.full((1, 2, 3, 4, 4), -1.0), ValueError, "-1"),
    ("NaN latent", torch.full((1, 3, 2, 4, 4), torch.nan), ValueError, "NaN"),
    ("empty tensor", torch.zeros(1, 3, 0, 4, 4), ValueError, "(1, 3, 0, 4, 4)"),
]


@pytest.mark.parametrize(("frames", "error", "value"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_frames(frames, error, value):
    """What are no frames, or can be read in two ways, is refused by the argument's name."""
    with pytest.raises(error) as caught:
        to_model_space(frames, name="clip")
    assert "`clip" in str(caught.value)
    assert value in str(caught.value)


@pytest.mark.parametrize(
    ("frames", "input_type"),
    [
        (torch.zeros(1, 3, 2, 4, 4), "np"),
        (torch.zeros(1, 3, 2, 4, 4), "pt"),
        (torch.zeros(1, 2, 3, 4, 4), "latent"),
        (np.zeros((2, 4, 4, 3)), "latent"),
    ],
)
def test_bad_input_type(frames, input_type):
    with pytest.raises(ValueError, match=r"`input_type`|`frames`"):
        to_model_space(frames, input_type)


def test_bad_output_type():
    with pytest.raises(ValueError, match="`output_type`.*'mp4'"):
        from_model_space(torch.zeros(1, 3, 1, 4, 4), "mp4")
