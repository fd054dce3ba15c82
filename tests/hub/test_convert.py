# SPDX-License-Identifier: Apache-2.0
"""Conversions to our layout: same results, nothing lost unsaid, killed and resumed, bad input refused first."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusers_show1 import Show1CascadePipeline, Show1UNet3DConditionModel
from diffusers_show1.families.show1.checkpoints import PUBLISHED_UNETS
from diffusers_show1.hub import convert as module
from diffusers_show1.hub import parts
from diffusers_show1.hub.convert import LICENCE, RECORD, ConversionError, convert
from diffusers_show1.hub.recognise import load_cascade, recognise, recognise_index
from diffusers_show1.ladder.checkpoints import Network


STAGES = {
    "base": ("show-1-base", "Show1KeyframePipeline"),
    "interpolation": ("show-1-interpolation", "Show1InterpolationPipeline"),
    "superres": ("show-1-sr1", "Show1SuperResolutionPipeline"),
    "refine": ("show-1-sr2", "Show1RefinementPipeline"),
}


def strict_json(path: Path) -> dict:
    """JSON as every parser reads it: no Infinity."""

    def refuse(value: str) -> None:
        raise AssertionError(f"{path} holds {value}")

    return json.loads(path.read_text(), parse_constant=refuse)


def unet_weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "unet" / "diffusion_pytorch_model.bin", weights_only=True)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def converted(published, tmp_path_factory) -> dict[str, module.Report]:
    """Every published stage, converted as it is stored, in small shards."""
    root = tmp_path_factory.mktemp("converted")
    return {stage: convert(published[name], root / stage, max_shard_size="4MB") for stage, (name, _) in STAGES.items()}


# --- published repositories --------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
def test_published_repo_gives_the_same_output(stage, converted, published, run):
    from diffusers import DiffusionPipeline

    name, class_name = STAGES[stage]
    report = converted[stage]
    pipe = DiffusionPipeline.from_pretrained(report.output, use_safetensors=True, dtype=torch.float16)
    assert type(pipe).__name__ == class_name
    assert same(pipe.unet.state_dict(), unet_weights(published[name]))
    before = DiffusionPipeline.from_pretrained(published[name], dtype=torch.float16)
    assert torch.equal(run(pipe.to(torch.float32)), run(before.to(torch.float32)))


@pytest.mark.parametrize("stage", STAGES)
def test_published_repo_becomes_what_save_pretrained_writes(stage, converted, tmp_path):
    from diffusers import DiffusionPipeline

    output = converted[stage].output
    DiffusionPipeline.from_pretrained(output).save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    del index["_name_or_path"]
    assert strict_json(output / "model_index.json") == index
    for path in output.rglob("*.json"):
        content = json.dumps(strict_json(path))
        assert "_name_or_path" not in content
        assert str(output) not in content
    assert not list(output.rglob("*.bin")) + list(output.glob(".*"))
    assert len(list((output / "unet").glob("*.safetensors"))) > 1


@pytest.mark.parametrize("stage", STAGES)
def test_report_says_what_was_dropped(stage, converted):
    report = converted[stage]
    dropped = {
        "base": ["feature_extractor: the base stage has no use for it"],
        "interpolation": ["feature_extractor: the interpolation stage has no use for it"],
        "superres": [
            "feature_extractor: the superres stage has no use for it",
            "scheduler lambda_min_clipped: -inf is no JSON, and the default",
        ],
        "refine": [
            "scheduler lambda_min_clipped: -inf is no JSON, and the default",
            "text_encoder text_model.embeddings.position_ids: the network has no such parameter",
        ],
    }
    assert report.dropped == dropped[stage]
    assert report.parts["unet"]["compared"] == report.parts["unet"]["tensors"]
    text = "\n".join(report.lines())
    assert all(line in text for line in report.dropped)
    note = (report.output / LICENCE).read_text()
    assert "CC BY-NC 4.0" in note
    assert "https://creativecommons.org/licenses/by-nc/4.0/" in text


def test_dtype_and_variant(published, tmp_path):
    from diffusers import DiffusionPipeline

    report = convert(published["show-1-base"], tmp_path / "o", dtype="float32", variant="fp16")
    assert (report.parts["unet"]["dtype"], report.parts["unet"]["variant"]) == ("float32", "fp16")
    stored = unet_weights(published["show-1-base"])
    state = load_file(report.output / "unet" / "diffusion_pytorch_model.safetensors")
    assert same(state, {key: value.float() for key, value in stored.items()})
    half = DiffusionPipeline.from_pretrained(report.output, variant="fp16", dtype=torch.float16)
    assert same(half.unet.state_dict(), stored)
    encoder = load_file(report.output / "text_encoder" / "model.fp16.safetensors")
    kinds = {key: value.dtype for key, value in encoder.items()}
    assert {kinds[key] for key in kinds if ".wo." in key} == {torch.float32}  # T5 overflows without
    assert {kinds[key] for key in kinds if ".wo." not in key} == {torch.float16}


def test_dtype_as_stored_keeps_a_mixture(published, converted):
    stored: dict[str, torch.Tensor] = {}
    for path in (published["show-1-interpolation"] / "text_encoder").glob("*.bin"):
        stored |= torch.load(path, weights_only=True)
    written = load_file(converted["interpolation"].output / "text_encoder" / "model.safetensors")
    assert {value.dtype for value in written.values()} == {torch.float16, torch.float32}
    assert all(torch.equal(value, stored[key]) and value.dtype == stored[key].dtype for key, value in written.items())


def test_without_leaves_components_out(published, tmp_path):
    from diffusers import DiffusionPipeline

    report = convert(published["show-1-interpolation"], tmp_path / "o", without=("text_encoder", "tokenizer"))
    assert "text_encoder: asked for by `without`" in report.dropped
    assert not (report.output / "text_encoder").exists()
    assert DiffusionPipeline.from_pretrained(report.output).text_encoder is None


def test_own_stage_converts_again_with_a_sharded_variant(converted, tmp_path):
    from diffusers import DiffusionPipeline

    again = convert(converted["base"].output, tmp_path / "o", variant="bf16", max_shard_size="2MB")
    assert again.parts["unet"]["variant"] == "bf16"
    shards = sorted(path.name for path in (again.output / "unet").glob("*.bf16-*.safetensors"))
    assert shards[0].startswith("diffusion_pytorch_model.bf16-00001-of-0000")
    pipe = DiffusionPipeline.from_pretrained(again.output, variant="bf16", dtype=torch.bfloat16)
    plain = DiffusionPipeline.from_pretrained(converted["base"].output, dtype=torch.bfloat16)
    assert same(pipe.unet.state_dict(), plain.unet.state_dict())


def test_repo_with_code_of_its_own_converts_without_running_it(published, tmp_path):
    """A list as `_class_name`, and a module of the repository as the network's library: read as what they name."""
    folder = broken(published["show-1-base"], tmp_path)
    index = json.loads((folder / "model_index.json").read_text())
    index |= {
        "_class_name": ["pipeline_t2v_base_pixel", "TextToVideoIFPipeline"],
        "unet": ["showone_unet_3d_condition", "ShowOneUNet3DConditionModel"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "pipeline_t2v_base_pixel.py").write_text("raise SystemExit('code of the repository ran')\n")
    (folder / "unet" / "showone_unet_3d_condition.py").write_text("raise SystemExit('code of the repository ran')\n")
    report = convert(folder, tmp_path / "o", without=("text_encoder",))
    assert recognise(report.output).stage == "base"
    assert not list(report.output.rglob("*.py"))


# --- a cascade ---------------------------------------------------------------------------------------------------


def test_four_repos_become_one_cascade(published, if_models, tmp_path):
    sources = {stage: published[name] for stage, (name, _) in STAGES.items()}
    report = convert({**sources, "first_frame": if_models["IF-II"]}, tmp_path / "o")
    made = load_cascade(report.output)
    whole = Show1CascadePipeline.from_stages(**sources, first_frame=if_models["IF-II"])
    assert {n for n, c in made.components.items() if c is not None} == {
        n for n, c in whole.components.items() if c is not None
    }
    for name, component in whole.components.items():
        if isinstance(component, torch.nn.Module):
            found = made.components[name].to(torch.float32).state_dict()
            assert same(found, component.to(torch.float32).state_dict()), name
    shared = "the base stage's serves all that share it"
    assert {f"{s} {n}: {shared}" for s in ("interpolation", "superres") for n in ("tokenizer", "text_encoder")} <= set(
        report.dropped
    )
    made.save_pretrained(tmp_path / "s")
    index = json.loads((tmp_path / "s" / "model_index.json").read_text())
    del index["_name_or_path"]
    assert strict_json(report.output / "model_index.json") == index
    note = (report.output / LICENCE).read_text()
    assert "CC BY-NC 4.0" in note
    assert "DeepFloyd IF License Agreement" in note
    assert (report.output / "LICENSE.md.IF-II").exists()
    assert "first_frame safety_checker: the first frame has no use for it" in report.dropped
    half = convert(report.output, tmp_path / "half", dtype="float16", without=("text_encoder", "tokenizer"))
    kinds = {facts["dtype"] for facts in half.parts.values() if "dtype" in facts}
    assert kinds == {"float16"}
    assert load_cascade(half.output).first_frame_unet is not None
    made.superres.save_pretrained(tmp_path / "superres")  # a stage that has the image network keeps it
    plan = module._plan(tmp_path / "superres", None, None, [], None)
    assert {"first_frame_unet", "first_frame_scheduler"} <= {part.name for part in plan.parts}


# --- other origins -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "stage", "channels"), [("IF-I", None, 3), ("IF-I", "interpolation", 7), ("IF-II", None, 6)]
)
def test_deepfloyd_if_is_inflated(name, stage, channels, if_models, tmp_path):
    from diffusers import DiffusionPipeline, UNet2DConditionModel

    report = convert(if_models[name], tmp_path / "o", stage=stage, dtype="float32")
    pipe = DiffusionPipeline.from_pretrained(report.output)
    assert recognise(report.output).stage == (stage or ("base" if name == "IF-I" else "superres"))
    assert pipe.unet.config.in_channels == channels
    image = UNet2DConditionModel.from_pretrained(if_models[name], subfolder="unet")
    video = torch.randn(1, channels, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    text = torch.randn(1, 3, 32, generator=torch.Generator().manual_seed(1))
    labels = {"class_labels": torch.tensor([9])} if name == "IF-II" else {}
    known = image.config.in_channels
    with torch.no_grad():
        made = pipe.unet(video, 7, text, **labels).sample
        frames = [image(video[:, :known, i], 7, text, **labels).sample for i in range(2)]
    torch.testing.assert_close(made, torch.stack(frames, dim=2), rtol=1e-4, atol=1e-4)
    assert {line.split(":")[0] for line in report.dropped} == {"safety_checker", "watermarker"}
    assert (report.output / "LICENSE.md").read_text() == "DeepFloyd IF License Agreement\n"
    assert "https://huggingface.co/DeepFloyd/IF-I-XL-v1.0" in report.licence


def test_inflation_is_the_same_every_time(if_models, tmp_path):
    source = if_models["IF-I"] / "unet"
    torch.manual_seed(1)
    first = convert(source, tmp_path / "a")
    torch.manual_seed(2)
    second = convert(source, tmp_path / "b")
    files = [report.output / "diffusion_pytorch_model.safetensors" for report in (first, second)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert Show1UNet3DConditionModel.from_pretrained(first.output).config.in_channels == 3


def test_modelscope_becomes_a_refinement_stage(modelscope, tmp_path):
    from diffusers import DiffusionPipeline, UNet3DConditionModel

    report = convert(modelscope, tmp_path / "o")
    pipe = DiffusionPipeline.from_pretrained(report.output)
    assert type(pipe).__name__ == "Show1RefinementPipeline"
    stock = UNet3DConditionModel.from_pretrained(modelscope, subfolder="unet")
    assert same(pipe.unet.state_dict(), stock.state_dict())
    video = torch.randn(1, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    text = torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(
            pipe.unet(video, 7, text).sample, stock.eval()(video, 7, text).sample, rtol=1e-5, atol=1e-5
        )
    assert "CC BY-NC 4.0" in report.licence


@pytest.mark.parametrize("form", ["plain.bin", "nested.pt", "prefixed.ckpt", "weights.safetensors"])
def test_state_dict_files(form, published, tmp_path):
    state = unet_weights(published["show-1-sr1"])
    path = tmp_path / "in" / form
    path.parent.mkdir()
    expected_drops: list[str] = []
    if form == "plain.bin":
        torch.save(state, path)
    elif form == "nested.pt":
        torch.save({"module": state, "step": 9000, "optimizer": {"lr": 0.1}}, path)
        expected_drops = ["step", "optimizer"]
    elif form == "prefixed.ckpt":
        content = {f"module.unet.{key}": value for key, value in state.items()}
        torch.save({"state_dict": {**content, "module.vae.weight": torch.zeros(1)}}, path)
        expected_drops = ["state_dict.module.vae.weight"]
    else:
        save_file(state, path)
    config = published["show-1-sr1"] / "unet" / "config.json"
    report = convert(path, tmp_path / "out", config=config)
    network = Show1UNet3DConditionModel.from_pretrained(report.output, dtype=torch.float16)
    assert same(network.state_dict(), state)
    assert [line.removeprefix("network ").split(":")[0] for line in report.dropped] == expected_drops


def test_state_dict_finds_the_config_beside_it(published, tmp_path):
    report = convert(published["show-1-base"] / "unet" / "diffusion_pytorch_model.bin", tmp_path / "o")
    assert report.parts[""]["compared"] == report.parts[""]["tensors"]


@pytest.mark.parametrize("stage", STAGES)
def test_published_networks_are_known_without_a_config(stage):
    """The table in the package against the published configs, as networks: every name and shape."""
    config = json.loads((Path(__file__).parent / "published" / STAGES[stage][0] / "unet" / "config.json").read_text())
    with torch.device("meta"):
        published = Show1UNet3DConditionModel.from_config(config)
        ours = Show1UNet3DConditionModel.from_config(PUBLISHED_UNETS[stage])
    ignored = ("_class_name", "_diffusers_version", "_use_default_values", "_name_or_path", "upcast_attention")
    plain = [
        {k: list(v) if isinstance(v, tuple) else v for k, v in network.config.items() if k not in ignored}
        for network in (published, ours)
    ]
    assert plain[0] == plain[1]
    shapes = [{k: v.shape for k, v in network.state_dict().items()} for network in (published, ours)]
    assert shapes[0] == shapes[1]
    first = {"conv_in.weight": torch.empty(published.conv_in.weight.shape, device="meta")}
    assert [network.config for network in parts.fitting_networks(first, "file")] == [PUBLISHED_UNETS[stage]]


def test_a_state_dict_under_other_names_finds_its_network(published, tmp_path):
    """The first of several networks that it fits, by the names that a family says the file has."""
    stored = unet_weights(published["show-1-base"])
    config = json.loads((published["show-1-base"] / "unet" / "config.json").read_text())
    path = tmp_path / "x.pt"
    torch.save({name.replace("resnets", "blocks"): value for name, value in stored.items()}, path)
    name = "Show1UNet3DConditionModel"
    wider = Network(name, {**config, "layers_per_block": 7})
    renamed = Network(name, config, renamed=((r"blocks(?=\.\d)(?<!_blocks)", "resnets"),))
    part = parts.FilePart("", ("", ""), path, [wider, renamed])
    (tmp_path / "o").mkdir()
    facts, dropped = part.write(tmp_path / "o", {"dtype": None, "variant": None, "max_shard_size": "1GB"})
    assert part.entry == ("diffusers_show1", name)
    assert (facts["compared"], dropped) == (len(stored), [])
    assert same(Show1UNet3DConditionModel.from_pretrained(tmp_path / "o", dtype=torch.float16).state_dict(), stored)
    with pytest.raises(ConversionError, match="lacks"):
        parts.FilePart("", ("", ""), path, [wider]).read()


# --- killed and called again -------------------------------------------------------------------------------------

KILLED = """
import os, sys
from diffusers_show1.hub import convert as module
from diffusers_show1.hub import parts

def dies(line):
    if line.startswith("unet"):
        original = parts.verify
        def verify(*a, **k):
            os._exit(9)  # as SIGKILL would: in the middle of the network, with its files written and not verified
        parts.verify = verify
module.convert(SOURCE, OUTPUT, progress=dies)
"""


def test_killed_and_called_again(published, process, tmp_path):
    output = tmp_path / "o"
    head = f"SOURCE = {str(published['show-1-sr1'])!r}\nOUTPUT = {str(output)!r}\n"
    done = process(head + KILLED)
    assert done.returncode == 9, done.stderr
    assert (output / ".partial-unet").is_dir()
    assert not (output / "unet").exists()
    assert not (output / "model_index.json").exists()  # so nobody takes it for a model
    times = {path: path.stat().st_mtime_ns for path in output.glob("t*/*")}
    assert times
    told: list[str] = []
    report = convert(published["show-1-sr1"], output, progress=told.append)
    assert sorted(report.reused) == ["image_noising_scheduler", "scheduler", "text_encoder", "tokenizer"]
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert [line for line in told if "finished earlier" not in line] == ["unet: converting from show-1-sr1"]
    assert not list(output.glob(".partial-*"))
    assert "scheduler lambda_min_clipped: -inf is no JSON, and the default" in report.dropped
    network = Show1UNet3DConditionModel.from_pretrained(output, subfolder="unet", dtype=torch.float16)
    assert same(network.state_dict(), unet_weights(published["show-1-sr1"]))


def test_finished_and_called_again(published, tmp_path, monkeypatch):
    first = convert(published["show-1-interpolation"], tmp_path / "o")
    monkeypatch.setattr(parts.ModelPart, "write", None)
    monkeypatch.setattr(parts.FilesPart, "write", None)
    again = convert(published["show-1-interpolation"], tmp_path / "o")
    assert (again.parts, again.dropped) == (first.parts, first.dropped)
    assert set(again.reused) == set(again.parts)


def test_verification_sees_a_wrong_bit(published, tmp_path, monkeypatch):
    save = parts.save_model

    def damaged(model, folder, *args):
        save(model, folder, *args)
        path = next(folder.glob("*.safetensors"))
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)

    monkeypatch.setattr(parts, "save_model", damaged)
    with pytest.raises(OSError, match="was not written as it was read"):
        convert(published["show-1-base"], tmp_path / "o")
    assert not (tmp_path / "o" / "text_encoder").exists()


# --- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"dtype": "float8"}, "`dtype` must be one of float32, float16, bfloat16, or None to keep it, got 'float8'"),
        ({"dtype": torch.int8}, "`dtype` must be"),
        ({"variant": "half"}, "`variant` must be one of fp16, bf16, or None for none, got 'half'"),
        ({"variant": "fp16", "dtype": torch.float16}, "`variant` must differ from `dtype`"),
        ({"max_shard_size": "big"}, "`max_shard_size` must be bytes above 0 or a text such as '5GB', got 'big'"),
        ({"max_shard_size": 0}, "`max_shard_size` must be"),
        ({"stage": "enlarge"}, "`stage` must be one of base, interpolation, superres, refine"),
        ({"stage": "refine"}, "`stage` must be base for the base stage of Show-1 as it was published, got 'refine'"),
        ({"without": "unet"}, "`without` must be a list"),
        ({"without": ["unet"]}, "`without` may hold text_encoder, tokenizer, got 'unet'"),
        ({"config": "base"}, "`config` must be left out"),
        ({"source": "no/such/folder"}, "which is no model"),
        ({"source": "nowhere"}, "there is no folder nowhere"),
        ({"source": {"base": "x"}}, "`source` must name base, interpolation, superres, refine"),
        ({"source": "showlab", "stage": "base"}, "`stage` must be left out for a cascade"),
    ],
)
def test_bad_arguments(arguments, said, published, tmp_path):
    arguments = {"source": published["show-1-base"], **arguments}
    with pytest.raises(ValueError, match="(?s)^`") as error:
        convert(arguments.pop("source"), tmp_path / "o", **arguments)
    assert said in str(error.value)
    assert not (tmp_path / "o").exists()


