# SPDX-License-Identifier: Apache-2.0
"""The published repositories, unmodified, through every door: the Hub, the cache, a folder; any class; without flags.

A door is a way by which diffusers gets from a repository to a pipeline. `docs/hub.md` lists them; each test id here
names the one that it guards, so that an upgrade of diffusers that closes one fails by its name. What needs the Hub
runs in a process of its own (`HF_ENDPOINT` and the cache are read on import), once; the tests look at what it told.
"""

import hashlib
import json
import logging
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from .fake_hub import FakeHub


STAGE_CLASSES = {
    "show-1-base": "Show1KeyframePipeline",
    "show-1-base-0.0": "Show1KeyframePipeline",
    "show-1-interpolation": "Show1InterpolationPipeline",
    "show-1-sr1": "Show1SuperResolutionPipeline",
    "show-1-sr2": "Show1RefinementPipeline",
}
NAMES = list(STAGE_CLASSES)

VISIT = """
import json, logging, sys
import diffusers
from diffusers import DiffusionPipeline

report = {}

def door(name, call):
    try:
        report[name] = call()
    except Exception as error:
        report[name] = {"error": type(error).__name__, "text": str(error)}

def describe(pipe):
    return {"class": type(pipe).__name__, "module": type(pipe).__module__.split(".")[0],
            "unet": type(pipe.unet).__name__, "text_encoder": type(pipe.text_encoder).__name__}

if not OFFLINE:
    door("no import", lambda: describe(DiffusionPipeline.from_pretrained("showlab/show-1-base")))
import diffusers_show1
sys.path.insert(0, ROOT)
from tests.hub.conftest import run_stage

for name, stage in STAGES.items():
    repo = "showlab/" + name
    def run(cls):
        pipe = cls.from_pretrained(repo)
        return {**describe(pipe), "output": None if OFFLINE else hash_of(run_stage(pipe))}
    import hashlib
    def hash_of(video):
        return hashlib.sha256(video.contiguous().numpy().tobytes()).hexdigest()
    door("DiffusionPipeline " + name, lambda: run(DiffusionPipeline))
    # the encoder is the same, and was loaded a line ago
    door("stage class " + name, lambda: describe(
        getattr(diffusers_show1, stage).from_pretrained(repo, text_encoder=None)))
from diffusers_show1.hub.recognise import load_cascade, recognise
door("recognise", lambda: {name: str(recognise("showlab/" + name)) for name in STAGES})
from diffusers_show1.hub.convert import convert
door("convert", lambda: convert("showlab/show-1-interpolation", CACHE + "/converted-" + str(OFFLINE)).lines())
if not OFFLINE:
    base, sr2 = "showlab/show-1-base", "showlab/show-1-sr2"
    door("stock", lambda: describe(DiffusionPipeline.from_pretrained("somebody/video-to-video")))
    door("named stock class", lambda: describe(diffusers.VideoToVideoSDPipeline.from_pretrained(sr2)))
    door("variant", lambda: describe(DiffusionPipeline.from_pretrained(base, variant="fp16")))
    door("use_safetensors", lambda: describe(DiffusionPipeline.from_pretrained(base, use_safetensors=True)))
    door("revision", lambda: describe(DiffusionPipeline.from_pretrained(base, revision="refs/pr/2")))
    apart = {"unet": None, "text_encoder": None, "cache_dir": CACHE + "/apart"}
    door("swap", lambda: describe(DiffusionPipeline.from_pretrained(base, **apart)))
    door("pickle", lambda: describe(DiffusionPipeline.from_pretrained("somebody/pickle")))
    others = ("nobody/nothing", "somebody/empty", "somebody/video-to-video")
    door("other", lambda: {name: str(recognise(name)) for name in others})
    door("gated", lambda: str(recognise("DeepFloyd/IF-II-L-v1.0")))
    door("gated convert", lambda: convert("DeepFloyd/IF-II-L-v1.0", CACHE + "/if").lines())
warnings = []
class Keep(logging.Handler):
    def emit(self, record):
        warnings.append(record.getMessage())
logging.getLogger("diffusers_show1").addHandler(Keep())
door("showlab", lambda: describe(load_cascade("showlab").base))
report["warnings"] = warnings
print("REPORT" + json.dumps(report))
"""


