# SPDX-License-Identifier: Apache-2.0
"""Clips to files and back: what is exact stays exact, and what cannot be written is refused before it is."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from diffusers_show1.clips.files import check_output_path, output_ending, replacing
from diffusers_show1.clips.formats import VIDEO_ENDINGS
from diffusers_show1.clips.frames import to_uint8
from diffusers_show1.clips.reading import read_video
from diffusers_show1.clips.writing import save_video


def smooth_clip(frames: int = 5, height: int = 64, width: int = 96) -> np.ndarray:
    """A clip (f, h, w, 3) uint8 as cameras make them: soft shapes, no two frames alike."""
    noise = np.random.default_rng(0).integers(0, 256, (frames, 4, 6, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(f).resize((width, height), Image.Resampling.BICUBIC)) for f in noise])


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    error = np.mean((first.astype(np.float64) - second) ** 2)
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


@pytest.mark.parametrize("name", ["clip.webp", "clip", "clip.v2/", "new/folders/clip/"])
def test_lossless_formats_give_back_the_frames(tmp_path, name):
    clip = smooth_clip()
    path = os.path.join(tmp_path, name)
    assert save_video(clip, path) == Path(path)
    np.testing.assert_array_equal(read_video(path), clip)


@pytest.mark.parametrize(("name", "least"), [("clip.mp4", 32), ("clip.MP4", 32), ("clip.gif", 24)])
def test_lossy_formats_keep_sizes_and_look(tmp_path, name, least):
    clip = smooth_clip()
    read = read_video(save_video(clip, tmp_path / name))
    assert read.shape == clip.shape
    assert psnr(clip, read) > least


@pytest.mark.parametrize("name", ["clip.gif", "clip.webp"])
def test_merged_frames_are_repeated(tmp_path, name):
    clip = np.zeros((7, 8, 8, 3), np.uint8)
    clip[2:3], clip[3:] = 90, 200
    np.testing.assert_array_equal(read_video(save_video(clip, tmp_path / name)), clip)


@pytest.mark.parametrize(("size", "written"), [((40, 64), (40, 64)), ((18, 30), (18, 30)), ((33, 21), (34, 22))])
def test_mp4_never_rescales(tmp_path, size, written, recwarn):
    clip = smooth_clip(3, *size)
    read = read_video(save_video(clip, tmp_path / "clip.mp4"))
    assert read.shape == (3, *written, 3)
    assert psnr(clip, read[:, : size[0], : size[1]]) > 24
    messages = [str(warning.message) for warning in recwarn if "even sizes" in str(warning.message)]
    assert messages == ([] if size == written else ["H.264 needs even sizes: 21x33 is written as 22x34"])


@pytest.mark.parametrize("fps", [2, 7.5, 24])
def test_mp4_plays_at_the_rate_asked_for(tmp_path, fps):
    av = pytest.importorskip("av")
    with av.open(str(save_video(smooth_clip(), tmp_path / "clip.mp4", fps=fps))) as container:
        assert float(container.streams.video[0].average_rate) == pytest.approx(fps)


@pytest.mark.parametrize(("name", "milliseconds"), [("clip.gif", 130), ("clip.webp", 133)])
def test_animations_play_at_the_nearest_rate(tmp_path, name, milliseconds):
    with Image.open(save_video(smooth_clip(), tmp_path / name, fps=7.5)) as image:
        assert image.info["loop"] == 0
        image.seek(1)
        image.load()
        assert image.info["duration"] == milliseconds


def test_images_floats_and_bytes_write_the_same_frames(tmp_path):
    clip = smooth_clip()
    forms = (clip, clip.astype(np.float32) / 255, clip / 255.0, [Image.fromarray(frame) for frame in clip])
    for index, frames in enumerate(forms):
        np.testing.assert_array_equal(read_video(save_video(frames, tmp_path / f"{index}.webp")), clip)


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.just(3))))
def test_every_byte_survives_the_way_through_floats(clip):
    for kind in (np.float16, np.float32, np.float64):
        np.testing.assert_array_equal(to_uint8((clip / 255).astype(kind)), clip)


def test_floats_are_rounded_not_truncated():
    assert to_uint8(np.full((1, 1, 1, 3), 0.999))[0, 0, 0, 0] == 255


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((2, 4, 4)), r"shape \(frames, h, w, 3\)"),
        (np.zeros((2, 4, 4, 4)), r"got \(2, 4, 4, 4\)"),
        (np.zeros((0, 4, 4, 3)), "none of them 0"),
        (np.zeros((2, 4, 4, 3), np.int64), "dtype int64"),
        (np.full((1, 2, 2, 3), 1.5), "from 1.5 to 1.5"),
        (np.full((1, 2, 2, 3), -1.0), "from -1 to -1"),
        (np.full((1, 2, 2, 3), np.nan), "nan"),
        ([], "at least one frame"),
        ([np.zeros((4, 4, 3))], "list of ndarray"),
        ([Image.new("RGB", (2, 2)), Image.new("RGB", (3, 2))], "one size"),
    ],
)
def test_bad_frames_are_named(tmp_path, frames, message):
    with pytest.raises(ValueError, match=message):
        save_video(frames, tmp_path / "clip.mp4")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fps", [0, -1, math.nan, math.inf])
def test_bad_rates_are_named(tmp_path, fps):
    with pytest.raises(ValueError, match="`fps` must be a number above 0"):
        save_video(smooth_clip(), tmp_path / "clip.mp4", fps=fps)


@pytest.mark.parametrize("name", ["clip.avi", "clip.mp44", "clip.json", "", "  "])
def test_other_endings_are_refused(name):
    with pytest.raises(ValueError, match=r"`path` must end in \.mp4, \.gif or \.webp"):
        check_output_path(name)


@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1))
def test_an_output_is_a_known_file_a_folder_or_refused(name):
    assert output_ending(name + "/") == ""
    try:
        ending = output_ending(name)
    except ValueError:
        assert not name.strip() or Path(name).suffix.lower() not in ("", *VIDEO_ENDINGS)
    else:
        assert ending == Path(name).suffix.lower()
    for known in VIDEO_ENDINGS:
        assert output_ending(f"{name}a{known}") == known


def test_outputs_that_cannot_be_written_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "thesis.txt").write_text("")
    for name, error, message in (
        ("file/clip.mp4", OSError, "in a folder that can be written"),
        ("folder.mp4", IsADirectoryError, "got the folder"),
        ("file", NotADirectoryError, "got the file"),
        ("papers", ValueError, "which holds 'thesis.txt'"),
    ):
        with pytest.raises(error, match=message):
            check_output_path(tmp_path / name)
        with pytest.raises(error, match=message):
            save_video(smooth_clip(), tmp_path / name)
    assert (tmp_path / "papers" / "thesis.txt").exists()


def test_checking_an_output_leaves_nothing(tmp_path):
    for name in ("clip.mp4", "new/folders/clip.gif", "frames/"):
        check_output_path(os.path.join(tmp_path, name))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif", "clip.webp", "frames"])
def test_saving_again_replaces_and_leaves_nothing_else(tmp_path, name):
    save_video(smooth_clip(9), tmp_path / name)
    save_video(smooth_clip(4), tmp_path / name)
    assert len(read_video(tmp_path / name)) == 4
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_failure_while_writing_keeps_the_old_file(tmp_path):
    path = tmp_path / "note.txt"
    path.write_text("old")

    def write_half() -> None:
        with replacing(path) as made:
            made.write_text("half of the n")
            raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_does_not_replace_a_folder(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "note").write_text("here")
    with pytest.raises(OSError, match="irectory"), replacing(tmp_path / "kept") as made:
        made.write_text("new")
    assert (tmp_path / "kept" / "note").read_text() == "here"


def test_frames_of_a_folder_are_read_in_order_of_number(tmp_path):
    for index in (999, 1000, 5):
        Image.new("RGB", (2, 2), (index % 256, 0, 0)).save(tmp_path / f"{index:03d}.png")
    (tmp_path / "notes.txt").write_text("left out")
    assert read_video(tmp_path)[:, 0, 0, 0].tolist() == [5, 999 % 256, 1000 % 256]


def test_what_is_no_video_is_named(tmp_path):
    for name in ("text.mp4", "text.gif", "text.webp"):
        (tmp_path / name).write_text("no video")
        with pytest.raises(ValueError, match=rf"got '.*{name}'"):
            read_video(tmp_path / name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="must hold frames"):
        read_video(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_video(tmp_path / "missing.mp4")


@settings(max_examples=15, deadline=None)
@given(
    clip=hnp.arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.just(3))),
    name=st.sampled_from(["clip.webp", "clip/"]),
)
def test_any_clip_survives_lossless_files(tmp_path_factory, clip, name):
    # A different corner in each frame, so that the encoder has no equal neighbours to merge.
    clip[:, 0, 0, 0] = np.arange(len(clip))
    path = os.path.join(tmp_path_factory.mktemp("clip"), name)
    save_video(clip, path)
    np.testing.assert_array_equal(read_video(path), clip)
