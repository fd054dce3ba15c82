# SPDX-License-Identifier: Apache-2.0
"""The bundles of `pipelines/`: fresh, self-contained, and the same numbers where this package can't be imported.

Everything that loads remote code runs in a process of its own: `diffusers_show1` blocked, offline, its caches empty at
the start.
"""

import ast
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import DDIMScheduler, IFSuperResolutionPipeline
from diffusers.utils.dynamic_modules_utils import get_relative_imports

from diffusers_show1 import (
    Show1CascadePipeline,
    Show1InterpolationPipeline,
    Show1KeyframePipeline,
    Show1RefinementPipeline,
    Show1UNet3DConditionModel,
    families,
)
from diffusers_show1.families import all_families
from diffusers_show1.hub import bundle

from ..golden import cases
from . import sibling


PIPELINES = Path(__file__).parents[2] / "pipelines"
BUNDLES = sorted(PIPELINES.glob("*.py"))
PUBLISHED = Path(__file__).parent / "published"
REPOSITORIES = {repository.name: repository for repository in bundle.own_repositories()}
PROMPT = "a red circle moving right"
COMMIT = "c0ffee" + "0" * 34

# What `sitecustomize` runs before anything else: works whether or not the package is installed.
BLOCKER = """
import sys


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "diffusers_show1":
            raise ImportError(f"{name} is blocked in this process")


sys.meta_path.insert(0, Blocker())
"""

# Loads every folder, then calls every pipeline: modules of one name have replaced each other by then.
STRANGER = """
import json, sys
import torch
from diffusers import DiffusionPipeline

folders, calls, results = json.loads(sys.argv[1]), torch.load(sys.argv[2]), sys.argv[3]
torch.set_num_threads(int(sys.argv[4]))
pipes = {name: DiffusionPipeline.from_pretrained(folder, trust_remote_code=True) for name, folder in folders.items()}
pipes["from the cache"] = DiffusionPipeline.from_pretrained(
    "someone/show-1-base", revision="remote-code", trust_remote_code=True
)
frames = {}
for name, pipe in pipes.items():
    pipe.set_progress_bar_config(disable=True)
    call = calls["show-1-base" if name == "from the cache" else name]
    frames[name] = pipe(**call, generator=torch.Generator().manual_seed(0), output_type="pt").frames
torch.save(frames, results + "/frames.pt")

facts = {name: [type(pipe).__module__, type(pipe).__name__] for name, pipe in pipes.items()}
unets = [type(getattr(pipes["show-1"], name + "_unet")) for name in pipes["show-1"].stage_names]
facts["networks"] = [len(set(unets)), len({unet.__qualname__ for unet in unets})]
base, again = pipes["show-1-base"], results + "/again"
base.save_pretrained(again)
facts["index saved again"] = json.load(open(again + "/model_index.json"))
try:
    DiffusionPipeline.from_pretrained(again, trust_remote_code=True)
except Exception as error:
    facts["saved again"] = f"{type(error).__name__}: {error}"
try:
    import diffusers_show1
except ImportError as error:
    facts["package"] = str(error)
json.dump(facts, open(results + "/facts.json", "w"))
"""


# --- the files ---------------------------------------------------------------------------------------------------


def test_bundles_are_fresh():
    assert bundle.stale_files(PIPELINES) == [], "run `make bundle`"


def test_check_names_stale_files(tmp_path, capsys):
    assert bundle.main(["--output", str(tmp_path)]) == 0
    assert bundle.main(["--output", str(tmp_path), "--check"]) == 0
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "left_over.py").write_bytes((tmp_path / "unet_show1.py").read_bytes())
    (tmp_path / "by_hand.py").write_text("# somebody's own\n")
    (tmp_path / "pipeline_show1_base.py").unlink()
    (tmp_path / "unet_show1.py").write_bytes((tmp_path / "left_over.py").read_bytes().replace(b"\n", b"\r\n"))
    assert bundle.main(["--output", str(tmp_path), "--check"]) == 1
    stale = ("left_over.py", "manifest.json", "pipeline_show1_base.py", "unet_show1.py")
    assert [line.split(" is stale")[0] for line in capsys.readouterr().err.splitlines()] == [
        str(tmp_path / name) for name in stale
    ]
    assert bundle.main(["--output", str(tmp_path)]) == 0
    assert bundle.stale_files(tmp_path) == []
    assert {path.name for path in tmp_path.iterdir()} == {*bundle.all_files(), "by_hand.py"}


