# SPDX-License-Identifier: Apache-2.0
"""Clips to files and back: what is exact stays exact, and what cannot be written is refused before it is."""

import io
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from diffusers_show1.clips.files import check_output_path, output_ending, replacing
from diffusers_show1.clips.formats import VIDEO_ENDINGS
from diffusers_show1.clips.frames import to_uint8, upright
from diffusers_show1.clips.reading import read_fps, read_video
from diffusers_show1.clips.writing import save_video
from diffusers_show1.training.data import SkipClip
from diffusers_show1.training.files import ClipFormat


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


@pytest.mark.parametrize("name", ["clip.gif", "clip.webp"])
@settings(max_examples=25, deadline=None)
@given(runs=st.lists(st.integers(1, 5), min_size=1, max_size=6), fps=st.sampled_from([0.5, 7.5, 8, 12, 24, 30, 120]))
def test_as_many_frames_come_back_as_were_written(tmp_path_factory, name, runs, fps):
    """Whatever stands still for how long: all of it, every second frame, or nothing."""
    clip = (
        np.zeros((sum(runs), 8, 8, 3), np.uint8)
        + np.arange(len(runs), dtype=np.uint8).repeat(runs)[:, None, None, None] * 40
    )
    path = save_video(clip, tmp_path_factory.mktemp("clip") / name, fps=fps)
    np.testing.assert_array_equal(read_video(path), clip)
    assert read_fps(path) == fps


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif", "clip.webp"])
@pytest.mark.parametrize("fps", [2, 7.5, 24, 23.976])
def test_a_clip_that_is_written_again_keeps_its_rate(tmp_path, name, fps):
    path = save_video(smooth_clip(), tmp_path / name, fps=fps)
    again = save_video(read_video(path), tmp_path / "again.mp4", fps=read_fps(path))
    assert read_fps(again) == pytest.approx(fps, rel=1e-4)


def test_the_rate_of_files_of_others(tmp_path):
    images = [Image.fromarray(frame) for frame in smooth_clip()]
    for name, durations, rate in (
        ("a.gif", 200, 5),
        ("a.webp", [41, 42, 42, 41, 42], 5000 / 208),
        ("a.png", 125, 8),
        ("held.webp", [100, 300, 100, 100, 100], 10),
        ("none.gif", 0, 10),  # as browsers play it
    ):
        images[0].save(tmp_path / name, save_all=True, append_images=images[1:], duration=durations, lossless=True)
        assert read_fps(tmp_path / name) == pytest.approx(rate)
    images[0].save(tmp_path / "still.jpg")
    save_video(smooth_clip(), tmp_path / "frames")
    assert read_fps(tmp_path / "still.jpg") is None
    assert read_fps(tmp_path / "frames") is None


def test_a_note_that_no_longer_fits_is_left_out_of_account(tmp_path):
    clip = smooth_clip(4)
    note = save_video(clip, tmp_path / "a.gif", fps=8).read_bytes()[-30:]
    assert b"4 frames at 8.0 fps" in note
    images = [Image.fromarray(frame) for frame in clip]
    for frames, durations, count, rate in ((4, 500, 4, 2), (3, [100, 100, 100], 3, 10)):
        path = tmp_path / f"{frames}.gif"
        images[0].save(path, save_all=True, append_images=images[1:frames], duration=durations)
        path.write_bytes(path.read_bytes()[:-1] + note[note.index(b"!") :])
        assert len(read_video(path)) == count
        assert read_fps(path) == rate


def test_a_gif_that_stands_still_for_longer_than_the_format_can_say(tmp_path):
    with pytest.raises(ValueError, match="must change within 655 seconds"):
        save_video(np.zeros((3, 8, 8, 3)), tmp_path / "clip.gif", fps=0.004)
    assert not list(tmp_path.iterdir())


# What is shown of a frame with a red top left corner, a green top right, a blue bottom left and a white bottom right,
# by the value of EXIF's orientation, and the same as the display matrix of a video: (a, b, c, d).
CORNERS = {"r": (250, 0, 0), "g": (0, 250, 0), "b": (0, 0, 250), "w": (250, 250, 250)}
ORIENTATIONS = {
    1: ("rgbw", (1, 0, 0, 1)),
    2: ("grwb", (-1, 0, 0, 1)),
    3: ("wbgr", (-1, 0, 0, -1)),
    4: ("bwrg", (1, 0, 0, -1)),
    5: ("rbgw", (0, 1, 1, 0)),
    6: ("brwg", (0, 1, -1, 0)),
    7: ("wgbr", (0, -1, -1, 0)),
    8: ("gwrb", (0, -1, 1, 0)),
}


