# SPDX-License-Identifier: Apache-2.0
"""How many frames an animation (GIF, WebP, APNG) has, and how many a second.

Their encoders merge equal neighbours into one picture that is shown longer, and round its time. `save_video` therefore
notes in the file what it was given ("29 frames at 7.5 fps"); for the files of others it is worked out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple


SLOWEST, FASTEST = 0.002, 1e6  # frames a second; GIF cannot show a frame for longer

_NOTE = re.compile(r"([0-9]{1,6}) frames at ([0-9.e+-]{1,24}) fps")
_USUAL = 100  # milliseconds, where a file gives none: as browsers have it, and FFmpeg
_AT_THE_END = 64  # bytes


class Timing(NamedTuple):
    """What a file's frames are.

    Args:
        repeats: of each picture, how many frames show it.
        fps: frames a second; None where there is one frame and nothing is said.
    """

    repeats: list[int]
    fps: float | None


def duration(fps: float, unit: int) -> int:
    """How long a frame is shown, in milliseconds, in a format that rounds to multiples of `unit`."""
    return max(unit, round(1000 / fps / unit) * unit)


def note(frames: int, fps: float) -> str:
    """What is noted in a file, in ASCII."""
    return f"{frames} frames at {float(fps)!r} fps"


def note_in_gif(path: Path, text: str) -> None:
    """Put a note into a GIF, as a comment behind its pictures."""
    with path.open("r+b") as file:
        file.seek(-1, 2)  # the trailer, a byte
        file.write(b"!\xfe" + bytes([len(text)]) + text.encode() + b"\0;")


def noted_in_gif(content: BinaryIO) -> str:
    """The note at the end of a GIF, or something else."""
    content.seek(-min(_AT_THE_END, content.seek(0, 2)), 2)
    return content.read().rpartition(b"!\xfe")[2][1:-2].decode("latin-1")


def timing(durations: Sequence[int], unit: int, noted: str = "") -> Timing:
    """The frames of an animation.

    Args:
        durations: how long each picture is shown, in milliseconds.
        unit: the step to which the format rounds them.
        noted: the file's note, if it has one. Where it does not fit the durations, another program has changed them,
            and it is left out of account.
    """
    total = sum(durations)
    told = _read(noted)
    if told:
        frames, fps = told
        # A clip of which all frames are equal is one picture, to which WebP gives no time.
        repeats = [round(time * frames / total) for time in durations] if total else [frames]
        if min(repeats) >= 1 and sum(repeats) == frames and len(repeats) == len(durations):
            as_told = not total or total == frames * duration(fps, unit)
            return Timing(repeats, fps if as_told else 1000 * frames / total)
    # 24 frames a second are 41, 42, 42, ... thousandths, which are no multiples of each other
    step = math.gcd(*durations) if max(durations) - min(durations) > unit else 0
    repeats = [max(1, time // step) if step else 1 for time in durations]
    count = sum(repeats)
    return Timing(repeats, None if count == 1 else 1000 * count / (total or _USUAL * count))


def _read(noted: str) -> tuple[int, float] | None:
    found = _NOTE.fullmatch(noted)
    try:
        frames, fps = (int(found[1]), float(found[2])) if found else (0, 0.0)
    except ValueError:
        return None
    return (frames, fps) if frames and SLOWEST <= fps <= FASTEST else None