def test_every_file_is_there_once():
    """One of each class that is bundled, and a manifest of where they stand; five repositories, one of them with four
    networks of one file."""
    manifest = json.loads((PIPELINES / "manifest.json").read_text())
    assert list(manifest) == ["show-1", "show-1-base", "show-1-interpolation", "show-1-sr1", "show-1-sr2"]
    assert {file for entry in manifest.values() for file in entry["files"].values()} == {p.name for p in BUNDLES}
    assert len(BUNDLES) == 5 + 1
    assert len({path.read_bytes() for path in BUNDLES}) == len(BUNDLES)
    networks = [path for path, file in manifest["show-1"]["files"].items() if file == "unet_show1.py"]
    stages = ("base", "interpolation", "refine", "superres")
    assert networks == [f"{stage}_unet/unet_show1.py" for stage in stages]
    for entry in manifest.values():
        assert all(Path(path).name == file for path, file in entry["files"].items())


def test_readme_names_every_repository_and_file():
    readme = (PIPELINES / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in readme for name in REPOSITORIES)
    assert all(f"`{path.name}`" in readme for path in BUNDLES)


@pytest.mark.parametrize("path", BUNDLES, ids=lambda path: path.stem)
def test_imports(path):
    allowed = {"torch", "transformers", "diffusers", "numpy", "PIL", "bs4"} | sys.stdlib_module_names
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= allowed
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            assert node.module.split(".")[0] in allowed
    assert get_relative_imports(path) == []  # what diffusers sees, by regular expressions over docstrings too


