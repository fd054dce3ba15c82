# SPDX-License-Identifier: Apache-2.0
"""Memory and time of the whole cascade at full size: the published configs, T5-XXL, CLIP-H, the VAE, random weights.

    python benchmarks/full_size.py --device cuda                                # measures; wants 24 GB of host memory
    python benchmarks/full_size.py --device cuda --modes low-memory --frames 29 57 113 --steps 0
    python benchmarks/full_size.py --estimate                                   # needs no accelerator, little memory
    python benchmarks/full_size.py --check                                      # the estimate against a run on the CPU
    python benchmarks/full_size.py --check --full-size                          # likewise, published sizes, minutes

Measured: peak memory of the device (allocated by tensors, and reserved by PyTorch) and seconds, stage by stage, for
each of three ways to run: `model-offload` (`enable_model_cpu_offload`), `low-memory` (`enable_low_memory`) and `none`.
`--steps 0` takes the published numbers of steps; by default every stage takes two, which is enough for its peak.

Estimated: the same calls with the networks on `meta`, where tensors have a size and no contents. Every storage that an
operation makes is counted from its birth to its death, attention as a fused kernel has it. Not in it: kernels'
workspaces, the allocator's rounding and fragments, and the device's context. Weights are added by what each way to run
has on the device at once.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL
from live_bytes import FlashAttention, LiveBytes, allocated_peak
from load_full_size import CLIP_H, CONFIGS, REPOS, SD_VAE, SMALL, T5_XXL
from torch import nn
from torch.utils._pytree import tree_map_only
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from diffusers_show1 import Show1CascadePipeline, Show1UNet3DConditionModel
from diffusers_show1.families.show1 import unet as unet_show1


MODES = ("model-offload", "low-memory", "none")
GB = 1e9
PROMPT = "A panda besides the waterfall is holding a sign"
# What enable_model_cpu_offload has on the device beside a network that runs: in refinement CLIP is called before the
# VAE, and the VAE before the UNet and after it.
BESIDE = {"refine_unet": ["refine_vae"], "refine_vae": ["refine_text_encoder"]}


def unet(stage: str) -> Callable[[], nn.Module]:
    config = json.loads((CONFIGS / REPOS[stage] / "unet" / "config.json").read_text())
    return lambda: Show1UNet3DConditionModel.from_config(config)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "text_encoder": lambda: T5EncoderModel(T5Config(**T5_XXL)),
    "base_unet": unet("base"),
    "interpolation_unet": unet("interpolation"),
    "superres_unet": unet("superres"),
    "refine_text_encoder": lambda: CLIPTextModel(CLIPTextConfig(**CLIP_H)),
    "refine_unet": unet("refine"),
    "refine_vae": lambda: AutoencoderKL(**SD_VAE),
}


def scheduler(stage: str, name: str = "scheduler") -> Any:
    folder = CONFIGS / REPOS[stage] / name
    config = json.loads((folder / "scheduler_config.json").read_text())
    return getattr(diffusers, config["_class_name"]).from_config(config)


def few_steps(count: int) -> dict[str, dict[str, Any]]:
    """Options of stages that call their networks `count` times, at most 4."""
    options = {name: {"num_inference_steps": count} for name in ("base", "interpolation", "superres")}
    return {**options, "refine": {"num_inference_steps": count + 1}}  # `strength` 0.8 leaves `count`


def cascade(device: str, dtype: torch.dtype = torch.float16) -> Show1CascadePipeline:
    """The published cascade with random weights, made on `device` (`"meta"`: without any) and kept on the CPU."""
    parts: dict[str, Any] = {
        "tokenizer": AutoTokenizer.from_pretrained(SMALL / "show-1-base" / "tokenizer"),
        "refine_tokenizer": AutoTokenizer.from_pretrained(SMALL / "show-1-sr2" / "tokenizer"),
        "superres_image_noising_scheduler": scheduler("superres", "image_noising_scheduler"),
        **{f"{stage}_scheduler": scheduler(stage) for stage in REPOS},
    }
    for name, make in NETWORKS.items():
        with torch.device("meta"):
            network = nn.Module.to(make(), dtype).eval().requires_grad_(False)
        if device != "meta":
            network.to_empty(device=device)
            for weight in network.parameters():
                weight.normal_(std=0.01)  # keeps every layer's numbers of order 1: half precision holds them
            network.to("cpu")
        parts[name] = network
    pipe = Show1CascadePipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


# --- measured ----------------------------------------------------------------------------------------------------


def measure(mode: str, frames: int, steps: int, device: str) -> list[dict[str, Any]]:
    """Rows of one call of the cascade: stage by stage its seconds and the device's peak."""
    backend = torch.get_device_module(torch.device(device))
    torch.manual_seed(0)
    pipe = cascade(device)
    if mode == "model-offload":
        pipe.enable_model_cpu_offload(device=device)
    elif mode == "low-memory":
        pipe.enable_low_memory(device)
    else:
        pipe.to(device)
    rows: list[dict[str, Any]] = []
    began = time.perf_counter()

    def row(_: Any, stage: str, video: Any) -> None:
        nonlocal began
        backend.synchronize()
        rows.append(
            {
                "mode": mode,
                "frames": frames,
                "stage": stage,
                "seconds": time.perf_counter() - began,
                "allocated": backend.max_memory_allocated(),
                "reserved": backend.max_memory_reserved(),
            }
        )
        backend.empty_cache()
        backend.reset_peak_memory_stats()
        began = time.perf_counter()

    backend.empty_cache()
    backend.reset_peak_memory_stats()
    options = few_steps(steps) if steps else {}
    pipe(PROMPT, num_frames=frames, stage_options=options, output_type="np", callback_on_stage_end=row)
    return rows


