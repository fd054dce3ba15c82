# SPDX-License-Identifier: Apache-2.0
"""Many prompts over many processes: each is done once, and a run that was killed goes on where it stopped."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar


Job = TypeVar("Job")


def processes() -> Any:
    """accelerate's `PartialState` of this process: its index, its device, how many there are.

    By itself that class takes each of several processes on a machine without accelerators for one alone.
    """
    import torch
    from accelerate import PartialState

    told = os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("1", "true", "yes")
    return PartialState(cpu=told or not torch.accelerator.is_available())


def share(jobs: Sequence[Job], is_done: Callable[[Job], bool]) -> list[Job]:
    """This process's part of the jobs that are still to do.

    Under `accelerate launch` the main process asks `is_done` of every job and tells the others what is left, of which
    each takes an equal part. Call it in all processes, and begin no job before. A process alone gets all that is left.

    No record is kept: a job's result is the proof that it was done. So results must appear whole or not at all, as the
    files of `save_video` do. For the same results on any number of processes, seed each job by a number of its own.

    Args:
        jobs: the same in every process.
        is_done: whether a job's result is there.

    Returns:
        This process's jobs, in order.
    """
    from accelerate.utils import broadcast_object_list

    state = processes()
    left = [[job for job in jobs if not is_done(job)] if state.is_main_process else None]
    broadcast_object_list(left)
    with state.split_between_processes(left[0] or []) as part:
        return list(part)
