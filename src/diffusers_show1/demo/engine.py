# SPDX-License-Identifier: Apache-2.0
"""One cascade for many visitors: requests wait in a queue of bounded length and are made one at a time.

Networks are not reentrant, so one worker thread owns the pipeline. Whoever asks gets a `Request` and looks at its
`view`, which the worker replaces as a whole at every step: a reader needs no lock and never sees half of a change.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
import shutil
import tempfile
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging

from ..runs.clip import FPS, definite, frame_rate, make_clip, write_frames
from ..runs.machine import OFFLOADS, load_cascade, resolve_machine
from ..runs.record import record_of
from ..runs.refusals import BadInput, Failed, faults, one_of, refuse
from ..runs.settings import Settings
from ..runs.vocabulary import doubts


logger = logging.get_logger(__name__)

SWEEP_SECONDS = 60.0  # between two looks for results that are too old, while nothing is asked for


class QueueFull(Failed):
    """As many requests wait as may."""


class Cancelled(Exception):
    """Raised in a step's callback: it ends the pipeline's call there and then."""


@dataclasses.dataclass(frozen=True)
class View:
    """How far a request is.

    `state` is `waiting` or `running` and in the end `done`, `cancelled` or `failed`. `stage` is the one at work, which
    has done `step` of `steps` in `window` of `windows`; `progress` goes from 0 to 1 over all stages.
    `clips` holds each finished stage's video file, `record` the JSON of a request that is done, `summary` what was
    made; `message` says why one failed, `note` what is doubtful about the prompt.
    """

    state: str = "waiting"
    stage: str | None = None
    step: int = 0
    steps: int = 0
    window: int = 0
    windows: int = 0
    progress: float = 0.0
    clips: dict[str, Path] = dataclasses.field(default_factory=dict)
    record: Path | None = None
    message: str = ""
    summary: str = ""
    note: str = ""

    @property
    def over(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in ("done", "cancelled", "failed")


class Request:
    """One video that somebody asked for. Its folder has a random name, which nobody else can guess."""

    def __init__(self, settings: Settings, owner: str, work: Path):
        self.settings, self.owner = settings, owner
        self.folder = work / secrets.token_hex(16)
        self.view = View(note=doubts(settings))
        self.cancelled = threading.Event()

    def show(self, **changes: Any) -> None:
        self.view = dataclasses.replace(self.view, **changes)


class Engine:
    """Loads a cascade once, and makes what is asked for.

    Args:
        model: as for `show1 generate`.
        device: likewise.
        dtype: likewise.
        offload: likewise.
        limit: how many requests may wait beside the one that runs, at least 1.
        keep_seconds: how long results are kept.
        keep_results: of how many requests at most.

    Raises:
        BadInput: an argument cannot be used, or the model cannot be loaded.
    """

    def __init__(
        self,
        model: str = "tiny",
        device: str = "auto",
        dtype: str = "auto",
        offload: str = "none",
        limit: int = 20,
        keep_seconds: float = 3600.0,
        keep_results: int = 200,
    ):
        if limit < 1:
            refuse("--queue", limit, "a whole number of at least 1")
        one_of("--offload", offload, OFFLOADS)
        self.asked = asked = Settings("any prompt", 0, model=model, device=device, dtype=dtype).check()
        self.limit, self.keep_seconds, self.keep_results = limit, keep_seconds, keep_results
        self.place, self.number_format = resolve_machine(asked.device, asked.dtype, offload)
        began = time.perf_counter()
        self.pipe = load_cascade(asked, self.place, self.number_format, offload)
        self.pipe.set_progress_bar_config(disable=True)
        self.loading = time.perf_counter() - began
        self._temporary = tempfile.TemporaryDirectory(prefix="show1-demo-")
        self.folder = Path(self._temporary.name).resolve()
        self._waiting: deque[Request] = deque()
        self._running: Request | None = None
        self._closed = False
        self._changed = threading.Condition()
        self._worker = threading.Thread(target=self._work, name="show1-demo", daemon=True)
        self._worker.start()

    def options(self, recipe: str) -> dict[str, dict[str, Any]]:
        """Every option of every stage as the recipe, the checkpoint, and else the stage itself have it."""
        resolved = self.pipe.resolve_options(recipe)
        return {rung.name: rung.defaults | resolved[rung.name] for rung in self.pipe.rungs}

    def submit(self, settings: Settings, owner: str = "") -> Request:
        """Put a request in the queue.

        Args:
            settings: what to make, checked; its model, device and dtype are those of this engine.
            owner: who asks, for `cancel_all`.

        Raises:
            QueueFull: as many wait as may.
        """
        request = Request(settings, owner, self.folder)
        with self._changed:
            if len(self._waiting) >= self.limit:
                raise QueueFull(f"the queue is full, {self.limit} wait already; try again in a while")
            self._waiting.append(request)
            self._changed.notify()
        return request

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    def ahead(self, request: Request) -> int:
        """How many requests will be made before this one."""
        with self._changed:
            if request not in self._waiting:
                return 0
            return self._waiting.index(request) + (self._running is not None)

    def cancel(self, request: Request) -> None:
        """Take a request out of the queue, or end it at its next step. One that is over stays as it is."""
        with self._changed:
            request.cancelled.set()
            if request in self._waiting:
                self._waiting.remove(request)
                request.show(state="cancelled")

    def cancel_all(self, owner: str) -> None:
        """Cancel everything that an owner asked for."""
        with self._changed:
            asked = [*self._waiting, *([] if self._running is None else [self._running])]
        for request in asked:
            if request.owner == owner:
                self.cancel(request)

    def close(self) -> None:
        """Cancel everything, wait for the step that runs, and remove the work folder."""
        with self._changed:
            self._closed = True
            for request in [*self._waiting, *([] if self._running is None else [self._running])]:
                self.cancel(request)
            self._changed.notify()
        self._worker.join()
        self._temporary.cleanup()

    # --- the worker's thread -------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            self.sweep()
            with self._changed:
                if not self._waiting and not self._closed:
                    self._changed.wait(SWEEP_SECONDS)
                if self._closed:
                    return
                if not self._waiting:
                    continue
                request = self._running = self._waiting.popleft()
            try:
                with faults():
                    self._make(request)
            except Cancelled:
                request.show(state="cancelled")
            except (BadInput, Failed) as error:  # the same words as the command's
                request.show(state="failed", message=str(error))
            except Exception:  # whatever it is, the next visitor is served
                logger.exception(f"A request failed: {request.settings}")
                request.show(state="failed", message="something went wrong here; the log of the demo says what")
            finally:
                with self._changed:
                    self._running = None

    def _make(self, request: Request) -> None:
        settings = definite(self.pipe, request.settings, self.place, self.number_format)
        names = self.pipe.stage_names
        names = names[: names.index(settings.stop_after or names[-1]) + 1]
        loops = self._loops(settings, names)
        done = 0  # loops of the stage at work
        digest = ""
        request.folder.mkdir()
        request.show(state="running", stage=names[0])

        def step_done(stage: Any, step: int, timestep: object, tensors: object) -> dict[str, torch.Tensor]:
            nonlocal done
            if request.cancelled.is_set():
                raise Cancelled
            name, steps = stage.stage_name, stage.num_timesteps
            part = (done + (step + 1) / steps) / loops[name]
            window = {"window": done + 1, "windows": loops[name]}
            done += step + 1 == steps
            progress = (names.index(name) + part) / len(names)
            request.show(stage=name, step=step + 1, steps=steps, progress=progress, **window)
            return {}

        def stage_done(name: str, frames: Any, seconds: float) -> None:
            nonlocal done, digest
            if request.cancelled.is_set():
                raise Cancelled
            path = request.folder / f"{name}.mp4"
            own = settings
            if name != names[-1]:
                rate = frame_rate(self.pipe, settings.stage_options, name, request.settings.fps or FPS)
                own = dataclasses.replace(settings, stop_after=name, fps=rate)
            digest = write_frames(frames, str(path), own.fps or FPS, own, watermark=False)
            done, index = 0, names.index(name) + 1
            clips = {**request.view.clips, name: path}
            request.show(clips=clips, progress=index / len(names), step=0, stage=names[min(index, len(names) - 1)])

        clip = make_clip(self.pipe, settings, on_stage_end=stage_done, on_step_end=step_done)
        seconds = {"load": round(self.loading, 3), **clip.seconds}
        made = record_of(settings, clip.frames, str(request.view.clips[names[-1]]), digest, seconds)
        record = request.folder / "show1.json"
        record.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
        count, height, width, _ = clip.frames.shape
        took = sum(clip.seconds.values())
        summary = f"{count} frames of {width}x{height}, seed {settings.seed}, {took:.1f} s"
        request.show(state="done", record=record, summary=summary)

    def _loops(self, settings: Settings, names: tuple[str, ...]) -> dict[str, int]:
        """How often each stage goes through its steps. ValueError or TypeError for what the cascade refuses."""
        extents = self.pipe.check_stages(names, settings.stage_options, 1, settings.num_frames)
        given = (None, *extents.values())
        return {
            rung.name: rung.stage.loops(rung.call(settings.stage_options[rung.name]), extent)
            for rung, extent in zip(self.pipe.rungs, given, strict=False)
            if rung.name in names
        }

    def sweep(self) -> None:
        """Remove the results that are older than `keep_seconds`, and the oldest of more than `keep_results`."""
        oldest = time.time() - self.keep_seconds
        with self._changed:
            folders = sorted(self.folder.iterdir(), key=lambda folder: folder.stat().st_mtime)
            for index, folder in enumerate(folders):
                if index < len(folders) - self.keep_results or folder.stat().st_mtime < oldest:
                    shutil.rmtree(folder)
