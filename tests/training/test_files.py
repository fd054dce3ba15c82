# SPDX-License-Identifier: Apache-2.0
"""Clips from video files: manifests, which frames, which part of them, and what happens to files that are no good.

Test clips number their frames: frame i is a flat gray of 8 i, which survives every codec, so that a test can tell
which frames it was given.
"""

import csv
import io
import itertools
import json
import math
import os
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusers_show1.tiny import world
from diffusers_show1.training.data import (
    ClipLoader,
    SkipClip,
    UnreadableDataError,
    WorldDataset,
    choose,
)
from diffusers_show1.training.files import (
    ClipFormat,
    Manifest,
    ManifestError,
    Stream,
    VideoFiles,
    crop_box,
    find_manifest,
    pick_frames,
)
from diffusers_show1.training.world_files import main as write_world_main
from diffusers_show1.training.world_files import write_world


def flat(number: int, height: int = 32, width: int = 48) -> np.ndarray:
    return np.full((height, width, 3), 8 * number, np.uint8)


def write_clip(
    path: Path,
    frames: list[np.ndarray] | int = 24,
    fps: int = 8,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    key_every: int = 6,
    stamps: list[int] | None = None,
    rotation: int = 0,
    aspect: int = 1,
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
) -> Path:
    """`frames` are pictures (h, w, 3), or how many numbered ones; `stamps` in milliseconds instead of a rate."""
    frames = [flat(number) for number in range(frames)] if isinstance(frames, int) else frames
    with av.open(str(path), "w", options=container or {}) as file:
        stream = file.add_stream(codec, rate=fps, options=options or {})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        stream.gop_size = key_every
        if stamps:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        if aspect != 1:
            stream.codec_context.sample_aspect_ratio = Fraction(aspect)
        for number, pixels_ in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels_)
            if stamps:
                frame.pts, frame.time_base = stamps[number], Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def read(path: Path, seed: int = 0, **format) -> torch.Tensor:
    format = {"frames": 5, "height": 16, "width": 24, "fps": 8, **format}
    return ClipFormat(**format).read(path, path.name, np.random.default_rng(seed))


def numbers(clip: torch.Tensor) -> list[int]:
    """Which numbered frames these are."""
    return (clip.mean(dim=(1, 2, 3)).add(1).mul(127.5 / 8)).round().int().tolist()


def psnr(first: torch.Tensor, second: torch.Tensor) -> float:
    return 10 * math.log10(4 / (first - second).square().mean().item())


# ---------------------------------------------------------------------------------------------------------------------
# Manifests

ROWS = [
    ("000001_000050/1001", 'A "red" fox, running'),
    ("000001_000050/1002", "Ein Käfer\nin zwei Zeilen"),
    ("x/3", ""),
]


def write_csv(path: Path, header: list[str], rows: list[list[str]], encoding: str = "utf-8") -> Path:
    with open(path, "w", newline="", encoding=encoding) as file:
        csv.writer(file).writerows([header, *rows])
    return path


def test_every_layout_says_the_same(tmp_path):
    plain = [[f"{name}.mp4", caption] for name, caption in ROWS]
    webvid = [[name.split("/")[1], "PT5S", caption, name.split("/")[0]] for name, caption in ROWS]
    paths = [
        write_csv(tmp_path / "a.csv", ["file", "caption"], plain),
        write_csv(tmp_path / "b.csv", ["caption", " file"], [row[::-1] for row in plain], "utf-8-sig"),
        write_csv(tmp_path / "c.CSV", ["videoid", "duration", "name", "page_dir"], webvid),
        tmp_path / "d.jsonl",
        tmp_path / "e.jsonl",
    ]
    lines = [json.dumps({"file": file, "caption": caption, "more": 1}) for file, caption in plain]
    paths[3].write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    lines = [json.dumps({"videoid": v, "name": n, "page_dir": p}, ensure_ascii=False) for v, _, n, p in webvid]
    paths[4].write_text("\n".join(lines).replace('"1001"', "1001"), encoding="utf-8-sig")
    for path in paths:
        manifest = Manifest(path)
        assert [manifest[index] for index in range(len(manifest))] == [tuple(row) for row in plain], path.name


