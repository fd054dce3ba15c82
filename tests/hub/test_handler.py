# SPDX-License-Identifier: Apache-2.0
"""The endpoint handler: what it answers, and what it says to a request that cannot be used."""

import base64
import importlib.util
import io
import json
import math
from concurrent.futures import ThreadPoolExecutor

import av
import numpy as np
import pytest
import torch

from diffusers_show1 import (
    Show1CascadePipeline,
    Show1InterpolationPipeline,
    Show1KeyframePipeline,
    Show1SuperResolutionPipeline,
)
from diffusers_show1.hub import handler as source
from diffusers_show1.hub.cards import all_cards, render
from tests.golden.cases import MODELS


TINY_STAGES = {
    "base": {"height": 8, "width": 8, "num_frames": 2, "num_inference_steps": 1},
    "interpolation": {"frames_between": 1, "num_inference_steps": 1},
    "superres": {"height": 32, "width": 32, "num_inference_steps": 1},
    "refine": {"height": 40, "width": 36, "num_inference_steps": 2},
}


def handler_of(pipe, folder):
    """As Inference Endpoints do it: the file in the repository, executed as a module, on the repository's folder."""
    pipe.save_pretrained(folder)
    (folder / "handler.py").write_bytes(open(source.__file__, "rb").read())
    spec = importlib.util.spec_from_file_location("handler", folder / "handler.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.EndpointHandler(str(folder))


@pytest.fixture(scope="module")
def stages():
    fp16 = {"variant": "fp16", "dtype": torch.float32}
    base = Show1KeyframePipeline.from_pretrained(MODELS / "show-1-base", **fp16)
    base.unet.register_to_config(sample_size=16)  # its own, 8, makes frames of a height that it cannot halve
    shared = {"tokenizer": base.tokenizer, "text_encoder": base.text_encoder}
    return {
        "base": base,
        "interpolation": Show1InterpolationPipeline.from_pretrained(MODELS / "show-1-interpolation", **shared, **fp16),
        "superres": Show1SuperResolutionPipeline.from_pretrained(MODELS / "show-1-sr1", dtype=torch.float32),
    }


@pytest.fixture(scope="module")
def cascade(stages, tmp_path_factory):
    pipe = Show1CascadePipeline.from_stages(
        **stages, refine=MODELS / "show-1-sr2", stage_defaults=TINY_STAGES, dtype=torch.float32
    )
    return handler_of(pipe, tmp_path_factory.mktemp("cascade"))


@pytest.fixture(scope="module")
def interpolation(stages, tmp_path_factory):
    return handler_of(stages["interpolation"], tmp_path_factory.mktemp("interpolation"))


def frames_of(answer):
    with av.open(io.BytesIO(base64.b64decode(answer["video"]))) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def distance(first, second):
    """Mean difference of two answers' pixels, 0 to 255. The encoder does not always give the same bytes."""
    return np.abs(np.subtract(frames_of(first), frames_of(second), dtype=float)).mean()


def video_of(clip):
    return base64.b64encode(source.encode(clip, 8)).decode()


# ---------------------------------------------------------------------------------------------------------------------
# Answers


def test_a_cascade_answers_with_an_mp4(cascade):
    answer = cascade({"inputs": "a red circle"})
    assert json.loads(json.dumps(answer)) == answer  # the server writes JSON
    assert {name: answer[name] for name in ("content_type", "num_frames", "height", "width", "fps")} == {
        "content_type": "video/mp4",
        "num_frames": 3,
        "height": 40,
        "width": 36,
        "fps": 8.0,
    }
    frames = frames_of(answer)
    assert [frame.shape for frame in frames] == [(40, 36, 3)] * 3
    assert np.std(frames) > 1


def test_parameters_reach_the_pipeline_and_the_seed_decides(cascade):
    parameters = {
        "num_frames": 5,
        "num_inference_steps": 2.0,
        "guidance_scale": 2,
        "negative_prompt": ["blur", "noise"],
        "seed": 11,
    }
    arguments, seed = cascade.read({"inputs": "a red circle", "parameters": parameters})
    options = {"num_inference_steps": 2, "guidance_scale": 2.0}
    assert (arguments, seed) == (
        {
            "prompt": "a red circle",
            "negative_prompt": "blur, noise",
            "num_frames": 5,
            "stage_options": dict.fromkeys(("base", "interpolation", "superres", "refine"), options),
        },
        11,
    )
    answer = cascade({"inputs": "a red circle", "parameters": parameters})
    assert (answer["num_frames"], answer["seed"]) == (5, 11)


def test_the_seed_decides_and_a_drawn_one_is_told(cascade):
    first = cascade({"inputs": "a red circle", "parameters": {"seed": None}})
    again, other = (
        cascade({"inputs": "a red circle", "parameters": {"seed": first["seed"] + more}}) for more in (0, 1)
    )
    assert distance(first, again) < 1
    assert distance(first, other) > 10


def test_a_stage_that_takes_a_video(interpolation):
    clip = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    request = {"inputs": "a red circle", "parameters": {"video": video_of(clip), "num_inference_steps": 1}}
    answer = interpolation(request)
    assert [frame.shape for frame in frames_of(answer)] == [(16, 16, 3)] * 5
    assert (answer["num_frames"], answer["fps"]) == (5, 8.0)


def test_keyframes_play_at_their_own_rate(stages, tmp_path):
    handler = handler_of(stages["base"], tmp_path)
    answer = handler({"inputs": "a", "parameters": {"num_frames": 1, "num_inference_steps": 1}})
    assert (answer["num_frames"], answer["fps"]) == (1, 2.0)


def test_requests_run_one_after_the_other(interpolation):
    video = video_of(np.zeros((2, 16, 16, 3), np.uint8))

    def ask(seed):
        return interpolation({"inputs": "a", "parameters": {"seed": seed, "num_inference_steps": 2, "video": video}})

    alone = [ask(seed) for seed in range(3)]
    with ThreadPoolExecutor(3) as threads:
        together = list(threads.map(ask, range(3)))
    assert all(distance(*pair) < 1 for pair in zip(alone, together, strict=True))


def test_odd_sizes_are_padded_and_colours_survive():
    clip = np.zeros((3, 33, 31, 3), np.uint8)
    clip[..., 0] = 200
    frames = frames_of({"video": video_of(clip)})
    assert [frame.shape for frame in frames] == [(34, 32, 3)] * 3
    assert np.abs(np.mean(frames, axis=(0, 1, 2)) - [200, 0, 0]).max() < 12


@pytest.mark.parametrize("name", all_cards())
def test_the_cards_request_is_one_that_the_handler_takes(name, cascade, interpolation):
    text = render(name).split("```json\n")[1].split("\n```")[0]
    request = json.loads(text)
    if "video" in request["parameters"]:
        request["parameters"]["video"] = video_of(np.zeros((2, 16, 16, 3), np.uint8))
        interpolation.read(request)
    else:
        cascade.read(request)


# ---------------------------------------------------------------------------------------------------------------------
# Refusals

LONG = "a" * 2001


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (None, "the request must be a JSON object, .*; got None"),
        ([], "the request must be a JSON object"),
        ({}, "inputs must be a text that is not empty, of at most 2000 characters; got None"),
        ({"inputs": " \n"}, "inputs must be a text"),
        ({"inputs": 7}, "inputs must be a text .*; got 7"),
        ({"inputs": ["a"]}, "inputs must be a text"),
        ({"inputs": LONG}, r"inputs must be a text .*; got 'a{99}\.\.\.$"),
        ({"parameters": []}, r"parameters must be a JSON object; got \[\]"),
        ({"parameters": {"height": 64}}, "parameters must be made of negative_prompt, num_frames, .*; got 'height'"),
        ({"parameters": {"num_frames": 0}}, r"parameters.num_frames must be a whole number from 2 to 121; got 0"),
        ({"parameters": {"num_frames": 122}}, "parameters.num_frames must be .*; got 122"),
        ({"parameters": {"num_frames": 8.5}}, "parameters.num_frames must be .*; got 8.5"),
        ({"parameters": {"num_frames": "8"}}, "parameters.num_frames must be .*; got '8'"),
        ({"parameters": {"num_frames": True}}, "parameters.num_frames must be .*; got True"),
        ({"parameters": {"num_inference_steps": 0}}, "parameters.num_inference_steps must be .* from 1 to 250; got 0"),
        ({"parameters": {"num_inference_steps": math.inf}}, "parameters.num_inference_steps must be .*; got inf"),
        ({"parameters": {"guidance_scale": math.nan}}, "parameters.guidance_scale must be a number from 1 to 50; got"),
        ({"parameters": {"guidance_scale": 0.5}}, "parameters.guidance_scale must be .*; got 0.5"),
        ({"parameters": {"guidance_scale": "9"}}, "parameters.guidance_scale must be .*; got '9'"),
        ({"parameters": {"guidance_scale": True}}, "parameters.guidance_scale must be"),
        ({"parameters": {"negative_prompt": 3}}, "parameters.negative_prompt must be texts"),
        ({"parameters": {"negative_prompt": ["a", None]}}, "parameters.negative_prompt must be texts"),
        ({"parameters": {"negative_prompt": LONG}}, "parameters.negative_prompt must be texts of at most 2000"),
        ({"parameters": {"seed": -1}}, "parameters.seed must be a whole number from 0 to"),
        ({"parameters": {"seed": "lucky"}}, "parameters.seed must be .*; got 'lucky'"),
        ({"parameters": {"video": "AAAA"}}, "parameters must be made of .*; got 'video'"),
    ],
)
def test_bad_requests_are_told_what_is_wrong(cascade, request_, message):
    if isinstance(request_, dict) and "parameters" in request_:
        request_ = {"inputs": "a", **request_}
    with pytest.raises(ValueError, match=message) as caught:
        cascade(request_)
    assert caught.type.__name__ == "BadRequest"
    assert caught.value.status_code == 400
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (None, "parameters.video must be base64 of a video of at most 32 MiB.*; got None"),
        (7, "parameters.video must be"),
        ("", "parameters.video must be"),
        ("not base64!", "parameters.video must be .*; got 'not base64!... "),
        (base64.b64encode(b"not a video").decode(), "parameters.video must be"),
        (video_of(np.zeros((122, 16, 16, 3), np.uint8)), "got 'more than 121 frames'"),
        (video_of(np.zeros((1, 322, 578, 3), np.uint8)), "got '578x322'"),
        (video_of(np.zeros((1, 16, 16, 3), np.uint8)), "`frames`"),  # the stage's own check: two keyframes at least
    ],
)
def test_bad_videos_are_told_what_is_wrong(interpolation, video, message):
    with pytest.raises(ValueError, match=message) as caught:
        interpolation({"inputs": "a", "parameters": {"video": video}})
    assert caught.value.status_code == 400


