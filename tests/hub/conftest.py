# SPDX-License-Identifier: Apache-2.0
"""The repositories that the tests load: the published layout to the byte of its JSON, with tiny networks in it.

`tests/hub/published/` holds the published configs. Here they are reduced to tiny widths; the encoders, the VAE and the
tokenizers are those of the golden cases. Weights are random, but the same in every run.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file


HERE = Path(__file__).parent
MODELS = HERE.parent / "golden" / "cases" / "models"
PUBLISHED = HERE / "published"
REPOS = ("show-1-base", "show-1-base-0.0", "show-1-interpolation", "show-1-sr1", "show-1-sr2")
SMALL_PIXEL = {
    "addition_embed_type_num_heads": 4,
    "attention_head_dim": 16,
    "cross_attention_dim": 32,
    "encoder_hid_dim": 32,
}
SMALL = {
    "show-1-base": {**SMALL_PIXEL, "block_out_channels": [32, 32, 32, 64], "layers_per_block": 1},
    "show-1-sr1": {
        **SMALL_PIXEL,
        "block_out_channels": [32, 32, 32, 32, 64],
        "layers_per_block": [1, 1, 1, 2, 1],
        "time_embedding_dim": 64,
    },
    "show-1-sr2": {
        "attention_head_dim": [1, 2, 4, 4],
        "block_out_channels": [32, 64, 64, 64],
        "cross_attention_dim": 32,
        "layers_per_block": 1,
    },
}
SMALL["show-1-interpolation"] = SMALL["show-1-base-0.0"] = SMALL["show-1-base"]


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def randomise(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Random weights everywhere: fresh temporal layers, which are the identity, would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5 / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(torch.rand(parameter.shape, generator=generator) * 0.2 + 0.5)
    return model.eval()


def write_pickles(state: dict[str, torch.Tensor], folder: Path, name: str, shards: int = 1) -> None:
    """A state dict as `name.bin`, or as shards with their index, as transformers wrote them in 2023."""
    if shards == 1:
        torch.save(state, folder / f"{name}.bin")
        return
    keys = list(state)
    weight_map = {}
    for i in range(shards):
        file = f"{name}-{i + 1:05d}-of-{shards:05d}.bin"
        part = {key: state[key] for key in keys[i::shards]}
        torch.save(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    size = sum(tensor.nbytes for tensor in state.values())
    write_json(folder / f"{name}.bin.index.json", {"metadata": {"total_size": size}, "weight_map": weight_map})


def build_published(name: str, folder: Path) -> Path:
    """One published repository: `.bin` everywhere, a half-precision UNet, a sharded T5, no variant."""
    from diffusers_show1 import Show1UNet3DConditionModel

    original = name.removesuffix("-0.0")
    shutil.copytree(PUBLISHED / original, folder)
    index = json.loads((folder / "model_index.json").read_text())
    write_json(folder / "model_index.json", {**index, "_name_or_path": name})
    if "feature_extractor" in index:  # the same file in all of them
        shutil.copytree(
            PUBLISHED / "show-1-base" / "feature_extractor", folder / "feature_extractor", dirs_exist_ok=True
        )
    config = json.loads((folder / "unet" / "config.json").read_text())
    assert set(SMALL[name]) <= set(config)
    write_json(folder / "unet" / "config.json", {**config, **SMALL[name]})
    unet = randomise(Show1UNet3DConditionModel.from_config({**config, **SMALL[name]}), seed=REPOS.index(name))
    torch.save(unet.half().state_dict(), folder / "unet" / "diffusion_pytorch_model.bin")
    write_text_side(folder, "clip" if original == "show-1-sr2" else "t5", mixed=original == "show-1-interpolation")
    if original == "show-1-sr2":
        shutil.copytree(MODELS / "show-1-sr2" / "vae", folder / "vae", ignore=shutil.ignore_patterns("*.safetensors"))
        vae = load_file(MODELS / "show-1-sr2" / "vae" / "diffusion_pytorch_model.safetensors")
        torch.save(vae, folder / "vae" / "diffusion_pytorch_model.bin")
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\ntags:\n- text-to-video\n---\n\n# Show-1\n")
    (folder / ".gitattributes").write_text("*.bin filter=lfs diff=lfs merge=lfs -text\n")
    return folder


def write_text_side(folder: Path, kind: str, mixed: bool = False) -> None:
    """Tokenizer and text encoder: T5 in two pickled shards (float32, or half with float32 parts), or CLIP in one."""
    source = MODELS / ("show-1-sr2" if kind == "clip" else "show-1-base")
    encoder = folder / "text_encoder"
    shutil.copytree(source / "tokenizer", folder / "tokenizer")
    encoder.mkdir()
    shutil.copyfile(source / "text_encoder" / "config.json", encoder / "config.json")
    if kind == "clip":  # half precision, with the int64 position ids of the time
        write_pickles(load_file(source / "text_encoder" / "model.safetensors"), encoder, "pytorch_model")
        return
    state = load_file(source / "text_encoder" / "model.fp16.safetensors")
    narrow = torch.float16 if mixed else torch.float32
    state = {key: value.to(torch.float32 if ".wo." in key else narrow) for key, value in state.items()}
    if "shared.weight" in state:  # stored twice in pickles, as transformers did
        state.setdefault("encoder.embed_tokens.weight", state["shared.weight"])
    config = json.loads((encoder / "config.json").read_text())
    write_json(encoder / "config.json", {**config, "torch_dtype": str(narrow).removeprefix("torch.")})
    write_pickles(state, encoder, "pytorch_model", shards=2)


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Repository name -> a folder with its files. Nobody may write into them."""
    root = tmp_path_factory.mktemp("showlab")
    return {name: build_published(name, root / name) for name in REPOS}