@pytest.mark.parametrize("path", BUNDLES, ids=lambda path: path.stem)
def test_every_definition_is_used(path):
    """Each top-level name but that of the class is read somewhere outside its own definition."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    root = next(name for family in all_families() for name, stem in family.bundles.items() if stem == path.stem)
    reads = [{n.id for n in ast.walk(node) if isinstance(n, ast.Name)} for node in tree.body]
    for i, node in enumerate(tree.body):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name != root:
            assert any(node.name in names for j, names in enumerate(reads) if j != i), node.name


@pytest.mark.parametrize("path", BUNDLES, ids=lambda path: path.stem)
def test_style(path):
    ruff = [sys.executable, "-m", "ruff"]
    if subprocess.run([*ruff, "--version"], capture_output=True).returncode:
        pytest.skip("ruff is not installed")
    isolated = ["--isolated", "--line-length", str(bundle.LINE_LENGTH), "--target-version", "py311"]
    isort = ["--config", "lint.isort.lines-after-imports=2"]
    subprocess.run([*ruff, "check", "--select", "E,F,I,W,UP,B,C4", *isolated, *isort, path], check=True)
    subprocess.run([*ruff, "format", "--check", *isolated, path], check=True)


def test_index_templates(folders):
    """They name just what the pipelines register and save."""
    manifest = json.loads((PIPELINES / "manifest.json").read_text())
    networks = 0
    for name, repository in REPOSITORIES.items():
        template = manifest[name]["model_index.json"]
        saved = json.loads((folders / name / "model_index.json").read_text())
        assert template.keys() == saved.keys()
        assert template["_class_name"] == saved["_class_name"] == [repository.module, repository.pipeline]
        for component, entry in template.items():
            if entry == ["unet_show1", "Show1UNet3DConditionModel"]:
                networks += 1
                assert saved[component] == entry
            elif isinstance(entry, list) and entry[0] in ("diffusers", "transformers"):
                assert saved[component][0] in (entry[0], None)  # the test's own components are other ones
    assert networks == 4 + 4


def test_published_indexes_agree():
    """What the templates name is what the published repositories name, but for the classes of ours."""
    manifest = json.loads((PIPELINES / "manifest.json").read_text())
    for name in ("show-1-base", "show-1-interpolation", "show-1-sr1", "show-1-sr2"):
        published = json.loads((PUBLISHED / name / "model_index.json").read_text())
        template = manifest[name]["model_index.json"]
        for component, entry in published.items():
            if not component.startswith("_") and component != "unet":
                assert template[component] == entry, (name, component)


def test_source_that_can_not_be_inlined(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "not_to_be_inlined"
    folder.mkdir()
    for name, text in {
        "__init__.py": "",
        "alias.py": "from .other import name as alias\n",
        "inside.py": "def function():\n    from .other import name\n",
        "branch.py": "if True:\n    name = 1\n",
        "one.py": "from .two import name, use\n\n\ndef main():\n    return name, use, limit\n\n\nlimit = 1\n",
        "two.py": "limit = 2\n\n\ndef use():\n    return limit\n\n\nname = 3\n",
        "lost.py": "from .two import gone\n\n\ndef main():\n    return gone\n",
        "whole.py": "import diffusers_show1.nn\n",
    }.items():
        (folder / name).write_text(text)
    for name in ("alias", "inside", "branch", "whole"):
        with pytest.raises(ValueError, match=rf"not_to_be_inlined/{name}\.py:"):
            bundle.read_module(f"not_to_be_inlined.{name}")
    with pytest.raises(ValueError, match=r"`limit` means two things, the second in not_to_be_inlined/one\.py"):
        bundle.bundle("not_to_be_inlined.one", "main")
    with pytest.raises(ValueError, match=r"lost\.py imports `gone` from a module of ours that does not define it"):
        bundle.bundle("not_to_be_inlined.lost", "main")
    with pytest.raises(ValueError, match="no module that could be read"):
        bundle.bundle("not_to_be_inlined.nonesuch", "main")


def test_imports_for_types(tmp_path, monkeypatch):
    """Two modules that name each other, one of them in annotations only: in the order that the code needs."""
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "to_be_inlined"
    folder.mkdir()
    (folder / "__init__.py").touch()
    future = "from __future__ import annotations\n\nfrom typing import TYPE_CHECKING\n\n"
    (folder / "user.py").write_text(
        f'"""User."""\n\n{future}from .tool import Tool\n\n\nclass User(Tool):\n    pass\n'
    )
    (folder / "tool.py").write_text(
        f'"""Tool."""\n\n{future}if TYPE_CHECKING:\n    from torch import Tensor\n\n    from .user import User\n\n\n'
        "class Tool:\n    def of(self, user: User) -> Tensor:\n        return user\n"
    )
    text = bundle.bundle("to_be_inlined.user", "User")
    assert text.index("class Tool") < text.index("class User(Tool)")
    assert "from torch import Tensor" in text
    assert "TYPE_CHECKING" not in text
    exec(compile(text, "bundle", "exec"), {})


def test_the_network_is_one_file():
    """It executes by itself, and has what it took over of the shared parts in front of it."""
    path = PIPELINES / "unet_show1.py"
    names = [n.name for n in ast.parse(path.read_text()).body if isinstance(n, ast.ClassDef)]
    assert names[-1] == "Show1UNet3DConditionModel"
    assert {"TextCache", "Attention", "AddedKVAttention", "TransformerBlock", "TemporalConvLayer"} < set(names)
    assert "DeepCacheConfig" not in names  # the network takes one, but does not make it


# --- where the package is not --------------------------------------------------------------------------------------


def video(frames: int, height: int, width: int) -> torch.Tensor:
    return torch.rand(1, frames, 3, height, width, generator=torch.Generator().manual_seed(1))


CALLS = {
    "show-1-base": {"prompt": PROMPT, "height": 8, "width": 12, "num_frames": 2, "num_inference_steps": 2},
    "show-1-interpolation": {"prompt": PROMPT, "frames": video(2, 8, 12), "num_inference_steps": 2},
    "show-1-sr1": {
        "prompt": PROMPT,
        "frames": video(4, 4, 4),
        "window_size": 3,
        "num_inference_steps": 1,
        "first_frame_num_inference_steps": 1,
    },
    "show-1-sr2": {"prompt": PROMPT, "frames": video(2, 16, 16), "num_inference_steps": 2},
    "show-1": {"prompt": PROMPT, "num_frames": 2},
}
STAGE_DEFAULTS = {
    "base": {"height": 8, "width": 12, "num_inference_steps": 1},
    "interpolation": {"num_inference_steps": 1},
    "superres": {"height": 16, "width": 32, "num_inference_steps": 1, "first_frame_num_inference_steps": 1},
    "refine": {"height": 16, "width": 32, "num_inference_steps": 2},
}


@pytest.fixture(scope="module")
def pipe():
    fp16 = {"variant": "fp16", "dtype": torch.float32}
    unused = {"tokenizer": None, "text_encoder": None}
    refine_unet = Show1UNet3DConditionModel.from_pretrained(cases.MODELS / "show-1-sr2", subfolder="unet")
    pipe = Show1CascadePipeline.from_stages(
        base=Show1KeyframePipeline.from_pretrained(cases.MODELS / "show-1-base", **fp16),
        interpolation=Show1InterpolationPipeline.from_pretrained(
            cases.MODELS / "show-1-interpolation", **unused, **fp16
        ),
        superres=cases.MODELS / "show-1-sr1",
        refine=Show1RefinementPipeline.from_pretrained(cases.MODELS / "show-1-sr2", unet=refine_unet),
        first_frame=IFSuperResolutionPipeline.from_pretrained(cases.MODELS / "if-ii", **fp16),
        stage_defaults=STAGE_DEFAULTS,
        dtype=torch.float32,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def stages(pipe):
    """Folder -> the package's pipeline."""
    return {
        "show-1-base": pipe.base,
        "show-1-interpolation": pipe.interpolation,
        "show-1-sr1": pipe.superres,
        "show-1-sr2": pipe.refine,
        "show-1": pipe,
    }