def h264(count, side):
    """Noise as a bare H.264 stream: one can be put behind another."""
    random = np.random.default_rng(0)
    buffer = io.BytesIO()
    with av.open(buffer, mode="w", format="h264") as container:
        stream = container.add_stream("libx264", rate=8, options={"preset": "ultrafast", "crf": "1"})
        stream.width, stream.height, stream.pix_fmt = side, side, "yuv420p"
        for _ in range(count):
            noise = random.integers(0, 256, (side, side, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def test_a_stream_that_grows_is_refused_where_it_grows():
    """FFmpeg tells a stream's size from its first megabytes, and these say 320x320."""
    small, large = h264(60, 320), h264(2, 1024)
    with av.open(io.BytesIO(small + large)) as container:
        assert container.streams.video[0].width == 320
    assert {frame.size for frame in source.decode("video", base64.b64encode(small).decode())} == {(320, 320)}
    with pytest.raises(source.BadRequest, match="got '1024x1024'"):
        source.decode("video", base64.b64encode(small + large).decode())


def test_numbers_that_do_not_fit_the_model_are_a_bad_request(cascade):
    """One step of refinement at strength 0.8 is none: only the cascade knows."""
    with pytest.raises(ValueError, match="refine") as caught:
        cascade({"inputs": "a", "parameters": {"num_inference_steps": 1}})
    assert caught.value.status_code == 400