@pytest.fixture(scope="session")
def if_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """DeepFloyd IF, stage I and stage II: `.bin` networks, and the components that no video stage has a use for."""
    from diffusers import UNet2DConditionModel

    root = tmp_path_factory.mktemp("if")
    folders = {}
    stage_two = json.loads((MODELS / "if-ii" / "unet" / "config.json").read_text())
    index = json.loads((MODELS / "if-ii" / "model_index.json").read_text())
    plain = {
        "class_embed_type": None,
        "in_channels": 3,
        "mid_block_scale_factor": 1,
        "only_cross_attention": False,
        "resnet_out_scale_factor": 1.0,
        "resnet_skip_time_act": False,
        "time_embedding_act_fn": None,
        "time_embedding_dim": None,
    }
    for name, config, class_name in (
        ("IF-I", {**stage_two, **plain}, "IFPipeline"),
        ("IF-II", stage_two, "IFSuperResolutionPipeline"),
    ):
        folder = folders[name] = root / name
        shutil.copytree(MODELS / "if-ii", folder, ignore=shutil.ignore_patterns("unet", "tokenizer"))
        entries = {
            "safety_checker": ["deepfloyd_if", "IFSafetyChecker"],
            "watermarker": ["deepfloyd_if", "IFWatermarker"],
        }
        entries["text_encoder"] = ["transformers", "T5EncoderModel"]
        write_json(folder / "model_index.json", {**index, **entries, "_class_name": class_name})
        if name == "IF-I":
            shutil.rmtree(folder / "image_noising_scheduler")
            saved = json.loads((folder / "model_index.json").read_text())
            del saved["image_noising_scheduler"]
            write_json(folder / "model_index.json", saved)
        write_json(folder / "unet" / "config.json", config)
        unet = randomise(UNet2DConditionModel.from_config(config), seed=7)
        torch.save(unet.half().state_dict(), folder / "unet" / "diffusion_pytorch_model.bin")
        write_text_side(folder, "t5")
        (folder / "LICENSE.md").write_text("DeepFloyd IF License Agreement\n")
    return folders


@pytest.fixture(scope="session")
def modelscope(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ModelScope repository: diffusers' own video UNet, whose config states head sizes."""
    folder = tmp_path_factory.mktemp("modelscope") / "text-to-video-ms-1.7b"
    shutil.copytree(MODELS / "show-1-sr2", folder)
    index = json.loads((folder / "model_index.json").read_text())
    write_json(folder / "model_index.json", {**index, "_class_name": "TextToVideoSDPipeline"})
    return folder


@pytest.fixture(scope="session")
def tiny_embeds() -> dict[str, torch.Tensor]:
    """Prompt embeddings for the T5 stages, in place of a prompt."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(2, 1, 5, 32, generator=generator)
    return {"prompt_embeds": rows[0], "negative_prompt_embeds": rows[1]}


def run_stage(pipe: object, seed: int = 0, **embeds: torch.Tensor) -> torch.Tensor:
    """A call of a stage in two steps on little frames: (1, c, f, h, w), unclamped, so that no difference is hidden."""
    name = type(pipe).__name__
    frames = torch.rand(1, 2, 3, 16, 16, generator=torch.Generator().manual_seed(99))
    options: dict = {
        "num_inference_steps": 2,
        "output_type": "latent",
        "generator": torch.Generator().manual_seed(seed),
    }
    if not embeds:
        options["prompt"] = "a red circle"
    if name == "Show1KeyframePipeline":
        options |= {"height": 16, "width": 16, "num_frames": 2}
    else:
        options["frames"] = frames
    if name == "Show1SuperResolutionPipeline":
        options |= {"height": 32, "width": 32}
    if name == "Show1InterpolationPipeline":
        options["frames_between"] = 1
    return pipe(**options, **embeds).frames  # type: ignore[operator]


def run_cascade(pipe: object) -> torch.Tensor:
    """A call of all four stages in few steps on little frames: (1, c, f, h, w), unclamped."""
    one = {"num_inference_steps": 1}
    options = {
        "base": {**one, "height": 16, "width": 16, "num_frames": 2},
        "interpolation": {**one, "frames_between": 1},
        "superres": {**one, "height": 32, "width": 32},
        "refine": {**one, "height": 32, "width": 32, "strength": 1.0},
    }
    generator = torch.Generator().manual_seed(0)
    return pipe("a red circle", stage_options=options, generator=generator, output_type="latent").frames  # type: ignore[operator]


@pytest.fixture(scope="session")
def run():
    """`run_stage`, for the tests."""
    return run_stage


def python(code: str, cache: Path | None = None, **environment: str) -> subprocess.CompletedProcess:
    """Runs code in a process of its own, as a user's would be: with an own Hub cache and no settings of ours."""
    names = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "SYSTEMROOT", "TMPDIR")
    clean = {name: os.environ[name] for name in names if name in os.environ}
    package = Path(__file__).parents[2] / "src"
    clean |= {"PYTHONPATH": str(package), "OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    if cache is not None:
        clean["HF_HOME"] = str(cache)
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="session")
def process():
    """`python`, for the tests."""
    return python
