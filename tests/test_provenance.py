# SPDX-License-Identifier: Apache-2.0
"""How a clip was made, inside its file: what goes in comes out, the video stays what it was, bad files are named."""

import contextlib
import dataclasses
import json
import math
import random

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffusers_show1 import cli
from diffusers_show1.clips.formats import EXIF_COMMENT, PNG_KEYWORD
from diffusers_show1.clips.provenance import MAX_METADATA, encode_metadata, read_metadata
from diffusers_show1.clips.reading import read_video
from diffusers_show1.clips.writing import save_video
from diffusers_show1.runs.clip import Clip, write_clip
from diffusers_show1.runs.refusals import BadInput
from diffusers_show1.runs.settings import Settings, read_record

from .test_frames import smooth_clip


NAMES = ("clip.mp4", "clip.gif", "clip.webp", "clip/")
PROMPT = 'a red circle, ünïcode, "quotes" and 日本 on white; #=\\\n'
METADATA = {
    "prompt": PROMPT,
    "seed": 2**53,
    "options": {"base": {"scale": 3.5, "on": True, "none": None, "list": [1, "a"]}},
}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_any_json_is_ascii_and_comes_back(metadata):
    text = encode_metadata(metadata)
    assert text.isascii()
    assert json.loads(text) == metadata


@settings(max_examples=3, deadline=None)
@given(metadata=st.dictionaries(st.text(), json_values, max_size=4))
@pytest.mark.parametrize("name", NAMES)
def test_what_goes_in_comes_out(tmp_path_factory, name, metadata):
    path = f"{tmp_path_factory.mktemp('clip')}/{name}"
    save_video(smooth_clip(2, 8, 8), path, metadata=metadata)
    assert read_metadata(path) == metadata


@pytest.mark.parametrize("name", NAMES)
def test_the_video_is_the_same_and_nothing_else_is_left(tmp_path, name):
    plain, told = tmp_path / "plain", tmp_path / "told"
    for folder, metadata in ((plain, None), (told, METADATA)):
        save_video(smooth_clip(), f"{folder}/{name}", fps=7.5, metadata=metadata)
        assert [entry.name for entry in folder.iterdir()] == [name.rstrip("/")]
    np.testing.assert_array_equal(read_video(plain / name), read_video(told / name))
    assert read_metadata(told / name) == METADATA
    with pytest.raises(ValueError, match="has none"):
        read_metadata(plain / name)


def test_an_mp4_is_copied_packet_by_packet(tmp_path):
    def packets(path):
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            return (
                stream.average_rate,
                stream.frames,
                [(packet.pts, packet.dts, packet.is_keyframe, bytes(packet)) for packet in container.demux(stream)],
            )

    for count in (1, 5):
        plain = save_video(smooth_clip(count), tmp_path / "plain.mp4", fps=7.5)
        told = save_video(smooth_clip(count), tmp_path / "told.mp4", fps=7.5, metadata=METADATA)
        assert packets(plain) == packets(told)
        with av.open(str(told)) as container:
            assert json.loads(container.metadata["comment"]) == METADATA


@pytest.mark.parametrize("name", ["clip.gif", "clip.webp"])
def test_animations_play_as_before(tmp_path, name):
    with Image.open(save_video(smooth_clip(), tmp_path / name, fps=8, metadata=METADATA)) as image:
        assert image.info["loop"] == 0
        assert image.n_frames == 5


def test_every_frame_of_a_folder_carries_it(tmp_path):
    save_video(smooth_clip(3), tmp_path / "clip", metadata=METADATA)
    for frame in (tmp_path / "clip").iterdir():
        assert read_metadata(frame) == METADATA


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ([1], r"a dict, got \[1\]"),
        ({"a": math.nan}, "that JSON can say"),
        ({"a": b"bytes"}, "that JSON can say"),
        ({(1, 2): "a"}, "that JSON can say"),
        ({"a": "x" * MAX_METADATA}, f"at most {MAX_METADATA} characters"),
    ],
)
def test_what_json_cannot_say_is_refused_before_anything_is_written(tmp_path, metadata, message):
    with pytest.raises(ValueError, match=f"`metadata` must be .*{message}"):
        save_video(smooth_clip(), tmp_path / "clip.mp4", metadata=metadata)
    assert not list(tmp_path.iterdir())


def write_comment(path, comment: str) -> None:
    """A clip with any comment, as another program may have written it."""
    image = Image.new("RGB", (8, 8))
    if path.suffix == ".gif":
        image.save(path, comment=comment)
    elif path.suffix == ".webp":
        exif = Image.Exif()
        exif[EXIF_COMMENT] = comment
        image.save(path, exif=exif)
    elif path.suffix == ".mp4":
        from diffusers_show1.clips.provenance import tag_container

        save_video(smooth_clip(2), path.with_name("plain.mp4"))
        tag_container(path.with_name("plain.mp4"), path, comment)
    else:
        path.mkdir()
        text = PngInfo()
        text.add_text(PNG_KEYWORD, comment)
        image.save(path / "000.png", pnginfo=text)


