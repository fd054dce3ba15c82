# SPDX-License-Identifier: Apache-2.0
"""The whole cascade as it is against its plain form, in turn, on the same weights and random numbers.

    python benchmarks/cascade_speed.py [--repeats 3] [--json cascade_speed.json]      # a middle size, minutes on a CPU
    python benchmarks/cascade_speed.py --device cuda --full-size                      # the published size

The plain form is what a straightforward implementation does: diffusers' own layers (the released networks are made of
their like), with 3-D temporal convolutions and the text repeated and projected for every frame and step; keyframes
pair by pair; the two branches of guidance one after the other. First both run in float64 at the middle size, where
their frames must agree to `TOLERANCE`, or nothing is timed: in float32 they differ by rounding, which dynamic
thresholding and random weights enlarge from step to step. Middle size: the published structure with a tenth or a
quarter of the channels, random weights, few steps, and fewer text tokens in step with the smaller frames. Text
encoders are left out of both.

On a CPU seconds are the process's own (other jobs on the machine do not count), on a GPU those of the clock.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, DPMSolverMultistepScheduler, Transformer2DModel
from diffusers.models.attention_processor import Attention, AttnAddedKVProcessor2_0
from diffusers.models.resnet import TemporalConvLayer
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from torch import Tensor, nn

from diffusers_show1 import Show1CascadePipeline, Show1UNet3DConditionModel
from diffusers_show1.families.show1 import unet as ours


PUBLISHED = Path(__file__).parents[1] / "tests" / "models" / "published"
CONFIGS = {"base": "base", "interpolation": "interpolation", "superres": "sr1", "refine": "sr2"}
TOLERANCE = 1e-6  # of frames in 0..1, which come out in float32
MIDDLE = {
    "base": {"height": 16, "width": 24, "num_inference_steps": 2},
    "interpolation": {"num_inference_steps": 2},
    "superres": {"height": 48, "width": 80, "num_inference_steps": 2},
    "refine": {"height": 64, "width": 96, "num_inference_steps": 3},
}
PLAIN = {"interpolation": {"window_batch_size": 1}}


# --- the plain form ----------------------------------------------------------------------------------------------


class PlainSpatial(nn.Module):
    """diffusers' spatial attention: text and its projections once a frame, in every step."""

    def __init__(self, layer: nn.Module, text_dim: int):
        super().__init__()
        if isinstance(layer, ours.AddedKVAttention):
            channels = layer.to_q.in_features
            self.layer: nn.Module = Attention(
                query_dim=channels,
                cross_attention_dim=channels,
                heads=layer.heads,
                dim_head=channels // layer.heads,
                added_kv_proj_dim=text_dim,
                norm_num_groups=layer.group_norm.num_groups,
                bias=True,
                only_cross_attention=layer.only_cross_attention,
                cross_attention_norm=None if layer.norm_cross is None else "group_norm",
                processor=AttnAddedKVProcessor2_0(),
            )
        else:
            heads = layer.transformer_blocks[0].attn1.heads
            channels = layer.norm.num_channels
            self.layer = Transformer2DModel(
                heads,
                channels // heads,
                in_channels=channels,
                cross_attention_dim=text_dim,
                norm_num_groups=layer.norm.num_groups,
                use_linear_projection=layer.use_linear_projection,
            )
        self.layer.load_state_dict(layer.state_dict())

    def project_text(self, text: Tensor) -> Tensor:
        return text

    def forward(self, x: Tensor, text: Tensor, num_frames: int) -> Tensor:
        out = self.layer(x, encoder_hidden_states=text.repeat_interleave(num_frames, dim=0))
        return out if isinstance(out, Tensor) else out.sample


class PlainTemporalAttention(nn.Module):
    def __init__(self, layer: ours.TemporalTransformer):
        super().__init__()
        attention = layer.transformer_blocks[0].attn1
        self.layer = TransformerTemporalModel(
            attention.heads,
            attention.to_q.out_features // attention.heads,
            in_channels=layer.norm.num_channels,
            norm_num_groups=layer.norm.num_groups,
        )
        self.layer.load_state_dict(layer.state_dict())

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        return self.layer(x, num_frames=num_frames).sample


