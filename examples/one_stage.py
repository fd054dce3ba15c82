# SPDX-License-Identifier: Apache-2.0
"""One stage alone in somebody else's workflow: the keyframe stage draws a storyboard."""

import torch
from PIL import Image

from diffusers_show1 import TINY_PATH, Show1CascadePipeline


cascade = Show1CascadePipeline.from_pretrained(TINY_PATH, dtype=torch.float32)
stage = cascade.base  # a Show1KeyframePipeline; one published alone is loaded by that class's from_pretrained
images = stage(
    "a purple square moving up on a white background",
    generator=torch.Generator().manual_seed(0),
    **cascade.resolve_options()["base"],
).frames[0]

width, height = images[0].size
board = Image.new("RGB", (4 * width, 2 * height))
for i, image in enumerate(images):
    board.paste(image, (i % 4 * width, i // 4 * height))
board.resize((8 * board.width, 8 * board.height), Image.Resampling.NEAREST).save("out.png")
print(f"{len(images)} frames of {height}x{width} on one board")
