# SPDX-License-Identifier: Apache-2.0
"""Refinement behind another text-to-video pipeline: diffusers' own, here with random weights, so it shows blotches."""

import torch
from diffusers import DDIMScheduler, TextToVideoSDPipeline, UNet3DConditionModel

from diffusers_show1 import TINY_PATH, Show1CascadePipeline, save_video


pipe = Show1CascadePipeline.from_pretrained(TINY_PATH, dtype=torch.float32)
torch.manual_seed(0)
# In earnest: TextToVideoSDPipeline.from_pretrained("ali-vilab/text-to-video-ms-1.7b")
other = TextToVideoSDPipeline(
    vae=pipe.refine_vae,
    text_encoder=pipe.refine_text_encoder,
    tokenizer=pipe.refine_tokenizer,
    unet=UNet3DConditionModel(
        in_channels=pipe.refine_vae.config.latent_channels,
        out_channels=pipe.refine_vae.config.latent_channels,
        block_out_channels=(32, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        cross_attention_dim=pipe.refine_text_encoder.config.hidden_size,
        attention_head_dim=8,
    ),
    scheduler=DDIMScheduler(),
)
prompt = "a red circle moving right on a white background"
frames = other(prompt, num_frames=4, height=64, width=96, num_inference_steps=4, output_type="np").frames[0]
generator = torch.Generator().manual_seed(0)
video = pipe.refine(frames, prompt, generator=generator, output_type="np", **pipe.resolve_options()["refine"]).frames[
    0
]
save_video(frames, "source.webp", fps=8)
save_video(video, "out.webp", fps=8)
print(f"{len(video)} frames of {video.shape[1]}x{video.shape[2]}")
