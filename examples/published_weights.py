# SPDX-License-Identifier: Apache-2.0
"""The published Show-1 weights on one GPU. Downloads about 30 GB; the weights are CC BY-NC 4.0."""

import torch

from diffusers_show1 import Show1CascadePipeline, save_video


pipe = Show1CascadePipeline.from_stages(
    base="showlab/show-1-base",
    interpolation="showlab/show-1-interpolation",
    superres="showlab/show-1-sr1",
    refine="showlab/show-1-sr2",
    # first_frame="DeepFloyd/IF-II-L-v1.0",  # after accepting its licence on the Hub; as the authors run it
    dtype=torch.float16,
)
pipe.enable_model_cpu_offload()
frames = pipe(
    "A panda besides the waterfall is holding a sign that says Show 1",
    negative_prompt="low resolution, blur",
    generator=torch.Generator().manual_seed(345),
    output_type="np",
).frames[0]
save_video(frames, "out.mp4", fps=8)