def test_a_webvid_row_without_a_folder(tmp_path):
    path = write_csv(tmp_path / "a.csv", ["videoid", "name", "page_dir"], [["7", "a fox", ""]])
    assert Manifest(path)[0] == ("7.mp4", "a fox")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.csv",
            b"",
            "a.csv, line 1: the columns must include videoid, name, page_dir or file, caption, each once, ",
        ),
        ("a.csv", b"path,text\nx,y\n", "line 1: .* got path, text"),
        ("a.csv", b"file,file,caption\nx,y,z\n", "line 1: .* each once, got file, file, caption"),
        ("a.csv", b"file,caption\n", "a.csv: lists no clips"),
        ("a.csv", b"file,caption\na.mp4,fine\nb.mp4,a, b\n", "a.csv, line 3: 2 columns expected, got 3"),
        ("a.csv", b"file,caption\na.mp4,fine\nb.mp4\n", "a.csv, line 3: 2 columns expected, got 1"),
        ("a.csv", b"file,caption\n ,x\n", "a.csv, line 2: column 'file' must name a file, got ' '"),
        ("a.csv", b"videoid,name,page_dir\n,x,y\n", "a.csv, line 2: column 'videoid' must name a file, got ''"),
        ("a.csv", b'file,caption\na.mp4,"no end\n', "a.csv, line 2: unexpected end of data"),
        ("a.csv", b"file,caption\na.mp4,caf\xe9\n", r"a.csv, line 2: not UTF-8 \(byte 10\)"),
        ("a.jsonl", b"", "a.jsonl: lists no clips"),
        ("a.jsonl", b'{"file": "a", "caption": "b"}\n{"file": }\n', "a.jsonl, line 2, column 10: Expecting value"),
        ("a.jsonl", b'{"file": "a"}\n', 'a.jsonl, line 1: must be an object with the keys .* got \'{"file": "a"}\''),
        ("a.jsonl", b'["file", "caption"]\n', "a.jsonl, line 1: must be an object"),
        ("a.jsonl", b'{"file": "a", "caption": 3}\n', "a.jsonl, line 1: 'caption' must be a string, got 3"),
        ("a.jsonl", b'{"file": "a\\u0000b", "caption": ""}\n', "line 1: column 'file' must name a file, got 'a.x00b'"),
        (
            "a.csv",
            b"videoid,name,page_dir\n1,x,y\0\n",
            "a.csv, line 2: column 'page_dir' must name a file, got 'y.x00'",
        ),
        ("a.jsonl", b'{"file": "a", "caption": "\\ud800"}\n', "a.jsonl, line 1: .* is not text"),
        ("a.jsonl", b"[" * 200_000, "a.jsonl, line 1: "),
        ("a.txt", b"", "a manifest must be a .csv or .jsonl file, got '.*a.txt'"),
    ],
)
def test_bad_manifests_are_named_with_line_and_column(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ManifestError, match=message):
        Manifest(tmp_path / name)


def test_finding_the_manifest(tmp_path):
    with pytest.raises(ManifestError, match="must be a folder with one .* has none"):
        find_manifest(tmp_path)
    with pytest.raises(ManifestError, match="got '.*/no.csv', which is not there"):
        find_manifest(tmp_path / "no.csv")
    path = write_csv(tmp_path / "a.csv", ["file", "caption"], [["x", "y"]])
    assert find_manifest(tmp_path) == find_manifest(path) == path
    (tmp_path / "b.jsonl").touch()
    with pytest.raises(ManifestError, match="has a.csv, b.jsonl"):
        find_manifest(str(tmp_path))


SCRAPS = [
    b"file,caption\n",
    b"videoid,name,page_dir\n",
    b'{"file": "',
    b'", "caption": "a"}',
    b"\n",
    b"\r",
    b",",
    b'"',
    b"\0",
]


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
@settings(max_examples=100, deadline=None)
@given(parts=st.lists(st.one_of(st.sampled_from(SCRAPS), st.binary(max_size=6)), max_size=12))
def test_any_bytes_are_a_manifest_or_a_manifest_error(tmp_path_factory, ending, parts):
    path = tmp_path_factory.getbasetemp() / f"any{ending}"
    path.write_bytes(b"".join(parts))
    try:
        manifest = Manifest(path)
    except ManifestError:
        return
    assert all(file.strip() for file, _ in (manifest[index] for index in range(len(manifest))))


WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
FILES = WORDS.filter(lambda text: text.strip() and "\0" not in text)


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.tuples(FILES, WORDS.filter(lambda text: "\r" not in text)), min_size=1, max_size=5))
def test_what_is_written_is_read(tmp_path_factory, rows):
    folder = tmp_path_factory.getbasetemp()
    rows = [(file.replace("\r", "-"), caption) for file, caption in rows]
    write_csv(folder / "any.csv", ["file", "caption"], [list(row) for row in rows])
    lines = [json.dumps({"file": file, "caption": caption}) for file, caption in rows]
    (folder / "any.jsonl").write_text("\n".join(lines))
    for name in ("any.csv", "any.jsonl"):
        manifest = Manifest(folder / name)
        assert [manifest[index] for index in range(len(manifest))] == rows


