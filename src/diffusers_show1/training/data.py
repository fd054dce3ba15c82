# SPDX-License-Identifier: Apache-2.0
"""Captioned clips for training.

A training sample is `{"frames": (f, 3, h, w) float32 in [-1, 1], "caption": str}`; a batch stacks the frames and lists
the captions. A `ClipDataset` hands out samples by number: `WorldDataset` here draws them from the synthetic world,
`files.VideoFiles` reads them from video files.

Which sample is clip number `index` of the global batch of optimiser step `step` is decided by `choose`, a pure
function of (seed, step, index). So a run sees the same data however many processes, accumulation steps and workers
share a batch out, and a resumed run sees what an uninterrupted one would have seen. `ClipLoader` does it ahead of time
in workers.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import replace
from typing import NotRequired, Protocol, TypedDict, runtime_checkable

import numpy as np
import torch
from diffusers.utils import logging
from torch.utils.data import DataLoader, Dataset

from ..tiny import world


logger = logging.get_logger(__name__)


class Clip(TypedDict):
    """One sample: frames (f, 3, h, w) float32 in [-1, 1]; and what a network is to see in their place, if it is
    something else."""

    frames: torch.Tensor
    caption: str
    shown: NotRequired[torch.Tensor]


class ClipBatch(TypedDict):
    """A batch: frames (b, 3, f, h, w) float32 in [-1, 1], the layout of the networks; and what a network is to see in
    their place, if any clip has that."""

    frames: torch.Tensor
    captions: list[str]
    shown: NotRequired[torch.Tensor]


def collate(clips: Sequence[Clip]) -> ClipBatch:
    """Stack samples of equal size into the layout of the networks."""
    batch = ClipBatch(
        frames=torch.stack([clip["frames"].transpose(0, 1) for clip in clips]),
        captions=[clip["caption"] for clip in clips],
    )
    if any("shown" in clip for clip in clips):
        batch["shown"] = torch.stack([clip.get("shown", clip["frames"]).transpose(0, 1) for clip in clips])
    return batch


# ---------------------------------------------------------------------------------------------------------------------
# Datasets, and which of their items make up a batch


class SkipClip(Exception):
    """An item that cannot be used.

    Args:
        reason: why, in words that are the same for all items of that kind: skips are counted by it.
        name: which item, for example a file's name in its manifest.
    """

    def __init__(self, reason: str, name: str):
        super().__init__(f"{name}: {reason}")
        self.reason, self.name = reason, name


class UnreadableDataError(RuntimeError):
    """A dataset of which no item that was tried could be read."""


class ClipDataset(Protocol):
    """Items 0 to len - 1, each of which gives clips of one size."""

    def __len__(self) -> int: ...

    def clip(self, index: int, rng: np.random.Generator) -> Clip:
        """A clip of item `index`. What is random in it (its start, its crop) is drawn from `rng` and nothing else.

        Raises:
            SkipClip: the item cannot be used.
        """
        ...


@runtime_checkable
class Scheduled(Protocol):
    """A dataset whose items change as the training goes on."""

    def at(self, step: int) -> ClipDataset:
        """The dataset of an optimiser step."""
        ...


class SkipReport:
    """Which of `total` files were skipped, and why. Each is logged and counted once.

    `str()` of it is the summary: `3 of 120 files skipped: 2 missing (a.mp4, b.mp4), 1 empty (c.mp4)`.
    """

    def __init__(self, total: int | None):
        self.total = total  # None where nobody knows: a stream
        self.reasons: dict[str, str] = {}  # by name

    def add(self, skip: SkipClip) -> None:
        """Count a skipped item, if it is a new one."""
        if skip.name not in self.reasons:
            self.reasons[skip.name] = skip.reason
            logger.warning(f"skipped {skip.name}: {skip.reason}")

    @property
    def counts(self) -> dict[str, int]:
        """Number of items by reason, the most frequent first."""
        reasons = list(self.reasons.values())
        return {reason: reasons.count(reason) for reason in sorted(set(reasons), key=lambda r: (-reasons.count(r), r))}

    def __str__(self) -> str:
        parts = []
        for reason, count in self.counts.items():
            names = [name for name, why in self.reasons.items() if why == reason]
            parts.append(f"{count} {reason} ({', '.join(names[:3])}{', ...' if count > 3 else ''})")
        of = "" if self.total is None else f" of {self.total}"
        return f"{len(self.reasons)}{of} files skipped" + (f": {', '.join(parts)}" if parts else "")


TRIES = 64  # items in a row that may be skipped for one clip


def choose(
    dataset: ClipDataset, seed: int, step: int, index: int, on_skip: Callable[[SkipClip], None] | None = None
) -> Clip:
    """Clip number `index` of the global batch of optimiser step `step`: a pure function of its arguments.

    Items are drawn uniformly and independently. An item that cannot be used is passed over for another, drawn in the
    same way, never the same one twice; `on_skip` is told of each.

    Raises:
        UnreadableDataError: the dataset is empty, or all of its items, or 64 of them in a row, were skipped.
    """
    if not len(dataset):
        raise UnreadableDataError("the dataset is empty: there is no clip to train on")
    if isinstance(dataset, Scheduled):
        dataset = dataset.at(step)
    report = SkipReport(len(dataset))
    tried: set[int] = set()
    for attempt in range(min(TRIES, len(dataset))):
        # A stream of its own for every attempt: what a failed one has drawn changes nothing. The last number keeps
        # these streams apart from others, since numpy pads the shorter key with zeros.
        rng = np.random.default_rng((seed, step, index, attempt, 1))
        item = int(rng.integers(len(dataset)))
        while item in tried:
            item = int(rng.integers(len(dataset)))
        tried.add(item)
        try:
            return dataset.clip(item, rng)
        except SkipClip as skip:
            report.reasons[skip.name] = skip.reason
            if on_skip is not None:
                on_skip(skip)
    raise UnreadableDataError(f"no clip could be read for step {step} after {len(tried)} tries: {report}")


class _Keyed(Dataset):
    """What a worker does: (step, index) -> a clip and the items that were skipped on the way to it."""

    def __init__(self, dataset: ClipDataset, seed: int):
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[Clip | UnreadableDataError, list[tuple[str, str]]]:
        skips: list[tuple[str, str]] = []
        try:
            return choose(self.dataset, self.seed, *key, on_skip=lambda s: skips.append((s.reason, s.name))), skips
        except (
            UnreadableDataError
        ) as error:  # handed over and raised in the main process, without a worker's traceback
            return error, skips


def _gather(
    items: list[tuple[Clip | UnreadableDataError, list[tuple[str, str]]]],
) -> tuple[ClipBatch | UnreadableDataError, list[tuple[str, str]]]:
    skips = [skip for _, each in items for skip in each]
    for clip, _ in items:
        if isinstance(clip, UnreadableDataError):
            return clip, skips
    return collate([clip for clip, _ in items]), skips


class ClipLoader:
    """Batches of a dataset, one a step, read ahead by worker processes.

    The batches are those of `choose`, whatever the number of workers.

    Args:
        dataset: where the clips come from.
        seed: of the choice of clips.
        rows: step -> the numbers, within the global batch of that step, of the clips that are wanted here. A process
            of many asks for its share.
        steps: the steps in order: `range(resumed_at, last)`, or `itertools.count(resumed_at)`.
        workers: processes that read ahead, two steps each; 0 reads in this process when a batch is asked for.

    Attributes:
        skips: the items that were skipped up to the batch that was handed out last.
    """

    def __init__(
        self,
        dataset: ClipDataset,
        seed: int,
        rows: Callable[[int], Sequence[int]],
        steps: Iterable[int],
        workers: int = 0,
    ):
        if workers < 0:
            raise ValueError(f"`workers` must be 0 or more, got {workers}")
        self.dataset, self.seed, self.rows, self.steps, self.workers = dataset, seed, rows, steps, workers
        self.skips = SkipReport(len(dataset))

    def __iter__(self) -> Iterator[ClipBatch]:
        """Yields the batch of every step.

        Raises:
            UnreadableDataError: see `choose`.
        """
        loader = DataLoader(
            _Keyed(self.dataset, self.seed),
            batch_sampler=([(step, row) for row in self.rows(step)] for step in self.steps),
            collate_fn=_gather,
            num_workers=self.workers,
            generator=torch.Generator(),  # the loader draws a seed for its workers: not from the global generator
        )
        for batch, skips in loader:
            for reason, name in skips:
                self.skips.add(SkipClip(reason, name))
            if isinstance(batch, UnreadableDataError):
                raise batch
            yield batch


# ---------------------------------------------------------------------------------------------------------------------
# The synthetic world


FORWARD = {"moving left": "moving right", "moving up": "moving down", "shrinking": "growing"}


class WorldDataset:
    """Clips of the synthetic world (`tiny.world`), training combinations only.

    Item number i is one scene with one caption, a function of (seed, i). `world_files.write_world` writes the same
    items as video files.

    Args:
        frames: how many neighbouring frames a clip has, starting anywhere (1 for single frames, at most 29), or the
            times of its frames, 0 to 28: `world.KEYFRAME_TIMES` for the keyframe stage.
        scale: pixels per unit of 16 x 24: 1, 4 or 8, the native sizes of the tiny cascade's stages.
        length: number of items.
        seed: of the scenes.
        bend: of three clips in four another version is shown, with its outlines bent by up to so many units (RMS).
        forward: two steps. Until the first, 19 of 20 backward motions are turned round; from the second on, none.
    """

    bent_share = 0.75

    def __init__(
        self,
        frames: int | Sequence[float],
        scale: int = 1,
        length: int = 1_000_000,
        seed: int = 0,
        bend: float = 0.0,
        forward: Sequence[int] = (),
    ):
        count = frames if isinstance(frames, int) else len(frames)
        if not 1 <= count <= world.NUM_FRAMES:
            raise ValueError(f"`frames` must be 1 to {world.NUM_FRAMES} frames of the world, got {count}")
        if not isinstance(frames, int) and not all(0 <= time <= world.NUM_FRAMES - 1 for time in frames):
            raise ValueError(f"`frames` must be times of 0 to {world.NUM_FRAMES - 1}, got {list(frames)}")
        if scale not in (1, 2, 4, 8, 16):
            raise ValueError(f"`scale` must be 1, 2, 4, 8 or 16 pixels per unit, got {scale}")
        if length < 1:
            raise ValueError(f"`length` must be 1 or more, got {length}")
        self.frames, self.scale, self.length, self.seed = frames, scale, length, seed
        self.bend, self.forward, self.turned = bend, forward, 0.0

    def __len__(self) -> int:
        return self.length

    def stills(self) -> "WorldDataset":
        """The same scenes, a single frame of each: for batches of images among those of clips."""
        return self._changed(frames=1)

    def bent(self, bend: float) -> "WorldDataset":
        """The same scenes with other bends."""
        return self._changed(bend=bend)

    def at(self, step: int) -> "WorldDataset":
        """The dataset of an optimiser step."""
        if not self.forward:
            return self
        first, last = self.forward
        return self._changed(turned=0.95 * min(1.0, max(0.0, (last - step) / (last - first))))

    def _changed(self, **values: object) -> "WorldDataset":
        other = copy(self)
        vars(other).update(values)
        return other

    def item(self, index: int) -> tuple[world.Scene, str]:
        """The scene and the caption of an item."""
        rng = np.random.default_rng((self.seed, index, 0, 0, 2))
        attributes = world.sample_attributes(rng)
        if attributes.motion in FORWARD and self.turned and rng.random() < self.turned:
            turned = replace(attributes, motion=FORWARD[attributes.motion])
            attributes = attributes if world.is_held_out(turned) else turned
        return world.sample_scene(attributes, rng), world.vary_caption(attributes, rng)

    def clip(self, index: int, rng: np.random.Generator) -> Clip:
        """A clip of one scene; the start of a run of frames, and bends, come from `rng`."""
        scene, caption = self.item(index)
        if isinstance(self.frames, int):
            start = int(rng.integers(world.NUM_FRAMES - self.frames + 1))
            times: Sequence[float] = range(start, start + self.frames)
        else:
            times = self.frames
        clip = Clip(frames=world.render([scene], times, self.scale)[0] * 2 - 1, caption=caption)
        if self.bend and rng.random() < self.bent_share:
            bend = world.sample_bend(self.bend * rng.random(), rng)
            clip["shown"] = world.render([scene], times, self.scale, bend=[bend])[0] * 2 - 1
        return clip