@pytest.fixture(scope="module")
def folders(stages, tmp_path_factory):
    """All five with weights: from a loaded pipeline, and the cascade from a saved folder."""
    root = tmp_path_factory.mktemp("remote_code")
    for name, stage in stages.items():
        if name == "show-1":
            stage.save_pretrained(root / "saved")
            stage = root / "saved"
        bundle.write_remote_code(stage, root / name)
    return root


@pytest.fixture(scope="module")
def stranger(folders, tmp_path_factory):
    """Runs Python without the package, offline, in an empty folder."""
    home = tmp_path_factory.mktemp("stranger")
    (home / "site").mkdir()
    (home / "site" / "sitecustomize.py").write_text(BLOCKER)
    (home / "cwd").mkdir()
    cached = home / "hf" / "hub" / "models--someone--show-1-base"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "remote-code").write_text(COMMIT)
    (cached / "snapshots").mkdir()
    bundle.write_remote_code(folders / "show-1-base", cached / "snapshots" / COMMIT)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON"))}
    environment.update(
        PYTHONPATH=str(home / "site"), HF_HOME=str(home / "hf"), HF_HUB_OFFLINE="1", DIFFUSERS_VERBOSITY="error"
    )

    def run(*arguments):
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=home / "cwd",
            env=environment,
            capture_output=True,
            text=True,
        )

    return run