# ---------------------------------------------------------------------------------------------------------------------
# Which frames, which part

TIMES = st.lists(st.integers(1, 500), max_size=40).map(lambda gaps: np.cumsum([0, *gaps]) / 1000 + 0.2)


@settings(max_examples=150, deadline=None)
@given(TIMES, st.integers(1, 12), st.sampled_from([1, 2, 7.5, 8, 24, 29.97]), st.floats(0, 1, exclude_max=True))
def test_picked_frames_are_the_nearest_in_time(times, count, fps, draw):
    slack = np.median(np.diff(times)) / 2 if len(times) > 1 else 0
    room = times[-1] + slack - times[0] - (count - 1) / fps
    picked = pick_frames(times, count, fps, draw)
    if picked is None:
        assert room < 1e-6
        return
    assert room > -1e-6
    wanted = times[picked[0]] + np.arange(count) / fps
    nearest = np.abs(times[None] - wanted[:, None]).min(axis=1)
    np.testing.assert_allclose(np.abs(times[picked] - wanted), nearest, atol=2e-6)
    assert (np.diff(picked) >= 0).all()


def test_all_starts_that_leave_room_are_used():
    times = np.arange(10) / 8
    starts = {int(pick_frames(times, 4, 8, draw)[0]) for draw in np.linspace(0, 0.999, 50)}
    assert starts == set(range(7))
    assert pick_frames(times, 11, 8, 0) is None
    assert pick_frames(times, 10, 8, 0.99).tolist() == list(range(10))
    assert pick_frames(np.array([0.4]), 1, 8, 0.7).tolist() == [0]
    assert pick_frames(np.array([0.4]), 2, 8, 0.7) is None


def test_rounded_timestamps_repeat_no_frame():
    """Matroska rounds to milliseconds: 0, 33, 67, 100 at 30 frames a second."""
    times = np.round(np.arange(60) / 30, 3)
    assert pick_frames(times, 60, 30, 0).tolist() == list(range(60))
    assert pick_frames(times, 20, 10, 0).tolist() == list(range(0, 60, 3))


SIZES = st.tuples(st.integers(1, 3000), st.integers(1, 3000))