def read_report(done) -> dict:
    lines = [line for line in done.stdout.splitlines() if line.startswith("REPORT")]
    assert lines, done.stderr[-3000:]
    return json.loads(lines[0][len("REPORT") :])


class Runs:
    """Pickled, calls the function that it names when it is read with its code: makes a file."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


@pytest.fixture(scope="session")
def poisoned(published, tmp_path_factory) -> Path:
    """The published keyframe stage with a UNet whose pickle makes the file `marker` beside the repository."""
    root = tmp_path_factory.mktemp("poisoned")
    folder = Path(shutil.copytree(published["show-1-base"], root / "repo"))
    weights = folder / "unet" / "diffusion_pytorch_model.bin"
    state = torch.load(weights, weights_only=True)
    torch.save({**state, "extra": Runs(root / "marker")}, weights)
    return folder


@pytest.fixture(scope="session")
def hub(published, poisoned, modelscope, if_models, tmp_path_factory):
    with FakeHub() as hub:
        for name, folder in published.items():
            hub.add(f"showlab/{name}", folder)
        hub.add("showlab/show-1-base", published["show-1-base-0.0"], revision="refs/pr/2")
        hub.add("DeepFloyd/IF-II-L-v1.0", if_models["IF-II"], gated=True)
        hub.add("somebody/pickle", poisoned)
        empty = tmp_path_factory.mktemp("empty")
        (empty / "README.md").write_text("nothing\n")
        hub.add("somebody/empty", empty)
        stock = Path(shutil.copytree(modelscope, empty / "stock"))
        index = json.loads((stock / "model_index.json").read_text())
        (stock / "model_index.json").write_text(json.dumps({**index, "_class_name": "VideoToVideoSDPipeline"}))
        hub.add("somebody/video-to-video", stock)
        yield hub


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


def visit(process, cache: Path, offline: bool, **environment: str) -> dict:
    values = {"STAGES": STAGE_CLASSES, "OFFLINE": offline, "CACHE": str(cache)}
    values["ROOT"] = str(Path(__file__).parents[2])
    head = "".join(f"{name} = {value!r}\n" for name, value in values.items())
    return read_report(process(head + VISIT, cache, **environment))


@pytest.fixture(scope="session")
def from_hub(process, hub, cache) -> dict:
    """What a process saw that began with an empty cache, and imported diffusers before us."""
    return visit(process, cache, False, HF_ENDPOINT=hub.url)


@pytest.fixture(scope="session")
def from_cache(process, from_hub, cache) -> dict:
    """What a second process saw, which imported us first and had no Hub any more."""
    return visit(process, cache, True, HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9")


@pytest.fixture(scope="session")
def outputs(published, run) -> dict[str, str]:
    """Stage -> digest of a call's output, loaded from the folder."""
    from diffusers import DiffusionPipeline

    import diffusers_show1  # noqa: F401

    videos = {name: run(DiffusionPipeline.from_pretrained(folder)) for name, folder in published.items()}
    assert all(video.std() > 0.01 for video in videos.values())
    return {name: hashlib.sha256(video.contiguous().numpy().tobytes()).hexdigest() for name, video in videos.items()}


# --- the doors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("where", ["from_hub", "from_cache"])
def test_door_diffusion_pipeline_on_a_published_id(where, name, request, outputs):
    seen = request.getfixturevalue(where)[f"DiffusionPipeline {name}"]
    assert seen["class"] == STAGE_CLASSES[name], seen
    assert (seen["module"], seen["unet"]) == ("diffusers_show1", "Show1UNet3DConditionModel")
    assert seen["output"] == (outputs[name] if where == "from_hub" else None)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("where", ["from_hub", "from_cache"])
def test_door_stage_class_on_a_published_id(where, name, request):
    seen = request.getfixturevalue(where)[f"stage class {name}"]
    assert seen["class"] == STAGE_CLASSES[name], seen
    assert seen["unet"] == "Show1UNet3DConditionModel"


