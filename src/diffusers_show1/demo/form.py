# SPDX-License-Identifier: Apache-2.0
"""From the fields of the page to settings, by the command's own checks: what it refuses is refused in its words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..runs.refusals import refuse
from ..runs.settings import CONTENT_FLAGS, Settings, settings_from_flags


def read_form(
    engine: Settings,
    prompt: str | None,
    negative_prompt: str | None = None,
    seed: float | None = None,
    random_seed: bool = False,
    recipe: str = "default",
    stop_after: str | None = None,
    steps: Mapping[str, float | None] | None = None,
    guidance: Mapping[str, float | None] | None = None,
    stages: Sequence[str] = (),
) -> Settings:
    """The settings that a visitor asks for.

    Args:
        engine: whose model, device and dtype they get.
        prompt: what to show.
        negative_prompt: what to keep out; empty for nothing.
        seed: a whole number from 0; not looked at with `random_seed`.
        random_seed: draw one.
        recipe: one of the cascade's.
        stop_after: the last stage to run; None for all.
        steps: stage -> denoising steps; None leaves the recipe's.
        guidance: stage -> guidance scale, likewise.
        stages: the cascade's; by default those that the engine's model is known to have.

    Raises:
        BadInput: for the first value that cannot be used, in the words of `show1 generate`.
    """
    if not random_seed and not (isinstance(seed, (int, float)) and float(seed).is_integer()):
        refuse("--seed", seed, "a whole number")
    flags: dict[str, Any] = dict.fromkeys(CONTENT_FLAGS)
    flags |= {"model": engine.model, "device": engine.device, "dtype": engine.dtype, "recipe": recipe}
    flags |= {
        "prompts": [prompt or ""],
        "negative_prompt": negative_prompt or None,
        "seed": None if random_seed or seed is None else int(seed),
        "stop_after": stop_after,
        "steps": _by_stage(steps or {}),
        "guidance": _by_stage(guidance or {}),
    }
    return settings_from_flags(flags, stages)[0]


def _by_stage(values: Mapping[str, float | None]) -> str | None:
    """Numbers by stage as `--steps` takes them: `base=20,superres=4`."""
    return ",".join(f"{stage}={value}" for stage, value in values.items() if value is not None) or None