@settings(max_examples=150, deadline=None)
@given(SIZES, SIZES, st.sampled_from([0.5, 1.0, 4 / 3]), st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_a_crop_is_the_largest_part_of_the_right_shape(size, target, aspect, at):
    left, top, right, bottom = crop_box(size, target, aspect, at)
    assert 0 <= left < right <= size[1]
    assert 0 <= top < bottom <= size[0]
    assert (right - left) * aspect / (bottom - top) == pytest.approx(target[1] / target[0], rel=1e-3)
    assert bottom - top == pytest.approx(size[0]) or right - left == pytest.approx(size[1])


def test_crops_reach_every_side():
    assert crop_box((20, 100), (10, 10)) == (40, 0, 60, 20)
    assert crop_box((20, 100), (10, 10), at=(0.3, 0.0)) == (0, 0, 20, 20)
    assert crop_box((20, 100), (10, 10), at=(0.3, 1.0)) == (80, 0, 100, 20)
    assert crop_box((100, 20), (10, 10), at=(1.0, 0.3)) == (0, 80, 20, 100)


# ---------------------------------------------------------------------------------------------------------------------
# Decoding

KINDS = {
    "b-frames.mp4": {"options": {"bf": "3"}},
    "start.mp4": {"container": {"movflags": "faststart"}},
    "a.mkv": {"options": {"bf": "2"}},
    "a.avi": {"codec": "mpeg4"},
    "a.ts": {},
    "a.webm": {"codec": "libvpx-vp9", "options": {"cpu-used": "8", "deadline": "realtime"}},
    "alpha.webm": {"codec": "libvpx-vp9", "pixels": "yuva420p", "options": {"cpu-used": "8", "deadline": "realtime"}},
    "gray.mkv": {"codec": "ffv1", "pixels": "gray"},
    "ten.mkv": {"pixels": "yuv420p10le"},
    "odd.mkv": {"codec": "ffv1", "pixels": "yuv444p", "frames": [flat(i, 21, 33) for i in range(24)]},
}


@pytest.mark.parametrize("name", KINDS)
def test_frames_of_all_kinds_of_files_are_found(tmp_path, name):
    path = write_clip(tmp_path / name, **KINDS[name])
    starts = set()
    for seed in range(8):
        clip = read(path, seed)
        assert clip.shape == (5, 3, 16, 24)
        assert clip.dtype == torch.float32
        found = numbers(clip)
        assert found == list(range(found[0], found[0] + 5))
        assert clip.std(dim=(1, 2, 3)).max() < 0.02
        starts.add(found[0])
    assert len(starts) > 4
    assert numbers(read(path, 3, frames=24)) == list(range(24))
    assert numbers(read(path, 5, frames=1, fps=1)) != numbers(read(path, 6, frames=1, fps=1))


def test_a_stream_without_timestamps_is_counted(tmp_path):
    path = write_clip(tmp_path / "a.h264", options={"bf": "0"})
    with av.open(str(path)) as file:
        assert next(file.demux(video=0)).pts is None
    for seed in range(4):
        found = numbers(read(path, seed, fps=25))
        assert found == list(range(found[0], found[0] + 5))


def test_an_animation(tmp_path):
    from PIL import Image

    first, *others = (Image.fromarray(flat(number)) for number in range(10))
    first.save(tmp_path / "a.gif", save_all=True, append_images=others, duration=120)
    assert numbers(read(tmp_path / "a.gif", frames=10, fps=1 / 0.12)) == list(range(10))


@pytest.mark.parametrize(("fps", "count", "expected"), [(8, 8, range(0, 24, 3)), (48, 6, [0, 0, 1, 1, 2, 2])])
def test_the_rate_asked_for_and_not_the_files(tmp_path, fps, count, expected):
    found = numbers(read(write_clip(tmp_path / "a.mp4", fps=24), 0, fps=fps, frames=count))
    assert [number - found[0] for number in found] == list(expected)


def test_uneven_timestamps(tmp_path):
    stamps = [0, 10, 20, 30, 500, 990, 1500, 2010]  # frames 3 to 7 are half a second apart, about
    path = write_clip(tmp_path / "a.mkv", 8, stamps=stamps, options={"bf": "0"})
    assert {tuple(numbers(read(path, seed, fps=2))) for seed in range(30)} == {
        (0, 4, 5, 6, 7), (1, 4, 5, 6, 7), (2, 4, 5, 6, 7), (3, 4, 5, 6, 7)
    }  # fmt: skip


def quarters(height: int = 32, width: int = 48) -> np.ndarray:
    """Four gray levels: 40, 90 above 140, 190."""
    picture = np.empty((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2], picture[: height // 2, width // 2 :] = 40, 90
    picture[height // 2 :, : width // 2], picture[height // 2 :, width // 2 :] = 140, 190
    return picture


def corners(clip: torch.Tensor) -> list[int]:
    """The levels (to tens) in the corners, clockwise from the upper left."""
    levels = clip[0, 0, [1, 1, -2, -2], [1, -2, -2, 1]]
    return (levels.add(1).mul(12.75).round() * 10).int().tolist()


@pytest.mark.parametrize(
    ("rotation", "expected"),
    [(0, [40, 90, 190, 140]), (90, [90, 190, 140, 40]), (180, [190, 140, 40, 90]), (-90, [140, 40, 90, 190])],
)
def test_rotated_files_are_turned_upright(tmp_path, rotation, expected):
    path = write_clip(tmp_path / "a.mp4", [quarters()] * 3, rotation=rotation)
    size = (48, 32) if rotation % 180 else (32, 48)
    assert corners(read(path, frames=1, height=size[0], width=size[1])) == expected


def test_pixels_that_are_not_square(tmp_path):
    """Stored 32 x 48 with pixels twice as wide as high, shown 32 x 96: 1 : 3 is all of it, 1 : 1 a third."""
    picture = np.repeat((np.arange(48) * 5).astype(np.uint8)[None, :, None], 32, 0).repeat(3, 2)
    path = write_clip(tmp_path / "a.mp4", [picture] * 3, aspect=2)
    whole, square = (read(path, frames=1, height=16, width=width, crop="center") for width in (48, 16))
    assert (whole.max() - whole.min()).item() * 127.5 == pytest.approx(235, abs=12)
    assert (square.max() - square.min()).item() * 127.5 == pytest.approx(80, abs=12)


def test_crops_are_random_or_central_and_the_same_for_all_frames(tmp_path):
    picture = np.repeat((np.arange(96) * 2).astype(np.uint8)[None, :, None], 16, 0).repeat(3, 2)
    path = write_clip(tmp_path / "a.mp4", [picture] * 6)
    central = [read(path, seed, height=16, width=16, crop="center") for seed in (0, 1)]
    assert torch.equal(*central)
    assert central[0].mean().add(1).mul(127.5) == pytest.approx(95, abs=3)
    means = []
    for seed in range(20):
        clip = read(path, seed, height=16, width=16)
        assert clip.mean(dim=(1, 2, 3)).std() < 0.01
        means.append(clip.mean().add(1).mul(127.5).item())
    assert min(means) < 50
    assert max(means) > 140


def test_range_and_colours(tmp_path):
    picture = np.zeros((32, 48, 3), np.uint8)
    picture[:, :16], picture[:, 16:32] = (255, 0, 0), 255
    clip = read(
        write_clip(tmp_path / "a.mkv", [picture] * 3, codec="libx264rgb", pixels="rgb24", options={"crf": "0"}),
        frames=1,
    )
    assert clip.min() == -1
    assert clip.max() == 1
    assert clip[0, :, 8, 3].tolist() == [1, -1, -1]


def test_shrinking_averages_over_the_area(tmp_path):
    stripes = np.zeros((64, 96, 3), np.uint8)
    stripes[:, ::2] = 200
    clip = read(write_clip(tmp_path / "a.mkv", [stripes] * 2, codec="ffv1", pixels="yuv444p"), frames=1)
    assert (clip[..., 1:-1].add(1).mul(127.5) - 100).abs().max() < 1  # the filter ends at the border


def test_only_the_part_that_is_wanted_is_decoded(tmp_path):
    """Damage before the last key frame does not matter to a clip after it, and does to one that begins before it."""
    path = write_clip(tmp_path / "a.mkv", 24, key_every=12, options={"bf": "0"})
    with av.open(str(path)) as file:
        packets = [packet for packet in file.demux(video=0) if packet.size]
        content, last = bytearray(path.read_bytes()), packets[12].pos
        for packet in packets[:12]:
            begin = content.index(bytes(packet))
            content[begin + 4 : begin + packet.size] = b"\xff" * (packet.size - 4)
    assert last > packets[11].pos
    path.write_bytes(content)
    outcomes = {}
    for seed in range(12):
        start = int(np.random.default_rng(seed).random(3)[0] * 24)
        try:
            outcomes[start] = numbers(read(path, seed, frames=1))
        except SkipClip as skip:
            outcomes[start] = skip.reason.split(" (")[0]
    assert {start for start, outcome in outcomes.items() if outcome == [start]} == {s for s in outcomes if s >= 12}
    assert {outcomes[start] for start in outcomes if start < 12} == {"damaged"}


# ---------------------------------------------------------------------------------------------------------------------
# Files that are no good


def write_sound(path: Path, cover: bool = False) -> Path:
    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=8000, layout="mono")
        if cover:
            picture = file.add_stream("mjpeg", rate=1)
            picture.height, picture.width, picture.pix_fmt = 32, 48, "yuvj420p"
            picture.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.rate = 8000
        file.mux(stream.encode(frame))
        file.mux(stream.encode())
        if cover:
            file.mux(picture.encode(av.VideoFrame.from_ndarray(flat(3))))
            file.mux(picture.encode())
    return path


def bad_file(folder: Path, kind: str) -> Path:
    path = folder / "clip.mp4"
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("no video" * 1000)
    elif kind == "sound":
        write_sound(path)
    elif kind == "cover":
        write_sound(path, cover=True)
    elif kind == "cut":  # the table of contents is at the end
        write_clip(path)
        path.write_bytes(path.read_bytes()[:-500])
    elif kind in ("playlist", "list"):
        write_clip(folder / "other.ts")
        lists = {
            "playlist": "#EXTM3U\n#EXTINF:3,\nother.ts\n#EXT-X-ENDLIST\n",
            "list": "ffconcat version 1.0\nfile other.ts\n",
        }
        path.write_text(lists[kind])
    return path


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("empty", "cannot be opened (Invalid data found when processing input)"),
        ("text", "cannot be opened (Invalid data found when processing input)"),
        ("sound", "without a video stream"),
        ("cover", "without a video stream"),
        ("cut", "cannot be opened (Invalid data found when processing input)"),
        ("playlist", "cannot be opened"),
        ("list", "cannot be opened"),
    ],
)
def test_files_that_are_no_video(tmp_path, kind, reason):
    with pytest.raises(SkipClip) as caught:
        read(bad_file(tmp_path, kind))
    assert caught.value.reason.startswith(reason)
    assert caught.value.name == "clip.mp4"


def test_short_files_say_what_was_wanted(tmp_path):
    path = write_clip(tmp_path / "a.mp4", 8)
    assert numbers(read(path, frames=8)) == list(range(8))
    with pytest.raises(SkipClip, match="a.mp4: shorter than 9 frames at 8 fps"):
        read(path, frames=9)
    with pytest.raises(SkipClip, match="shorter than 5 frames at 3.5 fps"):
        read(path, frames=5, fps=3.5)


@pytest.mark.parametrize("name", ["start.mp4", "a.mkv", "a.ts"])
def test_a_cut_off_file_is_used_as_far_as_it_goes(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 30, (32, 48, 3), dtype=np.uint8)
    path = write_clip(tmp_path / name, [flat(number) // 2 + noise for number in range(24)], **KINDS[name])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    levels = [read(path, seed, frames=1).mean().item() for seed in range(20)]
    assert max(levels) - min(levels) > 0.2
    with pytest.raises(SkipClip, match="shorter than 24 frames"):
        read(path, frames=24)


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(["b-frames.mp4", "a.mkv", "a.ts", "a.avi"]), data=st.data())
def test_damaged_bytes_give_a_clip_or_a_skip(tmp_path_factory, kind, data):
    original = tmp_path_factory.getbasetemp() / kind
    if not original.exists():
        write_clip(original, **KINDS[kind])
    content = bytearray(original.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + 4] = data.draw(st.binary(min_size=1, max_size=4))
    damaged = tmp_path_factory.getbasetemp() / f"damaged-{kind}"
    damaged.write_bytes(content)
    try:
        clip = read(damaged)
    except SkipClip:
        return
    assert clip.shape == (5, 3, 16, 24)
    assert clip.abs().max() <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frames": 0}, "`frames` must be a whole number above 0, got 0"),
        ({"height": 2.5}, "`height` must be a whole number above 0, got 2.5"),
        ({"width": -1}, "`width` must be a whole number above 0, got -1"),
        ({"fps": 0}, "`fps` must be a number above 0, got 0"),
        ({"fps": math.nan}, "`fps` must be a number above 0, got nan"),
        ({"crop": "left"}, "`crop` must be 'random' or 'center', got 'left'"),
    ],
)
def test_bad_formats(arguments, message):
    with pytest.raises(ValueError, match=message):
        ClipFormat(**{"frames": 5, "height": 16, "width": 24, "fps": 8, **arguments})


