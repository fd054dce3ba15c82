# SPDX-License-Identifier: Apache-2.0
"""Peak memory does not grow with the number of frames beyond the frames themselves."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.live_bytes import FlashAttention, LiveBytes, allocated_peak
from diffusers_show1.clips.arrays import from_model_space
from diffusers_show1.families.show1.refine import WindowedUNet
from diffusers_show1.nn.transformer import TransformerBlock
from diffusers_show1.sampling.text import text_width
from diffusers_show1.sampling.windows import overlapping_windows

from ..golden.cases import max_difference
from .components import clip, components, pipeline, seeded


def test_live_bytes_counts_storages():
    """Views count once, what is dropped is gone, and what was there before is not counted."""
    before = torch.zeros(1000)
    with LiveBytes() as live:
        made = before * 2
        view = made.view(10, 100)
        del made
        assert live.live == 4000
        assert before.view(10, 100).sum() == 0
        more = view + 1
        del more, view
        assert live.live == 0
        assert 8000 <= live.peak < 8100


@torch.no_grad()
def test_live_bytes_on_meta_is_what_the_cpu_allocates():
    """The estimate for a part of a network, without any memory, against PyTorch's own record of a real run.

    `benchmarks/full_size.py --check` compares whole networks, at a size that makes light of convolutions' workspaces.
    So few tokens that the CPU does not take them in parts, which it alone does.
    """
    block, x, text = TransformerBlock(64, 4, 16, 32), torch.zeros(2, 200, 64), torch.zeros(2, 7, 32)
    allocated = allocated_peak(lambda: block(x, block.project_text(text)))
    block, x, text = (thing.to("meta") for thing in (block, x, text))
    with LiveBytes() as live, FlashAttention():
        block(x, block.project_text(text))
    assert 0.95 < live.peak / allocated < 1.05


def stage_and_inputs(name):
    """A stage, and its options for a video of so many frames of 8x12, one step, with the text given."""
    pipe = pipeline(name)
    text = dict.fromkeys(("prompt_embeds", "negative_prompt_embeds"), torch.zeros(1, 7, text_width(pipe.unet)))

    def inputs(frames):
        common = {**text, "generator": seeded(), "output_type": "pt", "guidance_scale": 2.0}
        if name == "interpolation":
            return {**common, "frames": clip((frames - 1) // 4 + 1), "input_type": "latent", "num_inference_steps": 1}
        if name == "superres":
            low = {"frames": clip(frames, 2, 3), "first_frame": clip(1, 8, 12), "num_inference_steps": 1}
            return {**common, **low, "input_type": "latent"}
        return {**common, "frames": clip(frames), "num_inference_steps": 2, "height": 16, "width": 24}

    return pipe, inputs


def peak(pipe, **inputs):
    with LiveBytes() as live:
        frames = pipe(**inputs).frames
    return live.peak, frames.nbytes


@pytest.mark.parametrize("stage", ["interpolation", "superres", "refine"])
def test_peak_does_not_grow_with_frames(stage):
    """29, 57 and 113 frames: what is added is a few times the added frames; each longer run adds windows in time."""
    pipe, inputs = stage_and_inputs(stage)
    (base, size), (longer, longer_size), (longest, longest_size) = (peak(pipe, **inputs(n)) for n in (29, 57, 113))
    assert longest_size == 113 * size // 29
    assert longer - base <= FRAMES * (longer_size - size)
    assert longest - base <= FRAMES * (longest_size - size)


# Noise, condition with its mask, windows done and joined, scheduler's history and finite result: each is a video.
FRAMES = 12


@pytest.mark.parametrize(("stage", "whole"), [("interpolation", "window_batch_size"), ("refine", "window_size")])
def test_peak_grows_without_windows(stage, whole):
    """The limit above tells: with everything at once, activations of all frames are there together."""
    pipe, inputs = stage_and_inputs(stage)
    (base, size), (longer, longer_size) = (peak(pipe, **inputs(n), **{whole: None}) for n in (29, 57))
    assert longer - base > 2 * FRAMES * (longer_size - size)


def test_frames_are_converted_one_by_one():
    """Beside the result there is one frame in float32."""
    video = clip(50, 16, 24).half()
    frame = 3 * 16 * 24 * 4
    for output_type in ("pt", "np"):
        with LiveBytes() as live:
            from_model_space(video, output_type)
        assert live.peak <= (50 + 4) * frame


@given(st.integers(1, 400), st.integers(2, 40), st.data())
def test_overlapping_windows(frames, size, data):
    """They cover all frames in order, have one size, and share at least the overlap."""
    overlap = data.draw(st.integers(0, size - 1))
    windows = overlapping_windows(frames, size, overlap)
    assert windows[0][0] == 0
    assert windows[-1][1] == frames
    assert {stop - start for start, stop in windows} == {min(size, frames)}
    for (start, stop), (following, _) in zip(windows, windows[1:], strict=False):
        assert start < following
        assert stop - following >= overlap


@torch.no_grad()
def test_windows_blend_predictions():
    """Where windows agree the blend is what they say; where they don't it moves from one to the other."""
    unet = components("refine")["unet"].eval()
    sample, text = torch.randn(1, 4, 9, 2, 3, generator=seeded()), torch.zeros(1, 7, text_width(unet))
    blended = WindowedUNet(unet, [(0, 5), (4, 9)])(sample, 5, encoder_hidden_states=text)[0]
    first = unet(sample[:, :, :5], 5, text).sample
    last = unet(sample[:, :, 4:], 5, text).sample
    assert max_difference(blended[:, :, :4], first[:, :, :4]) < 1e-5
    assert max_difference(blended[:, :, 5:], last[:, :, 1:]) < 1e-5
    assert max_difference(blended[:, :, 4], (first[:, :, 4] + last[:, :, 0]) / 2) < 1e-5
    assert max_difference(first[:, :, 4], last[:, :, 0]) > 1e-3


def test_refinement_windows():
    """Up to `window_size` frames the result is that of one window, bit for bit; beyond, windows see less than all."""
    pipe = pipeline("refine")
    text = dict.fromkeys(("prompt_embeds", "negative_prompt_embeds"), torch.zeros(1, 7, text_width(pipe.unet)))

    def run(**options):
        return pipe(clip(6), **text, num_inference_steps=3, generator=seeded(), output_type="pt", **options).frames

    whole = run(window_size=None)
    assert torch.equal(run(), whole)
    assert torch.equal(run(window_size=6, window_overlap=2), whole)
    parted = run(window_size=4, window_overlap=2)
    assert parted.shape == whole.shape
    assert 1e-3 < max_difference(parted, whole) < 1
    with pytest.raises(ValueError, match=r"`window_overlap` must be an integer in 0\.\.3, got 4"):
        run(window_size=4, window_overlap=4)
