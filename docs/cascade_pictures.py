# SPDX-License-Identifier: Apache-2.0
"""Makes the pictures of docs/cascade.md with the cascade in the package: python docs/cascade_pictures.py

`denoising.png`: the keyframes step by step. `between.png`: what interpolation gets between two keyframes, and what it
makes of it. `windows.svg`: which frames are denoised together.
"""

from pathlib import Path

import torch

from diffusers_show1 import TINY_PATH, Show1CascadePipeline
from diffusers_show1.clips.arrays import from_model_space
from diffusers_show1.inspection import contact_sheet
from diffusers_show1.sampling.windows import chained_windows


PICTURES = Path(__file__).parent / "pictures"
PROMPT = "a large red circle moving right on a white background"
SHOWN_STEPS = (0, 4, 8, 12, 19)
ROW, FRAME, LEFT = 26, 24, 150  # of windows.svg, in pixels


def windows(frames: int = 29) -> str:
    """The windows of the three pixel stages as an SVG: a row for each, a column for each frame."""
    rows = [("keyframes", [list(range(0, frames, 4))])]
    rows += [("interpolation", [list(range(start, start + 5)) for start in range(0, frames - 1, 4)])]
    rows += [("super-resolution", [list(range(*window)) for window in chained_windows(frames, 8)])]
    rows += [("refinement", [list(range(frames))])]
    shapes, y = [], ROW
    for name, stage in rows:
        shapes.append(f'<text x="4" y="{y + 17}">{name}</text>')
        for i, window in enumerate(stage):
            top = y + (i % 2) * (ROW - 4)
            shapes += [
                f'<rect x="{LEFT + frame * FRAME}" y="{top}" width="{FRAME - 3}" height="{ROW - 8}" rx="3" '
                f'fill="{"#4a6fa5" if i % 2 == 0 else "#d98c3f"}"/>'
                for frame in window
            ]
        y += ROW * (2 if len(stage) > 1 else 1) + 14
    numbers = [
        f'<text x="{LEFT + frame * FRAME + FRAME / 2}" y="16" text-anchor="middle">{frame}</text>'
        for frame in range(0, frames, 4)
    ]
    size = f'viewBox="0 0 {LEFT + frames * FRAME + 4} {y}"'
    style = 'font-family="sans-serif" font-size="14" fill="#555"'
    ground = '<rect width="100%" height="100%" fill="white"/>'
    body = "\n".join([ground, *numbers, *shapes])
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}><g {style}>\n{body}\n</g></svg>\n'


def main() -> None:
    (PICTURES / "windows.svg").write_text(windows(), encoding="utf-8")
    pipe = Show1CascadePipeline.from_pretrained(TINY_PATH, dtype=torch.float32)
    steps = {}

    def keep(stage, step, timestep, tensors):
        if stage.stage_name == "base" and step in SHOWN_STEPS:
            steps[f"after step {step + 1} of 20"] = from_model_space(tensors["latents"], "np")
        return {}

    output = pipe(
        PROMPT,
        generator=torch.Generator().manual_seed(0),
        stop_after="interpolation",
        output_type="pt",
        return_stages=True,
        callback_on_step_end=keep,
    )
    contact_sheet(steps, columns=8, height=96).save(PICTURES / "denoising.png", optimize=True)

    keyframes = output.stages["base"] * 2 - 1  # (1, 8, 3, h, w)
    condition = pipe.interpolation.prepare_condition(keyframes.transpose(1, 2), 5)[2, :3]  # of the third pair
    between = {
        "given: two keyframes and their blend": from_model_space(condition[None], "np"),
        "made": output.frames[:, 8:13].permute(0, 1, 3, 4, 2).numpy(),
    }
    contact_sheet(between, columns=5, height=128).save(PICTURES / "between.png", optimize=True)


if __name__ == "__main__":
    main()