# ---------------------------------------------------------------------------------------------------------------------
# Folders of files

SMALL = {"frames": 5, "height": 16, "width": 24, "fps": 8}


def test_nothing_outside_the_folder_is_read(tmp_path):
    outside, folder = tmp_path / "outside", tmp_path / "videos"
    outside.mkdir()
    folder.mkdir()
    good = write_clip(outside / "good.mp4")
    (folder / "link.mp4").symlink_to(good)
    (folder / "circle.mp4").symlink_to(folder / "circle.mp4")
    (folder / "inside.mp4").symlink_to(write_clip(folder / "real.mp4"))
    (folder / "folder.mp4").mkdir()
    os.mkfifo(folder / "pipe.mp4")
    names = {
        "../outside/good.mp4": "outside the folder",
        str(good): "outside the folder",
        "link.mp4": "outside the folder",
        "none.mp4": "missing",
        "x" * 5000: "missing",
        "circle.mp4": "missing",
        "folder.mp4": "not a file",
        "pipe.mp4": "not a file",
    }
    rows = [[name, "x"] for name in [*names, "inside.mp4", "./real.mp4", "folder.mp4/../real.mp4"]]
    data = VideoFiles(write_csv(tmp_path / "a.csv", ["file", "caption"], rows), **SMALL, videos=folder)
    for index, (name, reason) in enumerate(names.items()):
        with pytest.raises(SkipClip) as caught:
            data.clip(index, np.random.default_rng(0))
        assert (caught.value.name, caught.value.reason) == (name, reason)
    for index in range(len(names), len(data)):
        assert data.clip(index, np.random.default_rng(0))["frames"].shape == (5, 3, 16, 24)


