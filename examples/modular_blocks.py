# SPDX-License-Identifier: Apache-2.0
"""The cascade as modular blocks, with a block of one's own: the keyframes are played backwards, then finished."""

import torch
from diffusers.modular_pipelines import InputParam, ModularPipelineBlocks, OutputParam

from diffusers_show1 import TINY_PATH, Show1Blocks, save_video


class Backwards(ModularPipelineBlocks):
    """Turns the frames round; they are (batch, channels, frames, height, width) from block to block."""

    @property
    def inputs(self):
        return [InputParam("frames", required=True)]

    @property
    def intermediate_outputs(self):
        return [OutputParam("frames")]

    def __call__(self, components, state):
        block_state = self.get_block_state(state)
        block_state.frames = block_state.frames.flip(2)
        self.set_block_state(state, block_state)
        return components, state


blocks = Show1Blocks().get_workflow("text2video")
after = list(blocks.sub_blocks).index("frames.keyframes") + 1
blocks.sub_blocks.insert("backwards", Backwards(), after)
pipe = blocks.init_pipeline(TINY_PATH)
pipe.load_components(dtype=torch.float32)

prompt = "a yellow square moving left on a black background"
generator = torch.Generator().manual_seed(1)
video = pipe(prompt=prompt, generator=generator, output_type="np", output="videos")[0]
save_video(video, "out.webp", fps=8)
print(f"{len(video)} frames of {video.shape[1]}x{video.shape[2]}, after {', '.join(blocks.sub_blocks)}")
