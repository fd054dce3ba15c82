# SPDX-License-Identifier: Apache-2.0
"""The text of a cascade's call: each encoder runs once, for all stages that read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .rung import StageOptions


Embeds = Mapping[str, Tensor | None]


class Texts:
    """The embeddings of a call, made by each text encoder when the first stage that reads it comes."""

    def __init__(
        self,
        pipe: Any,
        names: tuple[str, ...],
        recipe: str,
        options: StageOptions,
        prompt: Any,
        negative_prompt: Any,
        embeds: Embeds,
        num_videos_per_prompt: int,
    ):
        self.pipe, self.options, self.embeds = pipe, options, embeds
        self.prompt, self.negative_prompt = prompt, negative_prompt
        self.num_videos_per_prompt = num_videos_per_prompt
        self.rungs = {rung.name: rung for rung in pipe.rungs if rung.name in names}
        self.clean_caption = pipe.recipes[recipe].clean_caption
        told = pipe.recipes[recipe].negative_prompt_stages
        self.gets_negative = {name: told is None or name in told for name in names}
        self._made: dict[tuple[str, bool], dict[str, Tensor | None]] = {}

    def of(self, name: str) -> dict[str, Tensor | None]:
        """`prompt_embeds` and `negative_prompt_embeds` of a stage, one row a video."""
        reader, gets_negative = self.rungs[name].reader, self.gets_negative[name]
        key = (reader, gets_negative)
        if key not in self._made:
            others = [r for r in self.rungs.values() if (r.reader, self.gets_negative[r.name]) == key]
            guided = any(self.pipe.stage(r.name).needs_negative(r.call(self.options[r.name])) for r in others)
            given = self.embeds.get(f"{reader}prompt_embeds")
            negative = self.embeds.get(f"{reader}negative_prompt_embeds")
            made = self.pipe.stage(name).encode_prompt(
                self.prompt if given is None else None,
                self.negative_prompt if gets_negative and negative is None else None,
                self.num_videos_per_prompt,
                guided,
                self.pipe._execution_device,
                given,
                negative,
                self.clean_caption,
            )
            self._made[key] = dict(zip(("prompt_embeds", "negative_prompt_embeds"), made, strict=True))
        return self._made[key]