@pytest.fixture(scope="module")
def elsewhere(stranger, folders, tmp_path_factory):
    """What the bundles give: frames a folder, and some facts."""
    results = tmp_path_factory.mktemp("results")
    torch.save(CALLS, results / "calls.pt")
    paths = json.dumps({name: str(folders / name) for name in CALLS})
    done = stranger("-c", STRANGER, paths, results / "calls.pt", results, torch.get_num_threads())
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(results / "frames.pt"), json.loads((results / "facts.json").read_text()), results


@pytest.mark.parametrize("name", list(CALLS))
def test_same_numbers_without_the_package(name, stages, elsewhere):
    frames, facts, _ = elsewhere
    assert facts["package"] == "diffusers_show1 is blocked in this process"
    repository = REPOSITORIES[name]
    assert facts[name] == [f"diffusers_modules.local.{repository.module}", repository.pipeline]
    stages[name].set_progress_bar_config(disable=True)
    expected = stages[name](**CALLS[name], generator=cases.seeded(0), output_type="pt").frames
    assert torch.equal(frames[name], expected)


def test_same_numbers_from_the_cache(elsewhere):
    """By repository id and revision, from a Hub cache, offline."""
    frames, _, _ = elsewhere
    assert torch.equal(frames["from the cache"], frames["show-1-base"])


def test_networks_of_a_cascade(elsewhere):
    """One file executed in four folders: four classes of one name. Nothing of ours may compare them."""
    _, facts, _ = elsewhere
    assert facts["networks"] == [4, 1]


def test_saved_again(elsewhere):
    """diffusers copies no code and names modules of its own cache: such a folder does not load."""
    _, facts, results = elsewhere
    index = facts["index saved again"]
    assert index["_class_name"] == "Show1KeyframePipeline"
    assert index["unet"] == ["diffusers_modules.local.unet_show1", "Show1UNet3DConditionModel"]
    assert "Show1KeyframePipeline" in facts["saved again"]
    # with the package it becomes a repository again, in place
    bundle.write_remote_code(results / "again", results / "again")
    code = {path.relative_to(results / "again").as_posix() for path in (results / "again").rglob("*.py")}
    assert code == {"pipeline_show1_base.py", "unet/unet_show1.py"}
    index = json.loads((results / "again" / "model_index.json").read_text())
    assert index["_class_name"] == ["pipeline_show1_base", "Show1KeyframePipeline"]
    assert index["unet"] == ["unet_show1", "Show1UNet3DConditionModel"]


def test_diffusers_cli_run(stages, stranger, folders, tmp_path):
    """`diffusers-cli run -m FOLDER --trust-remote-code`: the frames that the package makes of the same seed."""
    cli = Path(sys.executable).with_name("diffusers-cli")
    done = stranger(
        *(cli, "run", "-m", folders / "show-1-base", "--trust-remote-code", "--device-map", "cpu", "--seed", "0"),
        *("--pipeline-kwargs", json.dumps(CALLS["show-1-base"]), "-o", f"{tmp_path}{os.sep}"),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    expected = stages["show-1-base"](**CALLS["show-1-base"], generator=cases.seeded(0)).frames[0]
    written = sorted((tmp_path / "0000-frames").glob("*.png"))
    assert len(written) == len(expected)
    for path, frame in zip(written, expected, strict=True):
        assert np.array_equal(np.asarray(PIL.Image.open(path)), np.asarray(frame))
    assert (tmp_path / "0000.mp4").stat().st_size > 0


@pytest.mark.xfail(
    strict=True, reason="diffusers 0.42: `schema` reads `_class_name` as a string, and custom code needs a pair"
)
def test_diffusers_cli_schema(stranger, folders):
    """When this passes, diffusers has learnt it: take the mark off and correct docs/remote_code.md."""
    cli = Path(sys.executable).with_name("diffusers-cli")
    done = stranger(cli, "schema", "-m", folders / "show-1-base", "--trust-remote-code")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "num_inference_steps" in done.stdout


# --- write_remote_code -------------------------------------------------------------------------------------------


def test_published_folder(tmp_path):
    """A published repository keeps its files; code comes beside them, and the index names it."""
    source = cases.MODELS / "show-1-interpolation"
    folder = bundle.write_remote_code(source, tmp_path / "repository")
    added = {"pipeline_show1_interpolation.py", "unet/unet_show1.py"}

    def files(root):
        return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}

    assert files(folder) == files(source) | added
    for name in files(source) - {"model_index.json"}:
        assert (folder / name).read_bytes() == (source / name).read_bytes()
    index = json.loads((folder / "model_index.json").read_text())
    published = json.loads((source / "model_index.json").read_text())
    assert index.pop("_class_name") == ["pipeline_show1_interpolation", "Show1InterpolationPipeline"]
    assert index.pop("unet") == ["unet_show1", "Show1UNet3DConditionModel"]
    assert index == {k: v for k, v in published.items() if k not in ("_class_name", "unet")}


