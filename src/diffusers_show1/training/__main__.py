# SPDX-License-Identifier: Apache-2.0
"""`python -m diffusers_show1.training tiny --out FOLDER`: train the tiny cascade, all of it or some parts."""

import argparse
import subprocess
import sys
from pathlib import Path

import torch

from .tiny import LANES, MINUTES, NETWORKS, PARTS, SEEDS, Workshop, write_index


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m diffusers_show1.training", description=__doc__)
    parser.add_argument("recipe", choices=["tiny"])
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--out", type=Path, required=True, help="cascade folder to export to")
    parser.add_argument("--checkpoints", type=Path, help="resumable states; by default OUT/checkpoints")
    parser.add_argument("--minutes", type=float, help=f"for each part; by default {MINUTES}")
    parser.add_argument("--steps", type=int, help="for each part, instead of minutes: a reproducible run")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--side-by-side", action="store_true", help=f"all parts, {' and '.join(map(str, LANES))} in a process each"
    )
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(arguments)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"unknown parts {sorted(unknown)}; there are {list(PARTS)}")
    if options.side_by_side:
        if options.parts:
            parser.error(f"--side-by-side trains all parts, got {options.parts}")
        train_side_by_side([argument for argument in arguments if argument != "--side-by-side"])
        return
    torch.set_num_threads(options.threads)
    shop = Workshop(
        folder=options.out,
        checkpoints=options.checkpoints or options.out / "checkpoints",
        minutes=options.minutes,
        steps=options.steps,
        device=options.device,
        batch_size=options.batch_size,
    )
    for part in options.parts or PARTS:
        torch.manual_seed(SEEDS[part])
        PARTS[part](shop)
    if all((options.out / name / "config.json").exists() for name in NETWORKS):
        write_index(options.out)


def train_side_by_side(arguments: list[str]) -> None:
    """The text encoders, then every lane in a process of its own; `arguments` name no parts."""

    def start(parts: tuple[str, ...]) -> subprocess.Popen:
        command = [sys.executable, "-m", "diffusers_show1.training", arguments[0], *parts, *arguments[1:]]
        return subprocess.Popen(command)

    for lanes in ((("text",),), LANES):
        running = [start(lane) for lane in lanes]
        codes = [process.wait() for process in running]
        if any(codes):
            raise SystemExit("a part failed: see above; the same command goes on from its checkpoint")


if __name__ == "__main__":
    main()
