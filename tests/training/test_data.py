# SPDX-License-Identifier: Apache-2.0
"""Training samples: the synthetic world, which clips make up a batch, and reading ahead in workers."""

import itertools

import numpy as np
import pytest
import torch

from diffusers_show1.learning.task import area_downsample
from diffusers_show1.tiny import world
from diffusers_show1.training.data import (
    TRIES,
    Clip,
    ClipLoader,
    SkipClip,
    SkipReport,
    UnreadableDataError,
    WorldDataset,
    choose,
    collate,
)


def test_layout_and_range():
    frames = collate([WorldDataset(8, scale=4).clip(index, np.random.default_rng(index)) for index in (0, 1)])[
        "frames"
    ]
    assert frames.shape == (2, 3, 8, 64, 96)
    assert -1 <= frames.min() < -0.5
    assert 0.5 < frames.max() <= 1
    assert area_downsample(frames, 4).shape == (2, 3, 8, 16, 24)


def test_samples_collate_into_a_batch():
    data = WorldDataset(world.KEYFRAME_TIMES)
    clips = [data.clip(3, np.random.default_rng(seed)) for seed in (1, 2)]
    assert clips[0]["frames"].shape == (8, 3, 16, 24)
    batch = collate(clips)
    assert batch["frames"].shape == (2, 3, 8, 16, 24)
    assert batch["captions"] == [clip["caption"] for clip in clips]
    assert "shown" not in batch


@pytest.mark.parametrize("step", [0, 10**6])
def test_held_out_combinations_are_not_in_training_data(step):
    items = WorldDataset(1, forward=(200, 360)).at(step)
    parsed = [world.parse_caption(items.item(index)[1]) for index in range(200)]
    assert not any(world.is_held_out(attributes) for attributes in parsed if attributes.background)
    assert not any(world.is_held_out(items.item(index)[0].attributes) for index in range(200))


def test_motions_are_forward_at_first():
    data = WorldDataset(1, forward=(200, 360))
    shares = []
    for step in (0, 200, 280, 360, 10**6):
        motions = [data.at(step).item(index)[0].attributes.motion for index in range(200)]
        shares.append(sum(motion in ("moving right", "moving down", "growing") for motion in motions) / 200)
    assert shares[0] == shares[1] > 0.85  # some turned ones would be held out
    assert 0.6 < shares[2] < 0.85
    assert 0.35 < shares[3] == shares[4] < 0.65
    # the choice of clips asks for the step's own
    early, late = (choose(data, 0, step, 0) for step in (0, 10**6))
    assert early["frames"].shape == late["frames"].shape


# --- bent outlines ---------------------------------------------------------------------------------------------------


def test_what_is_shown_is_bent_and_the_target_is_the_truth():
    plain, bent = WorldDataset(5), WorldDataset(5).bent(0.5)
    clips = [(plain.clip(i, np.random.default_rng(i)), bent.clip(i, np.random.default_rng(i))) for i in range(80)]
    assert all(torch.equal(true["frames"], clip["frames"]) for true, clip in clips)
    assert all("shown" not in true for true, _ in clips)
    shown = [clip for _, clip in clips if "shown" in clip]
    assert 0.6 < len(shown) / 80 < 0.9  # three in four
    changed = [(clip["shown"] - clip["frames"]).abs().amax().item() for clip in shown]
    assert sum(change > 0.05 for change in changed) > 0.8 * len(shown)
    batch = collate([clip for _, clip in clips[:8]])
    assert batch["shown"].shape == batch["frames"].shape
    assert bent.stills().clip(0, np.random.default_rng(0))["frames"].shape[0] == 1


# ---------------------------------------------------------------------------------------------------------------------


def test_a_run_of_the_world_lies_in_the_whole_clip():
    whole = WorldDataset(29).clip(3, np.random.default_rng(0))
    run = WorldDataset(5).clip(3, np.random.default_rng(0))
    assert run["caption"] == whole["caption"]
    starts = [start for start in range(25) if torch.equal(whole["frames"][start : start + 5], run["frames"])]
    assert len(starts) == 1
    keyframes = WorldDataset(world.KEYFRAME_TIMES).clip(3, np.random.default_rng(9))["frames"]
    assert torch.equal(keyframes, whole["frames"][::4])
    still = WorldDataset(5, scale=4).stills().clip(3, np.random.default_rng(0))["frames"]
    assert still.shape == (1, 3, 64, 96)


def test_items_differ_and_depend_on_the_seed():
    scenes = [WorldDataset(1, seed=seed).item(index)[0] for seed in (0, 1) for index in range(20)]
    assert len(set(scenes)) == 40


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frames": 0}, "`frames` must be 1 to 29 frames of the world, got 0"),
        ({"frames": 30}, "`frames` must be 1 to 29 frames of the world, got 30"),
        ({"frames": [0, 28.5]}, r"`frames` must be times of 0 to 28, got \[0, 28.5\]"),
        ({"frames": 1, "scale": 3}, "`scale` must be 1, 2, 4, 8 or 16 pixels per unit, got 3"),
        ({"frames": 1, "length": 0}, "`length` must be 1 or more, got 0"),
    ],
)
def test_bad_arguments_of_the_world(arguments, message):
    with pytest.raises(ValueError, match=message):
        WorldDataset(**arguments)


# ---------------------------------------------------------------------------------------------------------------------


