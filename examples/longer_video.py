# SPDX-License-Identifier: Apache-2.0
"""A video longer than one clip: each clip's keyframes go on from the last keyframe of the one before."""

import torch

from diffusers_show1 import TINY_PATH, KnownFrames, Show1CascadePipeline, save_video


PROMPTS = [  # what happens, clip by clip; the published cascade may be told the same thing again and again
    "a red circle moving right on a white background",
    "a red circle moving left on a white background",
]

pipe = Show1CascadePipeline.from_pretrained(TINY_PATH, dtype=torch.float32)
options = pipe.resolve_options()
generator = torch.Generator().manual_seed(0)
common = {"generator": generator, "output_type": "latent"}  # frames (batch, channels, frames, height, width)

keyframes = pipe.base(PROMPTS[0], **common, **options["base"]).frames
for prompt in PROMPTS[1:]:
    go_on = KnownFrames(keyframes[:, :, -1:], generator=generator)
    clip = pipe.base(prompt, callback_on_step_end=go_on, **common, **options["base"]).frames
    keyframes = torch.cat([keyframes, clip[:, :, 1:]], dim=2)

# The later stages, refinement too, take any number of frames.
frames = pipe.interpolation(keyframes, PROMPTS[0], **common, **options["interpolation"]).frames
video = pipe.superres(frames, PROMPTS[0], generator=generator, output_type="np", **options["superres"]).frames[0]
save_video(video, "out.webp", fps=8)
print(f"{keyframes.shape[2]} keyframes became {len(video)} frames")
