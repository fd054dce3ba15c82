# SPDX-License-Identifier: Apache-2.0
"""The toy's model cards."""

from __future__ import annotations

from diffusers_show1.ladder.card import Card


CARDS = {
    "toy": Card(
        title="Toy",
        summary="Text to nine frames of 32x48, by a cascade that shows how one is added to diffusers-show1.",
        pipeline="ToyCascadePipeline",
        stage=None,
        base_model=(),
        licence="apache-2.0",
        tags=(),
        prompts=("a red circle moving right on a white background",),
        example='frames = pipe("{prompt}").frames[0]',
        numbers="What a call runs with.",
        intended_use="Reading the code.",
        limits="It makes coloured noise.",
        training="Forty steps on the synthetic world, or none.",
        terms="Apache 2.0.",
        licence_file="Apache License 2.0.",
        citation="",
    )
}
