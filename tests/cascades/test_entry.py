# SPDX-License-Identifier: Apache-2.0
"""Where a cascade begins: with text, with an image as the first frame, or with a video at any stage."""

import numpy as np
import pytest
import torch
from PIL import Image

from ..contract.components import SMALL_RUN, Calls, pipeline, seeded


PROMPT = "a red car driving on the rainbow road."


@pytest.fixture(scope="module")
def pipe():
    return pipeline("cascade")


def run(pipe, **arguments):
    return pipe(PROMPT, generator=seeded(), output_type="pt", stage_options=SMALL_RUN, **arguments)


@pytest.fixture(scope="module")
def whole(pipe):
    return run(pipe, return_stages=True)


@pytest.mark.parametrize(
    ("start_at", "before"), [("superres", "interpolation"), ("refine", "superres"), (None, "superres")]
)
def test_a_video_in_place_of_the_first_stages(pipe, whole, start_at, before):
    """The stages that run draw what they draw in a whole run, so that its own frames give its own video."""
    with Calls(pipe.base_unet) as calls:
        made = run(pipe, video=whole.stages[before], start_at=start_at).frames
    assert calls == []
    assert torch.allclose(made, whole.frames, atol=1e-4)


def test_forms_of_a_video(pipe, whole):
    frames = whole.stages["superres"]
    images = [Image.fromarray((f.permute(1, 2, 0).numpy() * 255).round().astype("uint8")) for f in frames[0]]
    assert torch.allclose(run(pipe, video=images).frames, whole.frames, atol=0.05)


@pytest.mark.parametrize("form", [Image.fromarray, lambda array: array / 255.0])
def test_an_image_is_the_first_frame(pipe, form):
    """To the bit at its own size, whatever the others make of it; the caller's own callback is called as before."""
    array = np.random.default_rng(0).integers(0, 255, (8, 12, 3), dtype="uint8")
    seen = []

    def own(stage, step, timestep, tensors):
        seen.append((stage.stage_name, tuple(tensors)))
        return {}

    options = {"height": 8, "width": 12}
    frames = pipe(
        PROMPT,
        image=form(array),
        generator=seeded(),
        output_type="np",
        stage_options={**SMALL_RUN, "base": {**SMALL_RUN["base"], **options}},
        stop_after="base",
        callback_on_step_end=own,
        callback_on_step_end_tensor_inputs=["latents"],
    ).frames
    assert np.abs(frames[0, 0] - array / 255).max() < 1e-5
    assert set(seen) == {("base", ("latents",))}


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"video": np.zeros((2, 8, 8, 3)), "image": np.zeros((8, 8, 3))}, ValueError, "`image` or `video`, got both"),
        ({"start_at": "refine"}, ValueError, "`video` is required with `start_at`, got None"),
        ({"start_at": "sr1", "video": np.zeros((2, 8, 8, 3))}, ValueError, r"`start_at` must be one of .* got 'sr1'"),
        (
            {"start_at": "base", "video": np.zeros((2, 8, 8, 3))},
            ValueError,
            "`start_at` must be a stage that takes frames",
        ),
        ({"stop_after": "base", "video": np.zeros((2, 8, 8, 3))}, ValueError, "`stop_after` must not come before"),
        ({"video": 3}, TypeError, "`video` must be"),
        ({"height": 64}, TypeError, "takes no `height`: give it to a stage, as in stage_options={'base': {'height'"),
        ({"steps": 4}, TypeError, "takes no `steps`"),
    ],
)
def test_what_does_not_fit_is_told_before_any_model_runs(pipe, arguments, error, words):
    with Calls(pipe.text_encoder) as calls, pytest.raises(error, match=words):
        pipe(PROMPT, **arguments)
    assert calls == []


def test_steps_and_guidance_of_all_stages(pipe):
    with Calls(pipe.base_unet) as base, Calls(pipe.refine_unet) as refine:
        run_options = {**SMALL_RUN, "refine": {**SMALL_RUN["refine"], "num_inference_steps": 4, "strength": 1.0}}
        run_options = {
            name: {k: v for k, v in o.items() if name == "refine" or k != "num_inference_steps"}
            for name, o in run_options.items()
        }
        pipe(PROMPT, num_inference_steps=2, guidance_scale=1.0, stage_options=run_options, generator=seeded())
    assert len(base) == 2
    assert {len(call["sample"]) for call in base} == {1}  # not guided
    assert len(refine) == 4  # a stage's own goes before