def quarters(height: int = 32, width: int = 48) -> np.ndarray:
    frame = np.zeros((height, width, 3), np.uint8)
    for number, colour in enumerate(CORNERS.values()):
        frame[number // 2 * height // 2 :, number % 2 * width // 2 :] = colour
    return frame


def corners(frame: np.ndarray) -> str:
    """The colours of a frame's quarters, row by row."""
    height, width = frame.shape[:2]
    middles = [frame[y, x].astype(int) for y in (height // 4, -height // 4) for x in (width // 4, -width // 4)]
    return "".join(min(CORNERS, key=lambda name: np.abs(CORNERS[name] - pixel).sum()) for pixel in middles)


def write_turned(path: Path, orientation: int) -> Path:
    """A picture or a video that is to be shown turned or mirrored."""
    if path.suffix in (".mp4", ".mov"):
        import av

        a, b, c, d = (65536 * part for part in ORIENTATIONS[orientation][1])
        with av.open(str(path), "w") as file:
            stream = file.add_stream("libx264", rate=8)
            stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv444p"
            stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
            for _ in range(3):
                file.mux(stream.encode(av.VideoFrame.from_ndarray(quarters())))
            file.mux(stream.encode())
        return path
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(quarters()).save(path, exif=exif, **({"lossless": True} if path.suffix == ".webp" else {}))
    return path


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.jpg", "a.png", "a.webp", "a.tif"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_clips_and_training_see_a_file_as_it_is_to_be_shown(tmp_path, name, orientation):
    shown, _ = ORIENTATIONS[orientation]
    path = write_turned(tmp_path / name, orientation)
    size = (48, 32) if orientation > 4 else (32, 48)
    read = read_video(path)
    assert read.shape[1:3] == size
    assert {corners(frame) for frame in read} == {shown}
    trained = ClipFormat(1, *size, fps=8, crop="center").read(path, name, np.random.default_rng(0))
    assert corners((trained[0].permute(1, 2, 0).numpy() + 1) * 127.5) == shown


@given(st.tuples(*[st.integers(-(2**31), 2**31 - 1)] * 4))
def test_any_matrix_shows_all_pixels(matrix):
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    shown, turned = upright(pixels, matrix)
    assert shown.shape[:2] == ((3, 2) if turned else (2, 3))
    assert sorted(map(tuple, shown.reshape(-1, 3))) == sorted(map(tuple, pixels.reshape(-1, 3)))


PICTURES = {  # by Pillow's name
    "PNG": {},
    "GIF": {},
    "JPEG": {"quality": 95},
    "BMP": {},
    "TIFF": {},
    "JPEG2000": {},
    "WEBP": {"lossless": True},
}


@pytest.mark.parametrize("ending", ["", ".jpg", ".mp4", ".webp", ".txt"])
@pytest.mark.parametrize("format", PICTURES)
def test_pictures_are_known_by_their_content(tmp_path, format, ending):
    """Whatever the ending, and whatever the size: FFmpeg refuses a .jpg from some kilobytes on."""
    frame = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    frame = np.asarray(Image.fromarray(frame).resize((640, 480)))
    Image.fromarray(frame).save(tmp_path / f"a{ending}", format, **PICTURES[format])
    read = read_video(tmp_path / f"a{ending}")
    assert read.shape == (1, 480, 640, 3)
    assert psnr(read[0], frame) > 18
    for source in (tmp_path / f"a{ending}", io.BytesIO((tmp_path / f"a{ending}").read_bytes())):
        trained = ClipFormat(1, 480, 640, fps=8).read(source, "a", np.random.default_rng(0))
        np.testing.assert_array_equal((trained[0].permute(1, 2, 0).numpy() * 127.5 + 127.5).round(), read[0])


@pytest.mark.parametrize("name", ["clip.webp", "clip.gif", "clip.png", "clip.tif"])
def test_animations_are_clips_for_training(tmp_path, name):
    """At their own rate every frame, at a quarter of it every fourth, those that stand still too."""
    clip = np.zeros((16, 32, 48, 3), np.uint8) + (np.arange(16, dtype=np.uint8) // 2 * 30)[:, None, None, None]
    if name in ("clip.webp", "clip.gif"):
        save_video(clip, tmp_path / name, fps=8)
        fps = 8.0
    else:
        images = [Image.fromarray(frame) for frame in clip[::2]]
        images[0].save(tmp_path / name, save_all=True, append_images=images[1:], duration=250)
        clip, fps = clip[::2], 4.0 if name == "clip.png" else 10.0
    for step in (1, 4):
        count = len(clip) // step
        read = ClipFormat(count, 32, 48, fps / step).read(tmp_path / name, name, np.random.default_rng(0))
        levels = read.add(1).mul(127.5).mean(dim=(1, 2, 3)).round().tolist()
        starts = {tuple(clip[start::step][:count, 0, 0, 0].tolist()) for start in range(step)}
        assert tuple(levels) in starts


def test_what_stands_beside_a_picture_is_none_of_its_frames(tmp_path):
    """A camera's second picture in a JPEG, and the smaller copy in a TIFF."""
    large, small = Image.fromarray(quarters()), Image.fromarray(quarters(16, 24))
    large.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[small])
    page = Image.fromarray(quarters(16, 24))
    page.encoderinfo = {"tiffinfo": {254: 1}}
    large.save(tmp_path / "a.tif", save_all=True, append_images=[page])
    with Image.open(tmp_path / "a.tif") as image:
        assert image.n_frames == 2
    for name in ("a.jpg", "a.tif"):
        assert read_video(tmp_path / name).shape == (1, 32, 48, 3)


def test_pixels_without_a_range_are_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="floating-point numbers, of no known range"):
        read_video(tmp_path / "a.tif")
    with pytest.raises(SkipClip, match="damaged"):
        ClipFormat(1, 4, 4, 8).read(tmp_path / "a.tif", "a.tif", np.random.default_rng(0))


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


@pytest.mark.parametrize("fps", [0, -1, math.nan, math.inf, None, "8", [8], 10**400])
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


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("pipe.mp4", "must be a file or a folder, got .*pipe.mp4', which is neither"),
        ("nothing.mp4", "must not lead through a link to nothing"),
        ("nothing.mp4/clip.mp4", "must not lead through a link to nothing"),
        ("circle.webp", "Too many levels of symbolic links"),
        ("circle.webp/clip.webp", "Too many levels of symbolic links"),
        ("x" * 300 + ".gif", "File name too long"),
        ("new/folders/" + "x" * 300 + ".gif", "File name too long"),
        ("x" * 300 + "/", "File name too long"),
        ("other.mp4", "must, as a link, lead to a .mp4, got .*, which leads to 'notes.txt'"),
    ],
)
def test_places_that_are_no_files_are_one_line_and_stay(tmp_path, kind, message):
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "nothing.mp4").symlink_to(tmp_path / "gone" / "nothing.mp4")
    (tmp_path / "circle.webp").symlink_to(tmp_path / "circle.webp")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "other.mp4").symlink_to(tmp_path / "notes.txt")
    before = [(path, path.lstat().st_ino) for path in sorted(tmp_path.rglob("*"))]
    path = os.path.join(tmp_path, kind)
    for call in (check_output_path, lambda path: save_video(smooth_clip(), path)):
        with pytest.raises((OSError, ValueError), match=message) as caught:
            call(path)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 700
    if kind != "other.mp4":  # a record of JSON may be a link to any name
        with pytest.raises(OSError, match=message), replacing(path):
            pass
    assert [(path, path.lstat().st_ino) for path in sorted(tmp_path.rglob("*"))] == before