def test_videos_must_be_a_folder(tmp_path):
    path = write_csv(tmp_path / "a.csv", ["file", "caption"], [["x", "y"]])
    with pytest.raises(ValueError, match="`videos` must be a folder, got '.*none'"):
        VideoFiles(path, **SMALL, videos=tmp_path / "none")


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than this machine has cores
def test_bad_files_are_counted_and_named_whatever_the_workers(tmp_path):
    for name in ("a", "b", "c"):
        write_clip(tmp_path / f"{name}.mp4")
    write_clip(tmp_path / "short.mp4", 3)
    (tmp_path / "broken.mp4").write_bytes(b"?" * 3000)
    rows = [
        [name, f"clip {name}"]
        for name in ("a.mp4", "gone.mp4", "b.mp4", "short.mp4", "lost.mp4", "c.mp4", "broken.mp4")
    ]
    write_csv(tmp_path / "a.csv", ["file", "caption"], rows)
    runs = []
    for workers in (0, 1, 3):
        loader = ClipLoader(VideoFiles(tmp_path, **SMALL), 1, lambda step: range(4), range(6), workers)
        runs.append(list(loader))
        assert str(loader.skips).startswith("4 of 7 files skipped: 2 missing (")
        assert loader.skips.reasons == {
            "gone.mp4": "missing",
            "lost.mp4": "missing",
            "broken.mp4": "cannot be opened (Invalid data found when processing input)",
            "short.mp4": "shorter than 5 frames at 8 fps",
        }
    for other in runs[1:]:
        for mine, theirs in zip(runs[0], other, strict=True):
            assert torch.equal(mine["frames"], theirs["frames"])
            assert mine["captions"] == theirs["captions"]


