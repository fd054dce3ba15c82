# SPDX-License-Identifier: Apache-2.0
"""Text to video with the cascade in the package: no download, no GPU."""

import torch

from diffusers_show1 import TINY_PATH, Show1CascadePipeline, save_video


pipe = Show1CascadePipeline.from_pretrained(TINY_PATH, dtype=torch.float32)
out = pipe(
    "a large blue triangle growing on a pink background",
    generator=torch.Generator().manual_seed(0),
    output_type="np",
    return_stages=True,
)
save_video(out.frames[0], "out.mp4", fps=8)
for stage, frames in out.stages.items():
    print(f"{stage:14} {frames.shape[1]} frames of {frames.shape[2]}x{frames.shape[3]}")
