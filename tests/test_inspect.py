# SPDX-License-Identifier: Apache-2.0
"""Pictures of stages beside each other: each frame stands where it should, and the command reads jobs and clips."""

import os
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageColor

from diffusers_show1 import cli
from diffusers_show1.cli.inspection import FILES, find_clips
from diffusers_show1.clips.metrics import flicker
from diffusers_show1.clips.reading import read_video
from diffusers_show1.clips.writing import save_video
from diffusers_show1.inspection import (
    contact_sheet,
    frame_plots,
    frame_statistics,
    layout,
    plots,
    side_by_side,
    summary,
    temporal_slices,
)
from diffusers_show1.runs.job import GenerationJob

from .jobs.small import SETTINGS, shared_pipe


def numbered(frames: int, height: int = 8, width: int = 12, stage: int = 0) -> np.ndarray:
    """A clip whose frames are each of one colour, which tells the stage and the frame."""
    clip = np.empty((frames, height, width, 3), np.uint8)
    clip[..., 0] = np.arange(frames)[:, None, None]
    clip[..., 1:] = stage, 77
    return clip


def moving(frames: int = 9, height: int = 16, width: int = 24) -> np.ndarray:
    """Noise that moves to the right, a pixel a frame."""
    line = np.random.default_rng(0).integers(0, 256, (height, width + frames, 3), dtype=np.uint8)
    return np.stack([line[:, frames - i : frames - i + width] for i in range(frames)])


sizes = st.tuples(st.integers(1, 40), st.integers(1, 20), st.integers(1, 30))  # frames, height, width
ladders = st.lists(sizes, min_size=1, max_size=3).map(
    lambda shapes: {f"stage {i}": numbered(*shape, stage=i) for i, shape in enumerate(shapes)}
)


# --- layout -------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 100), min_size=1, max_size=4), st.integers(1, 30))
def test_moments_are_frames_of_one_of_the_clips(counts, columns):
    positions, length = layout.moments(counts, columns)
    assert length in counts
    assert len(positions) == min(columns, max(counts))
    assert (np.diff(positions) > 0).all()
    assert positions[0] == 0
    assert len(positions) == 1 or positions[-1] == length - 1


@given(st.integers(2, 60), st.integers(1, 60))
def test_the_nearest_frame_in_time(length, count):
    found = layout.nearest(np.arange(length), length, count)
    for position, index in enumerate(found):
        at = Fraction(position * (count - 1), length - 1)
        assert 0 <= index < count
        assert abs(index - at) == min(abs(other - at) for other in range(count))
    assert (found[0], found[-1]) == (0, count - 1)


def test_keyframes_stand_above_the_frames_that_they_became():
    positions, length = layout.moments([8, 29, 29], 6)
    keyframes, frames = (layout.nearest(positions, length, count) for count in (8, 29))
    assert (keyframes * 4 == frames).all()


@pytest.mark.parametrize(
    ("heights", "height"),
    [([16, 16, 64, 128], 128), ([40, 40, 160, 320], 160), ([16], 144), ([40], 160), ([1080], 135), ([1], 144)],
)
def test_a_height_at_which_pixels_stay_even(heights, height):
    assert layout.common_height({str(i): numbered(1, h) for i, h in enumerate(heights)}) == height


def test_enlarged_pixels_stay_visible_and_reduced_ones_are_averaged():
    frame = moving(1)[0]
    np.testing.assert_array_equal(layout.scaled(frame, 72, 48), frame.repeat(3, axis=0).repeat(3, axis=1))
    means = frame.reshape(4, 4, 6, 4, 3).mean(axis=(1, 3))
    assert np.abs(np.asarray(layout.scaled(frame, 6, 4)) - means).max() <= 1


FORMS = {
    "np": lambda clip: clip[None].astype(np.float32) / 255,
    "pt": lambda clip: torch.from_numpy(clip).permute(0, 3, 1, 2)[None] / 255,
    "pil": lambda clip: [[Image.fromarray(frame) for frame in clip]],
    "images": lambda clip: [Image.fromarray(frame) for frame in clip],
    "floats": lambda clip: clip / 255,
    "read_video": lambda clip: clip,
}