def test_bad_output(published, tmp_path):
    source = published["show-1-base"]
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="`output` must be a new or empty folder.*which is not empty"):
        convert(source, full)
    with pytest.raises(ValueError, match="`output` must be .*which is a file"):
        convert(source, full / "thesis.txt")
    with pytest.raises(ValueError, match="`output` must be outside of `source`"):
        convert(source, source / "converted")
    begun = tmp_path / "begun"
    convert(source, begun, without=("text_encoder",))
    with pytest.raises(ValueError, match="`output` must be .*with other options"):
        convert(source, begun)
    assert list(full.iterdir()) == [full / "thesis.txt"]


def broken(published: Path, root: Path) -> Path:
    return Path(shutil.copytree(published, root / "in"))


@pytest.mark.parametrize(
    "damage", ["pickle", "truncated", "parameter", "shape", "shard", "component", "library", "overflow"]
)
def test_damaged_sources(damage, published, tmp_path, request):
    folder = broken(published["show-1-sr1"], tmp_path)
    weights = folder / "unet" / "diffusion_pytorch_model.bin"
    state = unet_weights(folder)
    options = {}
    if damage == "pickle":
        torch.save({"weight": print}, weights)
        said = "diffusion_pytorch_model.bin is refused: reading the pickle would run code, `print`"
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:1000])
        said = "diffusion_pytorch_model.bin is refused"
    elif damage == "parameter":
        state.pop("conv_in.weight")
        torch.save(state, weights)
        said = "1 parameters are missing or of another shape, the first is conv_in.weight"
    elif damage == "shape":
        state["conv_in.weight"] = state["conv_in.weight"][:, :3].clone()
        torch.save(state, weights)
        said = "conv_in.weight"
    elif damage == "shard":
        (folder / "text_encoder" / "pytorch_model-00002-of-00002.bin").unlink()
        said = "has 1 of 2 shards of text_encoder"
    elif damage == "component":
        index = json.loads((folder / "model_index.json").read_text())
        del index["image_noising_scheduler"]
        (folder / "model_index.json").write_text(json.dumps(index))
        said = "has no image_noising_scheduler, which the superres stage needs"
    elif damage == "library":
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps({**index, "text_encoder": ["antigravity", "T5"]}))
        said = "has a text_encoder of antigravity, and only diffusers and transformers are read"
    else:
        options = {"dtype": "float16"}
        state = {key: value.float() for key, value in state.items()}
        state["conv_in.weight"][0, 0, 0, 0] = 1e6
        torch.save(state, weights)
        said = "conv_in.weight has values that do not fit into float16"
    with pytest.raises(ConversionError) as error:
        convert(folder, tmp_path / "o", **options)
    assert said in str(error.value)
    assert not (tmp_path / "o" / "model_index.json").exists()