@pytest.mark.parametrize("name", NAMES)
def test_door_folder_of_a_published_repo(name, published):
    import diffusers_show1

    stage = getattr(diffusers_show1, STAGE_CLASSES[name])
    pipe = stage.from_pretrained(published[name], dtype=torch.float16)
    assert type(pipe) is stage
    stored = torch.load(published[name] / "unet" / "diffusion_pytorch_model.bin", weights_only=True)
    state = pipe.unet.state_dict()
    assert state.keys() == stored.keys()
    assert all(torch.equal(state[key], value) for key, value in stored.items())


def test_door_no_import_of_diffusers_show1_is_closed(from_hub):
    """Why an import is needed. Should this fail, diffusers has opened a door, and the docs can say so."""
    assert from_hub["no import"]["error"] == "ValueError"
    assert "showone.models.unet_3d_condition.py" in from_hub["no import"]["text"]


def test_door_video_to_video_of_other_repos_stays_stock(from_hub):
    seen = from_hub["stock"]
    assert (seen["class"], seen["unet"]) == ("VideoToVideoSDPipeline", "UNet3DConditionModel"), seen


def test_door_video_to_video_named_by_the_caller_is_obeyed(from_hub):
    seen = from_hub["named stock class"]
    assert (seen["class"], seen["unet"]) == ("VideoToVideoSDPipeline", "Show1UNet3DConditionModel"), seen


def test_door_revision(from_hub):
    assert from_hub["revision"].get("class") == "Show1KeyframePipeline", from_hub["revision"]


def test_door_variant_fp16_is_refused_by_diffusers(from_hub):
    assert from_hub["variant"]["error"] == "ValueError"
    assert "no such modeling files" in from_hub["variant"]["text"]


def test_door_use_safetensors_is_refused_by_diffusers(from_hub):
    assert from_hub["use_safetensors"]["error"] in ("OSError", "EnvironmentError", "ValueError")


@pytest.mark.parametrize("where", ["from_hub", "from_cache"])
def test_door_showlab_is_the_four_repos_and_runs_without_the_gated_one(where, request):
    report = request.getfixturevalue(where)
    assert report["showlab"].get("class") == "Show1KeyframePipeline", report["showlab"]
    said = [line for line in report["warnings"] if "https://huggingface.co/DeepFloyd/IF-II-L-v1.0" in line]
    assert len(said) == 1
    assert "Continuing without it" in said[0]


def test_door_gated_repo_points_to_its_licence(from_hub):
    for name in ("gated", "gated convert"):
        assert from_hub[name]["error"] == "PermissionError", from_hub[name]
        assert "accept its licence on https://huggingface.co/DeepFloyd/IF-II-L-v1.0" in from_hub[name]["text"]


@pytest.mark.parametrize("where", ["from_hub", "from_cache"])
def test_door_convert_of_a_published_id(where, request, hub):
    lines = request.getfixturevalue(where)["convert"]
    assert isinstance(lines, list), lines
    assert any(line.startswith("  unet: float16") for line in lines)
    assert hub.repos["showlab/show-1-interpolation"].branches["main"] in lines[-1]


@pytest.mark.parametrize("where", ["from_hub", "from_cache"])
def test_recognise_published_ids(where, request):
    seen = request.getfixturevalue(where)["recognise"]
    stages = ("base", "base", "interpolation", "superres", "refine")
    assert list(seen.values()) == [f"the {stage} stage of Show-1 as it was published" for stage in stages]


def test_recognise_other_ids(from_hub):
    seen = from_hub["other"]
    assert seen["nobody/nothing"] == "no model (there is neither a folder nor a repository nobody/nothing)"
    assert seen["somebody/empty"] == "no model (somebody/empty has no model_index.json)"
    assert seen["somebody/video-to-video"] == "a ModelScope video model (VideoToVideoSDPipeline)"


def test_recognise_downloads_the_index_only(hub, process, tmp_path):
    code = "from diffusers_show1.hub.recognise import recognise\nimport json, sys\n"
    code += "print('REPORT' + json.dumps([str(recognise('showlab/show-1-sr2')), 'torch' in sys.modules]))"
    before = len(hub.requests)
    said, torch_imported = read_report(process(code, tmp_path, HF_ENDPOINT=hub.url))
    assert said == "the refine stage of Show-1 as it was published"
    assert not torch_imported
    files = {line.split("/resolve/")[1].split("/", 1)[1] for line in hub.requests[before:] if "/resolve/" in line}
    assert files == {"model_index.json"}