def test_a_link_to_a_clip_is_followed(tmp_path):
    (tmp_path / "store").mkdir()
    save_video(smooth_clip(2), tmp_path / "store" / "clip.webp")
    (tmp_path / "link.webp").symlink_to(tmp_path / "store" / "clip.webp")
    save_video(smooth_clip(3), tmp_path / "link.webp")
    assert (tmp_path / "link.webp").is_symlink()
    assert len(read_video(tmp_path / "store" / "clip.webp")) == 3


WRITES = """
import sys, time
from diffusers_show1.clips.files import replacing
with replacing(sys.argv[1]) as made:
    made.write_text("half")
    print("begun", flush=True)
    time.sleep(600)
"""


def test_what_a_killed_process_has_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    processes = [
        subprocess.Popen([sys.executable, "-c", WRITES, tmp_path / f"{name}.txt"], stdout=subprocess.PIPE)
        for name in ("killed", "living")
    ]
    try:
        for process in processes:
            assert process.stdout.readline() == b"begun\n"
        assert len(list(tmp_path.glob(".show1-*"))) == 2
        processes[0].kill()
        processes[0].wait()
        for name in ("somebody's", "new"):
            (tmp_path / f".show1-{name}").mkdir()
            (tmp_path / f".show1-{name}" / "thesis.txt").touch()
        (tmp_path / ".show1-new" / "lock").touch()
        save_video(smooth_clip(2), tmp_path / "clip.webp")
        left = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.glob(".show1-*/*"))
        (new,) = (name for name in left if name.endswith("new.txt"))
        assert left == sorted(
            [new, new.replace("new.txt", "lock"), ".show1-new/lock", ".show1-new/thesis.txt"]
            + [".show1-somebody's/thesis.txt"]
        )
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    save_video(smooth_clip(2), tmp_path / "clip.webp")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".show1-new", ".show1-somebody's", "clip.webp"]


def test_the_only_copy_of_a_clip_is_never_removed(tmp_path):
    """A kill between the two moves that put a new folder in the place of an old one."""
    for name, entries in (("between", ("lock", "old", "new")), ("after", ("lock", "old"))):
        for entry in entries:
            (tmp_path / f".show1-{name}").mkdir(exist_ok=True)
            (tmp_path / f".show1-{name}" / entry).touch()
    save_video(smooth_clip(2), tmp_path / "clip.webp")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".show1-between", "clip.webp"]


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
    path = os.path.join(tmp_path_factory.mktemp("clip"), name)
    save_video(clip, path)
    np.testing.assert_array_equal(read_video(path), clip)
