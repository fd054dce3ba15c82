# SPDX-License-Identifier: Apache-2.0
"""`window_store`: what a stage has finished can be handed to a later call."""

import pytest
import torch

from diffusers_show1.sampling.windows import WindowStore

from ..contract.components import Calls, clip, pipeline, seeded
from ..jobs.small import WINDOWS, call, shared_pipe


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


class Recording(WindowStore):
    """Also writes down what was added in this run."""

    def __init__(self, windows=None):
        super().__init__(windows)
        self.added = []

    def add(self, stage, index, window):
        self.added.append((stage, index, tuple(window.shape)))
        super().add(stage, index, window)


@pytest.mark.parametrize("name", CALLS)
def test_any_number_of_finished_windows(name):
    """Whatever was finished before, the frames are those of a whole run, and only the rest is denoised."""
    pipe, count = pipeline(name), CALLS[name][1]
    store = Recording()
    with Calls(pipe.unet) as calls:
        whole = run(pipe, name, window_store=store)
    assert [added[:2] for added in store.added] == [(name, index) for index in range(count)]
    assert torch.equal(run(pipe, name), whole)
    for done in range(1, count + 1):
        begun = Recording({name: store.windows[name][:done]})
        with Calls(pipe.unet) as fewer:
            frames = run(pipe, name, window_store=begun)
        assert torch.equal(frames, whole)
        assert [index for _, index, _ in begun.added] == list(range(done, count))
        assert len(fewer) == len(calls) // count * (count - done)
        assert all(torch.equal(a, b) for a, b in zip(begun.windows[name], store.windows[name], strict=True))


def test_one_window_of_one_generator_is_not_parted():
    """A single pair of keyframes is one window, and one generator draws for all rows, whatever the batch size."""
    pipe, store = pipeline("interpolation"), Recording()
    options = {"frames": clip(2), "prompt": PROMPT, "num_inference_steps": 2, "input_type": "latent"}
    pipe(**options, window_batch_size=1, generator=seeded(), window_store=store)
    assert store.added == [("interpolation", 0, (1, 3, 5, 8, 12))]


def test_the_image_model_is_not_asked_again():
    """Where the first window is finished, super-resolution needs no first frame any more."""
    pipe, store = pipeline("superres"), WindowStore()
    assert pipe.first_frame_unet is not None
    whole = run(pipe, "superres", window_store=store)
    begun = WindowStore({"superres": store.windows["superres"][:1]})
    with Calls(pipe.first_frame_unet) as calls:
        assert torch.equal(run(pipe, "superres", window_store=begun), whole)
    assert calls == []


def test_an_interrupted_window_is_none():
    pipe, store = pipeline("base"), Recording()

    def stop(stage, step, timestep, tensors):
        stage._interrupt = True
        return {}

    run(pipe, "base", callback_on_step_end=stop, window_store=store)
    assert store.added == []


@pytest.mark.parametrize("name", CALLS)
def test_other_windows_are_refused(name):
    pipe, count = pipeline(name), CALLS[name][1]
    with pytest.raises(ValueError, match=r"`window_store` must hold .* got \[\(1, 2, 3\)\]"):
        run(pipe, name, window_store=WindowStore({name: [torch.zeros(1, 2, 3)]}))
    store = WindowStore()
    run(pipe, name, window_store=store)
    assert len(store.windows[name]) == count
    store.windows[name].append(store.windows[name][0])
    with pytest.raises(ValueError, match="`window_store` must hold the first of this call's windows"):
        run(pipe, name, window_store=store)


def test_the_cascade_hands_them_on():
    pipe, store = shared_pipe(), WindowStore()
    whole = pipe(**call(), window_store=store).frames
    assert {name: len(windows) for name, windows in store.windows.items()} == WINDOWS
    begun = WindowStore({**store.windows, "superres": store.windows["superres"][:3]})
    with Calls(pipe.base_unet) as base, Calls(pipe.superres_unet) as superres:
        again = pipe(**call(), window_store=begun).frames
    assert torch.equal(again, whole)
    assert (len(base), len(superres)) == (0, 2)
    with pytest.raises(ValueError, match="`window_store` must name stages"):
        pipe(**call(), window_store=WindowStore({"sr1": []}))
