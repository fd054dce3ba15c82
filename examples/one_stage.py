# SPDX-License-Identifier: Apache-2.0
"""One stage alone in somebody else's workflow: two pictures in, a short film between them out."""

import numpy as np
import torch
from PIL import Image, ImageDraw

from diffusers_show1 import TINY_PATH, Show1CascadePipeline, save_video


def picture(x: int) -> Image.Image:
    """A red disc at column x of a white picture of 24x16 pixels, the size the tiny stage was trained at."""
    image = Image.new("RGB", (24 * 8, 16 * 8), "white")
    ImageDraw.Draw(image).ellipse([x * 8 - 32, 32, x * 8 + 32, 96], fill=(220, 40, 40))
    return image.resize((24, 16), Image.Resampling.BOX)


cascade = Show1CascadePipeline.from_pretrained(TINY_PATH, dtype=torch.float32)
interpolation = cascade.interpolation  # a Show1InterpolationPipeline of its own
keyframes = [picture(8), picture(11), picture(14)]
frames = interpolation(
    keyframes,
    "a red circle moving right on a white background",
    generator=torch.Generator().manual_seed(0),
    output_type="np",
    **cascade.resolve_options()["interpolation"],
).frames[0]
print(f"{len(keyframes)} pictures became {len(frames)} frames")
save_video(np.repeat(np.repeat(frames, 8, axis=1), 8, axis=2), "out.gif", fps=8)