def test_door_components_that_are_passed_are_not_downloaded(from_hub, cache):
    assert from_hub["swap"].get("unet") == "NoneType", from_hub["swap"]
    names = {path.name for path in (cache / "apart").rglob("*")}
    assert "spiece.model" in names
    assert not [name for name in names if name.endswith(".bin")]


# --- what the repositories hold ----------------------------------------------------------------------------------


def test_format_infinity_in_scheduler_json(published):
    from diffusers import DPMSolverMultistepScheduler

    folder = published["show-1-sr1"] / "scheduler"
    assert "-Infinity" in (folder / "scheduler_config.json").read_text()
    assert DPMSolverMultistepScheduler.from_pretrained(folder).config.lambda_min_clipped == -float("inf")


def test_format_six_channels_against_a_fixed_variance(published, run):
    from diffusers_show1 import Show1KeyframePipeline

    pipe = Show1KeyframePipeline.from_pretrained(published["show-1-base"])
    assert (pipe.unet.config.out_channels, pipe.scheduler.config.variance_type) == (6, "fixed_small")
    assert run(pipe).shape == (1, 3, 2, 16, 16)


def test_format_heads_as_a_list(published):
    """sr2's `attention_head_dim` counts heads; the weights are the stock network's, whose config states their size."""
    from diffusers import UNet3DConditionModel

    from diffusers_show1 import Show1UNet3DConditionModel

    ours = Show1UNet3DConditionModel.from_pretrained(published["show-1-sr2"], subfolder="unet")
    assert list(ours.config.attention_head_dim) == [1, 2, 4, 4]
    sizes = {c // heads for c, heads in zip(ours.config.block_out_channels, [1, 2, 4, 4], strict=True)}
    assert sizes == {32, 16}  # which the stock config, one number, cannot say
    assert UNet3DConditionModel is not Show1UNet3DConditionModel


@pytest.mark.parametrize("name", ["show-1-base", "show-1-interpolation"])
def test_format_sharded_t5(name, published):
    """Two pickled shards, float32 or mixed; every value arrives."""
    from transformers import T5EncoderModel

    folder = published[name] / "text_encoder"
    stored: dict[str, torch.Tensor] = {}
    for path in folder.glob("*.bin"):
        stored |= torch.load(path, weights_only=True)
    kinds = {value.dtype for value in stored.values()}
    assert kinds == ({torch.float32} if name == "show-1-base" else {torch.float16, torch.float32})
    state = T5EncoderModel.from_pretrained(folder).state_dict()
    assert set(stored) <= set(state)
    assert all(torch.equal(state[key].float(), value.float()) for key, value in stored.items())


def test_format_clip_with_position_ids(published):
    from transformers import CLIPTextModel

    folder = published["show-1-sr2"] / "text_encoder"
    stored = torch.load(folder / "pytorch_model.bin", weights_only=True)
    assert stored.pop("text_model.embeddings.position_ids").dtype == torch.int64
    state = CLIPTextModel.from_pretrained(folder).state_dict()
    for key, value in stored.items():
        found = state[key] if key in state else state[key.removeprefix("text_model.")]
        assert torch.equal(found, value)


# --- pickles -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loader", ["DiffusionPipeline", "Show1KeyframePipeline"])
def test_door_pickle_that_would_run_code_is_refused(loader, poisoned):
    import diffusers

    with pytest.raises(OSError, match="The weights of `unet` in .* are refused: reading the pickle would run code"):
        getattr(diffusers, loader).from_pretrained(poisoned)
    assert not (poisoned.parent / "marker").exists()
    pickle.loads(pickle.dumps(Runs(poisoned.parent / "proof")))
    assert (poisoned.parent / "proof").exists()  # so would it have been


def test_door_pickle_from_the_hub_is_refused(from_hub):
    assert from_hub["pickle"]["error"] == "OSError"
    assert "reading the pickle would run code" in from_hub["pickle"]["text"]


def test_door_pickled_network_alone_is_refused(poisoned):
    from diffusers_show1 import Show1UNet3DConditionModel

    with pytest.raises(OSError, match="Unable to load weights"):  # diffusers' own words
        Show1UNet3DConditionModel.from_pretrained(poisoned, subfolder="unet")
    assert not (poisoned.parent / "marker").exists()


def test_door_pickled_text_encoder_is_refused(published, tmp_path):
    from diffusers import DiffusionPipeline

    folder = Path(shutil.copytree(published["show-1-sr2"], tmp_path / "repo"))
    torch.save({"extra": Runs(tmp_path / "marker")}, folder / "text_encoder" / "pytorch_model.bin")
    with pytest.raises(OSError, match="The weights of `text_encoder` in .* are refused"):
        DiffusionPipeline.from_pretrained(folder)
    assert not (tmp_path / "marker").exists()


# --- the joints in diffusers that this hangs on ------------------------------------------------------------------


def test_joint_pipeline_class_resolver():
    """`DiffusionPipeline` on sr2 needs this function, called by this name with the index as its second argument."""
    from diffusers.pipelines import pipeline_utils

    import diffusers_show1

    index = {
        "_class_name": "VideoToVideoSDPipeline",
        "unet": ["showone.models.unet_3d_condition", "UNet3DConditionModel"],
    }
    resolve = pipeline_utils._get_pipeline_class
    assert resolve(pipeline_utils.DiffusionPipeline, index) is diffusers_show1.Show1RefinementPipeline
    assert resolve(pipeline_utils.DiffusionPipeline, config=index) is diffusers_show1.Show1RefinementPipeline
    own = {**index, "unet": ["diffusers_show1", "Show1UNet3DConditionModel"]}
    assert resolve(pipeline_utils.DiffusionPipeline, own) is diffusers_show1.Show1RefinementPipeline
    for unet in (["diffusers", "UNet3DConditionModel"], [None, None], None, ["showone.models.unet_3d_condition", "X"]):
        assert resolve(pipeline_utils.DiffusionPipeline, {**index, "unet": unet}).__name__ == "VideoToVideoSDPipeline"


def test_joint_component_loader():
    from diffusers.pipelines import pipeline_utils

    assert hasattr(pipeline_utils.load_sub_model, "_show1")


def test_joint_module_names_and_class_names():
    import diffusers
    from diffusers.pipelines.pipeline_loading_utils import LOADABLE_CLASSES

    import diffusers_show1

    assert diffusers.TextToVideoIFPipeline is diffusers_show1.Show1KeyframePipeline
    assert diffusers.TextToVideoIFInterpPipeline is diffusers_show1.Show1InterpolationPipeline
    assert diffusers.TextToVideoIFSuperResolutionPipeline_Cond is diffusers_show1.Show1SuperResolutionPipeline
    module = getattr(diffusers.pipelines, "showone.models.unet_3d_condition")
    assert module.UNet3DConditionModel is diffusers_show1.Show1UNet3DConditionModel
    assert diffusers.UNet3DConditionModel is not diffusers_show1.Show1UNet3DConditionModel
    assert "diffusers_show1" in LOADABLE_CLASSES
    assert "showone" not in sys.modules  # never pretended to be upstream's package


def test_joint_gone_says_so_and_leaves_the_rest(monkeypatch, caplog):
    """A diffusers without the resolver: a warning with the way around it, and no failure."""
    from diffusers.pipelines import pipeline_utils

    from diffusers_show1.hub import registration

    monkeypatch.delattr(pipeline_utils, "_get_pipeline_class")
    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("diffusers_show1"), "propagate", True)
    registration.register()
    assert "Show1RefinementPipeline.from_pretrained" in caplog.text
    assert not hasattr(pipeline_utils, "_get_pipeline_class")


def test_joint_registering_again_wraps_once():
    from diffusers.pipelines import pipeline_utils

    from diffusers_show1.hub import registration

    before = (pipeline_utils._get_pipeline_class, pipeline_utils.load_sub_model)
    registration.register()
    assert (pipeline_utils._get_pipeline_class, pipeline_utils.load_sub_model) == before


def test_vae_values(published):
    from diffusers import AutoencoderKL

    stored = load_file(
        Path(__file__).parents[1] / "golden/cases/models/show-1-sr2/vae/diffusion_pytorch_model.safetensors"
    )
    state = AutoencoderKL.from_pretrained(published["show-1-sr2"], subfolder="vae").state_dict()
    assert all(torch.equal(state[key], value.float()) for key, value in stored.items())