# --- estimated ---------------------------------------------------------------------------------------------------


class OnMeta:
    """Stands before a network on `meta` in a pipeline that runs on the CPU: its results are zeros of the right shape.

    A call with shapes that were there before costs nothing: what it adds to the live bytes is known.
    """

    execution_device = "cpu"  # what a pipeline takes for the device of its other tensors
    tracker: LiveBytes

    def __init__(self, name: str, network: nn.Module):
        self.name, self.forward = name, network.forward
        self.known: dict[str, tuple[int, Any]] = {}
        network.forward = network._hf_hook = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        kwargs.pop("attention_mask", None)  # T5 looks into it
        key = str(tree_map_only(torch.Tensor, lambda x: tuple(x.shape), (args, kwargs)))
        if key not in self.known:
            with self.tracker.pause():
                args, kwargs = tree_map_only(torch.Tensor, lambda x: x.to("meta"), (args, kwargs))
                with LiveBytes() as own:
                    out = self.forward(*args, **kwargs)
            self.known[key] = own.peak, out
        added, out = self.known[key]
        self.tracker.label(self.name, added)
        return tree_map_only(torch.Tensor, lambda x: torch.zeros(x.shape, dtype=x.dtype), out)


def on_meta(pipe: Show1CascadePipeline) -> None:
    parts = {name: [getattr(pipe, name)] for name in NETWORKS}
    vae = pipe.refine_vae  # is called by `encode` and `decode`
    parts["refine_vae"] = [vae.encoder, vae.quant_conv, vae.post_quant_conv, vae.decoder]
    for name, networks in parts.items():
        for network in networks:
            OnMeta(name, network)


def weight_bytes(network: nn.Module) -> tuple[int, int]:
    """Bytes of all weights, and of the two largest layers: one that computes and one that arrives."""
    layers = {id(p): module for module in network.modules() for p in module.parameters(recurse=False)}
    sizes = sorted(sum(p.nbytes for p in layer.parameters(recurse=False)) for layer in set(layers.values()))
    return sum(p.nbytes for p in network.parameters()), sum(sizes[-2:])


def activations(pipe: Show1CascadePipeline, frames: int, options: dict) -> dict[str, int]:
    """The peak of everything but weights while each network runs and until the next, in one call of the cascade."""
    OnMeta.tracker = tracker = LiveBytes()
    merged = {name: {**few, **options.get(name, {})} for name, few in few_steps(1).items()}
    with tracker, FlashAttention():
        pipe(PROMPT, num_frames=frames, stage_options=merged, output_type="pt")
    return tracker.peaks


