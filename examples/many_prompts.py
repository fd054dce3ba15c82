# SPDX-License-Identifier: Apache-2.0
"""Many prompts over many GPUs, each done once; the same command again goes on after an interruption.

accelerate launch --num_processes 8 many_prompts.py     # or without accelerate, on one
"""

from pathlib import Path

import torch

from diffusers_show1 import TINY_PATH, Show1CascadePipeline, save_video
from diffusers_show1.runs.scale_out import processes, share


PROMPTS = [
    "a red circle moving right on a white background",
    "a blue square growing on a pink background",
    "a green triangle moving down on a gray background",
    "a yellow cross moving up on a black background",
]

state = processes()
pipe = Show1CascadePipeline.from_pretrained(TINY_PATH, dtype=torch.float32).to(state.device)
pipe.set_progress_bar_config(disable=not state.is_main_process)
jobs = [(seed, prompt, Path("videos", f"{seed:03d}.webp")) for seed, prompt in enumerate(PROMPTS)]

for seed, prompt, path in share(jobs, is_done=lambda job: job[2].exists()):
    generator = torch.Generator().manual_seed(seed)  # the prompt's own, whichever process it falls to
    options = {"base": {"num_inference_steps": 8}}
    made = pipe(prompt, generator=generator, stage_options=options, stop_after="interpolation", output_type="np")
    save_video(made.frames[0], path, fps=8)  # the file appears when it is whole
    print(f"{path}: {len(made.frames[0])} frames, by process {state.process_index}", flush=True)
