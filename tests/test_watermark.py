# SPDX-License-Identifier: Apache-2.0
"""The invisible mark: not seen, found again after what a clip goes through, and never found where it is not."""

import subprocess

import numpy as np
import pytest
from PIL import Image

from diffusers_show1 import cli
from diffusers_show1.clips.reading import read_video
from diffusers_show1.clips.watermark import FALSE_POSITIVE_RATE, detect_watermark, embed_watermark
from diffusers_show1.clips.writing import save_video

from .test_frames import psnr, smooth_clip


def circle(frames: int = 12, height: int = 128, width: int = 192) -> np.ndarray:
    """A clip as the tiny cascade makes them: a red circle that moves right on white."""
    y, x = np.mgrid[:height, :width]
    clip = np.full((frames, height, width, 3), 255, np.uint8)
    for index, frame in enumerate(clip):
        frame[(y - height / 2) ** 2 + (x - width / 5 - 6 * index) ** 2 < (height / 5) ** 2] = (220, 30, 30)
    return clip


def textured(frames: int = 12, height: int = 128, width: int = 192) -> np.ndarray:
    """Fine structure all over, shifted by some pixels in each frame."""
    noise = np.random.default_rng(1).integers(0, 256, (height // 2, width, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(noise).resize((2 * width, height), Image.Resampling.BICUBIC))
    return np.stack([image[:, 5 * index : 5 * index + width] // 2 + 60 for index in range(frames)])


CLIPS = {"circle": circle, "textured": textured}


@pytest.fixture(scope="module", params=CLIPS)
def pair(request):
    """A clip and the same with its mark."""
    clip = CLIPS[request.param]()
    return clip, embed_watermark(clip)


def test_it_is_not_seen(pair):
    clip, marked = pair
    assert marked.shape == clip.shape
    assert marked.dtype == np.uint8
    for before, after in zip(clip, marked, strict=True):
        assert psnr(before, after) >= 40
    assert np.abs(marked.astype(int) - clip).max() <= 10


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif", "clip.webp", "clip/"])
def test_it_survives_every_format(pair, tmp_path, name):
    path = save_video(pair[1], f"{tmp_path}/{name}")
    found = detect_watermark(path)
    assert found.found
    assert found.p_value < FALSE_POSITIVE_RATE
    assert found.scale == 1


def test_it_survives_another_encoding(pair, tmp_path):
    from imageio_ffmpeg import get_ffmpeg_exe

    path = save_video(pair[1], tmp_path / "clip.mp4")
    again = tmp_path / "again.mp4"
    command = [get_ffmpeg_exe(), "-loglevel", "error", "-i", path, "-c:v", "libx264", "-crf", "23", again]
    subprocess.run([str(part) for part in command], check=True)
    assert again.stat().st_size < path.stat().st_size / 1.3
    assert detect_watermark(again).found


def test_it_survives_cropping_cutting_and_resizing(pair):
    _, marked = pair
    assert detect_watermark(marked[3:9, 5:-3, 7:-2]).found
    small = [Image.fromarray(frame).resize((144, 96), Image.Resampling.BICUBIC) for frame in marked]
    found = detect_watermark(small)
    assert found.found
    assert found.scale == pytest.approx(0.75, abs=0.01)


def test_it_is_not_found_where_it_is_not(pair):
    clip, marked = pair
    for other in (clip, marked[:, ::-1]):  # upside down: the docs say that this destroys it
        assert not detect_watermark(other).found
    assert not detect_watermark(marked, key="show2").found


def test_keys_that_have_nothing_to_do_with_a_clip_do_not_fit(pair):
    """The bound holds: of many keys, at most the stated part scores this high. At the clip's own size alone: quick."""
    from diffusers_show1.clips.watermark import _search

    scores = np.array([_search(pair[1][:1], f"key {index}", [1.0]).score for index in range(300)])
    offsets = 2 * 64**2  # and two limits
    for part in (0.5, 0.1):
        limit = np.sqrt(2 * np.log(offsets / part))  # exp(-z²/2) times the offsets
        assert (scores >= limit).mean() <= part
    assert scores.min() > 2  # the largest of as many numbers: what is compared is no constant


def test_the_mark_of_a_key_never_changes():
    """Clips that were marked by an earlier version are found by a later one."""
    grey = np.full((1, 64, 64, 3), 128, np.uint8)
    row = embed_watermark(grey)[0, 0, :12, 0].astype(int) - 128
    assert row.tolist() == [-1, 0, 1, 0, -1, -1, 0, 2, 3, 2, 0, -1]


def test_a_key_of_ones_own(tmp_path):
    path = save_video(circle(), tmp_path / "clip.mp4", watermark="the studio's own, ü")
    assert detect_watermark(path, "the studio's own, ü").found
    assert not detect_watermark(path).found


def test_off_by_default(tmp_path):
    clip = smooth_clip()
    np.testing.assert_array_equal(read_video(save_video(clip, tmp_path / "clip.webp")), clip)
    np.testing.assert_array_equal(
        read_video(save_video(circle(), tmp_path / "marked.webp", watermark=True)), embed_watermark(circle())
    )


def test_clips_that_cannot_hold_it_are_named():
    with pytest.warns(UserWarning, match="can't be found again in 3 frames of 24x16"):
        embed_watermark(circle(3, 16, 24))
    for call in (embed_watermark, detect_watermark):
        with pytest.raises(ValueError, match="`key` must be a text that is not empty"):
            call(circle(1), "")
        with pytest.raises(ValueError, match="`frames` must have shape"):
            call(np.zeros((3, 4, 4)))


def test_the_command_finds_it(tmp_path, capsys):
    save_video(circle(), tmp_path / "marked.mp4", watermark=True, metadata={"a": 1})
    save_video(circle(), tmp_path / "plain.mp4")
    for name, extra, code, message in (
        ("marked.mp4", [], 0, "marked.mp4: marked"),
        ("marked.mp4", ["--key", "other"], 1, "no mark of this key"),
        ("plain.mp4", [], 1, "no mark of this key"),
        ("marked.mp4", ["--key", ""], 2, "--key must be a text that is not empty"),
        ("missing.mp4", [], 2, "CLIP must be a video file or a folder of frames"),
    ):
        assert cli.main(["watermark", str(tmp_path / name), *extra]) == code
        streams = capsys.readouterr()
        assert message in (streams.err if code == 2 else streams.out)
