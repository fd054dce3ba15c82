# SPDX-License-Identifier: Apache-2.0
"""What the invisible watermark survives, how visible it is, and how often it is found where it is not.

    python benchmarks/watermark.py [clip.mp4 ...] [--seed 0] [--keys 4000]

Clips are those of the tiny world (true ones: flat colours, a faint texture), in the size of the tiny cascade's videos
and in that of the published one's; and the first 29 frames of the files given, brought to both sizes. Prints a table
for docs/safety.md: of how many clips the mark was found, and the lowest score (found is 7.6 and more; 26 is the most).
"""

import argparse
import math
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image

from diffusers_show1.clips.reading import read_video
from diffusers_show1.clips.watermark import _search, detect_watermark, embed_watermark
from diffusers_show1.clips.writing import save_video
from diffusers_show1.tiny import world


SIZES = {"128x192": (128, 192), "320x576": (320, 576)}


def resize(clip: np.ndarray, height: int, width: int) -> np.ndarray:
    images = (Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC) for frame in clip)
    return np.stack([np.asarray(image) for image in images])


def world_clips(size: tuple[int, int], count: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    scenes = [world.sample_scene(world.sample_attributes(rng), rng) for _ in range(count)]
    frames = world.render(scenes, range(world.NUM_FRAMES), scale=8).permute(0, 1, 3, 4, 2).numpy()
    width = size[1]
    height = width * world.HEIGHT // world.WIDTH
    return [resize(clip, height, width)[:, : size[0]] for clip in (frames * 255).round().astype(np.uint8)]


def through(clip: np.ndarray, name: str, crf: int | None = None) -> np.ndarray:
    """A clip saved and read again, and encoded by x264 once more on the way, at a quality of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = save_video(clip, f"{folder}/{name}")
        if crf is not None:
            again = Path(folder) / "again.mp4"
            command = [get_ffmpeg_exe(), "-loglevel", "error", "-i", path, "-c:v", "libx264", "-crf", crf, again]
            subprocess.run([str(part) for part in command], check=True)
            path = again
        return read_video(path)


def scaled(clip: np.ndarray, factor: float) -> np.ndarray:
    return through(resize(clip, *(2 * round(side * factor / 2) for side in clip.shape[1:3])), "clip.mp4")


TREATMENTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    ".mp4 as saved": lambda clip: through(clip, "clip.mp4"),
    "x264 again, CRF 23": lambda clip: through(clip, "clip.mp4", 23),
    "x264 again, CRF 28": lambda clip: through(clip, "clip.mp4", 28),
    "x264 again, CRF 33": lambda clip: through(clip, "clip.mp4", 33),
    "cropped by 3 to 7 pixels a side, .mp4": lambda clip: through(clip[:, 5:-3, 7:-5], "clip.mp4"),
    "resized by 0.75, .mp4": lambda clip: scaled(clip, 0.75),
    "resized by 0.5, .mp4": lambda clip: scaled(clip, 0.5),
    "cropped, then resized by 0.75, .mp4": lambda clip: scaled(clip[:, 5:-3, 7:-5], 0.75),
    "darker by a fifth, .mp4": lambda clip: through((clip * 0.8).astype(np.uint8), "clip.mp4"),
    "one frame of the .mp4": lambda clip: through(clip, "clip.mp4")[14:15],
    "mirrored": lambda clip: clip[:, :, ::-1],
}


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    return 10 * math.log10(255**2 / np.mean((first.astype(np.float64) - second) ** 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="*")
    parser.add_argument(
        "--count", type=int, default=20, help="clips of the tiny world at 128x192; half as many larger"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the tiny world's clips")
    parser.add_argument("--keys", type=int, default=4000, help="tried on clips without a mark")
    arguments = parser.parse_args()
    real = [read_video(path)[:29] for path in arguments.clips]
    groups = {}
    for name, size in SIZES.items():
        count = arguments.count if name == "128x192" else arguments.count // 2
        groups[f"world {name}"] = world_clips(size, count, arguments.seed)
        if real:
            groups[f"real {name}"] = [resize(clip, *size) for clip in real]
    marked = {name: [embed_watermark(clip) for clip in clips] for name, clips in groups.items()}

    print("| |", " | ".join(f"{name} ({len(clips)})" for name, clips in groups.items()), "|")
    print("| --- |" + " --- |" * len(groups))
    quality = [
        [psnr(*frames) for pair in zip(groups[name], marked[name], strict=True) for frames in zip(*pair, strict=True)]
        for name in groups
    ]
    print("| PSNR of the marked frames, lowest and mean (dB) |", end="")
    print("".join(f" {min(values):.1f}, {np.mean(values):.1f} |" for values in quality), flush=True)
    for title, treatment in TREATMENTS.items():
        print(f"| {title} |", end="", flush=True)
        for clips in marked.values():
            found = [detect_watermark(treatment(clip)) for clip in clips]
            print(f" {sum(f.found for f in found)}, {min(f.score for f in found):.1f} |", end="", flush=True)
        print()

    scores = [detect_watermark(clip).score for clips in groups.values() for clip in clips]
    print(f"\nwithout a mark: {len(scores)} clips, highest score {max(scores):.1f}")
    small = groups["world 128x192"] + groups.get("real 128x192", [])
    scores = [_search(small[i % len(small)], f"key {i}", [1.0]).score for i in range(arguments.keys)]
    if scores:
        print(f"other keys, at the clip's own size: {len(scores)} tried, highest score {max(scores):.1f}")


if __name__ == "__main__":
    main()
