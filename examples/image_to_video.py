# SPDX-License-Identifier: Apache-2.0
"""Image to video: the clip begins with a picture of yours, and the prompt says how it goes on."""

import torch
from PIL import Image, ImageDraw

from diffusers_show1 import TINY_PATH, KnownFrames, Show1CascadePipeline, save_video


SIZE = (192, 128)  # width and height; any will do


def picture() -> Image.Image:
    """A blue square with a dark outline at the right of a black picture."""
    image = Image.new("RGB", SIZE, (23, 23, 23))
    draw = ImageDraw.Draw(image)
    draw.rectangle([124, 12, 180, 68], fill=(10, 18, 60))
    draw.rectangle([130, 18, 174, 62], fill=(31, 66, 230))
    return image


first = picture()
pipe = Show1CascadePipeline.from_pretrained(TINY_PATH, dtype=torch.float32)
superres = pipe.resolve_options()["superres"]
frames = pipe(
    "a blue square moving left on a black background",
    generator=torch.Generator().manual_seed(0),
    # the keyframes go on from the picture, and super-resolution, whose frames are chained, takes its details
    callback_on_step_end=KnownFrames([first], generator=torch.Generator().manual_seed(1)),
    stage_options={"superres": {"first_frame": [first.resize((superres["width"], superres["height"]))]}},
    stop_after="superres",  # leave this out, and the frames are refined too
    output_type="np",
).frames[0]
save_video([first], "first.webp")
save_video(frames, "out.webp", fps=8)
print(f"{len(frames)} frames from one picture")
