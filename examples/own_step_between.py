# SPDX-License-Identifier: Apache-2.0
"""Stages called by hand, with a step of one's own between them: the keyframes are played backwards."""

import torch

from diffusers_show1 import TINY_PATH, Show1CascadePipeline, save_video


pipe = Show1CascadePipeline.from_pretrained(TINY_PATH, dtype=torch.float32)
options = pipe.resolve_options()
prompt = "a yellow square moving left on a black background"
generator = torch.Generator().manual_seed(1)

embeds, negative = pipe.base.encode_prompt(prompt)
text = {"prompt_embeds": embeds, "negative_prompt_embeds": negative, "generator": generator, "output_type": "latent"}

frames = pipe.base(**text, **options["base"]).frames
frames = frames.flip(2)  # (batch, channels, frames, height, width)
frames = pipe.interpolation(frames, input_type="latent", **text, **options["interpolation"]).frames
frames = pipe.superres(frames, input_type="latent", **text, **options["superres"]).frames
video = pipe.refine(
    frames, prompt, input_type="latent", generator=generator, output_type="np", **options["refine"]
).frames[0]
save_video(video, "out.webp", fps=8)
print(f"{len(video)} frames of {video.shape[1]}x{video.shape[2]}")
