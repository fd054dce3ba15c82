# SPDX-License-Identifier: Apache-2.0
"""The temporal convolution as the network runs it (2-D, over frames and positions) against torch's Conv3d.

    python benchmarks/temporal_conv.py [--threads 1] [--repeats 15]

Both run in turn on the same input, and the ratio of each pair is taken: a machine that slows down slows both. Sizes
are those of the tiny cascade, and of one level of the published super-resolution network at an eighth of its height.
"""

import argparse
import statistics
import time

import torch

from diffusers_show1.nn.temporal import TemporalConv1d


CASES = {  # name: (videos, channels, frames, height, width)
    "tiny keyframes, guided": (2, 32, 8, 16, 24),
    "tiny keyframes, lowest level": (2, 96, 8, 4, 6),
    "tiny super-resolution window": (1, 32, 8, 64, 96),
    "published super-resolution, part": (1, 128, 8, 20, 256),
}


def seconds(function) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {arguments.threads} threads, median of {arguments.repeats} pairs")
    print(f"{'case':34} {'Conv3d ms':>10} {'ours ms':>10} {'ratio':>7} {'max difference':>15}")
    for name, (videos, channels, frames, height, width) in CASES.items():
        layer = TemporalConv1d(channels)
        x = torch.randn(videos, channels, frames, height, width)
        folded = x.flatten(3)

        def reference(layer=layer, x=x):
            return torch.nn.Conv3d.forward(layer, x)

        def ours(layer=layer, folded=folded):
            return layer(folded)

        with torch.no_grad():
            difference = (reference().flatten(3) - ours()).abs().max().item()
            pairs = [(seconds(reference), seconds(ours)) for _ in range(arguments.repeats + 2)][2:]
        ratio = statistics.median(a / b for a, b in pairs)
        slow, fast = (1e3 * statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"{name:34} {slow:10.3f} {fast:10.3f} {ratio:7.2f} {difference:15.1e}")


if __name__ == "__main__":
    main()
