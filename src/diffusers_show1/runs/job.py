# SPDX-License-Identifier: Apache-2.0
"""A generation that survives: each window is saved as it is finished, and the next process goes on behind the last."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from diffusers.utils import logging
from torch import Tensor

from ..clips.frames import to_uint8
from ..sampling.checks import check_count
from ..sampling.outputs import VideoPipelineOutput
from .fingerprint import changes, fingerprint
from .folder import JobError, JobFolder
from .memory import memory_told
from .versions import versions


if TYPE_CHECKING:
    from ..ladder.cascade import CascadePipeline
    from ..ladder.rung import StageOptions

logger = logging.get_logger(__name__)


@dataclasses.dataclass(frozen=True)
class JobSettings:
    """One video, as a cascade's call takes it.

    Args:
        prompt: what to show.
        seed: of the noise, which is drawn on the CPU.
        negative_prompt: what guidance leads away from.
        num_frames: frames of the video, at least 1; by default the recipe's.
        recipe: one of the cascade's, such as `"default"` or `"fast"`.
        stage_options: stage name -> options of that stage's call, of what JSON can say.
        stop_after: the last stage to run; by default all run.
    """

    prompt: str
    seed: int
    negative_prompt: str | None = None
    num_frames: int | None = None
    recipe: str = "default"
    stage_options: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    stop_after: str | None = None


class GenerationJob:
    r"""One video and the folder that it is made in, window by window.

    A process that dies, at any moment, loses the window that it was at: another one over the same folder goes on
    behind the last finished window, and its video is that of an undisturbed run, bit for bit on the same kind of
    device.

    ```python
    job = GenerationJob(pipe, "jobs/circle", JobSettings("a red circle moving right on a white background", seed=0))
    frames = job.run().frames[0]

    frames = GenerationJob(pipe, "jobs/circle").run().frames[0]  # go on, after whatever happened
    ```

    Args:
        pipe: the cascade, on its device, with its adapters and offloading.
        folder: an empty or new folder to begin in, or one that a job has begun in.
        settings: what to make; may be left out where a job has begun, and must be what that was begun with.
        about: anything for JSON that the caller wants to find in `job.about` later.

    Raises:
        ValueError: the settings can't be used, or are not those of the job in the folder.
        JobError: the folder can't be used, another process is at work in it, or the pipeline's weights are not those
            that the job was begun with.
    """

    def __init__(
        self,
        pipe: CascadePipeline,
        folder: str | os.PathLike[str],
        settings: JobSettings | None = None,
        about: dict[str, Any] | None = None,
    ):
        self.pipe, self.folder = pipe, JobFolder(folder)
        begun = self._read()
        if begun is None and settings is None:
            raise ValueError(f"`settings` is required: no job has begun in {self.folder.path}, got None.")
        asked = None if settings is None else self._resolve(settings)
        if begun is not None and asked is not None:
            _check_same(begun["settings"], asked, pipe.low_memory_options)
        models = fingerprint(pipe)
        with self.folder.locked():
            begun = self._read()
            if begun is None:
                begun = {
                    "settings": asked,
                    "models": models,
                    "versions": versions(),
                    "threads": torch.get_num_threads(),
                    "about": about or {},
                }
                self.folder.write(begun)
            if changed := changes(begun["models"], models):
                raise JobError(
                    f"the job in {self.folder.path} was begun with other weights; changed since: "
                    f"{', '.join(changed)}. Load what it was begun with, or begin a new job"
                )
            self._change_portions(begun, pipe._memory_options if asked is None else asked["stage_options"])
        old: dict[str, Any] = {
            name: version for name, version in begun["versions"].items() if version != versions().get(name)
        }
        if begun.get("threads") not in (None, torch.get_num_threads()) and pipe._execution_device.type == "cpu":
            old["threads"] = begun["threads"]
        if old:
            logger.warning(
                f"The job in {self.folder.path} was begun with {old}: the rest of it may be rounded otherwise."
            )
        self.settings = JobSettings(**begun["settings"])
        self.about: dict[str, Any] = begun["about"]

    def _read(self) -> dict[str, Any] | None:
        """The job in the folder, with settings of the right form; what they say the cascade checks itself."""
        begun = self.folder.read()
        if begun is not None:
            try:
                settings = JobSettings(**begun["settings"])
                check_count(settings.seed, "seed", low=0, high=2**64 - 1)
                if not all(isinstance(settings.stage_options.get(name), dict) for name in self.pipe.stage_names):
                    raise TypeError("its stage_options are not options by stage")
            except (TypeError, ValueError, AttributeError) as error:
                raise JobError(f"{self.folder.path / 'job.json'} can't be read ({error})") from error
        return begun

    def _resolve(self, settings: JobSettings) -> dict[str, Any]:
        """The settings with every option of every stage, as JSON gives them back."""
        options = self.pipe.resolve_options(settings.recipe, settings.stage_options, settings.num_frames)
        for rung in self.pipe.rungs:  # defaults too: another version may have others
            options[rung.name] = rung.defaults | options[rung.name]
        try:
            return json.loads(json.dumps(dataclasses.asdict(settings) | {"stage_options": options}))
        except TypeError as error:
            raise ValueError(f"`settings` must hold what JSON can say: {error}.") from error

    def _change_portions(self, begun: dict[str, Any], wanted: dict[str, dict[str, Any]]) -> None:
        """Takes over how much is to be done at once, but for stages that are finished."""
        for stage, options in self.pipe.low_memory_options.items():
            own, asked = begun["settings"]["stage_options"][stage], wanted.get(stage, {})
            changed = {name: asked[name] for name in options if name in asked and asked[name] != own[name]}
            if changed and not self.folder.is_finished(stage):
                own.update(changed)
                if "window_batch_size" in changed:  # the stage's windows are these portions
                    self.folder.drop_windows(stage)
                self.folder.write(begun)

    def run(
        self,
        output_type: str = "pil",
        callback_on_stage_end: Callable[[CascadePipeline, str, Any], None] | None = None,
        callback_on_step_end: Callable | None = None,
    ) -> VideoPipelineOutput:
        """Makes what is not finished; in a finished job, only decodes the frames again.

        Args:
            output_type: `"pil"`, `"np"` or `"pt"`.
            callback_on_stage_end: as for the cascade, to report.
            callback_on_step_end: likewise; what it changes is not kept in the folder, so it has to be given again.

        Returns:
            The video, with every stage's frames in `stages`.

        Raises:
            ValueError: the cascade refuses the settings, or the output type.
            JobError: a window can't be saved or read, or another process is at work in the folder.
            torch.OutOfMemoryError: naming the stage, and what would save memory.
            FloatingPointError: naming the stage and the step that made NaN or infinity.
        """
        if output_type not in ("pil", "np", "pt"):
            raise ValueError(f"`output_type` must be 'pil', 'np' or 'pt', got {output_type!r}.")
        done: list[str] = []

        def stage_done(pipe: Any, name: str, frames: Any) -> None:
            video = frames[0]
            self.folder.save_frames(
                name, to_uint8(video.permute(0, 2, 3, 1).float().cpu().numpy() if isinstance(video, Tensor) else video)
            )
            done.append(name)
            if callback_on_stage_end is not None:
                callback_on_stage_end(pipe, name, frames)

        def step_done(stage: Any, step: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            changed = callback_on_step_end(stage, step, timestep, tensors) if callback_on_step_end else {}
            if stage.interrupt:  # what the stages behind would make of half a window must not be saved
                raise JobError(f"stage {stage.stage_name!r} was interrupted; what was finished before is kept")
            return changed or {}

        settings = dataclasses.asdict(self.settings)
        seed = settings.pop("seed")
        with self.folder.locked():
            with memory_told(self.pipe, self.settings.stage_options, lambda: self.pipe.stage_names[len(done)]):
                output: Any = self.pipe(
                    **settings,
                    generator=torch.Generator().manual_seed(seed),
                    output_type=output_type,
                    return_stages=True,
                    callback_on_stage_end=stage_done,
                    callback_on_step_end=step_done,
                    window_store=self.folder,
                )
                return output


def _check_same(begun: dict[str, Any], asked: dict[str, Any], portions: StageOptions) -> None:
    """ValueError for the first setting that is not that of the job, but for how much is done at once."""

    def check(name: str, value: Any, got: Any) -> None:
        if got != value:
            raise ValueError(f"`settings.{name}` must be the job's, {value!r}, got {got!r}.")

    for name, value in begun.items():
        if name != "stage_options":
            check(name, value, asked[name])
    for stage, options in begun["stage_options"].items():
        for name, value in options.items():
            if name not in portions.get(stage, {}):
                check(f"stage_options[{stage!r}][{name!r}]", value, asked["stage_options"][stage].get(name))
