# SPDX-License-Identifier: Apache-2.0
"""Makes the pictures of README and docs with the cascade in the package: python docs/make_pictures.py

`pictures/prompts.png` has a row of frames for each prompt, `pictures/stages.png` a row for each stage of the first;
`pictures/inspect-*.png` are the other pictures that `show1 inspect` makes of it.
"""

from pathlib import Path

import torch

from diffusers_show1 import TINY_PATH, Show1CascadePipeline
from diffusers_show1.inspection import contact_sheet, frame_plots, temporal_slices


PICTURES = Path(__file__).parent / "pictures"
PROMPTS = [
    "a large red circle moving right on a white background",
    "a blue triangle growing on a pink background",
    "a small yellow cross moving up on a black background",
    "a green square moving left on a gray background",
]


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    pipe = Show1CascadePipeline.from_pretrained(TINY_PATH, dtype=torch.float32)
    outputs = [
        pipe(prompt, generator=torch.Generator().manual_seed(seed), output_type="np", return_stages=True)
        for seed, prompt in enumerate(PROMPTS)
    ]
    videos = {prompt: output.frames for prompt, output in zip(PROMPTS, outputs, strict=True)}
    stages = outputs[0].stages
    pictures = {
        "prompts": contact_sheet(videos, columns=6),
        "stages": contact_sheet(stages, columns=6),
        "inspect-frames": frame_plots(stages),
        "inspect-slice": temporal_slices(stages),
    }
    for name, picture in pictures.items():
        picture.save(PICTURES / f"{name}.png", optimize=True)
        print(name, picture.size)


if __name__ == "__main__":
    main()
