# SPDX-License-Identifier: Apache-2.0
"""Publishing: what goes up, what does not, how it is gone on with, and that it loads from the Hub."""

import hashlib
import json
import os
import re
import shutil
from configparser import ConfigParser
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusers_show1 import TINY_PATH, Show1KeyframePipeline, save_video
from diffusers_show1.hub import publish as publishing
from diffusers_show1.hub.publish import PublishError, UploadError, publish
from tests.golden.cases import MODELS, seeded

from .upload_hub import TOKEN, UploadHub


REPO = "someone/show-1-base"
PROMPT = "a small clip"
SETTINGS = {"height": 8, "width": 8, "num_frames": 2, "num_inference_steps": 2}


@pytest.fixture(scope="module", autouse=True)
def quiet_client():
    """No Xet: its storage is another service, which the fake Hub does not have."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        yield


@pytest.fixture(scope="module")
def hub():
    with UploadHub() as hub:
        yield hub


@pytest.fixture(scope="module")
def pipe():
    pipe = Show1KeyframePipeline.from_pretrained(MODELS / "show-1-base", variant="fp16", dtype=torch.float32)
    pipe.unet.register_to_config(sample_size=16)  # its own, 8, makes frames of a height that it cannot halve
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def source(pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("source") / "weights"
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return save_video(np.zeros((2, 16, 16, 3)), tmp_path_factory.mktemp("clip") / "any name.mp4")


@pytest.fixture(scope="module")
def publication(source, clip, hub, tmp_path_factory):
    folder = tmp_path_factory.mktemp("published") / "revisions"
    return publish(source, REPO, media={PROMPT: clip}, output=folder, endpoint=hub.url, token=TOKEN)


def copy(source, tmp_path):
    """A source of its own, whose weights are no links to what another test has."""
    return Path(shutil.copytree(source, tmp_path / "weights"))


def index_of(folder):
    return json.loads((folder / "model_index.json").read_text())


# ---------------------------------------------------------------------------------------------------------------------
# What goes up


def test_the_hub_holds_what_was_built_and_listed(publication, hub):
    for revision in ("main", "remote-code"):
        folder = publication.folder / revision
        on_disk = {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*")
            if path.is_file()
        }
        there = hub.files(REPO, revision)
        del there[".gitattributes"]
        assert there == on_disk
        assert {file.path: file.sha256 for file in publication.files[revision]} == on_disk
        assert publication.sent[revision] == sorted(on_disk)
        assert publication.commits[revision] == hub.repos[REPO].branches[revision]
        for path, sha256 in on_disk.items():
            size = (folder / path).stat().st_size
            assert re.search(rf"^  {sha256} +{size:,}  {re.escape(path)}$", publication.listing(), re.MULTILINE)


def test_the_revisions_differ_in_code_and_index_only(publication):
    main, remote = ({file.path: file.sha256 for file in publication.files[r]} for r in ("main", "remote-code"))
    assert remote.keys() - main.keys() == {"pipeline_show1_base.py", "unet/unet_show1.py"}
    assert not main.keys() - remote.keys()
    assert {path for path in main if main[path] != remote[path]} == {"model_index.json", "requirements.txt"}
    for path in ("README.md", "LICENSE.md", "handler.py", "examples/a-small-clip.mp4"):
        assert path in main
    assert index_of(publication.folder / "main")["unet"] == ["diffusers_show1", "Show1UNet3DConditionModel"]
    assert index_of(publication.folder / "remote-code")["_class_name"] == [
        "pipeline_show1_base",
        "Show1KeyframePipeline",
    ]


def test_each_revision_is_one_commit_and_shared_weights_go_up_once(publication, hub):
    assert [hub.count(f"POST /api/models/{REPO}/commit/{revision}") for revision in publishing.REVISIONS] == [1, 1]
    large = {
        f.sha256 for files in publication.files.values() for f in files if f.path.endswith((".safetensors", ".mp4"))
    }
    assert sorted(r for r in hub.requests if r.startswith("PUT")) == sorted(f"PUT /lfs/{sha256}" for sha256 in large)


def test_weights_are_links_and_nothing_else_of_the_source_goes_up(source, tmp_path):
    folder = copy(source, tmp_path)
    for stray in ("optimizer.bin", ".env", "unet/.cache.json", "unet/log.csv", "notes/secret.json"):
        (folder / stray).parent.mkdir(exist_ok=True)
        (folder / stray).write_text("x")
    config = json.loads((folder / "unet/config.json").read_text())
    (folder / "unet/config.json").write_text(json.dumps({**config, "_name_or_path": "/home/me/weights"}))
    made = publish(folder, REPO, revisions=["main"], media={}, dry_run=True, output=tmp_path / "out")
    paths = {file.path for file in made.files["main"]}
    assert not paths & {"optimizer.bin", ".env", "unet/.cache.json", "unet/log.csv", "notes/secret.json"}
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert os.path.samefile(folder / weights, made.folder / "main" / weights)
    for file in made.files["main"]:
        assert b"_name_or_path" not in file.source.read_bytes(), file.path
        assert str(tmp_path).encode() not in file.source.read_bytes(), file.path


def test_a_dry_run_lists_the_same_and_asks_the_hub_nothing(pipe, clip, publication, hub, tmp_path):
    before = len(hub.requests)
    made = publish(
        pipe, REPO, revisions=["main"], media={PROMPT: clip}, dry_run=True, output=tmp_path / "out", endpoint=hub.url
    )
    listing = made.listing()
    assert listing == publication.listing()[: len(listing)]
    assert (len(hub.requests), made.commits, made.sent) == (before, {}, {})


@pytest.mark.skipif(not (TINY_PATH / "model_index.json").is_file(), reason="the tiny cascade is not trained yet")
def test_the_tiny_cascade_is_one_command_away(tmp_path):
    made = publish(TINY_PATH, "someone/show-1-tiny", revisions=["main"], dry_run=True, output=tmp_path / "out")
    paths = {file.path for file in made.files["main"]}
    on_disk = {path.relative_to(TINY_PATH).as_posix() for path in TINY_PATH.rglob("*") if path.is_file()}
    assert paths - on_disk >= {"README.md", "LICENSE.md", "handler.py", "requirements.txt"}
    assert on_disk <= paths
    assert "license: apache-2.0" in (tmp_path / "out/main/README.md").read_text()


def test_requirements_are_those_of_the_package():
    setup = ConfigParser()
    setup.read(Path(__file__).parents[2] / "setup.cfg")
    wanted = setup["options"]["install_requires"].split()
    assert set(publishing.REQUIREMENTS["remote-code"]) <= set(wanted)
    assert publishing.REQUIREMENTS["main"][0].startswith(setup["metadata"]["name"])


# ---------------------------------------------------------------------------------------------------------------------
# Going on


def publish_main(source, hub, **options):
    """The quick half, without a clip."""
    return publish(
        source, REPO, **{"revisions": ["main"], "media": {}, "endpoint": hub.url, "token": TOKEN, **options}
    )


def test_an_interrupted_upload_goes_on_where_it_stopped(source):
    with UploadHub() as hub:
        hub.space_for = 1
        with pytest.raises(UploadError, match=f"^{REPO} is not up to date on the Hub: 403 .*Storage limit reached"):
            publish_main(source, hub)
        assert hub.files(REPO).keys() == {".gitattributes"}  # nobody sees half of it
        assert len(hub.objects) == 1
        hub.space_for = None
        tried = hub.count("PUT /lfs/")
        made = publish_main(source, hub)
        assert hub.count("PUT /lfs/") - tried == 1
        assert hub.files(REPO).items() >= {file.path: file.sha256 for file in made.files["main"]}.items()

        # again: nothing is new
        requests, commits = len(hub.requests), dict(hub.repos[REPO].branches)
        again = publish_main(source, hub)
        assert (again.sent, again.deleted) == ({"main": []}, {"main": []})
        assert again.commits == commits == hub.repos[REPO].branches
        assert not any(request.startswith("PUT") or "/commit/" in request for request in hub.requests[requests:])


def test_only_what_changed_goes_up_and_foreign_files_are_left_alone(source, tmp_path):
    with UploadHub() as hub:
        publish_main(source, hub)
        repo = hub.repos[REPO]
        files = repo.commits[repo.branches["main"]]
        head = repo.commit("main", {**files, "notes.txt": files["README.md"]})
        with pytest.raises(PublishError, match=r"holds files in main .* such as 'notes.txt'"):
            publish_main(source, hub)
        assert repo.branches["main"] == head

        card = tmp_path / "card.md"
        card.write_text("---\nlicense: mit\nlibrary_name: diffusers\npipeline_tag: text-to-video\n---\n# Mine\n")
        made = publish_main(source, hub, card=card, replace=True)
        assert made.sent == {"main": ["README.md"]}
        assert made.deleted == {"main": ["LICENSE.md", "notes.txt"]}
        assert "notes.txt" not in hub.files(REPO)


def test_without_a_token_nothing_is_made(source):
    with UploadHub() as hub, pytest.raises(UploadError, match="401"):
        publish_main(source, hub, token="wrong")
    assert not hub.repos


# ---------------------------------------------------------------------------------------------------------------------
# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repo_id": "show-1-base"}, "`repo_id` must be owner/name, got 'show-1-base'"),
        ({"repo_id": "a/b/c"}, "`repo_id` must be owner/name"),
        ({"revisions": ["dev"]}, "`revisions` must be some of"),
        ({"revisions": "main"}, "`revisions` must be some of"),
        ({"revisions": []}, "`revisions` must be some of"),
        ({"output": None}, "`output` must be the folder that a dry run writes to"),
        ({"output": "."}, "`output` must be a new or empty folder"),
        ({"source": "no such folder"}, "`source` must be a folder that a pipeline was saved to"),
        ({"source": MODELS / "show-1-base"}, "got .* with 'TextToVideoIFPipeline'. `show1 convert`"),
        ({"source": object()}, "`source` must be one of .*, got object"),
        ({"repo_id": "someone/mine"}, "`card` must be one of show-1-base, .*, or the path of your own, got 'mine'"),
        ({"card": "show-1"}, "`card` must be of a Show1KeyframePipeline, got 'show-1'"),
        ({"card": __file__}, "`card` must be one that the Hub accepts, got .*: `license` must say"),
        ({"media": {"a": "missing.mp4"}}, "`media` must be files that end in"),
        ({"media": {"a": __file__}}, "`media` must be files that end in"),
    ],
)
def test_what_cannot_be_published_is_refused_before_anything_is_made(source, tmp_path, options, message):
    given = {"source": source, "repo_id": REPO, "media": {}, "dry_run": True, "output": tmp_path / "out", **options}
    with pytest.raises(PublishError, match=message):
        publish(given.pop("source"), given.pop("repo_id"), **given)
    assert not (tmp_path / "out").exists()


UNET = "unet/diffusion_pytorch_model.safetensors"


def without_a_weight(folder):
    weights = load_file(folder / UNET)
    weights.pop("conv_in.weight")
    save_file(weights, folder / UNET)


def with_one_too_many(folder):
    save_file({**load_file(folder / UNET), "extra.weight": torch.zeros(1)}, folder / UNET)


def cut_short(folder):
    content = (folder / UNET).read_bytes()
    (folder / UNET).write_bytes(content[: len(content) // 2])


def as_a_pickle(folder):
    torch.save(load_file(folder / UNET), folder / "unet/diffusion_pytorch_model.bin")
    (folder / UNET).unlink()


def as_a_variant(folder):
    (folder / UNET).rename(folder / "unet/diffusion_pytorch_model.fp16.safetensors")


def without_a_component(folder):
    shutil.rmtree(folder / "text_encoder")


def of_another_shape(folder):
    config = json.loads((folder / "unet/config.json").read_text())
    (folder / "unet/config.json").write_text(json.dumps({**config, "in_channels": 7}))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (without_a_weight, r"unet has missing keys: \['conv_in.weight'\]"),
        (with_one_too_many, r"unet has unexpected keys: \['extra.weight'\]"),
        (cut_short, "`main` does not load again: "),
        (of_another_shape, "`main` does not load again: .*conv_in.weight"),
        (as_a_pickle, "as safetensors, got unet as diffusion_pytorch_model.bin. `show1 convert`"),
        (as_a_variant, "the weights of unet without a variant"),
        (without_a_component, "without text_encoder"),
    ],
)
def test_what_does_not_load_again_is_not_published(source, tmp_path, break_it, message):
    folder = copy(source, tmp_path)
    break_it(folder)
    with UploadHub() as hub, pytest.raises(PublishError, match=message):
        publish_main(folder, hub)
    assert not hub.requests


def test_remote_code_that_does_not_run_is_not_published(publication, tmp_path):
    folder = Path(shutil.copytree(publication.folder / "remote-code", tmp_path / "remote-code"))
    (folder / "pipeline_show1_base.py").write_text("import diffusers_show1\n")
    with pytest.raises(PublishError, match="`remote-code` does not load without the package: .*diffusers_show1"):
        publishing.check_remote_code(folder)


# ---------------------------------------------------------------------------------------------------------------------
# Loading what was published

LOAD = """
import sys
import numpy as np
{before}
{card}
import torch
pipe.to("cpu", torch.float32)
pipe.set_progress_bar_config(disable=True)
frames = pipe("{prompt}", output_type="np", generator=torch.Generator().manual_seed(3), **{settings}).frames
np.save("{file}", frames)
print(type(pipe).__module__.split(".")[0])
{after}
"""
RUN_HANDLER = """
import base64, importlib.util
from huggingface_hub import snapshot_download
folder = snapshot_download("{repo}", revision="remote-code")
spec = importlib.util.spec_from_file_location("handler", folder + "/handler.py")
handler = importlib.util.module_from_spec(spec)
spec.loader.exec_module(handler)
answer = handler.EndpointHandler(folder)({{"inputs": "{prompt}", "parameters": {{"num_frames": 1,
    "num_inference_steps": 1}}}})
