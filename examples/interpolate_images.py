# SPDX-License-Identifier: Apache-2.0
"""Interpolation of two pictures of yours: what happens between them."""

import torch
from PIL import Image, ImageDraw

from diffusers_show1 import TINY_PATH, Show1CascadePipeline, save_video


def picture(x: int) -> Image.Image:
    """A red disc at column x of a white picture of 24x16 pixels, the size the tiny stage was trained at."""
    image = Image.new("RGB", (24 * 8, 16 * 8), (232, 232, 232))
    draw = ImageDraw.Draw(image)
    draw.ellipse([x * 8 - 32, 32, x * 8 + 32, 96], fill=(56, 6, 8))
    draw.ellipse([x * 8 - 26, 38, x * 8 + 26, 90], fill=(224, 26, 30))
    return image.resize((24, 16), Image.Resampling.BOX)


pictures = [picture(9), picture(13)]
cascade = Show1CascadePipeline.from_pretrained(TINY_PATH, dtype=torch.float32)
frames = cascade.interpolation(
    pictures,
    "a red circle moving right on a white background",
    generator=torch.Generator().manual_seed(0),
    **cascade.resolve_options()["interpolation"],
).frames[0]
save_video(frames, "out.webp", fps=8)
print(f"{len(pictures)} pictures became {len(frames)} frames")