def estimate(frames: list[int]) -> dict[str, Any]:
    pipe = cascade("meta")
    weights = {name: weight_bytes(getattr(pipe, name)) for name in NETWORKS}
    parameters = {name: sum(p.numel() for p in getattr(pipe, name).parameters()) for name in NETWORKS}
    everything = sum(total for total, _ in weights.values())
    rows = []
    on_meta(pipe)
    for count in frames:
        plain, small = (activations(pipe, count, options) for options in ({}, pipe.low_memory_options))
        for name, (total, layers) in weights.items():
            beside = sum(weights[other][0] for other in BESIDE.get(name, []))
            rows.append(
                {
                    "frames": count,
                    "network": name,
                    "parameters": parameters[name],
                    "weights": total,
                    "activations": plain[name],
                    "activations_low_memory": small[name],
                    "model-offload": total + beside + plain[name],
                    "low-memory": layers + small[name],
                    "none": everything + plain[name],
                }
            )
    return {"kind": "estimate", "dtype": "float16", "rows": rows}


# --- the estimate, checked ---------------------------------------------------------------------------------------

# (videos with both branches of guidance, channels, frames, height, width) of one call
FULL_SHAPES = {
    "base_unet": (2, 3, 8, 40, 64),
    "refine_vae": (4, 3, 320, 576),
    "superres_unet": (2, 6, 8, 160, 256),
    "refine_unet": (2, 4, 29, 40, 72),
    "interpolation_unet": (2 * 7, 7, 5, 40, 64),
}
MIDDLE = {
    "base": ([64, 128, 192, 256], (2, 3, 8, 40, 64)),
    "superres": ([64, 64, 128, 192, 192], (2, 6, 4, 80, 128)),
    "refine": ([64, 128, 256, 256], (2, 4, 4, 20, 36)),
}


