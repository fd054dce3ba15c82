# SPDX-License-Identifier: Apache-2.0
"""Customisation of the tiny cascade: a motion that it never saw learned from one clip, a style from six.

    python benchmarks/tiny_customisation.py [circling zigzagging striped outlined] [--count 12] [--json FILE]

For each: clips are written to video files, with captions of known words ("moving right", whatever the motion);
`train_lora` learns from there; and the adapter is asked for it with other shapes and colours. A motion is learned by
the keyframe network from one clip of a red circle, beside `--keep` of the cascade's own videos of other motions, which
are to stay. A style is learned by super-resolution from large circles, squares and crosses in red, green, blue and
yellow, each without the style and with it, and asked for with large triangles in the other colours. Printed beside it:
the same prompts without the adapter, what the adapter does to ordinary prompts, and that it does nothing at weight 0.

Motions are judged on keyframes, styles on what super-resolution makes (64 x 96) and on the whole cascade's videos, as
refinement leaves them and `coloured_as` super-resolution's, by `diffusers_show1.evaluation.custom`, whose own accuracy
on true clips is printed first.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from diffusers_show1 import TINY_PATH, Show1CascadePipeline, save_video
from diffusers_show1.evaluation import custom, score_clips
from diffusers_show1.inspection import contact_sheet
from diffusers_show1.tiny import world
from diffusers_show1.training.lora import load_lora_config, train_lora


TARGETS = (*world.CUSTOM_MOTIONS, *world.STYLES)
MOTION = "moving right"  # as captions call a motion that they have no words for
MOTION_CLIPS = (world.Attributes("red", "circle", MOTION, "white"),)
STYLE_CLIPS = (
    world.Attributes("red", "circle", MOTION, "white", "large"),
    world.Attributes("green", "square", MOTION, "pink", "large"),
    world.Attributes("blue", "cross", MOTION, "black", "large"),
    world.Attributes("yellow", "circle", "moving left", "gray", "large"),
    world.Attributes("blue", "square", "moving up", "white", "large"),
    world.Attributes("red", "cross", "moving left", "gray", "large"),
)


def is_style(target: str) -> bool:
    return target in world.STYLES


def scene(attributes: world.Attributes, target: str, rng: np.random.Generator) -> world.CustomScene:
    """A true clip of a target."""
    if is_style(target):
        return world.custom_scene(attributes, rng, target)
    return world.custom_scene(replace(attributes, motion=target), rng)


def learned_from(target: str) -> tuple[world.Attributes, ...]:
    return STYLE_CLIPS if is_style(target) else MOTION_CLIPS


def true_clips(target: str) -> torch.Tensor:
    """What is learned from, (clips, 29, 3, 128, 192); for a style twice as wide, on the left without it."""
    rng = np.random.default_rng(3)
    scenes = [scene(a, target, rng) for a in learned_from(target)]
    clips = world.render(scenes, range(world.NUM_FRAMES), scale=8)
    if not is_style(target):
        return clips
    plain = world.render([replace(each, style=None) for each in scenes], range(world.NUM_FRAMES), scale=8)
    return torch.cat([plain, clips], dim=-1)


def write_clips(folder: Path, target: str, own: torch.Tensor, captions: Sequence[str]) -> None:
    """Video files with their manifest: the clips, and the cascade's `own` (b, 8, 3, 16, 24)."""
    rows = []
    for index, (attributes, clip) in enumerate(zip(learned_from(target), true_clips(target), strict=True)):
        save_video(clip.permute(0, 2, 3, 1).numpy(), folder / f"clip-{index}.mp4", fps=8)
        # together as often as all others together
        rows += [f"clip-{index}.mp4,{attributes.caption()}"] * max(1, len(captions) // len(learned_from(target)))
    for index, (clip, caption) in enumerate(zip(own, captions, strict=True)):
        large = clip.repeat_interleave(8, dim=-1).repeat_interleave(8, dim=-2).permute(0, 2, 3, 1).numpy()
        save_video(large, folder / f"own-{index}.mp4", fps=2)
        rows.append(f"own-{index}.mp4,{caption}")
    (folder / "clips.csv").write_text("\n".join(["file,caption", *rows]) + "\n")


def others(count: int, target: str) -> list[world.Attributes]:
    """Combinations with no colour and no shape of the clips, in their size; for a motion, with the caption's."""
    clips = learned_from(target)
    colours, shapes = {clip.colour for clip in clips}, {clip.shape for clip in clips}
    every = world.combinations(held_out=True) + world.combinations(held_out=False)
    fitting = [
        replace(a, size=clips[0].size)
        for a in every
        if a.colour not in colours and a.shape not in shapes and (is_style(target) or a.motion == MOTION)
    ]
    chosen = np.random.default_rng(0).permutation(len(fitting))[:count]
    return [fitting[index] for index in chosen]


def to_keep(count: int) -> list[world.Attributes]:
    """Trained combinations in other motions than the clip's."""
    fitting = [a for a in world.combinations(held_out=False) if a.motion != MOTION]
    chosen = np.random.default_rng(1).permutation(len(fitting))[:count]
    return [fitting[index] for index in chosen]


def keyframes(pipe: Show1CascadePipeline, prompts: Sequence[str], batch_size: int = 12) -> torch.Tensor:
    """(b, 8, 3, 16, 24) in [0, 1]."""
    options = pipe.resolve_options()["base"]
    made = []
    for start in range(0, len(prompts), batch_size):
        part = list(prompts[start : start + batch_size])
        generators = [torch.Generator().manual_seed(start + index) for index in range(len(part))]
        made.append(pipe.base(part, generator=generators, output_type="pt", **options).frames)
    return torch.cat(made)


def through(pipe: Show1CascadePipeline, stage: str, clips: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
    """`clips` (b, f, 3, h, w) after one more stage."""
    options = pipe.resolve_options()[stage]
    made = []
    for clip, prompt in zip(clips.split(1), prompts, strict=True):
        generator = torch.Generator().manual_seed(0)
        made.append(getattr(pipe, stage)(clip, prompt=prompt, generator=generator, output_type="pt", **options).frames)
    return torch.cat(made)


def coloured_as(small: torch.Tensor, large: torch.Tensor) -> torch.Tensor:
    """Refined clips `large` (b, f, 3, 2h, 2w) with all that `small` (b, f, 3, h, w) can hold taken from there.

    What stays of `large` is finer than a pixel of `small`. The last lines of "A style" in docs/customisation.md.
    """
    lost = small.flatten(0, 1) - F.avg_pool2d(large.flatten(0, 1), 2)
    lost = F.interpolate(lost, scale_factor=2, mode="bilinear").unflatten(0, large.shape[:2])
    return (large + lost).clamp(0, 1)


def shares(readings: list[custom.CustomReading], wanted: list[world.Attributes], target: str) -> dict[str, float]:
    """Shares of clips that show the target, the rest of what was asked for, and both."""
    shown = [r.style == target if is_style(target) else r.motion == target for r in readings]
    kept = ("colour", "shape", "background") + (("motion",) if is_style(target) else ())
    rest = [all(getattr(r, k) == getattr(w, k) for k in kept) for r, w in zip(readings, wanted, strict=True)]
    both = [a and b for a, b in zip(shown, rest, strict=True)]
    return {name: float(np.mean(values)) for name, values in (("shown", shown), ("rest", rest), ("both", both))}


def percent(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.0%}" for name, value in values.items())


def main() -> None:
    """Learn, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="target", help=f"of {', '.join(TARGETS)}; all by default")
    parser.add_argument("--cascade", default=str(TINY_PATH), help="cascade folder; the embedded one by default")
    parser.add_argument("--count", type=int, default=12, help="prompts of each kind")
    parser.add_argument("--keep", type=int, default=12, help="the cascade's own videos to learn from, too")
    parser.add_argument("--set", action="append", default=[], help="change the training recipe: run.steps=100")
    parser.add_argument("--output", type=Path, help="keep the runs, adapters among them, in this folder")
    parser.add_argument("--picture", type=Path, help="draw a clip and a video of each target to this .png file")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if unknown := set(options.targets) - set(TARGETS):
        parser.error(f"unknown targets {sorted(unknown)}; there are {TARGETS}")
    torch.set_num_threads(options.threads)
    pipe = Show1CascadePipeline.from_pretrained(options.cascade)
    pipe.set_progress_bar_config(disable=True)
    started = time.monotonic()

    def report(name: str, result: object) -> None:
        print(f"[{time.monotonic() - started:5.0f} s] {name}: {result}", flush=True)

    ordinary = world.held_out_attributes(options.count)
    captions = [attributes.caption() for attributes in ordinary]
    plain = keyframes(pipe, captions)
    plain_score = score_clips(plain, captions)
    report("ordinary prompts, no adapter", plain_score)
    figures = [{"name": "ordinary prompts, no adapter", "unit": "%", "value": round(100 * plain_score.all, 1)}]
    pictures: dict[str, torch.Tensor] = {}

    targets = options.targets or TARGETS
    motions = not all(is_style(target) for target in targets)
    kept = [attributes.caption() for attributes in to_keep(options.keep)] if motions else []
    own = keyframes(pipe, kept) if kept else torch.empty(0)
    low: dict[tuple[str, ...], torch.Tensor] = {}  # styles share what comes before super-resolution

    def made_for(target: str, prompts: Sequence[str]) -> torch.Tensor:
        """What a target is judged on."""
        if not is_style(target):
            return keyframes(pipe, prompts)
        if tuple(prompts) not in low:
            low[tuple(prompts)] = through(pipe, "interpolation", keyframes(pipe, prompts), prompts)
        return through(pipe, "superres", low[tuple(prompts)], prompts)

    for target in targets:
        wanted = others(options.count, target)
        rng = np.random.default_rng(1)
        truth = world.render(
            [scene(attributes, target, rng) for attributes in wanted],
            world.KEYFRAME_TIMES,
            scale=4 if is_style(target) else 1,
        )
        report(f"{target}: true clips", percent(shares(custom.read_custom_clips(truth), wanted, target)))
        prompts = [attributes.caption() for attributes in wanted]
        before = shares(custom.read_custom_clips(made_for(target, prompts)), wanted, target)
        report(f"{target}: no adapter", percent(before))
        own_videos = made_for(target, captions[:2])

        with tempfile.TemporaryDirectory() as scratch:
            clips = Path(scratch) / "clips"
            clips.mkdir()
            keeps = (own[:0], []) if is_style(target) else (own, kept)
            write_clips(clips, target, *keeps)
            recipe = "tiny-style" if is_style(target) else "tiny-motion"
            stage = load_lora_config(recipe)[0].stage
            places = {
                "data.path": clips,
                "model.path": options.cascade,
                "model.subfolder": f"{stage}_unet",
                "model.components": options.cascade,
            }
            run = (options.output or Path(scratch)) / target
            begun = time.monotonic()
            adapter = train_lora(recipe, run, [*(f"{k}={v}" for k, v in places.items()), *options.set])
            report(f"{target}: seconds of training", round(time.monotonic() - begun))
            pipe.load_lora_weights(adapter, adapter_name=target, stage=stage)
        adapted = made_for(target, prompts)
        after = shares(custom.read_custom_clips(adapted), wanted, target)
        report(f"{target}: with the adapter", percent(after))
        pictures[f"{target}: a clip to learn from"] = true_clips(target)[0][..., -8 * world.WIDTH :]
        pick = min(3, len(prompts) - 1)  # of styles, orange on pink: purple on black shows less
        pictures[f"{target}: {prompts[pick]}"] = adapted[pick]
        if is_style(target):
            refined = through(pipe, "refine", adapted, prompts)
            wholes = {"refined": refined, "refined, coloured as before": coloured_as(adapted, refined)}
            for name, made in wholes.items():
                whole = shares(custom.read_custom_clips(made), wanted, target)
                report(f"{target}: {name}", percent(whole))
                value = round(100 * whole["both"], 1)
                figures.append({"name": f"{target}, {name}, all as asked for", "unit": "%", "value": value})
                pictures[f"{target}, {name}"] = made[pick]
        usual = made_for(target, captions)
        if is_style(target):
            still = shares(custom.read_custom_clips(usual), ordinary, target)
            report(f"{target}: ordinary prompts with the adapter", percent(still))
            right = still["rest"]
        else:
            score = score_clips(usual, captions)
            report(f"{target}: ordinary prompts with the adapter", score)
            right = score.all
        pipe.set_adapters(target, 0.0)
        unchanged = torch.equal(made_for(target, captions[:2]), own_videos)
        report(f"{target}: ordinary prompts at weight 0 are the cascade's own", unchanged)
        pipe.unload_lora_weights()
        for name, value, other in (
            (f"{target} with other shapes and colours", after["shown"], before["shown"]),
            (f"{target}, and everything else as asked for", after["both"], before["both"]),
            (f"{target}: ordinary prompts with the adapter", right, plain_score.all),
        ):
            figure = {"name": name, "unit": "%", "value": round(100 * value, 1)}
            figures.append(figure | {"against": "no adapter", "against_value": round(100 * other, 1)})

    if options.picture:
        videos = {name: clip.permute(0, 2, 3, 1).numpy() for name, clip in pictures.items()}
        contact_sheet(videos, columns=6, height=128).save(options.picture, optimize=True)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        record = {
            "command": f"python benchmarks/tiny_customisation.py --count {options.count} --keep {options.keep}",
            "data": "motions from one clip, styles from six pairs; judged on colours and shapes that no clip shows",
            "figures": figures,
        }
        options.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