def test_a_folder_without_a_good_file_is_one_error(tmp_path):
    write_csv(tmp_path / "a.csv", ["file", "caption"], [["a.mp4", ""], ["b.mp4", ""]])
    with pytest.raises(UnreadableDataError, match=r"2 of 2 files skipped: 2 missing \([ab].mp4, [ab].mp4\)"):
        choose(VideoFiles(tmp_path, **SMALL), 0, 0, 0)


@pytest.mark.parametrize("layout", ["webvid", "plain"])
def test_the_world_comes_back_from_files(tmp_path, layout):
    manifest = write_world(tmp_path / "world", count=3, seed=4, scale=4, fps=8, layout=layout)
    assert [path.name for path in tmp_path.iterdir()] == ["world"]
    truth, rng = WorldDataset(29, scale=4, length=3, seed=4), np.random.default_rng(0)
    files = VideoFiles(manifest.parent, 29, 64, 96, fps=8)
    assert len(files) == 3
    for index in range(3):
        clip, true = files.clip(index, rng), truth.clip(index, rng)
        assert clip["caption"] == true["caption"]
        assert psnr(clip["frames"], true["frames"]) > 33
    keyframes = VideoFiles(manifest, 8, 64, 96, fps=2).clip(0, rng)["frames"]
    assert psnr(keyframes, truth.clip(0, rng)["frames"][::4]) > 33
    # Smaller than it was written: the area averages that the world itself gives at that scale, nearly.
    small = VideoFiles(manifest, 29, 16, 24, fps=8).clip(2, rng)["frames"]
    assert psnr(small, WorldDataset(29, scale=1, length=3, seed=4).clip(2, rng)["frames"]) > 30
    still = files.stills().clip(1, rng)["frames"]
    assert still.shape == (1, 3, 64, 96)
    assert max(psnr(still, frame) for frame in truth.clip(1, rng)["frames"][:, None]) > 33


def test_writing_the_world_is_refused_where_something_is(tmp_path, capsys):
    (tmp_path / "kept.txt").touch()
    with pytest.raises(FileExistsError, match="`folder` must be new or empty"):
        write_world(tmp_path, 1)
    with pytest.raises(ValueError, match="`layout` must be 'webvid' or 'plain', got 'zip'"):
        write_world(tmp_path / "new", 1, layout="zip")
    with pytest.raises(SystemExit):
        write_world_main([str(tmp_path), "--count", "1"])
    assert "must be new or empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_the_world_is_written_from_the_command_line(tmp_path, capsys):
    write_world_main([str(tmp_path / "w"), "--count", "1", "--scale", "1", "--seed", "2", "--layout", "plain"])
    assert capsys.readouterr().out.strip() == str(tmp_path / "w" / "world.csv")
    clip = VideoFiles(tmp_path / "w", 29, 16, 24, fps=8).clip(0, np.random.default_rng(0))
    assert clip["caption"] == WorldDataset(1, seed=2).item(0)[1]


# ---------------------------------------------------------------------------------------------------------------------
# Streams


def stream_of(rows, **options):
    datasets = pytest.importorskip("datasets")
    dataset = datasets.IterableDataset.from_generator(lambda shards: iter(shards), gen_kwargs={"shards": rows})
    return Stream(dataset, ClipFormat(**SMALL), **options)


@pytest.fixture(scope="module")
def streamed(tmp_path_factory) -> list[dict]:
    """Twelve clips that differ, as bytes."""
    path = tmp_path_factory.mktemp("streamed") / "a.mp4"
    rows = []
    for number in range(12):
        write_clip(path, [flat(2 * number)] * 6)
        rows.append({"video": path.read_bytes(), "caption": f"clip {number}"})
    return rows


