# SPDX-License-Identifier: Apache-2.0
"""Bad calls of the toy: those of any family, and its own; told before any network has run."""

import pytest
import torch

from ..contract.bad_calls import of_all, of_frames, of_stages, watch
from ..contract.components import clip
from .make import SMALL_RUN, components, pipeline


PROMPT = {"prompt": "a red car", "output_type": "pt"}
FRAMES = ("between", "between2", "upscale")
STAGES = ("frames", *FRAMES)
ALL = (*STAGES, "cascade")
EMBEDS = torch.zeros(1, 32, components()["text_encoder"].config.d_model)  # as many tokens as its tokenizer gives
GOOD = {
    "frames": {**PROMPT, **SMALL_RUN["frames"]},
    **{name: {**PROMPT, **SMALL_RUN[name], "frames": clip(2), "input_type": "latent"} for name in FRAMES},
    "cascade": {**PROMPT},
}
ROWS = [
    *((ALL, *row) for row in of_all(EMBEDS)),
    *((STAGES, *row) for row in of_stages(EMBEDS)),
    *((FRAMES, *row) for row in of_frames()),
    (("frames",), {"height": 9}, ValueError, ["`height`", "9", "8 and 10"]),
    (("frames",), {"latents": torch.zeros(1, 4, 2, 4, 4)}, ValueError, ["`latents`", "(1, 4, 2, 4, 6)"]),
    (("frames",), {"vae_batch_size": 0}, ValueError, ["`vae_batch_size`", "0"]),
    (("between", "between2"), {"frames": clip(1)}, ValueError, ["`frames`", "at least 2", "1"]),
    (("upscale",), {"window_size": 0}, ValueError, ["`window_size`", "0"]),
    (("cascade",), {"stage_options": {"upscale": {"window_size": 0}}}, ValueError, ["'upscale'", "`window_size`"]),
    (("cascade",), {"recipe": "official"}, ValueError, ["`recipe`", "'official'", "fast"]),
    (("cascade",), {"stop_after": "refine"}, ValueError, ["`stop_after`", "'refine'", "between2"]),
]
CASES = [
    pytest.param(where, changes, error, words, id=f"{where}-{'-'.join(changes)}-{i}")
    for i, (wheres, changes, error, words) in enumerate(ROWS)
    for where in wheres
]


@pytest.fixture(scope="module")
def pipelines():
    return {name: pipeline(name) for name in ALL}


@pytest.fixture(scope="module")
def watched(pipelines):
    return {name: watch(pipe) for name, pipe in pipelines.items()}


@pytest.mark.parametrize(("where", "changes", "error", "words"), CASES)
def test_refused(pipelines, watched, where, changes, error, words):
    watched[where].clear()
    with pytest.raises(error) as caught:
        pipelines[where](**{**GOOD[where], **changes})
    message = str(caught.value)
    assert [word for word in words if word not in message] == [], message
    assert watched[where] == []


@pytest.mark.parametrize("where", ALL)
def test_good(pipelines, watched, where):
    """The call that the rows change is a good one, and the watch sees it run."""
    watched[where].clear()
    pipelines[where](**GOOD[where])
    assert any("unet" in name for name in watched[where])