def plain_network(unet: Show1UNet3DConditionModel) -> Show1UNet3DConditionModel:
    """A copy of a network whose layers are diffusers', and which projects the text in every call."""
    plain = copy.deepcopy(unet)
    for module in list(plain.modules()):
        for name, child in list(module.named_children()):
            new: nn.Module | None = None
            if isinstance(child, (ours.AddedKVAttention, ours.SpatialTransformer)):
                new = PlainSpatial(child, unet.config.cross_attention_dim)
            elif isinstance(child, ours.TemporalTransformer):
                new = PlainTemporalAttention(child)
            elif isinstance(child, ours.TemporalConvLayer):
                new = TemporalConvLayer(child.conv1[-1].in_channels, dropout=0.1)
                new.load_state_dict(child.state_dict())
            if new is not None:
                setattr(module, name, new.to(unet.device, unet.dtype))
    plain.text_cache = lambda: None  # type: ignore[method-assign]
    return plain.eval()


# --- the cascade -------------------------------------------------------------------------------------------------


def network_config(stage: str, full_size: bool) -> dict[str, Any]:
    config = json.loads((PUBLISHED / f"{CONFIGS[stage]}.json").read_text())
    if full_size:
        return config
    part = 4 if stage == "superres" else 10
    config["block_out_channels"] = [channels // part for channels in config["block_out_channels"]]
    if stage == "refine":
        config |= {"attention_head_dim": [2, 4, 8, 8], "cross_attention_dim": 128, "transformer_in_head_dim": 8}
        return config
    config |= {"attention_head_dim": 16, "encoder_hid_dim": 512, "addition_embed_type_num_heads": 16}
    config["cross_attention_dim"] = config["block_out_channels"][-1]
    if config.get("time_embedding_dim") is not None:
        config["time_embedding_dim"] //= part
    return config


def build(full_size: bool, device: str, dtype: torch.dtype) -> Show1CascadePipeline:
    torch.manual_seed(0)
    parts: dict[str, Any] = {}
    for stage in CONFIGS:
        with torch.device(device):
            unet = Show1UNet3DConditionModel.from_config(network_config(stage, full_size)).eval()
        for parameter in unet.parameters():
            if not parameter.any():  # layers that start as the identity
                nn.init.normal_(parameter, std=0.01)
        parts[f"{stage}_unet"] = unet if dtype == torch.float32 else unet.to(dtype)
    pixels = {"beta_schedule": "squaredcos_cap_v2", "thresholding": True, "sample_max_value": 1.0}
    for stage in ("base", "interpolation", "superres"):
        parts[f"{stage}_scheduler"] = DPMSolverMultistepScheduler(**pixels)
    parts["superres_image_noising_scheduler"] = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    parts["refine_scheduler"] = DPMSolverMultistepScheduler(beta_schedule="scaled_linear")
    channels = (128, 256, 512, 512) if full_size else (32, 64, 64, 64)
    with torch.device(device):
        vae = AutoencoderKL(
            block_out_channels=channels,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2 if full_size else 1,
            norm_num_groups=32,
        )
    parts["refine_vae"] = (vae if dtype == torch.float32 else vae.to(dtype)).eval()
    texts = dict.fromkeys(("tokenizer", "text_encoder", "refine_tokenizer", "refine_text_encoder"))
    pipe = Show1CascadePipeline(**texts, **parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def plain_cascade(pipe: Show1CascadePipeline) -> Show1CascadePipeline:
    networks = {f"{stage}_unet": plain_network(getattr(pipe, f"{stage}_unet")) for stage in CONFIGS}
    plain = Show1CascadePipeline(**{**pipe.components, **networks})
    plain.set_progress_bar_config(disable=True)
    return plain


def run(pipe: Show1CascadePipeline, options: dict, embeds: dict[str, Tensor], device: str) -> tuple[dict, Tensor]:
    """Seconds a stage, and the frames (1, f, 3, h, w)."""

    def now() -> float:
        if device == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    marks = [now()]
    frames = pipe(
        **embeds,
        stage_options=options,
        generator=torch.Generator().manual_seed(1),
        output_type="pt",
        callback_on_stage_end=lambda *_: marks.append(now()),
    ).frames
    seconds = {stage: end - start for stage, start, end in zip(CONFIGS, marks, marks[1:], strict=False)}
    return {**seconds, "cascade": marks[-1] - marks[0]}, frames


def make_forms(
    full_size: bool, device: str, dtype: torch.dtype
) -> tuple[dict[str, tuple[Any, dict]], dict[str, Tensor]]:
    """Both cascades with their options, and the prompt's embeddings."""
    pipe = build(full_size, device, dtype)
    options: dict[str, dict[str, Any]] = {} if full_size else copy.deepcopy(MIDDLE)
    plain_options = {
        stage: {**options.get(stage, {}), **PLAIN.get(stage, {}), "split_guidance": True} for stage in CONFIGS
    }
    tokens = 77 if full_size else 16
    noise = torch.Generator().manual_seed(2)
    embeds = {}
    for prefix, stage in (("", "base"), ("refine_", "refine")):
        config = getattr(pipe, f"{stage}_unet").config
        width = config.encoder_hid_dim or config.cross_attention_dim
        for name in ("prompt_embeds", "negative_prompt_embeds"):
            embeds[prefix + name] = torch.randn(1, tokens, width, generator=noise).to(device, dtype)
    return {"plain": (plain_cascade(pipe), plain_options), "ours": (pipe, options)}, embeds


def check(device: str) -> float:
    """The largest difference of the two forms' frames in float64; ends the program where it is more than rounding."""
    forms, embeds = make_forms(False, device, torch.float64)
    plain, mine = (run(form, options, embeds, device)[1] for form, options in forms.values())
    difference = (plain - mine).abs().max().item()
    if not difference <= TOLERANCE:
        raise SystemExit(f"The two forms' frames differ by {difference:.2e} in float64 (allowed: {TOLERANCE}).")
    return difference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--full-size", action="store_true", help="published channels, frames and steps, in float16")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device, dtype = arguments.device, torch.float16 if arguments.full_size else torch.float32

    in_float64 = check(device)
    print(f"float64, middle size: frames differ by at most {in_float64:.1e}", flush=True)
    forms, embeds = make_forms(arguments.full_size, device, dtype)
    times: dict[str, list[dict[str, float]]] = {name: [] for name in forms}
    differences = []
    for repeat in range(arguments.repeats + 1):
        frames = {}
        for name, (form, form_options) in forms.items():
            seconds, frames[name] = run(form, form_options, embeds, device)
            if repeat:  # the first run warms up
                times[name].append(seconds)
        differences.append((frames["plain"] - frames["ours"]).abs().max().item())

    result: dict[str, Any] = {
        "device": device if device == "cpu" else torch.cuda.get_device_name(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "threads": arguments.threads,
        "repeats": arguments.repeats,
        "full_size": arguments.full_size,
        "max_difference_float64": in_float64,
        "max_difference": max(differences),
        "stages": {},
    }
    print(f"timed runs: frames differ by at most {max(differences):.1e}; medians of {arguments.repeats} runs in turn")
    print(f"{'':14} {'plain s':>9} {'ours s':>9} {'ratio':>7}")
    for stage in (*CONFIGS, "cascade"):
        plain, mine = ([seconds[stage] for seconds in times[name]] for name in ("plain", "ours"))
        ratio = statistics.median(a / b for a, b in zip(plain, mine, strict=True))
        row = {"plain_s": statistics.median(plain), "ours_s": statistics.median(mine), "ratio": ratio}
        result["stages"][stage] = row
        print(f"{stage:14} {row['plain_s']:9.2f} {row['ours_s']:9.2f} {ratio:7.2f}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