def check() -> Iterator[dict[str, Any]]:
    """Each kind of network at a middle size, float32: the estimator's bytes on `meta`, and the CPU allocator's."""
    for stage, (channels, shape) in MIDDLE.items():
        config = json.loads((CONFIGS / REPOS[stage] / "unet" / "config.json").read_text())
        config["block_out_channels"] = channels
        if stage == "refine":
            config["attention_head_dim"] = [c // 64 for c in channels]
        else:
            config.update(attention_head_dim=32, cross_attention_dim=channels[-1], time_embedding_dim=None)
        make = partial(Show1UNet3DConditionModel.from_config, config)
        yield {"network": f"{stage} UNet", **compare(make, shape)}
    small = {**SD_VAE, "block_out_channels": (64, 64, 128, 128)}
    yield {"network": "VAE", **compare(lambda: AutoencoderKL(**small), (2, 3, 160, 256))}


def check_full_size() -> Iterator[dict[str, Any]]:
    """The published networks at the published sizes, float32 (half precision has kernels of its own on a CPU)."""
    for name, shape in FULL_SHAPES.items():
        yield {"network": name, **compare(NETWORKS[name], shape)}


@contextmanager
def as_on_an_accelerator() -> Iterator[None]:
    """What our network does in portions or in another layout because it is on a CPU, it leaves."""
    on_cpu, unet_show1._infers_on_cpu = unet_show1._infers_on_cpu, lambda x: False
    try:
        yield
    finally:
        unet_show1._infers_on_cpu = on_cpu


@torch.no_grad()
def compare(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> dict[str, Any]:
    """The network's activations by the estimator and by the allocator, and how long the CPU took."""

    def run(device: str) -> Callable[[], Any]:
        with torch.device("meta"):
            network = make().eval()
        if device != "meta":
            network.to_empty(device=device)
            for weight in network.parameters():
                weight.fill_(0.01)
        inputs: dict[str, Any] = {"sample": torch.zeros(shape, device=device)}
        if isinstance(network, Show1UNet3DConditionModel):
            width = network.config.encoder_hid_dim or network.config.cross_attention_dim
            inputs.update(timestep=1, encoder_hidden_states=torch.zeros(shape[0], 77, width, device=device))
            if network.class_embedding is not None:
                inputs["class_labels"] = torch.zeros(shape[0], device=device)
        return lambda: network(**inputs)

    call = run("meta")
    with LiveBytes() as tracker, FlashAttention():
        call()
    call = run("cpu")
    began = time.perf_counter()
    with as_on_an_accelerator():
        allocated = allocated_peak(call)
    return {"estimated": tracker.peak, "allocated": allocated, "seconds": time.perf_counter() - began}


# --- tables ------------------------------------------------------------------------------------------------------


def print_estimate(result: dict[str, Any]) -> None:
    print("Estimate, not measured on an accelerator. GB (10^9 bytes), float16.\n")
    print("| frames | network | parameters | weights | activations | low-memory | model-offload | low-memory | none |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in result["rows"]:
        sizes = [row[k] for k in ("weights", "activations", "activations_low_memory", *MODES)]
        cells = " | ".join(f"{size / GB:.2f}" for size in sizes)
        print(f"| {row['frames']} | `{row['network']}` | {row['parameters'] / 1e6:.0f} M | {cells} |")
    for count in sorted({row["frames"] for row in result["rows"]}):
        peaks = {m: max(r[m] for r in result["rows"] if r["frames"] == count) for m in MODES}
        print(f"\n{count} frames, whole cascade:", ", ".join(f"{m} {peak / GB:.2f} GB" for m, peak in peaks.items()))


def print_check(rows: Iterable[dict[str, Any]], size: str) -> list[dict[str, Any]]:
    """Prints and returns the rows, each as soon as it is there."""
    print(f"| network, {size} size, float32 | estimated, MB | allocated on the CPU, MB | ratio | seconds |")
    print("|---|---|---|---|---|", flush=True)
    printed = []
    for row in rows:
        sizes = f"{row['estimated'] / 1e6:.1f} | {row['allocated'] / 1e6:.1f}"
        ratio = f"{row['estimated'] / row['allocated']:.3f}"
        print(f"| {row['network']} | {sizes} | {ratio} | {row['seconds']:.0f} |", flush=True)
        printed.append(row)
    return printed


def print_measured(rows: list[dict[str, Any]]) -> None:
    print("| way to run | frames | stage | allocated, GB | reserved, GB | seconds |\n|---|---|---|---|---|---|")
    for row in rows:
        sizes = f"{row['allocated'] / GB:.2f} | {row['reserved'] / GB:.2f}"
        print(f"| {row['mode']} | {row['frames']} | {row['stage']} | {sizes} | {row['seconds']:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", help="the accelerator to measure on, such as cuda")
    parser.add_argument("--estimate", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument(
        "--full-size", action="store_true", help="of --check: the published sizes; 16 GB of memory, minutes"
    )
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--frames", nargs="+", type=int, default=[29])
    parser.add_argument("--steps", type=int, default=2, choices=range(5), help="steps a stage; 0: the published ones")
    parser.add_argument("--output", type=Path, help="a .json file for the numbers")
    arguments = parser.parse_args()
    if not (arguments.device or arguments.estimate or arguments.check):
        parser.error("pass --device, --estimate or --check")

    results: dict[str, Any] = {"torch": torch.__version__, "diffusers": diffusers.__version__}
    if arguments.estimate:
        results["estimate"] = estimate(arguments.frames)
        print_estimate(results["estimate"])
    if arguments.check:
        rows = check_full_size() if arguments.full_size else check()
        results["check"] = print_check(rows, "published" if arguments.full_size else "middle")
    if arguments.device:
        results["device"] = torch.get_device_module(torch.device(arguments.device)).get_device_name()
        with torch.no_grad():
            results["measured"] = [
                row
                for mode in arguments.modes
                for frames in arguments.frames
                for row in measure(mode, frames, arguments.steps, arguments.device)
            ]
        print_measured(results["measured"])
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
