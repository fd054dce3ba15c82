# SPDX-License-Identifier: Apache-2.0
"""The noise schedule of a call: copies of a scheduler, its steps, and how many."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from diffusers.utils import logging
from torch import Tensor


logger = logging.get_logger(__name__)

# A noise level that no step of a float can start from. Schedulers of sigmas (Euler, Heun, KDPM2) start where the
# signal is gone: at 14.6 on Stable Diffusion's schedule, at 20,291 on the squared cosine of the pixel stages.
HIGHEST_START = 1000.0


def fresh_scheduler(scheduler: Any, final_sigmas_type: str | None = None) -> Any:
    """A copy with no memory of earlier steps, so that no call changes a registered scheduler.

    `final_sigmas_type="sigma_min"` gives DPM-Solver++ the last step it had when Show-1 was released (diffusers up to
    0.19); today's default, `"zero"`, takes a different one. Schedulers without that setting ignore it.
    """
    changes = {}
    if final_sigmas_type is not None and "final_sigmas_type" in scheduler.config:
        changes["final_sigmas_type"] = final_sigmas_type
    return type(scheduler).from_config(scheduler.config, **changes)


def set_timesteps(
    scheduler: Any,
    num_inference_steps: int | None,
    timesteps: list[int] | None,
    sigmas: list[float] | None,
    device: torch.device | str,
) -> Tensor:
    """The timesteps of a whole schedule, falling, on `device`; `scheduler` begins with the first of them."""
    if sigmas is not None:
        scheduler.set_timesteps(sigmas=sigmas, device=device)
    elif timesteps is not None:
        scheduler.set_timesteps(timesteps=timesteps, device=device)
    else:
        scheduler.set_timesteps(num_inference_steps, device=device)
    if hasattr(scheduler, "set_begin_index"):
        # By itself a scheduler looks its first step up by the timestep: wrong where two noise levels round to one
        # timestep (Karras' sigmas), and a wait for the accelerator in every loop.
        scheduler.set_begin_index(0)
    return scheduler.timesteps


def initial_noise(noise: Tensor, scheduler: Any) -> Tensor:
    """Noise (b, c, f, h, w) of the level that a schedule begins at; warns where that level is absurd."""
    start = float(scheduler.init_noise_sigma)
    if start > HIGHEST_START:
        _warn_of_start(type(scheduler).__name__, round(start))
    return noise * scheduler.init_noise_sigma


@cache
def _warn_of_start(name: str, start: int) -> None:
    logger.warning(
        f"{name} starts at a noise of {start} on this stage's schedule (the signal is 1): its first steps are too "
        "large, and the video may be black, white or NaN, the more so the fewer steps. Set a scheduler that starts at "
        "1, such as DPMSolverMultistepScheduler, UniPCMultistepScheduler or DDIMScheduler."
    )


def count_steps(
    scheduler: Any, num_inference_steps: int, timesteps: list[int] | None, sigmas: list[float] | None
) -> int:
    """The steps of a whole schedule. How many steps `sigmas` are is the scheduler's to say."""
    if sigmas is not None:
        return len(set_timesteps(fresh_scheduler(scheduler), None, None, sigmas, "cpu"))
    return num_inference_steps if timesteps is None else len(timesteps)
