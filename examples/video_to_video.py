# SPDX-License-Identifier: Apache-2.0
"""Video to video by the refinement stage, from any source: a drawing of the tiny world's, or a clip of yours.

python video_to_video.py [CLIP PROMPT]
"""

import sys

import numpy as np
import torch

from diffusers_show1 import TINY_PATH, Show1CascadePipeline, read_fps, read_video, save_video
from diffusers_show1.tiny import world


if len(sys.argv) > 1:
    clip, prompt = read_video(sys.argv[1])[:29], sys.argv[2]  # (frames, height, width, 3)
    fps = read_fps(sys.argv[1]) or 8  # a folder of frames has none
else:
    scene = world.sample_scene(
        world.parse_caption("a green circle growing on a pink background"), np.random.default_rng(0)
    )
    prompt, fps = scene.attributes.caption(), 8
    clip = world.render([scene], range(8, 23, 2), scale=4)[0].permute(0, 2, 3, 1).numpy()

pipe = Show1CascadePipeline.from_pretrained(TINY_PATH, dtype=torch.float32)
options = pipe.resolve_options()["refine"]  # size, and `strength`: how much is made anew
video = pipe.refine(clip, prompt, generator=torch.Generator().manual_seed(0), output_type="np", **options).frames[0]
save_video(clip, "source.webp", fps=fps)
save_video(video, "out.webp", fps=fps)
print(f"{len(video)} frames: {clip.shape[1]}x{clip.shape[2]} became {video.shape[1]}x{video.shape[2]}")
