# SPDX-License-Identifier: Apache-2.0
"""`python -m diffusers_show1.training.world_files FOLDER`: the synthetic world as video files with a manifest.

For trying out training from files, and for tests of it: the files hold the same scenes and captions as
`data.WorldDataset` with the same seed, so what a reader should find in them is known.
"""

import argparse
import csv
from pathlib import Path
from typing import Literal

from ..clips.files import replacing
from ..clips.writing import save_video
from ..tiny import world
from .data import WorldDataset


def write_world(
    folder: str | Path,
    count: int,
    seed: int = 0,
    scale: int = 4,
    fps: float = 8.0,
    layout: Literal["webvid", "plain"] = "webvid",
) -> Path:
    """Write clips of the world, 29 frames each, as H.264 files, and `world.csv` beside them.

    Everything is written under a temporary name (`.show1-...`) beside `folder` and renamed at the end: a folder of the
    right name is complete.

    Args:
        folder: does not exist yet, or is empty.
        count: number of files.
        seed, scale: as of `WorldDataset`, whose items 0 to count - 1 these are. A frame has 16 x 24 x scale² pixels.
        fps: frames per second, as the files say; how fast the objects move in them is theirs alone.
        layout: `"webvid"`: columns `videoid,name,page_dir`, fifty files in a folder `000000_000049`; `"plain"`:
            columns `file,caption`, all files in one folder `clips`.

    Returns the manifest's path.

    Raises:
        ValueError: an argument is not allowed.
        FileExistsError: there is something in `folder`.
    """
    folder = Path(folder)
    if layout not in ("webvid", "plain"):
        raise ValueError(f"`layout` must be 'webvid' or 'plain', got {layout!r}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"`folder` must be new or empty, got {str(folder)!r}")
    dataset = WorldDataset(world.NUM_FRAMES, scale, length=count, seed=seed)
    rows: list[tuple[str, ...]] = [("videoid", "name", "page_dir") if layout == "webvid" else ("file", "caption")]
    with replacing(folder) as made:
        for index in range(count):
            scene, caption = dataset.item(index)
            first = index // 50 * 50
            place = f"{first:06d}_{first + 49:06d}" if layout == "webvid" else "clips"
            rows.append(
                (f"{index:06d}", caption, place) if layout == "webvid" else (f"clips/{index:06d}.mp4", caption)
            )
            frames = world.render([scene], range(world.NUM_FRAMES), scale)[0].permute(0, 2, 3, 1).numpy()
            save_video(frames, made / place / f"{index:06d}.mp4", fps)
        with open(made / "world.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
    return folder / "world.csv"


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and write the files."""
    parser = argparse.ArgumentParser(prog="python -m diffusers_show1.training.world_files", description=__doc__)
    parser.add_argument("folder", type=Path, help="new or empty")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=int, default=4, help="pixels per unit of 16 x 24")
    parser.add_argument("--fps", type=float, default=8.0)
    parser.add_argument("--layout", choices=["webvid", "plain"], default="webvid")
    options = parser.parse_args(arguments)
    try:
        print(write_world(**vars(options)))
    except (ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