HOSTILE = {
    "prose": "Holiday in Spain",
    "list": "[1, 2]",
    "number": "17",
    "nan": '{"a": NaN}',
    "deep": "[" * 100_000,
    "digits": '{"a": ' + "9" * 10_000 + "}",
    "huge": '{"a": "' + "x" * MAX_METADATA + '"}',
    "half": '{"prompt": "a red ci',
}


@pytest.mark.parametrize("name", NAMES)
def test_comments_of_others_are_one_clear_error(tmp_path, name):
    for kind, comment in HOSTILE.items():
        path = tmp_path / f"{kind}-{name.rstrip('/')}"
        write_comment(path, comment)
        with pytest.raises(ValueError, match="`path` must be a clip with metadata that save_video wrote") as caught:
            read_metadata(path)
        assert len(str(caught.value)) < 600
        with pytest.raises(BadInput, match="--from-json must be a clip with metadata"):
            read_record(path)


def test_a_compressed_comment_that_swells_is_refused(tmp_path):
    (tmp_path / "clip").mkdir()
    text = PngInfo()
    text.add_text(PNG_KEYWORD, "x" * 2**23, zip=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "clip" / "000.png", pnginfo=text)
    with pytest.raises(ValueError, match="`path` must be a clip with metadata"):
        read_metadata(tmp_path / "clip")


@pytest.mark.parametrize("name", NAMES)
def test_damaged_files_give_the_metadata_or_one_kind_of_error(tmp_path, name):
    path = save_video(smooth_clip(2), f"{tmp_path}/{name}", metadata=METADATA)
    file = path / "000.png" if path.is_dir() else path
    whole, numbers = file.read_bytes(), random.Random(0)
    for _ in range(60):
        data = bytearray(whole[: numbers.choice((len(whole), numbers.randrange(len(whole))))])
        for _ in range(numbers.choice((0, 1, 20))):
            data[numbers.randrange(len(data))] = numbers.randrange(256) if data else 0
        file.write_bytes(data or b"\0")
        with contextlib.suppress(ValueError):
            assert isinstance(read_metadata(path), dict)


def test_what_is_no_clip_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_metadata(tmp_path / "missing.mp4")
    with pytest.raises(ValueError, match="a folder without frames"):
        read_metadata(tmp_path)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(ValueError, match="must be a clip with metadata"):
        read_metadata(tmp_path / "text.mp4")


# --- the command ----------------------------------------------------------------------------------------------------

SETTINGS = Settings("a red circle", 7, fps=8.0, stage_options={"base": {"num_inference_steps": 2}}, dtype="float32")


@pytest.mark.parametrize("name", NAMES)
def test_a_clip_and_its_stages_carry_the_settings_that_make_them_again(tmp_path, name):
    frames = smooth_clip(5, 32, 48)
    clip = Clip(frames, {"base": frames[::4, :16, :24]}, {"base": 0.1})
    digest = write_clip(clip, f"{tmp_path}/{name}", 8.0, SETTINGS)
    read, record = read_record(tmp_path / name)
    assert read == SETTINGS
    assert record["output"] == {"frames_sha256": digest, "frames": 5, "height": 32, "width": 48}
    assert set(record["model"]) == {"index_sha256", "weights_sha256"}
    assert record["versions"]["diffusers_show1"]
    stage, _ = read_record(next(path for path in tmp_path.iterdir() if ".base" in path.name))
    assert stage == dataclasses.replace(SETTINGS, stop_after="base", fps=8.0 * 2 / 5)


def test_settings_of_wrong_types_are_refused(tmp_path, capsys):
    for given_settings in ({"prompt": 3}, {"prompt": "a", "seed": "7"}, []):
        save_video(smooth_clip(2), tmp_path / "clip.webp", metadata={"show1": 1, "settings": given_settings})
        assert cli.main(["generate", "--from-json", str(tmp_path / "clip.webp"), "-o", str(tmp_path / "out.mp4")]) == 2
        error = capsys.readouterr().err
        assert error.startswith("show1: --from-json must be a JSON file that show1 generate wrote, or a clip")
        assert error.count("\n") == 1


def test_a_clip_makes_itself_again_and_can_keep_quiet(tmp_path, capsys):
    quick = ["--stop-after", "base", "--steps", "base=1", "--seed", "3"]
    assert cli.main(["generate", "a red circle", "-o", str(tmp_path / "one.webp"), *quick, "--no-json"]) == 0
    arguments = ["--from-json", str(tmp_path / "one.webp"), "-o", str(tmp_path / "two.webp"), "--no-metadata"]
    assert cli.main(["generate", *arguments]) == 0
    assert "The frames are exactly those of the JSON." in capsys.readouterr().out
    np.testing.assert_array_equal(read_video(tmp_path / "one.webp"), read_video(tmp_path / "two.webp"))
    assert read_metadata(tmp_path / "one.webp")["settings"]["prompt"] == "a red circle"
    assert b"red circle" not in (tmp_path / "two.webp").read_bytes()