print(base64.b64decode(answer["video"])[4:8].decode(), answer["num_frames"])
"""


@pytest.fixture(scope="module")
def frames(pipe):
    return pipe(PROMPT, output_type="np", generator=seeded(3), **SETTINGS).frames


def run_card(process, hub, folder, revision, frames, before="", after=""):
    """Run the lines of the published card that load `revision`, in a new process with an empty cache.

    The pipeline that they make has to give `frames`. Returns what the process printed.
    """
    repo = hub.repos[REPO]
    readme = repo.commits[repo.branches[revision]]["README.md"].read().decode()
    (code,) = [
        block
        for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
        if "from_pretrained" in block and ("remote-code" in block) == (revision == "remote-code")
    ]
    file = folder / "frames.npy"
    script = LOAD.format(before=before, card=code, prompt=PROMPT, settings=SETTINGS, after=after, file=file)
    done = process(script, folder / "cache", HF_ENDPOINT=hub.url, HF_HUB_DISABLE_XET="1")
    assert done.returncode == 0, done.stderr[-2000:]
    np.testing.assert_allclose(np.load(file), frames, atol=1e-4)
    return done.stdout.split()


def test_main_loads_from_the_hub_as_its_card_says(publication, hub, process, frames, tmp_path):
    assert run_card(process, hub, tmp_path, "main", frames) == ["diffusers_show1"]


def test_remote_code_loads_from_the_hub_without_the_package(publication, hub, process, frames, tmp_path):
    before = 'sys.modules["diffusers_show1"] = None'
    after = RUN_HANDLER.format(repo=REPO, prompt=PROMPT)
    out = run_card(process, hub, tmp_path, "remote-code", frames, before, after)
    assert out == ["diffusers_modules", "ftyp", "1"]
