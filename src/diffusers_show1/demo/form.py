# SPDX-License-Identifier: Apache-2.0
"""From the fields of the page to settings, by the command's own checks: what it refuses is refused in its words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..cli.refusals import refuse
from ..cli.settings import CONTENT_FLAGS, STAGES, Settings, settings_from_flags


def read_form(
    engine: Settings,
    prompt: str | None,
    negative_prompt: str | None = None,
    seed: float | None = None,
    random_seed: bool = False,
    recipe: str = "default",
    stop_after: str = STAGES[-1],
    steps: Sequence[float | None] = (),
    guidance: Sequence[float | None] = (),
) -> Settings:
    """The settings that a visitor asks for.

    Args:
        engine: whose model, device and dtype they get.
        prompt: what to show.
        negative_prompt: what to keep out; empty for nothing.
        seed: a whole number from 0; not looked at with `random_seed`.
        random_seed: draw one.
        recipe: `default`, `fast` or `official`.
        stop_after: the last stage to run.
        steps: denoising steps by stage, in order; None leaves the recipe's.
        guidance: guidance scales, likewise.

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
        "stop_after": None if stop_after == STAGES[-1] else stop_after,
        "steps": _by_stage(steps),
        "guidance": _by_stage(guidance),
    }
    return settings_from_flags(flags)[0]


def _by_stage(values: Sequence[float | None]) -> str | None:
    """Numbers in the order of the stages as `--steps` takes them: `base=20,superres=4`."""
    pairs = zip(STAGES, values, strict=False)
    return ",".join(f"{stage}={value}" for stage, value in pairs if value is not None) or None
