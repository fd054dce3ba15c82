# SPDX-License-Identifier: Apache-2.0
"""One published repository at full size, with random weights: written to disk as it was published, then loaded.

    python benchmarks/load_full_size.py --stage base --without-text-encoder     # 3.5 GB on disk
    python benchmarks/load_full_size.py --stage base                            # and T5-XXL in float32, 22.5 GB

Prints seconds and the process's peak memory for loading the unmodified layout (`.bin`), for `show1 convert`, and for
loading what that made. Each step runs in a process of its own, so that its peak is its own. Not part of CI.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path


ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "tests" / "hub" / "published"
SMALL = ROOT / "tests" / "golden" / "cases" / "models"
REPOS = {
    "base": "show-1-base",
    "interpolation": "show-1-interpolation",
    "superres": "show-1-sr1",
    "refine": "show-1-sr2",
}
T5_XXL = {
    "architectures": ["T5EncoderModel"],
    "d_ff": 10240,
    "d_kv": 64,
    "d_model": 4096,
    "feed_forward_proj": "gated-gelu",
    "is_encoder_decoder": False,
    "model_type": "t5",
    "num_heads": 64,
    "num_layers": 24,
    "tie_word_embeddings": False,
    "vocab_size": 32128,
}
CLIP_H = {  # OpenCLIP-H's text tower
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
}
SD_VAE = {  # Stable Diffusion's, 167 MB in half precision
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
MEASURE = """
import json, resource, time
began = time.perf_counter()
{imports}
imported = time.perf_counter()
{work}
done = time.perf_counter()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print("RESULT" + json.dumps({{"import_s": imported - began, "work_s": done - imported, "peak_GiB": peak}}))
"""


def shards(names_and_shapes: list[tuple[str, tuple[int, ...]]], item: int, limit: int) -> list[list[tuple]]:
    """Cuts a list of tensors into files of at most `limit` bytes."""
    files: list[list[tuple]] = [[]]
    size = 0
    for name, shape in names_and_shapes:
        count = item
        for n in shape:
            count *= n
        if files[-1] and size + count > limit:
            files.append([])
            size = 0
        files[-1].append((name, shape))
        size += count
    return files


def write_random(model, folder: Path, name: str, dtype, limit: int = 10 * 10**9) -> None:
    """Random numbers under a meta model's parameter names, as `.bin` files of at most `limit` bytes."""
    import torch

    generator = torch.Generator().manual_seed(0)
    block = (torch.randn(1 << 20, generator=generator) * 0.02).to(dtype)
    tensors = [(key, tuple(value.shape)) for key, value in model.state_dict().items()]
    files = shards(tensors, dtype.itemsize, limit)
    weight_map = {}
    for i, part in enumerate(files):
        file = f"{name}.bin" if len(files) == 1 else f"{name}-{i + 1:05d}-of-{len(files):05d}.bin"
        state = {}
        for key, shape in part:
            count = torch.Size(shape).numel()
            state[key] = block.repeat(count // len(block) + 1)[:count].reshape(shape).clone()
            weight_map[key] = file
        torch.save(state, folder / file)
        del state
    if len(files) > 1:
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / f"{name}.bin.index.json").write_text(json.dumps(index))


def build(stage: str, folder: Path, text_encoder: bool) -> None:
    """The published repository of a stage, at full size."""
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    from diffusers_show1 import Show1UNet3DConditionModel

    repo = REPOS[stage]
    shutil.copytree(CONFIGS / repo, folder)
    index = json.loads((folder / "model_index.json").read_text())
    if "feature_extractor" in index:
        shutil.copytree(
            CONFIGS / "show-1-base" / "feature_extractor", folder / "feature_extractor", dirs_exist_ok=True
        )
    small = SMALL / ("show-1-sr2" if stage == "refine" else "show-1-base")
    shutil.copytree(small / "tokenizer", folder / "tokenizer")
    with torch.device("meta"):
        unet = Show1UNet3DConditionModel.from_config(json.loads((folder / "unet" / "config.json").read_text()))
    write_random(unet, folder / "unet", "diffusion_pytorch_model", torch.float16)
    if stage == "refine":
        from diffusers import AutoencoderKL

        (folder / "vae").mkdir()
        with torch.device("meta"):
            vae = AutoencoderKL(**SD_VAE)
        vae.save_config(folder / "vae")
        write_random(vae, folder / "vae", "diffusion_pytorch_model", torch.float16)
    if not text_encoder:
        index["text_encoder"] = [None, None]
        (folder / "model_index.json").write_text(json.dumps(index, indent=2))
        return
    (folder / "text_encoder").mkdir()
    with torch.device("meta"):
        if stage == "refine":
            encoder, dtype = CLIPTextModel(CLIPTextConfig(**CLIP_H)), torch.float16
        else:
            encoder, dtype = T5EncoderModel(T5Config(**T5_XXL)), torch.float32
    encoder.config.save_pretrained(folder / "text_encoder")
    write_random(encoder, folder / "text_encoder", "pytorch_model", dtype)


def measure(label: str, imports: str, work: str) -> None:
    """Runs a step in a process of its own, and prints what it took."""
    code = MEASURE.format(imports=imports, work=work)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    if not lines:
        raise SystemExit(f"{label} failed:\n{done.stderr[-2000:]}")
    numbers = json.loads(lines[0][len("RESULT") :])
    print(f"{label:34} {numbers['work_s']:8.1f} s   peak {numbers['peak_GiB']:6.2f} GiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=REPOS, default="base")
    parser.add_argument("--without-text-encoder", action="store_true", help="leave T5 (or CLIP) out")
    parser.add_argument("--no-convert", action="store_true", help="load only")
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary folder, removed at the end)")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory(dir=arguments.folder) as work:
        source, output = Path(work) / REPOS[arguments.stage], Path(work) / "converted"
        began = time.perf_counter()
        build(arguments.stage, source, not arguments.without_text_encoder)
        size = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
        print(
            f"{REPOS[arguments.stage]}: {size / 1e9:.2f} GB written in {time.perf_counter() - began:.1f} s", flush=True
        )
        imports = "import torch, diffusers_show1\nfrom diffusers import DiffusionPipeline"
        load = "pipe = DiffusionPipeline.from_pretrained({!r}, dtype=torch.float16)"
        measure("load as published (.bin)", imports, load.format(str(source)))
        if not arguments.no_convert:
            convert = "from diffusers_show1.hub.convert import convert"
            measure("show1 convert", f"{imports}\n{convert}", f"convert({str(source)!r}, {str(output)!r})")
            measure("load converted (.safetensors)", imports, load.format(str(output)))


if __name__ == "__main__":
    main()