def test_older_parameter_names_are_named(tmp_path):
    torch.save({"state_dict": {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(1)}}, tmp_path / "old.pth")
    with pytest.raises(ConversionError, match="parameter names of a code older than diffusers"):
        convert(tmp_path / "old.pth", tmp_path / "o", config="refine")


# --- recognising -------------------------------------------------------------------------------------------------


def test_recognise_folders(published, if_models, modelscope, converted, tmp_path):
    expected = {
        published["show-1-base"]: ("published", "base"),
        published["show-1-base-0.0"]: ("published", "base"),
        published["show-1-interpolation"]: ("published", "interpolation"),
        published["show-1-sr1"]: ("published", "superres"),
        published["show-1-sr2"]: ("published", "refine"),
        if_models["IF-I"]: ("if", "base"),
        if_models["IF-II"]: ("if", "superres"),
        modelscope: ("modelscope", "refine"),
        tmp_path: ("none", None),
        converted["refine"].output: ("stage", "refine"),
        "showlab": ("published-cascade", None),
    }
    assert {model: (kind.name, kind.stage) for model in expected for kind in [recognise(model)]} == expected


def test_recognise_indices():
    cascade = recognise_index({"_class_name": ["show1_cascade", "Show1CascadePipeline"]})
    assert (cascade.name, cascade.remote_code, cascade.generates) == ("cascade", True, True)
    remote = recognise_index({"_class_name": ["show1_base", "Show1KeyframePipeline"]})
    assert (remote.name, remote.stage, remote.remote_code) == ("stage", "base", True)
    assert recognise_index({"_class_name": "StableDiffusionPipeline"}).name == "other"
    for broken in (None, [], {}, {"_class_name": 3}, {"_class_name": ["a", "b", "c"]}):
        assert recognise_index(broken).name == "none"


def test_load_cascade_says_what_it_was_given(published, modelscope, tmp_path):
    with pytest.raises(ValueError, match="`model` must be .* the base stage of Show-1 .*put four together"):
        load_cascade(published["show-1-base"])
    with pytest.raises(ValueError, match="a ModelScope video model .*show1 convert .* makes the refine stage of it"):
        load_cascade(modelscope)
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(ValueError, match="its model_index.json is no JSON"):
        load_cascade(tmp_path)


def test_record_names_no_machine_path(converted):
    for report in converted.values():
        assert str(report.output.parent) not in (report.output / RECORD).read_text()
