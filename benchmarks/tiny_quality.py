# SPDX-License-Identifier: Apache-2.0
"""Does every stage of the tiny cascade beat doing nothing, and are its shapes well drawn? On held-out combinations.

    python benchmarks/tiny_quality.py [--cascade FOLDER] [--count 192] [--end-to-end N] [--processes 2] [--json FILE]

Prints a line per stage, and tables of form (`evaluation.form`) beside that of true clips.

With `--json benchmarks/results/tiny_quality.json` the figures also go where the model cards take them from.
"""

import argparse
import json
import multiprocessing
import time
from pathlib import Path
from typing import Any

import torch

from diffusers_show1 import TINY_PATH, Show1CascadePipeline
from diffusers_show1.evaluation import (
    Baseline,
    Form,
    Score,
    Video,
    evaluate_first_stage,
    evaluate_form,
    evaluate_stage,
    make_video,
    read_clip,
    report_videos,
    score_readings,
    true_form,
)
from diffusers_show1.evaluation.protocol import held_out_scenes
from diffusers_show1.tiny import world


def command(options: argparse.Namespace) -> str:
    """What prints the same figures."""
    return (
        f"python benchmarks/tiny_quality.py --count {options.count} --end-to-end {options.end_to_end} "
        f"--seed {options.seed}"
    )


def load_cascade(folder: str, device: str, threads: int | None) -> None:
    """Set up a process that makes videos."""
    global cascade
    if threads:
        torch.set_num_threads(threads)
    cascade = Show1CascadePipeline.from_pretrained(folder).to(device)
    cascade.set_progress_bar_config(disable=True)


def whole_video(prompt: str, seed: int) -> Video:
    """One video by the process's own cascade."""
    return make_video(cascade, prompt, seed)


# heading, figure of `Form`, factor, decimals
COLUMNS = (
    ("IoU", "iou", 1, 3),
    ("best %", "best", 100, 1),
    ("roundness %", "roundness", 100, 2),
    ("wrong /1000 of object", "wrong_in_object", 1000, 2),
    ("wrong /1000 of frame", "wrong_in_frame", 1000, 2),
)


def rounded(form: Form) -> dict[str, float | None]:
    """The columns of a form."""
    values = {heading: (getattr(form, name), factor, digits) for heading, name, factor, digits in COLUMNS}
    return {
        heading: None if value is None else round(factor * value, digits)
        for heading, (value, factor, digits) in values.items()
    }


def form_table(forms: dict[str, Form], truth: dict[str, Form]) -> str:
    """Rows of a table, one a shape: each figure, and that of true clips behind it."""
    lines = ["shape    frames  " + "  ".join(f"{heading:>21}" for heading, *_ in COLUMNS)]
    for shape, form in forms.items():
        pairs = zip(rounded(form).values(), rounded(truth[shape]).values(), strict=True)
        cells = ("-" if value is None else f"{value} ({true})" for value, true in pairs)
        lines.append(f"{shape:9}{form.frames:6}  " + "  ".join(f"{cell:>21}" for cell in cells))
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cascade", default=str(TINY_PATH), help="cascade folder; the embedded one by default")
    parser.add_argument("--count", type=int, default=192, help="held-out prompts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--end-to-end", type=int, help="prompts for the whole cascade, 0 for none; by default COUNT")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--processes", type=int, default=1, help="for whole videos")
    options = parser.parse_args()
    if options.end_to_end is None:
        options.end_to_end = options.count
    if options.threads:
        torch.set_num_threads(options.threads)
    pipe = Show1CascadePipeline.from_pretrained(options.cascade).to(options.device)
    pipe.set_progress_bar_config(disable=True)
    started = time.monotonic()

    def report(name: str, result: object) -> None:
        print(f"[{time.monotonic() - started:5.0f} s] {name}: {result}", flush=True)

    scenes = held_out_scenes(options.count, options.seed)
    captions = [scene.attributes.caption() for scene in scenes]
    readings = [read_clip(clip) for clip in world.render(scenes, world.KEYFRAME_TIMES)]
    report("scorer, true clips", score_readings(readings, captions))
    report("scorer, captions shifted by one", score_readings(readings, captions[1:] + captions[:1]))

    figures = []
    forms: dict[str, dict[str, dict[str, Any]]] = {}

    def measured(name: str, score: Score) -> None:
        report(name, score)
        figures.append({"name": f"{name}, all four attributes right", "value": round(100 * score.all, 1), "unit": "%"})

    def against(name: str, other: str, result: Baseline) -> None:
        report(f"{name} against {other}", result)
        values = {"value": round(result.stage, 2), "against_value": round(result.trivial, 2)}
        figures.append({"name": name, "unit": "dB", "against": other, **values})

    def drawn(name: str, of: dict[str, Form], truth: dict[str, Form]) -> None:
        report(f"form of {name} (of true clips)", "\n" + form_table(of, truth))
        for title, values in ((name, of), (f"true clips like {name}", truth)):
            forms[title] = {shape: {"frames": form.frames, **rounded(form)} for shape, form in values.items()}

    score, keyframes = evaluate_first_stage(pipe, options.count, options.seed)
    measured(f"keyframes of {options.count} prompts", score)
    prompts = world.held_out_prompts(options.count, options.seed)
    of_keyframes = evaluate_form(pipe, "superres", keyframes, prompts, options.seed)
    drawn("keyframes after super-resolution", of_keyframes, true_form(options.count, options.seed, 4, 4))
    against("interpolation", "a cross-fade", evaluate_stage(pipe, "interpolation", 24, options.seed))
    against("super-resolution", "bicubic", evaluate_stage(pipe, "superres", 8, options.seed, frames=15))
    against(
        "refinement",
        "its input",
        evaluate_stage(pipe, "refine", 6, options.seed, 15, made_by="superres", batch_size=1),
    )

    if options.end_to_end:
        prompts = world.held_out_prompts(options.end_to_end, options.seed)
        jobs = [(prompt, options.seed + index) for index, prompt in enumerate(prompts)]
        begun = time.monotonic()
        with multiprocessing.get_context("spawn").Pool(
            options.processes, load_cascade, (options.cascade, options.device, options.threads)
        ) as pool:
            videos = pool.starmap(whole_video, jobs, chunksize=1)
        seconds = (time.monotonic() - begun) * options.processes / len(prompts)
        whole = report_videos(videos, prompts, options.seed)
        for stage, score in whole.scores.items():
            measured(f"{len(prompts)} videos after {stage}", score)
        count, seed = options.end_to_end, options.seed
        drawn("interpolated frames after super-resolution", whole.forms["superres"], true_form(count, seed, 4))
        truth = true_form(count, seed, 8)
        drawn("whole clips", whole.forms["refine"], truth)
        made, true = rounded(whole.forms["refine"]["all"]), rounded(truth["all"])
        for heading in ("IoU", "best %", "wrong /1000 of object"):
            if made[heading] is not None:
                values = {"value": made[heading], "against": "true clips", "against_value": true[heading]}
                figures.append({"name": f"form of {len(prompts)} videos, {heading}", **values})
        report("flicker of whole videos", f"{whole.flicker:.2f} of the truth's")
        report("seconds a video", f"{seconds:.1f}")

    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        record = {
            "command": command(options),
            "data": "combinations of colour, shape, motion and background that were never trained",
            "figures": figures,
            "form": forms,
        }
        options.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
