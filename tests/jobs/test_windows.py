# SPDX-License-Identifier: Apache-2.0
"""`callback_on_window_end` and `finished_windows`: what a stage has finished can be handed to a later call."""

import pytest
import torch

from ..contract.components import Calls, clip, pipeline, seeded
from .small import WINDOWS, call, shared_pipe


PROMPT = "a red car driving on the rainbow road."
# stage -> its call, and how many windows that has
CALLS = {
    "base": ({"height": 8, "width": 12, "num_frames": 2, "num_inference_steps": 2}, 1),
    "interpolation": ({"frames": clip(4), "num_inference_steps": 2, "window_batch_size": 2}, 2),
    "superres": ({"frames": clip(7), "num_inference_steps": 2, "window_size": 3}, 3),
    "refine": ({"frames": clip(3, 16, 24), "num_inference_steps": 3}, 1),
}


def run(pipe, name, **options):
    return pipe(
        **CALLS[name][0],
        prompt=PROMPT,
        generator=seeded(),
        output_type="pt",
        **({} if name == "base" else {"input_type": "latent"}),
        **options,
    ).frames


@pytest.mark.parametrize("name", CALLS)
def test_any_number_of_finished_windows(name):
    """Whatever was finished before, the frames are those of a whole run, and only the rest is denoised."""
    pipe, count = pipeline(name), CALLS[name][1]
    seen = []
    with Calls(pipe.unet) as calls:
        whole = run(
            pipe, name, callback_on_window_end=lambda stage, index, window: seen.append((stage, index, window))
        )
    assert [(stage is pipe, index) for stage, index, _ in seen] == [(True, index) for index in range(count)]
    assert torch.equal(run(pipe, name), whole)
    windows = [window for _, _, window in seen]
    for done in range(1, count + 1):
        left = []
        with Calls(pipe.unet) as fewer:
            frames = run(
                pipe,
                name,
                finished_windows=windows[:done],
                callback_on_window_end=lambda stage, index, window, left=left: left.append(index),
            )
        assert torch.equal(frames, whole)
        assert left == list(range(done, count))
        assert len(fewer) == len(calls) // count * (count - done)


def test_one_window_of_one_generator_is_not_parted():
    """A single pair of keyframes is one window, and one generator draws for all rows, whatever the batch size."""
    pipe = pipeline("interpolation")
    options = {"frames": clip(2), "prompt": PROMPT, "num_inference_steps": 2, "input_type": "latent"}
    seen = []
    pipe(
        **options, window_batch_size=1, generator=seeded(), callback_on_window_end=lambda *window: seen.append(window)
    )
    assert [tuple(window.shape) for _, _, window in seen] == [(1, 3, 5, 8, 12)]


def test_the_image_model_is_not_asked_again():
    """Where the first window is finished, super-resolution needs no first frame any more."""
    pipe = pipeline("superres")
    assert pipe.first_frame_unet is not None
    seen = []
    whole = run(pipe, "superres", callback_on_window_end=lambda *window: seen.append(window[2]))
    with Calls(pipe.first_frame_unet) as calls:
        assert torch.equal(run(pipe, "superres", finished_windows=seen[:1]), whole)
    assert calls == []


def test_an_interrupted_window_is_none():
    pipe = pipeline("base")
    seen = []

    def stop(stage, step, timestep, tensors):
        stage._interrupt = True
        return {}

    run(pipe, "base", callback_on_step_end=stop, callback_on_window_end=lambda *window: seen.append(window))
    assert seen == []


@pytest.mark.parametrize("name", CALLS)
def test_other_windows_are_refused(name):
    pipe, count = pipeline(name), CALLS[name][1]
    with pytest.raises(ValueError, match=r"`finished_windows` must hold .* got \[\(1, 2, 3\)\]"):
        run(pipe, name, finished_windows=[torch.zeros(1, 2, 3)])
    with pytest.raises(TypeError, match="`finished_windows` must be a sequence of tensors"):
        run(pipe, name, finished_windows=torch.zeros(1, 2, 3))
    seen = []
    run(pipe, name, callback_on_window_end=lambda *window: seen.append(window[2]))
    with pytest.raises(ValueError, match="`finished_windows` must hold the first of this call's windows"):
        run(pipe, name, finished_windows=[*seen, seen[0]])
    assert len(seen) == count


def test_the_cascade_hands_them_on():
    pipe = shared_pipe()
    seen = {name: [] for name in WINDOWS}
    whole = pipe(
        **call(), callback_on_window_end=lambda stage, index, window: seen[stage.stage_name].append(window)
    ).frames
    assert {name: len(windows) for name, windows in seen.items()} == WINDOWS
    with Calls(pipe.base_unet) as base, Calls(pipe.superres_unet) as superres:
        again = pipe(**call(), finished_windows={**seen, "superres": seen["superres"][:3]}).frames
    assert torch.equal(again, whole)
    assert (len(base), len(superres)) == (0, 2)
    with pytest.raises(ValueError, match="`finished_windows` must name stages"):
        pipe(**call(), finished_windows={"sr1": []})
