# SPDX-License-Identifier: Apache-2.0
"""How well keyframes go on from a given one, by the weight of the guidance, on the tiny world's held-out combinations.

    python benchmarks/known_frames.py [--weights 0 5 10]

The first keyframe of true clips is given; distances are in pixels of 24x16, from where the object of the true clip is.
"""

import argparse

import numpy as np
import torch

from diffusers_show1 import TINY_PATH, KnownFrames, Show1CascadePipeline
from diffusers_show1.evaluation import score_clips
from diffusers_show1.evaluation.scorer import object_mask, read_background
from diffusers_show1.tiny import world


def track(clip: torch.Tensor) -> torch.Tensor:
    """(f, 3, h, w) in 0..1 -> the object's centre, (f, 2) as x and y."""
    mask = object_mask(clip, read_background(clip)[1])
    area = mask.sum(dim=(1, 2))
    x = (mask * (torch.arange(world.WIDTH) + 0.5)).sum(dim=(1, 2)) / area
    y = (mask * (torch.arange(world.HEIGHT) + 0.5)[:, None]).sum(dim=(1, 2)) / area
    return torch.stack([x, y], dim=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 5.0, 10.0])
    parser.add_argument("--count", type=int, default=12)
    arguments = parser.parse_args()
    rng = np.random.default_rng(5)
    attributes = world.held_out_attributes(8 * arguments.count, seed=1)[::8]
    scenes = [world.sample_scene(each, rng) for each in attributes]
    prompts = [scene.attributes.caption() for scene in scenes]
    truth = world.render(scenes, world.KEYFRAME_TIMES)

    pipe = Show1CascadePipeline.from_pretrained(TINY_PATH, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    for weight in arguments.weights:
        known = KnownFrames(truth[:, :1], weight, torch.Generator().manual_seed(1))
        generator = torch.Generator().manual_seed(3)
        options = pipe.resolve_options()["base"]
        clips = pipe.base(prompts, generator=generator, callback_on_step_end=known, output_type="pt", **options).frames
        following, across = [], []
        for scene, clip, true in zip(scenes, clips, truth, strict=True):
            away = track(clip) - track(true)
            following.append(away[1].norm().item())
            axes = {"right": [1], "left": [1], "up": [0], "down": [0]}.get(scene.attributes.motion.split()[-1], [0, 1])
            across.append(away[1:-1, axes].abs().max().item())
        print(
            f"weight {weight:g}: next keyframe {np.mean(following):.2f} (worst {max(following):.1f}), "
            f"across the motion {np.mean(across):.2f} (worst {max(across):.1f}); {score_clips(clips, prompts)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
