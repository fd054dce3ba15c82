# SPDX-License-Identifier: Apache-2.0
"""`python -m diffusers_show1.training tiny --out FOLDER`: train the tiny cascade, all of it or some parts."""

import argparse
from pathlib import Path

import torch

from .tiny import MINUTES, NETWORKS, PARTS, SEEDS, Workshop, write_index


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
    options = parser.parse_args(arguments)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"unknown parts {sorted(unknown)}; there are {list(PARTS)}")
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


if __name__ == "__main__":
    main()
