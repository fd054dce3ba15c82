# SPDX-License-Identifier: Apache-2.0
"""Makes the pictures of README and docs with the cascade in the package: python docs/make_pictures.py

`pictures/prompts.png` has a row of frames for each prompt; `pictures/stages.png` a row for each stage of one video.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from diffusers_show1 import TINY_PATH, Show1CascadePipeline


PICTURES = Path(__file__).parent / "pictures"
PROMPTS = [
    "a large red circle moving right on a white background",
    "a blue triangle growing on a pink background",
    "a small yellow cross moving up on a black background",
    "a green square moving left on a gray background",
]
COLUMNS = 6
CELL = (192, 128)  # width, height


def row(frames: np.ndarray) -> np.ndarray:
    """Evenly spaced frames of one video (f, h, w, 3), side by side, each scaled to a cell without smoothing."""
    chosen = frames[np.linspace(0, len(frames) - 1, COLUMNS).round().astype(int)]
    cells = [
        Image.fromarray((f * 255).round().astype(np.uint8)).resize(CELL, Image.Resampling.NEAREST) for f in chosen
    ]
    return np.concatenate([np.asarray(cell) for cell in cells], axis=1)


def sheet(rows: list[tuple[str, np.ndarray]], path: Path) -> None:
    """A captioned row for each video."""
    height = CELL[1] + 18
    picture = Image.new("RGB", (CELL[0] * COLUMNS, height * len(rows)), "white")
    draw = ImageDraw.Draw(picture)
    for i, (caption, frames) in enumerate(rows):
        draw.text((4, i * height + 3), caption, fill="black")
        picture.paste(Image.fromarray(row(frames)), (0, i * height + 18))
    picture.save(path, optimize=True)
    print(path, picture.size)


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    pipe = Show1CascadePipeline.from_pretrained(TINY_PATH, dtype=torch.float32)
    outputs = [
        pipe(prompt, generator=torch.Generator().manual_seed(seed), output_type="np", return_stages=True)
        for seed, prompt in enumerate(PROMPTS)
    ]
    sheet([(p, out.frames[0]) for p, out in zip(PROMPTS, outputs, strict=True)], PICTURES / "prompts.png")
    stages = [
        (f"{name}: {frames.shape[1]} frames of {frames.shape[2]}x{frames.shape[3]}", frames[0])
        for name, frames in outputs[0].stages.items()
    ]
    sheet(stages, PICTURES / "stages.png")


if __name__ == "__main__":
    main()