def test_published_refinement(tmp_path):
    """Published under the name of diffusers' own pipeline: ours by its network, and only by that."""
    source, folder = tmp_path / "source", tmp_path / "repository"
    source.mkdir()
    index = json.loads((cases.MODELS / "show-1-sr2" / "model_index.json").read_text())
    (source / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="got a VideoToVideoSDPipeline"):
        bundle.write_remote_code(source, folder)
    assert not folder.exists()
    index["unet"] = ["showone.models.unet_3d_condition", "UNet3DConditionModel"]
    (source / "model_index.json").write_text(json.dumps(index))
    bundle.write_remote_code(source, folder)
    assert (folder / "pipeline_show1_refine.py").is_file()
    assert (folder / "unet" / "unet_show1.py").read_bytes() == (PIPELINES / "unet_show1.py").read_bytes()


def test_links_are_not_written_through(tmp_path):
    """In a snapshot of the Hub's cache every file is a link to one that other snapshots may share."""
    blob, folder = tmp_path / "blob", tmp_path / "snapshot"
    blob.write_bytes((cases.MODELS / "show-1-base" / "model_index.json").read_bytes())
    before = blob.read_bytes()
    folder.mkdir()
    (folder / "model_index.json").symlink_to(blob)
    bundle.write_remote_code(folder, folder)
    assert blob.read_bytes() == before
    assert json.loads((folder / "model_index.json").read_text())["unet"] == ["unet_show1", "Show1UNet3DConditionModel"]


def test_no_pipeline(tmp_path):
    with pytest.raises(ValueError, match="the folder of a saved one"):
        bundle.write_remote_code(tmp_path, tmp_path / "repository")
    with pytest.raises(ValueError, match="got a IFSuperResolutionPipeline"):
        bundle.write_remote_code(cases.MODELS / "if-ii", tmp_path / "repository")


# --- a family that lives elsewhere -------------------------------------------------------------------------------


@pytest.fixture
def added():
    families.add(sibling.FAMILY)
    yield sibling.FAMILY
    families._added.pop(sibling.FAMILY.name)


