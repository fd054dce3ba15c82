# SPDX-License-Identifier: Apache-2.0
"""Which clips a process trains on, step by step, and the random numbers that go with each of them.

Everything random about a clip is a function of (seed, optimiser step, number of the clip in the global batch of that
step). A process takes its rows of that batch, and an accumulation part its rows of those. So one process with 2n
clips, two with n each, and one that goes through n twice compute the same step, up to the order of sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from accelerate import Accelerator

from ..learning.options import ConfigError, DataConfig, TrainConfig, TurnConfig
from ..tiny import world
from .data import ClipBatch, ClipDataset, ClipLoader, SkipReport, WorldDataset
from .files import ClipFormat, Stream, VideoFiles


WORLD_FPS = 8.0  # of the synthetic world; its keyframes are every fourth frame


def make_dataset(data: DataConfig) -> ClipDataset:
    """The dataset of a recipe, unless it is a stream.

    Raises:
        ConfigError: the synthetic world has no such clips.
        ValueError: there are no such files, or their manifest cannot be read.
    """
    if data.kind == "files":
        return VideoFiles(data.path, data.frames, data.height, data.width, data.fps)
    scale, stride = data.height // world.HEIGHT, round(WORLD_FPS / data.fps)
    if scale not in (1, 2, 4, 8, 16) or (data.height, data.width) != (scale * world.HEIGHT, scale * world.WIDTH):
        raise ConfigError(
            f"`data.height` and `data.width` must be {world.HEIGHT} and {world.WIDTH}, or 2, 4, 8 or 16 times that, "
            f"for data.kind world, got {data.height} and {data.width}"
        )
    span = (data.frames - 1) * stride
    if WORLD_FPS / data.fps != stride or span >= world.NUM_FRAMES:
        raise ConfigError(
            f"`data.frames` and `data.fps` must make a clip of the world's {world.NUM_FRAMES} frames at "
            f"{WORLD_FPS:g} fps or a whole fraction of it, got {data.frames} at {data.fps:g}"
        )
    times = data.frames if stride == 1 else range(0, span + 1, stride)
    return WorldDataset(times, scale, forward=data.forward)


def _of_kind(clips: ClipDataset, stills: bool, bend: float) -> ClipDataset:
    """The clips of one kind of batch."""
    kind = clips.stills() if stills else clips
    return kind.bent(bend) if bend else kind


@dataclass(frozen=True)
class StepBatch:
    """This process's clips of one optimiser step, each one's number in the global batch, and which kind of batch."""

    clips: ClipBatch
    indices: list[int]
    turn: TurnConfig

    def part(self, part: int, parts: int) -> StepBatch:
        """The rows of one of `parts` accumulation parts."""
        size = len(self.indices) // parts
        rows = slice(part * size, (part + 1) * size)
        clips = ClipBatch(frames=self.clips["frames"][rows], captions=self.clips["captions"][rows])
        if "shown" in self.clips:
            clips["shown"] = self.clips["shown"][rows]
        return StepBatch(clips, self.indices[rows], self.turn)


class Batches:
    """The batches of one process from step `start` on, in order.

    Kinds of batches take turns, step by step: all processes then do the same work at the same time, which sharded
    networks need.

    Args:
        config: the recipe.
        accelerator: which process this is, and of how many.
        clips: the dataset, where it is not that of the recipe.
    """

    def __init__(self, config: TrainConfig, accelerator: Accelerator, clips: ClipDataset | None = None):
        self.config, self.accelerator = config, accelerator
        self.clips = clips
        if clips is None and config.data.kind != "stream":
            self.clips = make_dataset(config.data)
        self.loaders: list[ClipLoader] = []
        self.stream: Stream | None = None

    def indices(self, step: int) -> list[int]:
        """The numbers, in the global batch of `step`, of this process's clips."""
        count = self.config.run.batch_size * self.config.turn(step).times // self.accelerator.num_processes
        first = count * self.accelerator.process_index
        return list(range(first, first + count))

    def __call__(self, start: int, position: int = 0) -> Iterator[StepBatch]:
        """Batches of steps `start` to the last; a stream first passes over `position` samples."""
        config, steps = self.config, range(start, self.config.run.steps)
        if self.clips is None:
            yield from self._streamed(steps, position)
            return

        def kind(step: int) -> tuple[bool, float]:
            turn = config.turn(step)
            return turn.stills, turn.bend

        loaders = {
            each: ClipLoader(
                _of_kind(self.clips, *each),
                config.run.seed,
                self.indices,
                [step for step in steps if kind(step) == each],
                config.data.workers,
            )
            for each in dict.fromkeys(kind(step) for step in steps)
        }
        self.loaders = list(loaders.values())
        iterators = {each: iter(loader) for each, loader in loaders.items()}
        for step in steps:
            yield StepBatch(next(iterators[kind(step)]), self.indices(step), config.turn(step))

    def _streamed(self, steps: range, position: int) -> Iterator[StepBatch]:
        data = self.config.data
        self.stream = Stream(
            data.path,
            ClipFormat(data.frames, data.height, data.width, data.fps),
            seed=self.config.run.seed,
            process=self.accelerator.process_index,
            processes=self.accelerator.num_processes,
            position=position,
        )
        batches = self.stream.batches(len(self.indices(0)))
        for step in steps:
            yield StepBatch(next(batches), self.indices(step), self.config.turn(step))

    @property
    def position(self) -> int:
        """Samples of a stream that this process has taken."""
        return 0 if self.stream is None else self.stream.position

    @property
    def skips(self) -> list[SkipReport]:
        """What was skipped up to now, by this process."""
        return [source.skips for source in (*self.loaders, *([] if self.stream is None else [self.stream]))]