@pytest.mark.parametrize("form", FORMS)
def test_frames_in_every_form(form):
    clip = moving(4)
    found = layout.as_clips({"base": FORMS[form](clip)})["base"]
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, clip)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: contact_sheet({}), "`stages` must hold at least one clip, got none"),
        (
            lambda: contact_sheet({"a": np.zeros((2, 3, 4, 4, 3))}),
            r"`stages\['a'\]` must be one video, got a batch of 2",
        ),
        (lambda: summary({"a": np.zeros((0, 4, 4, 3), np.uint8)}), r"must have shape \(frames, h, w, 3\), none of"),
        (lambda: frame_plots({"a": np.full((2, 4, 4, 3), 2.0)}), r"`stages\['a'\]` must lie in 0..1, got 2..2"),
        (lambda: contact_sheet({"a": numbered(2)}, columns=0), "`columns` must be at least 1, got 0"),
        (lambda: side_by_side({"a": numbered(2)}, height=0), "`height` must be at least 1 pixel or None, got 0"),
        (lambda: temporal_slices({"a": numbered(2)}, row=1.5), "`row` must be a part .* from 0 to 1, got 1.5"),
        (lambda: temporal_slices({"a": numbered(2)}, column=-1), "`column` must be a part .* from 0 to 1, got -1"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- pictures -----------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(ladders, st.integers(1, 9), st.integers(1, 40))
def test_a_sheet_of_any_clips(stages, columns, height):
    """In the middle of each cell is the colour of the frame that belongs there."""
    sheet = np.asarray(contact_sheet(stages, columns, height))
    positions, length = layout.moments([len(clip) for clip in stages.values()], columns)
    cell = max(layout.scaled_width(clip, height) for clip in stages.values()) + layout.GAP
    line = height + 2 * layout.LINE
    assert sheet.shape[0] == line * len(stages)
    assert sheet.shape[1] >= cell * len(positions) + layout.GAP
    for row, clip in enumerate(stages.values()):
        for column, index in enumerate(layout.nearest(positions, length, len(clip))):
            x = layout.GAP + column * cell + layout.scaled_width(clip, height) // 2
            np.testing.assert_array_equal(sheet[row * line + layout.LINE + height // 2, x], clip[index, 0, 0])


@settings(max_examples=25, deadline=None)
@given(ladders, st.integers(1, 40))
def test_a_video_of_any_clips(stages, height):
    """It lasts as long as the longest, all of them begin and end together, and H.264 takes its size."""
    video = side_by_side(stages, height)
    length = max(len(clip) for clip in stages.values())
    assert len(video) == length
    assert video.shape[1] % 2 == video.shape[2] % 2 == 0
    middle = video[:, layout.LINE + height // 2]
    for clip in stages.values():
        indices = layout.nearest(np.arange(length), length, len(clip))
        same = (middle[:, None] == clip[indices, 0, 0][:, None, None]).all(axis=-1)[:, 0]
        assert (same.sum(axis=1) >= layout.scaled_width(clip, height)).all()


@settings(max_examples=25, deadline=None)
@given(ladders, st.floats(0, 1), st.floats(0, 1), st.integers(4, 40))
def test_slices_of_any_clips(stages, row, column, height):
    """Time runs to the right and downwards, from the first frame of every stage to its last."""
    page = np.asarray(temporal_slices(stages, row, column, height))
    length = max(len(clip) for clip in stages.values())
    duration = page.shape[0] - layout.LINE - height - 2 * layout.GAP
    assert duration % length == 0
    left = layout.GAP
    for name, clip in stages.items():
        width = layout.scaled_width(clip, height)
        right, below = left + width + layout.GAP, layout.LINE + height + layout.GAP
        indices = layout.nearest(np.arange(length), length, len(clip)).repeat(duration // length)
        np.testing.assert_array_equal(page[layout.LINE + height - 1, right : right + duration], clip[indices, 0, 0])
        np.testing.assert_array_equal(page[below : below + duration, left], clip[indices, 0, 0])
        left += max(width + layout.GAP + duration, layout.text_width(layout.caption(name, clip))) + 3 * layout.GAP


def test_a_slice_is_the_row_or_the_column_that_was_asked_for():
    clip = moving(9, 16, 24)
    page = np.asarray(temporal_slices({"a": clip}, row=0.25, column=1, height=16))
    top, left = layout.LINE, layout.GAP
    pixels = round(16 / 9)
    over_time = page[top : top + 16, left + 24 + layout.GAP :][:, : 9 * pixels : pixels]
    np.testing.assert_array_equal(over_time, clip[:, :, 23].swapaxes(0, 1))
    below = page[top + 16 + layout.GAP :, left : left + 24][: 9 * pixels : pixels]
    np.testing.assert_array_equal(below, clip[:, 4])


@pytest.mark.parametrize("name", ["", "two\nlines", "\udcff", "语言 ü", "x" * 255])
def test_any_name_of_a_file_can_be_a_caption(name):
    stages = {name: numbered(3)}
    for picture in (contact_sheet(stages), frame_plots(stages), temporal_slices(stages)):
        assert picture.height > 100
    assert len(side_by_side(stages)) == 3
    assert summary(stages).count("\n") == 1


# --- numbers ------------------------------------------------------------------------------------------------------


def test_statistics_are_those_of_the_metrics():
    clip = moving()
    numbers = frame_statistics(clip)
    frames = torch.from_numpy(clip).permute(0, 3, 1, 2) / 255
    assert numbers["flicker"].mean() == pytest.approx(flicker(frames))
    assert numbers["green"] == pytest.approx(frames[:, 1].mean(dim=(1, 2)).numpy())
    assert numbers["difference"] == pytest.approx((frames[1:] - frames[:-1]).abs().mean(dim=(1, 2, 3)).numpy())
    assert [len(numbers[key]) for key in ("red", "difference", "flicker")] == [9, 8, 7]


def test_steady_change_is_no_flicker():
    ramp = numbered(10)  # one channel of three grows by 1 a frame
    there_and_back = numbered(2)[[0, 1] * 5]
    step = 1 / 255 / 3
    assert frame_statistics(ramp)["difference"] == pytest.approx(np.full(9, step))
    assert frame_statistics(ramp)["flicker"] == pytest.approx(np.zeros(8), abs=1e-7)
    assert frame_statistics(there_and_back)["difference"] == pytest.approx(np.full(9, step))
    assert frame_statistics(there_and_back)["flicker"] == pytest.approx(np.full(8, step))


def test_the_summary_has_a_line_for_each_stage():
    lines = summary({"base": numbered(1), "superres": numbered(10, 64, 96)}).splitlines()
    assert [line.split() for line in lines] == [
        ["frames", "size", "difference", "flicker"],
        ["base", "1", "12x8", "-", "-"],
        ["superres", "10", "96x64", "0.0013", "0.0000"],
    ]


def plotted(stages: dict[str, np.ndarray]) -> list[list]:
    """The plots of `frame_plots`, row by row."""
    return [list(row.axes) for row in plots.figure_of(stages).subfigs]


def test_plots_show_the_statistics_each_at_its_frame():
    """Means 1, 0 and 0.5 as three lines; a short clip leaves the plots empty that need more frames."""
    flat = np.broadcast_to(np.array([255, 0, 127], np.uint8), (40, 4, 4, 3))
    long, short = plotted({"long": flat, "short": flat[:1]})
    colors = plots.PANELS["mean of each channel"].values()
    for line, color, part in zip(long[0].lines, colors, (1, 0, 127 / 255), strict=True):
        assert line.get_color() == color
        np.testing.assert_array_equal(line.get_xdata(), np.arange(40))
        assert line.get_ydata() == pytest.approx(np.full(40, part))
    assert [len(plot.lines[0].get_xdata()) for plot in short] == [1, 0, 0]
    clip = moving(9)
    numbers = frame_statistics(clip)
    ((_, difference, jumps),) = plotted({"a": clip})
    np.testing.assert_array_equal(difference.lines[0].get_xdata(), np.arange(1, 9))
    np.testing.assert_array_equal(difference.lines[0].get_ydata(), numbers["difference"])
    np.testing.assert_array_equal(jumps.lines[0].get_xdata(), np.arange(1, 8))
    np.testing.assert_array_equal(jumps.lines[0].get_ydata(), numbers["flicker"])


@settings(max_examples=15, deadline=None)
@given(ladders)
def test_the_scale_of_a_plot_fits(stages):
    """All that is drawn is inside; columns stand above each other, with one scale where frames are equally many."""
    rows = plotted(stages)
    for row, clip in zip(rows, stages.values(), strict=True):
        for place, plot in enumerate(row):
            assert plot.get_position().bounds == rows[0][place].get_position().bounds
            low, high = plot.get_ylim()
            for line in plot.lines:
                assert all(low < value < high for value in line.get_ydata())
                assert all(plot.get_xlim()[0] < frame < plot.get_xlim()[1] for frame in line.get_xdata())
        for other, also in zip(rows, stages.values(), strict=True):
            if len(also) == len(clip):
                assert [plot.get_ylim() for plot in row] == [plot.get_ylim() for plot in other]


def test_plots_are_drawn_in_their_colours_and_change_no_setting():
    import matplotlib

    before, pyplot = dict(matplotlib.rcParams), "matplotlib.pyplot" in sys.modules
    picture = np.asarray(frame_plots({"noise": moving(50), "again": moving(9)}))
    assert picture.shape == (round(200 * plots.HEIGHT), round(100 * plots.WIDTH), 3)
    assert dict(matplotlib.rcParams) == before
    assert ("matplotlib.pyplot" in sys.modules) == pyplot
    for half in np.split(picture.astype(int), 2):
        for colors in plots.PANELS.values():
            for color in colors.values():
                assert (np.abs(half - ImageColor.getrgb(color)).max(axis=-1) < 40).sum() > 100


def test_without_matplotlib_everything_else_is_made(tmp_path, monkeypatch, capsys):
    for name in ("matplotlib", "matplotlib.style", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, name, None)
    message = "plots need the package `matplotlib`: pip install 'diffusers-show1[inspect]'"
    with pytest.raises(ImportError) as caught:
        frame_plots({"a": numbered(2)})
    assert str(caught.value) == message
    save_video(numbered(3), tmp_path / "a.webp")
    assert run(tmp_path / "a.webp") == 0
    streams = capsys.readouterr()
    assert streams.err == f"show1: there is no frames.png: {message}\n"
    assert streams.out.splitlines()[-1].endswith("a-inspect: sheet.png, slice.png, stages.mp4")
    assert sorted(path.name for path in (tmp_path / "a-inspect").iterdir()) == ["sheet.png", "slice.png", "stages.mp4"]


# --- the command --------------------------------------------------------------------------------------------------


def run(*arguments: str | os.PathLike[str]) -> int:
    return cli.main(["inspect", *map(os.fspath, arguments)])


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A finished job of the four stages, with random weights."""
    folder = tmp_path_factory.mktemp("jobs") / "job"
    GenerationJob(shared_pipe(), folder, SETTINGS).run("np")
    return folder


def test_a_job(job, capsys):
    assert run(job) == 0
    folder = job.parent / "job-inspect"
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    stages = {name: read_video(job / f"{name}.webp") for name in ("base", "interpolation", "superres", "refine")}
    with Image.open(folder / "sheet.png") as sheet:
        np.testing.assert_array_equal(sheet, contact_sheet(stages))
    with Image.open(folder / "slice.png") as picture:
        np.testing.assert_array_equal(picture, temporal_slices(stages))
    with Image.open(folder / "frames.png") as picture:
        np.testing.assert_array_equal(picture, frame_plots(stages))
    assert read_video(folder / "stages.mp4").shape == side_by_side(stages).shape
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[1:5]] == list(stages)
    assert out.splitlines()[-1] == f"{folder}: sheet.png, frames.png, slice.png, stages.mp4"


def test_a_job_that_is_under_way_shows_what_is_finished(job, tmp_path):
    (tmp_path / "half").mkdir()
    for name in ("job.json", "base.webp", "interpolation.webp"):
        (tmp_path / "half" / name).write_bytes((job / name).read_bytes())
    assert list(find_clips([str(tmp_path / "half")])) == ["base", "interpolation"]
    assert find_clips([str(tmp_path / "half"), str(job)]) == {
        "half": tmp_path / "half" / "interpolation.webp",
        "job": job / "refine.webp",
    }


@pytest.mark.parametrize(
    ("names", "stages"),
    [
        (["out.webp"], ["out"]),
        (["out.webp", "out.base.webp"], ["base", "interpolation"]),
        (["out.webp", "out.base.webp", "out.interpolation.webp", "out.superres.webp"],
         ["base", "interpolation", "superres", "refine"]),
        (["out.webp", "out.superres.webp", "out.old.webp", "out.base.gif"], ["superres", "out"]),
        (["frames/", "frames.base/"], ["base", "interpolation"]),
    ],
)  # fmt: skip
def test_stages_are_found_beside_a_clip(tmp_path, names, stages):
    for name in names:
        save_video(numbered(3), os.path.join(tmp_path, name))
    assert list(find_clips([os.path.join(tmp_path, names[0])])) == stages


def test_clips_and_options(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_video(moving(9, 16, 24), "a.webp")
    save_video(moving(4, 20, 20), "b/")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "mine.txt").write_text("stays")
    options = ["--columns", "3", "--height", "32", "--row", "0", "--column", "1", "--fps", "24"]
    assert run("a.webp", "b/", "-o", "results", *options) == 0
    stages = {"a": read_video("a.webp"), "b": read_video("b")}
    with Image.open("results/sheet.png") as sheet:
        np.testing.assert_array_equal(sheet, contact_sheet(stages, 3, 32))
    with Image.open("results/slice.png") as picture:
        np.testing.assert_array_equal(picture, temporal_slices(stages, 0, 1, 32))
    before = (tmp_path / "results" / "stages.mp4").read_bytes()
    assert run("a.webp", "-o", "results") == 2
    assert "it holds sheet.png; --overwrite replaces them" in capsys.readouterr().err
    assert (tmp_path / "results" / "stages.mp4").read_bytes() == before
    assert run("a.webp", "-o", "results", "--overwrite") == 0
    assert (tmp_path / "results" / "stages.mp4").read_bytes() != before
    assert (tmp_path / "results" / "mine.txt").read_text() == "stays"
    assert len(list((tmp_path / "results").iterdir())) == 5
    assert list(find_clips(["a.webp", "./a.webp"])) == ["a.webp", "./a.webp"]


def test_what_cannot_be_replaced_is_one_line_and_exit_code_1(tmp_path, capsys):
    save_video(numbered(2), tmp_path / "a.webp")
    (tmp_path / "a-inspect" / "sheet.png").mkdir(parents=True)
    assert run(tmp_path / "a.webp", "--overwrite") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "sheet.png" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing argument"),
        ([""], "JOB-OR-VIDEO must be a job's folder or a clip, got '' (there is nothing of this name)"),
        (["no.mp4"], "got 'no.mp4' (there is nothing of this name)"),
        (["clip.webp", "no.mp4"], "got 'no.mp4' (there is nothing of this name)"),
        (["clip.webp", "clip.webp"], "JOB-OR-VIDEO must be clips that differ, got 'clip.webp clip.webp'"),
        (["empty"], "got 'empty' (`path` must hold frames"),
        (["broken.mp4"], "JOB-OR-VIDEO must be a clip that can be read, got 'broken.mp4'"),
        (["broken.webp"], "JOB-OR-VIDEO must be a clip that can be read, got 'broken.webp'"),
        (["broken.job"], "JOB-OR-VIDEO must be a job's folder or a clip, got 'broken.job'"),
        (["begun.job"], "JOB-OR-VIDEO must be a job with a finished stage, got 'begun.job'"),
        (["clip.webp", "-o", "clip.webp"], "--output must be in a folder that can be written"),
        (["clip.webp", "--columns", "0"], "--columns must be a whole number of at least 1, got 0"),
        (["clip.webp", "--row", "1.01"], "--row must be a number from 0 to 1, got 1.01"),
        (["clip.webp", "--column", "nan"], "--column must be a number from 0 to 1, got nan"),
        (["clip.webp", "--height", "0"], "--height must be a whole number from 1 to 4096, got 0"),
        (["clip.webp", "--fps", "0"], "--fps must be a number above 0, up to 1000, got 0.0"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, job, arguments, message):
    monkeypatch.chdir(tmp_path)
    save_video(numbered(2), "clip.webp")
    for folder in ("empty", "broken.job", "begun.job"):
        (tmp_path / folder).mkdir()
    (tmp_path / "broken.mp4").write_bytes(b"\0" * 100)
    (tmp_path / "broken.webp").write_bytes((tmp_path / "clip.webp").read_bytes()[:50])
    (tmp_path / "broken.job" / "job.json").write_text("{")
    (tmp_path / "begun.job" / "job.json").write_bytes((job / "job.json").read_bytes())
    before = sorted(tmp_path.rglob("*"))
    assert run(*arguments) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err.count("\n") == 1
    assert message in streams.err
    assert sorted(tmp_path.rglob("*")) == before