@pytest.fixture
def sibling_pipe(added):
    torch.manual_seed(0)
    base = Show1KeyframePipeline.from_pretrained(
        cases.MODELS / "show-1-base", variant="fp16", dtype=torch.float32, unet=None
    )
    weights = Show1UNet3DConditionModel.from_pretrained(
        cases.MODELS / "show-1-base", subfolder="unet", variant="fp16", dtype=torch.float32
    )
    unet = added.load("SiblingUNet").from_config(weights.config)
    unet.load_state_dict(weights.state_dict())
    pipe = added.cascade_class(
        tokenizer=base.tokenizer,
        text_encoder=base.text_encoder,
        first_unet=unet.eval(),
        first_scheduler=base.scheduler,
        between_unet=added.load("SiblingInterpolator")().eval(),
        between_scheduler=DDIMScheduler(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_templates_of_a_family_that_was_added(added):
    """Two networks, one of which two rungs share; what the signatures leave open the entry says."""
    files = bundle.all_files([*bundle.own_repositories(), *(bundle.Repository(added, p) for p in added.pipelines)])
    manifest = json.loads(files["manifest.json"])
    assert set(manifest) - set(REPOSITORIES) == {"a-sibling", "a-sibling-first", "a-sibling-second"}
    assert manifest["a-sibling"]["files"] == {
        "pipeline_sibling.py": "pipeline_sibling.py",
        "first_unet/unet_sibling.py": "unet_sibling.py",
        "between_unet/interpolator_sibling.py": "interpolator_sibling.py",
    }
    index = manifest["a-sibling"]["model_index.json"]
    assert index["_class_name"] == ["pipeline_sibling", "SiblingCascadePipeline"]
    assert index["first_unet"] == ["unet_sibling", "SiblingUNet"]
    assert index["between_unet"] == ["interpolator_sibling", "SiblingInterpolator"]
    assert index["between_scheduler"] == ["diffusers", "DDIMScheduler"]
    assert index["text_encoder"] == ["transformers", "T5EncoderModel"]
    assert index["safety_checker"] == [None, None]
    second = manifest["a-sibling-second"]
    assert second["model_index.json"]["unet"] == ["interpolator_sibling", "SiblingInterpolator"]
    assert second["files"]["unet/interpolator_sibling.py"] == "interpolator_sibling.py"
    # what the others are made of did not change
    assert {name: files[name] for name in (path.name for path in BUNDLES)} == {p.name: p.read_text() for p in BUNDLES}


def test_pipelines_hold_our_own_families_only(added):
    assert bundle.stale_files(PIPELINES) == []


def test_one_name_for_two_classes(added):
    """The later file would take the earlier one's place."""
    family = dataclasses.replace(added, bundles={**added.bundles, "SiblingInterpolator": "unet_sibling"})
    families._added[family.name] = family
    with pytest.raises(ValueError, match="`bundles` must give each class a name of its own, got 'unet_sibling' twice"):
        bundle.all_files([bundle.Repository(family, p) for p in added.pipelines])


def test_open_components_are_told(added):
    family = dataclasses.replace(added, components={})
    with pytest.raises(ValueError, match="`components` of A Sibling must say which class `scheduler` is of"):
        bundle.index_template(bundle.Repository(family, "SiblingKeyframePipeline"))


LONE_CASCADE = """
import json, sys
import torch
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True)
pipe.set_progress_bar_config(disable=True)
frames = pipe("a red circle", num_frames=17, generator=torch.Generator().manual_seed(0), output_type="pt").frames
torch.save(frames, sys.argv[2])
for package in ("diffusers_show1", "tests"):
    try:
        __import__(package)
    except ImportError:
        continue
    sys.exit(f"{package} can be imported")
print(type(pipe).__name__, type(pipe.first_unet).__name__, type(pipe.between_unet).__name__)
"""


def test_a_family_that_was_added_runs_without_the_package(sibling_pipe, stranger, tmp_path):
    """Published from a loaded pipeline: the same video where neither package is."""
    bundle.write_remote_code(sibling_pipe, tmp_path / "repository")
    code = {path.relative_to(tmp_path / "repository").as_posix() for path in (tmp_path / "repository").rglob("*.py")}
    assert code == {
        "pipeline_sibling.py",
        "first_unet/unet_sibling.py",
        "between_unet/interpolator_sibling.py",
    }
    done = stranger("-c", LONE_CASCADE, tmp_path / "repository", tmp_path / "frames.pt")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split()[-3:] == ["SiblingCascadePipeline", "SiblingUNet", "SiblingInterpolator"]
    options = {"num_frames": 17, "generator": cases.seeded(0), "output_type": "pt"}
    expected = sibling_pipe("a red circle", **options).frames
    assert expected.shape == (1, 17, 3, 8, 12)
    assert expected.std() > 1e-3
    assert torch.equal(torch.load(tmp_path / "frames.pt"), expected)
