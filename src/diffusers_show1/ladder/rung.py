# SPDX-License-Identifier: Apache-2.0
"""A cascade as data: its rungs, and the recipes that say how they are run.

A rung is one stage of a cascade: which class, over which of the cascade's components. All else that a cascade has to
know of it (what it takes and gives, its options, what low memory sets, how it changes a video's extent) the stage's
class says itself, for every cascade that it stands in.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from diffusers import DiffusionPipeline

from ..sampling.call import Call
from .stage import HANDED_OVER


# Stage name -> options of that stage's call.
StageOptions = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Rung:
    """One stage of a cascade.

    Args:
        name: of the stage in this cascade.
        stage: its class, a `StagePipeline`.
        shared: the stage's components that go by the same name in the cascade, for this rung and others. Every other
            component has the rung's name in front of its own there.
        components: those that are called something else in the cascade: the stage's name -> the cascade's. So two
            rungs share one network.
        title: what people are told that it makes; by default its name.
    """

    name: str
    stage: type[DiffusionPipeline]
    shared: tuple[str, ...] = ()
    components: Mapping[str, str] = field(default_factory=dict)
    title: str = ""

    def __post_init__(self) -> None:
        if not self.title:
            object.__setattr__(self, "title", self.name.replace("_", " ").capitalize())

    @cached_property
    def parts(self) -> dict[str, str]:
        """Every component of the stage -> what the cascade calls it."""
        own = [name for name in inspect.signature(self.stage.__init__).parameters if name != "self"]
        always = ("feature_extractor", "safety_checker")  # one for the whole cascade
        found = {name: name if name in (*self.shared, *always) else f"{self.name}_{name}" for name in own}
        return {**found, **self.components}

    @property
    def network(self) -> str:
        """What the cascade calls the network that this rung denoises with."""
        return self.parts["unet"]

    @property
    def reader(self) -> str:
        """Which text it reads: what stands before `prompt_embeds` in the cascade's arguments; rungs of one text
        encoder are one reader."""
        return self.parts["text_encoder"].removesuffix("text_encoder")

    @cached_property
    def options(self) -> tuple[str, ...]:
        """What `stage_options` may hold for it: its call's arguments that the cascade does not give itself."""
        return tuple(name for name in inspect.signature(self.stage.__call__).parameters if name not in HANDED_OVER)

    def call(self, options: Mapping[str, Any]) -> Call:
        """A call of the stage, as its checks see it.

        Args:
            options: argument -> value; all else is as the stage's call has it.

        Returns:
            All arguments, by name.
        """
        signature = inspect.signature(self.stage.__call__).parameters
        return Call({**{name: p.default for name, p in signature.items()}, "output_type": "latent", **options})

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """Option -> what the stage's call has for it where nothing is said."""
        call = inspect.signature(self.stage.__call__).parameters
        return {name: call[name].default for name in self.options}


@dataclass(frozen=True)
class Recipe:
    """How a cascade is run.

    Args:
        stages: stage name -> options of that stage's call, in the order of the rungs.
        same_seed: every stage, and every window in it, draws the same random numbers (as released code that seeds
            anew for each call does) instead of numbers of its own.
        negative_prompt_stages: the stages that get the caller's negative prompt, the others get the empty one; `None`
            for all.
        clean_caption: whether captions are cleaned before encoding, as DeepFloyd IF does; `None`: as each stage's own
            call does it.
    """

    stages: StageOptions
    same_seed: bool = False
    negative_prompt_stages: tuple[str, ...] | None = None
    clean_caption: bool | None = None