def take(stream: Stream, count: int) -> list[tuple[str, float]]:
    return [(clip["caption"], clip["frames"].sum().item()) for clip in itertools.islice(stream, count)]


def test_a_stream_is_shuffled_by_its_seed_and_every_epoch_anew(streamed):
    first, again, other = (take(stream_of(streamed, seed=seed), 24) for seed in (3, 3, 4))
    assert first == again
    assert first != other
    epochs = [[caption for caption, _ in first[:12]], [caption for caption, _ in first[12:]]]
    assert epochs[0] != epochs[1]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(row["caption"] for row in streamed)
    in_order = take(stream_of(streamed, buffer=0), 12)
    assert [caption for caption, _ in in_order] == [row["caption"] for row in streamed]


def test_processes_get_parts_of_a_stream(streamed):
    parts = [{caption for caption, _ in take(stream_of(streamed, process=p, processes=3), 4)} for p in range(3)]
    assert set.union(*parts) == {row["caption"] for row in streamed}
    with pytest.raises(ValueError, match="`process` must be 0 to 2, got 3"):
        stream_of(streamed, process=3, processes=3)


def test_a_stream_goes_on_where_it_stopped(streamed):
    rows = [*streamed, {"video": b"?", "caption": "broken"}]
    whole = stream_of(rows, seed=1)
    expected = take(whole, 30)
    stopped = stream_of(rows, seed=1)
    begun = take(stopped, 17)
    assert begun == expected[:17]
    assert stopped.position > 17  # the broken sample counts
    assert take(stream_of(rows, seed=1, position=stopped.position), 13) == expected[17:]
    assert len(whole.skips.reasons) == 2  # once in each epoch of twelve good ones


def test_batches_of_a_stream(streamed):
    batch = next(stream_of(streamed).batches(3))
    assert batch["frames"].shape == (3, 3, 5, 16, 24)
    assert len(batch["captions"]) == 3


def test_videos_of_a_stream_come_in_several_forms(tmp_path, streamed):
    path = tmp_path / "a.mp4"
    path.write_bytes(streamed[3]["video"])
    forms = [
        streamed[3]["video"],
        str(path),
        {"bytes": None, "path": str(path)},
        {"bytes": streamed[3]["video"], "path": None},
    ]
    for form in forms:
        assert numbers(next(iter(stream_of([{"video": form, "caption": ""}])))["frames"]) == [6] * 5
    stream = stream_of([{"video": "none.mp4", "caption": ""}, {"video": None, "caption": ""}], buffer=0)
    with pytest.raises(UnreadableDataError, match="64 samples in a row"):
        next(iter(stream))
    assert set(stream.skips.counts) == {"missing", "without a video"}


def test_a_folder_of_parquet_is_streamed_by_name(tmp_path, streamed):
    datasets = pytest.importorskip("datasets")
    rows = {name: [row[name] for row in streamed] for name in ("video", "caption")}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "train.parquet")
    assert len(dict(take(Stream(str(tmp_path), ClipFormat(**SMALL)), 12))) == 12
    with pytest.raises(
        ValueError, match=r"`video` must be one of the dataset's columns, \['video', 'caption'\], got 'film'"
    ):
        Stream(str(tmp_path), ClipFormat(**SMALL), video="film")


def test_a_column_that_only_the_samples_show_to_be_missing(streamed):
    with pytest.raises(ValueError, match=r"`caption` must be one of .* \['video', 'caption'\], got 'text'"):
        next(iter(stream_of(streamed, caption="text")))


def test_an_empty_stream_is_an_error():
    with pytest.raises(UnreadableDataError, match="no samples for process 0"):
        next(iter(stream_of([], buffer=0)))


def test_without_datasets_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'diffusers-show1\[streaming\]'"):
        Stream("anything", ClipFormat(**SMALL))


def test_content_in_memory_is_read_like_a_file(tmp_path):
    path = write_clip(tmp_path / "a.mp4")
    memory = ClipFormat(**SMALL).read(io.BytesIO(path.read_bytes()), "memory", np.random.default_rng(2))
    assert torch.equal(memory, read(path, 2))


def test_keyframe_times_match_the_file_rate():
    """The tiny keyframe stage reads every fourth frame: a quarter of the file's rate."""
    assert len(world.KEYFRAME_TIMES) == 8
    assert pick_frames(np.arange(29) / 8, 8, 2, 0.99).tolist() == list(world.KEYFRAME_TIMES)
