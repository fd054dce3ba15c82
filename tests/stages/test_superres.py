# SPDX-License-Identifier: Apache-2.0
"""Super-resolution: every frame is made, windows are chained, conditions arrive where they belong."""

import pytest
import torch

from diffusers_show1.sampling.windows import chained_windows

from ..contract.components import Calls, clip, pipeline, seeded
from ..golden.cases import max_difference


@pytest.fixture(scope="module")
def full():
    """With the image model for the first frame."""
    return pipeline("superres")


@pytest.fixture(scope="module")
def pipe():
    return pipeline("superres", first_frame_unet=None, first_frame_scheduler=None)


@pytest.fixture(scope="module")
def embeds(pipe):
    with torch.no_grad():
        embeds, negative = pipe.encode_prompt("a red car")
    return {"prompt_embeds": embeds, "negative_prompt_embeds": negative}


@pytest.fixture
def run(pipe, embeds):
    def run(frames, pipe=pipe, **options):
        """The video, the network's calls, and each window's result."""
        windows = []

        def keep(stage, step, timestep, tensors):
            if step == stage.num_timesteps - 1:
                windows.append(tensors["latents"].clone())
            return {}

        options = {"num_inference_steps": 2, "guidance_scale": 1.0, "generator": seeded(), **options}
        with Calls(pipe.unet) as calls:
            video = pipe(
                frames,
                input_type="latent",
                output_type="latent",
                callback_on_step_end=keep,
                **embeds,
                **options,
            ).frames
        return video, calls, windows

    return run


@pytest.mark.parametrize("count", range(1, 31))
def test_every_frame_is_made(run, count):
    """For any number of frames each is a window's result: the later window's where two share it."""
    video, calls, windows = run(clip(count, 2, 2), num_inference_steps=1)
    expected = torch.full_like(video, torch.nan)
    places = chained_windows(count, 8)
    assert len(windows) == len(places) == len(calls)
    for (start, stop), window in zip(places, windows, strict=True):
        expected[:, :, start:stop] = window
    assert video.shape == (1, 3, count, 8, 8)
    assert torch.equal(video, expected)  # NaN, where no window was, equals nothing


def test_windows_are_chained(run):
    """The condition of a window's first frame is the last frame of the window before, exactly."""
    _, calls, windows = run(clip(8, 4, 6), window_size=3)
    steps = 2
    first_calls = calls[::steps]
    assert len(first_calls) == len(windows) == 4
    for before, call in zip(windows, first_calls[1:], strict=False):
        assert torch.equal(call["sample"][:, 3:, 0], before[:, :, -1])
    # and it is the same at every step of the window
    for step in range(steps):
        assert torch.equal(calls[2 * steps - 2 + step + 0]["sample"][:, 3:], calls[2 * steps - 2]["sample"][:, 3:])


def test_first_frame_leads_the_first_window(run):
    """A given first frame is the clean condition of frame 0; the others' conditions are noised."""
    frame = clip(1, 16, 24, seed=9)
    video, calls, _ = run(clip(2, 4, 6), first_frame=frame)
    assert torch.equal(calls[0]["sample"][:, 3:, :1], frame)
    without, calls_without, _ = run(clip(2, 4, 6))
    assert not torch.equal(calls_without[0]["sample"][:, 3:, :1], frame)
    assert max_difference(video, without) > 1e-3


@pytest.mark.parametrize("level", [0, 250, 999])
def test_noise_level(run, pipe, level):
    """The level reaches the network as class label, and the condition has just that much noise."""
    low = clip(2, 4, 6)
    _, calls, _ = run(low, noise_level=level, guidance_scale=3.0)
    assert all(call["class_labels"].tolist() == [level, level] for call in calls)
    upscaled = pipe.upsample(low[0].transpose(0, 1), 16, 24).transpose(0, 1)
    kept = pipe.image_noising_scheduler.alphas_cumprod[level] ** 0.5
    noise = (calls[0]["sample"][0, 3:] - kept * upscaled) / (1 - kept**2) ** 0.5
    assert noise.std() == pytest.approx(1, abs=0.1)
    assert abs(noise.mean()) < 0.1