class Numbered:
    """Items that are their own number; those for which `bad` says so cannot be used, after some random draws."""

    def __init__(self, length, bad=lambda index: False):
        self.length, self.bad = length, bad

    def __len__(self):
        return self.length

    def clip(self, index, rng):
        value = rng.random()
        if self.bad(index):
            raise SkipClip("odd", f"item {index}") if index % 2 else SkipClip("even", f"item {index}")
        return Clip(frames=torch.full((2, 3, 4, 4), index + value), caption=str(index))


def test_a_choice_depends_on_seed_step_and_index_alone():
    data = Numbered(1000)
    keys = list(itertools.product((0, 1), (0, 1, 2), (0, 1, 2)))
    clips = {key: choose(data, *key) for key in keys}
    for key in reversed(keys):
        assert torch.equal(choose(data, *key)["frames"], clips[key]["frames"])
    assert len({float(clip["frames"].mean()) for clip in clips.values()}) == len(keys)


def test_every_item_is_chosen_about_equally_often():
    counts = np.bincount([int(choose(Numbered(8), 0, step, 0)["caption"]) for step in range(800)], minlength=8)
    assert counts.min() > 65
    assert counts.max() < 140


def test_bad_items_are_passed_over_and_good_choices_stay():
    good, half = Numbered(10), Numbered(10, bad=lambda index: index < 5)
    kept = moved = 0
    for step in range(100):
        before, after = choose(good, 0, step, 0), choose(half, 0, step, 0)
        assert int(after["caption"]) >= 5
        if int(before["caption"]) >= 5:
            assert torch.equal(before["frames"], after["frames"])
            kept += 1
        else:
            moved += 1
    assert kept > 30
    assert moved > 30


def test_one_good_item_among_many_bad_is_found_and_each_is_tried_once():
    data = Numbered(TRIES, bad=lambda index: index != 7)
    for step in range(20):
        skips = []
        assert choose(data, 0, step, 0, on_skip=skips.append)["caption"] == "7"
        assert len({skip.name for skip in skips}) == len(skips)


def test_nothing_readable_is_one_error_with_the_reasons():
    with pytest.raises(
        UnreadableDataError, match=r"step 4 after 3 tries: 3 of 3 .*: 2 even \(item .*\), 1 odd \(item 1\)"
    ):
        choose(Numbered(3, bad=lambda index: True), 0, 4, 0)
    with pytest.raises(UnreadableDataError, match=f"after {TRIES} tries: {TRIES} of 5000 "):
        choose(Numbered(5000, bad=lambda index: True), 0, 0, 0)
    with pytest.raises(UnreadableDataError, match="empty"):
        choose(Numbered(0), 0, 0, 0)


def test_a_report_counts_each_item_once(diffusers_log):
    report = SkipReport(120)
    assert str(report) == "0 of 120 files skipped"
    for name, reason in [("a", "short"), ("b", "missing"), ("a", "short"), ("c", "missing"), ("d", "missing")]:
        report.add(SkipClip(reason, name))
    report.add(SkipClip("missing", "e"))
    assert report.counts == {"missing": 4, "short": 1}
    assert str(report) == "5 of 120 files skipped: 4 missing (b, c, d, ...), 1 short (a)"
    assert [record.getMessage() for record in diffusers_log.records].count("skipped a: short") == 1


# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than this machine has cores
def test_workers_change_nothing():
    data = Numbered(50, bad=lambda index: index % 3 == 0)
    runs = []
    for workers in (0, 1, 3):
        loader = ClipLoader(data, 5, lambda step: range(step % 2, 4), range(10, 16), workers)
        runs.append((list(loader), loader.skips))
    (batches, skips), *others = runs
    assert [len(batch["captions"]) for batch in batches] == [4, 3] * 3
    assert skips.reasons
    for other, other_skips in others:
        assert other_skips.reasons == skips.reasons
        for mine, theirs in zip(batches, other, strict=True):
            assert mine["captions"] == theirs["captions"]
            assert torch.equal(mine["frames"], theirs["frames"])


def test_processes_share_the_global_batch_and_a_resumed_run_goes_on():
    data, loader = Numbered(50), lambda rows, first: ClipLoader(Numbered(50), 5, rows, range(first, 8))
    whole = list(loader(lambda step: range(4), 5))
    for rank in (0, 1):
        share = list(loader(lambda step, rank=rank: range(2 * rank, 2 * rank + 2), 6))
        for mine, all_rows in zip(share, whole[1:], strict=True):
            assert torch.equal(mine["frames"], all_rows["frames"][2 * rank : 2 * rank + 2])
    assert torch.equal(whole[0]["frames"][3], choose(data, 5, 5, 3)["frames"].transpose(0, 1))


def test_loading_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    next(iter(ClipLoader(Numbered(5), 0, lambda step: [0], itertools.count())))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_readable_reaches_the_main_process_as_the_same_error(workers):
    loader = ClipLoader(Numbered(3, bad=lambda index: True), 0, lambda step: [0], range(2), workers)
    with pytest.raises(UnreadableDataError, match="^no clip could be read for step 0 after 3 tries"):
        next(iter(loader))
    assert len(loader.skips.reasons) == 3


def test_negative_workers():
    with pytest.raises(ValueError, match="`workers` must be 0 or more, got -1"):
        ClipLoader(Numbered(3), 0, lambda step: [0], range(2), -1)
