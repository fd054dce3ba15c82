# SPDX-License-Identifier: Apache-2.0
"""How few network calls does the tiny cascade need? Quality against calls, stage by stage, in one run.

    python benchmarks/fewer_calls.py [--choose 48] [--count 96] [--clips 6] [--published] [--json FILE] [--picture PNG]

Keyframes: share of prompts with all four attributes right, first on combinations that were trained (where a choice
may look), then for some of the points on combinations that were not. The other stages: mean squared error against the
truth of held-out clips. A guided step is two calls; a step on cached features counts as the part that its
multiplications are of a whole step's. `--published` adds the published numbers of steps, which take longest by far,
and the published guidance. The file is written after every point.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UniPCMultistepScheduler
from torch.utils.flop_counter import FlopCounterMode

from diffusers_show1 import TINY_PATH, DeepCacheConfig, Show1CascadePipeline
from diffusers_show1.clips.metrics import mse
from diffusers_show1.evaluation import score_clips
from diffusers_show1.evaluation.protocol import held_out_scenes
from diffusers_show1.families.show1.recipe import RECIPES
from diffusers_show1.ladder.rung import StageOptions
from diffusers_show1.tiny import world


network_calls = Show1CascadePipeline.network_calls
FIRST_HALF = (0.0, 0.5)
# What is tried for keyframes over the checkpoint's options; `scheduler` and `cache` are for the pipeline.
KEYFRAMES: dict[str, dict[str, Any]] = {
    "20 steps": {"num_inference_steps": 20},
    "15 steps": {"num_inference_steps": 15},
    "12 steps": {"num_inference_steps": 12},
    "10 steps": {"num_inference_steps": 10},
    "6 steps": {"num_inference_steps": 6},
    "20 steps, guided to 75 %": {"num_inference_steps": 20, "guidance_interval": (0.0, 0.75)},
    "20 steps, guided to 50 %": {"num_inference_steps": 20, "guidance_interval": FIRST_HALF},
    "10 steps, guided to 50 %": {"num_inference_steps": 10, "guidance_interval": FIRST_HALF},
    "8 steps, guided to 50 %": {"num_inference_steps": 8, "guidance_interval": FIRST_HALF},
    "6 steps, guided to 50 %": {"num_inference_steps": 6, "guidance_interval": FIRST_HALF},
    "4 steps, guided to 50 %": {"num_inference_steps": 4, "guidance_interval": FIRST_HALF},
    "8 steps, guided from 25 % to 75 %": {"num_inference_steps": 8, "guidance_interval": (0.25, 0.75)},
    "8 steps of UniPC, guided to 50 %": {
        "num_inference_steps": 8,
        "guidance_interval": FIRST_HALF,
        "scheduler": UniPCMultistepScheduler,
    },
    "8 steps of DDIM, guided to 50 %": {
        "num_inference_steps": 8,
        "guidance_interval": FIRST_HALF,
        "scheduler": DDIMScheduler,
    },
    "10 steps, every second on cached features": {"num_inference_steps": 10, "cache": DeepCacheConfig(2, 1)},
    "20 steps, every second on cached features": {"num_inference_steps": 20, "cache": DeepCacheConfig(2, 1)},
}
# Looked at again on combinations that were never trained, beside what the recipes say.
HELD_OUT = ("15 steps", "12 steps", "10 steps, guided to 50 %")
INTERPOLATION_STEPS = (10, 8, 6, 5, 4, 3, 2, 1)
SUPERRES_STEPS = (10, 2, 1)
REFINE_STEPS = (1, 2)  # of those below the checkpoint's strength


def trained_prompts(count: int, seed: int) -> list[str]:
    """Captions of random combinations that were trained."""
    rng = np.random.default_rng(seed)
    return [world.sample_attributes(rng).caption() for _ in range(count)]


def cached_share(pipe: Show1CascadePipeline, config: DeepCacheConfig) -> float:
    """A call on cached features as a part of a whole call of the keyframe network, in multiplications."""
    unet = pipe.base_unet
    inputs = (torch.zeros(1, 3, 8, world.HEIGHT, world.WIDTH), 500, torch.zeros(1, 8, unet.config.encoder_hid_dim))
    unet.enable_cache(config)
    counts = []
    with unet.cache_context("cond"):
        for _ in range(2):
            with FlopCounterMode(display=False) as counter:
                unet(*inputs)
            counts.append(counter.get_total_flops())
    unet.disable_cache()
    return counts[1] / counts[0]


def keyframe_calls(pipe: Show1CascadePipeline, options: dict[str, Any], cache: DeepCacheConfig | None) -> float:
    """Calls of a video, those on cached features in part."""
    resolved = pipe.resolve_options(stage_options={"base": options})
    calls = network_calls(resolved)["base"]
    if cache is None:
        return calls
    steps = resolved["base"]["num_inference_steps"]
    whole = -(-steps // cache.interval) / steps
    return round(calls * (whole + (1 - whole) * cached_share(pipe, cache)), 1)


def keyframes(pipe: Show1CascadePipeline, prompts: list[str], point: dict[str, Any], seed: int) -> dict[str, Any]:
    """Makes the keyframes of all prompts and scores them; the pipeline is left as it was."""
    cache = point.get("cache")
    options = {name: value for name, value in point.items() if name not in ("cache", "scheduler")}
    calls = keyframe_calls(pipe, options, cache)
    registered = pipe.base_scheduler
    if "scheduler" in point:
        pipe.base_scheduler = point["scheduler"].from_config(registered.config)
    if cache is not None:
        pipe.base_unet.enable_cache(cache)
    stage, made = pipe.base, []
    resolved = pipe.resolve_options(stage_options={"base": options})["base"]
    for i in range(0, len(prompts), 4):
        part = prompts[i : i + 4]
        generators = [torch.Generator().manual_seed(seed + i + k) for k in range(len(part))]
        made.append(stage(part, generator=generators, output_type="pt", **resolved).frames)
    if cache is not None:
        pipe.base_unet.disable_cache()
    pipe.base_scheduler = registered
    score = score_clips(torch.cat(made), prompts)
    shares = {
        name: round(100 * getattr(score, name), 1) for name in ("all", "colour", "shape", "background", "motion")
    }
    return {"calls": calls, "prompts": len(prompts), **shares}


def stage_inputs(name: str, clips: int, seed: int) -> tuple[list[str], torch.Tensor, torch.Tensor]:
    """Captions, what the stage gets and what it should make of it, (b, f, 3, h, w), from true held-out clips."""
    scenes = held_out_scenes(clips, seed)
    captions = [scene.attributes.caption() for scene in scenes]
    if name == "interpolation":
        truth = world.render(scenes, range(world.NUM_FRAMES))
        return captions, truth[:, ::4], truth
    truth = world.render(scenes, range(8), scale={"superres": 4, "refine": 8}[name])
    if name == "superres":
        return captions, F.avg_pool3d(truth, (1, 4, 4)), truth
    return captions, world.render(scenes, range(8), scale=4), truth


def stage_error(pipe: Show1CascadePipeline, name: str, options: StageOptions, clips: int, seed: int) -> dict[str, Any]:
    """Mean squared error of a stage on true input; `calls` are those of a video of 29 frames."""
    captions, given, truth = stage_inputs(name, clips, seed)
    resolved = pipe.resolve_options(stage_options=options)
    made = torch.cat(
        [
            getattr(pipe, name)(
                prompt=captions[i],
                frames=given[i : i + 1],
                input_type="pt",
                output_type="pt",
                generator=torch.Generator().manual_seed(seed + i),
                **resolved[name],
            ).frames
            for i in range(clips)
        ]
    )
    return {"calls": network_calls(resolved)[name], "clips": clips, "mse": mse(made, truth)}


def draw_picture(points: list[dict[str, Any]], path: Path) -> None:
    """The curve of the keyframes on trained combinations: wrong videos in percent over calls, points by number."""
    from PIL import Image, ImageDraw

    left, bottom, top, across, high = 40, 380, 40, 480, 12.0  # worse points stand at the upper edge
    shown = [point for point in points if point["stage"] == "base" and point["data"] == "trained"]
    most = max(point["calls"] for point in shown)
    image = Image.new("RGB", (860, 420), "white")
    pen = ImageDraw.Draw(image)

    def place(calls: float, wrong: float) -> tuple[float, float]:
        return left + calls / most * across, bottom - min(wrong / high, 1) * (bottom - top)

    pen.line([place(0, high), place(0, 0), place(most, 0)], fill="black")
    for calls in range(0, int(most) + 1, 10):
        pen.text((place(calls, 0)[0], bottom + 8), str(calls), fill="black", anchor="mt")
    for wrong in range(0, int(high) + 1, 2):
        pen.text((left - 8, place(0, wrong)[1]), str(wrong), fill="black", anchor="rm")
    pen.text((left, 12), "keyframes: % of videos with an attribute wrong, over network calls", fill="black")
    numbers: dict[tuple[float, float], list[str]] = {}
    for number, point in enumerate(shown, 1):
        wrong = 100 - point["all"]
        numbers.setdefault(place(point["calls"], wrong), []).append(str(number))
        beyond = f" ({wrong:.0f} %)" if wrong > high else ""
        pen.text((left + across + 60, 24 + 22 * number), f"{number}  {point['point']}{beyond}", fill="black")
    for (x, y), here in numbers.items():
        pen.ellipse([x - 4, y - 4, x + 4, y + 4], fill="firebrick")
        pen.text((x, y - 8), ", ".join(here), fill="black", anchor="mb")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cascade", default=str(TINY_PATH), help="cascade folder; the embedded one by default")
    parser.add_argument("--choose", type=int, default=48, help="trained prompts for every point of the curve")
    parser.add_argument("--count", type=int, default=96, help="held-out prompts for the final figures")
    parser.add_argument("--clips", type=int, default=6, help="held-out clips for the other stages")
    parser.add_argument("--published", action="store_true", help="also with the published numbers of steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the points to this file")
    parser.add_argument("--picture", type=Path, help="draw the keyframes' curve into this file")
    options = parser.parse_args()
    pipe = Show1CascadePipeline.from_pretrained(options.cascade)
    pipe.set_progress_bar_config(disable=True)
    flags = f"--choose {options.choose} --count {options.count} --clips {options.clips} --seed {options.seed}"
    record: dict[str, Any] = {
        "command": f"python benchmarks/fewer_calls.py {flags}{' --published' * options.published}",
        "calls_published": {
            recipe: network_calls(RECIPES[recipe].stages, ("first_frame_unet",)) for recipe in ("default", "fast")
        },
        "calls_tiny": {recipe: network_calls(pipe.resolve_options(recipe)) for recipe in ("default", "fast")},
        "points": [],
    }
    started = time.monotonic()

    def add(stage: str, data: str, name: str, measure: Callable[[], dict[str, Any]]) -> None:
        point = {"stage": stage, "data": data, "point": name, **measure()}
        record["points"].append(point)
        print(f"[{time.monotonic() - started:5.0f} s] {point}", flush=True)
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(record, indent=2) + "\n")

    for recipe in ("default", "fast"):
        for of in ("calls_published", "calls_tiny"):
            print(f"{of}, {recipe}: {record[of][recipe]}, {sum(record[of][recipe].values())} in all")

    prompts = world.held_out_prompts(options.count, options.seed)
    finals = {"recipe default": pipe.resolve_options()["base"]} | {name: KEYFRAMES[name] for name in HELD_OUT}
    published = {
        stage: {"num_inference_steps": o["num_inference_steps"]} for stage, o in RECIPES["default"].stages.items()
    }
    # These stages of tiny are not guided. With the published scale: what is lost where guidance stops half-way?
    guided = {
        stage: [
            {
                "num_inference_steps": o["num_inference_steps"],
                "guidance_scale": o["guidance_scale"],
                "guidance_interval": interval,
            }
            for interval in ((0.0, 1.0), FIRST_HALF)
        ]
        for stage, o in RECIPES["fast"].stages.items()
    }
    if options.published:
        finals["published steps"] = published["base"]
    trained = trained_prompts(options.choose, options.seed)
    for name, point in KEYFRAMES.items() if trained else ():
        add("base", "trained", name, lambda point=point: keyframes(pipe, trained, point, options.seed + 1000))
    for name, point in finals.items() if prompts else ():
        add("base", "held out", name, lambda point=point: keyframes(pipe, prompts, point, options.seed))

    refine_of = round(1 / pipe.resolve_options()["refine"]["strength"])  # steps of the schedule for one that is run
    curves = {
        "interpolation": [{"num_inference_steps": steps} for steps in INTERPOLATION_STEPS],
        "superres": [{"num_inference_steps": steps} for steps in SUPERRES_STEPS],
        "refine": [{"num_inference_steps": steps * refine_of} for steps in REFINE_STEPS],
    }
    for stage, tried in curves.items() if options.clips else ():
        for point in [*tried, published[stage], *guided[stage]] if options.published else tried:
            name = f"{point['num_inference_steps']} steps"
            if "guidance_scale" in point:
                name += f", guided by {point['guidance_scale']:g} to {100 * point['guidance_interval'][1]:g} %"
            measure = lambda s=stage, p=point: stage_error(pipe, s, {s: p}, options.clips, options.seed)  # noqa: E731
            add(stage, "held out", name, measure)
    if options.picture:
        draw_picture(record["points"], options.picture)


if __name__ == "__main__":
    main()