def test_condition_frames(run, pipe):
    """Given frames of full size are what is noised, instead of the upscaled video."""
    given = clip(2, 16, 24, seed=5)
    _, calls, _ = run(clip(2, 4, 6), condition_frames=given, noise_level=0)
    kept = pipe.image_noising_scheduler.alphas_cumprod[0] ** 0.5
    assert max_difference(calls[0]["sample"][:, 3:], kept * given) < 0.1
    upscaled = pipe.upsample(clip(2, 4, 6)[0].transpose(0, 1), 16, 24).transpose(0, 1)
    assert max_difference(calls[0]["sample"][0, 3:], kept * upscaled) > 0.5


def test_image_model_makes_the_first_frame(run, full, embeds):
    """Frame 0 comes from the image model: its steps, level and result are those asked for."""
    low = clip(2, 4, 6)
    options = {"first_frame_num_inference_steps": 3, "first_frame_noise_level": 123, "first_frame_guidance_scale": 2.0}
    with Calls(full.first_frame_unet) as image_calls:
        _, calls, _ = run(low, full, window_noise="same", **options)
    assert len(image_calls) == 3
    assert all(call["sample"].shape == (2, 6, 16, 24) for call in image_calls)
    assert all(call["class_labels"].tolist() == [123, 123] for call in image_calls)
    frame = full.upscale_first_frame(
        low[:, :, :1],
        16,
        24,
        num_inference_steps=3,
        guidance_scale=2.0,
        noise_level=123,
        generator=seeded(),
        **embeds,
    )
    assert max_difference(calls[0]["sample"][:, 3:, :1], frame) < 1e-5


def test_image_model_is_not_asked_when_a_first_frame_is_given(run, full):
    with Calls(full.first_frame_unet) as image_calls:
        run(clip(2, 4, 6), full, first_frame=clip(1, 16, 24))
    assert image_calls == []


def test_window_noise(run):
    """`"same"`: every window starts from the same numbers; `"independent"`: from its own."""
    for kind, equal in (("same", True), ("independent", False)):
        _, calls, _ = run(clip(5, 4, 6), window_size=3, window_noise=kind, num_inference_steps=1)
        assert torch.equal(calls[0]["sample"][:, :3], calls[1]["sample"][:, :3]) is equal


@pytest.mark.parametrize("window_noise", ["same", "independent"])
@pytest.mark.parametrize("size", [(4, 6), (3, 5)], ids=["16x24", "6x10"])
def test_each_video_of_a_batch_is_the_one_made_alone(run, pipe, embeds, window_noise, size):
    """Also where a frame's numbers are no multiple of 16, in which PyTorch's generator draws."""
    height, width = (16, 24) if size == (4, 6) else (6, 10)
    frames = clip(4, *size, videos=2)
    options = {"window_noise": window_noise, "window_size": 3, "height": height, "width": width}
    both, _, _ = run(frames, num_videos_per_prompt=2, generator=[seeded(0), seeded(1)], **options)
    for i in range(2):
        alone, _, _ = run(frames[i : i + 1], generator=seeded(i), **options)
        assert max_difference(both[i : i + 1], alone) < 1e-4


def test_size(run):
    """Four times the input by default, or any size that the network can halve."""
    assert run(clip(1, 3, 5))[0].shape[-2:] == (12, 20)
    assert run(clip(1, 3, 5), height=10, width=14)[0].shape[-2:] == (10, 14)


def test_forms_of_first_frame(pipe, embeds):
    """The first frame may be an image although the video is a tensor of ambiguous layout."""
    from diffusers_show1.clips.arrays import from_model_space, to_model_space

    images = from_model_space(clip(1, 16, 24), "pil")
    raw = to_model_space(images)

    def run(first_frame):
        return pipe(
            clip(3, 4, 6),
            input_type="latent",
            first_frame=first_frame,
            num_inference_steps=1,
            generator=seeded(),
            output_type="latent",
            **embeds,
        ).frames

    assert max_difference(run(images), run(raw)) < 1e-5
