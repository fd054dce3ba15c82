# SPDX-License-Identifier: Apache-2.0
"""Publishes a stage or a cascade: one Hub repository with two revisions, made and checked together.

    publish("weights", "me/show-1-base", dry_run=True, output="look")   # writes look/main and look/remote-code
    publish("weights", "me/show-1-base")

`main` needs this package and no remote code; `remote-code` carries the code itself (`hub/bundle.py`) and needs no
package. Both hold the same weights, card, licence note, example clips and endpoint handler. Nothing goes up that did
not load again from the folder that goes up, each revision the way its users load it.

A revision goes up as one commit, so that nobody ever sees half of one. What is interrupted is run again: large files
that arrived are not sent twice, and a revision that is up to date gets no commit.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..families import all_families, family_of
from ..version import __version__
from . import card_sections, cards
from .folder import leads_out


if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

REVISIONS = ("main", "remote-code")
WEIGHTS = ".safetensors"
PICKLES = (".bin", ".ckpt", ".pt", ".pth")  # a file of these may run code when it is read: never published
# The files of a component that its loader reads. Whatever else lies in a folder (logs, optimiser states, caches, keys)
# stays where it is.
BESIDE = ("vocabulary.json",)  # what a model says of itself, beside its index (runs/vocabulary.py)
COMPONENT_FILES = (".json", ".model", WEIGHTS, ".txt")
MEDIA_ENDINGS = (".gif", ".mp4", ".webp")
REQUIREMENTS = {
    "main": (f"diffusers-show1>={__version__}",),
    # those of setup.cfg that the pipelines and the handler import; a test compares them
    "remote-code": (
        "accelerate>=1.10",
        "av>=14",
        "beautifulsoup4>=4.12",
        "diffusers>=0.42.1,<0.43",
        "ftfy>=6.1",
        "numpy>=2.0",
        "pillow>=11.0",
        "protobuf>=5.0",
        "safetensors>=0.6",
        "sentencepiece>=0.2",
        "torch>=2.10",
        "transformers>=5.23,<6",
    ),
}


class PublishError(ValueError):
    """What was asked for cannot be published, and the message says why."""


class UploadError(RuntimeError):
    """The Hub refused, or was out of reach, and the message says how. Running the same again goes on."""


@dataclass(frozen=True)
class LocalFile:
    """A file of a revision: its path there, its content, and where it stands in the folder that goes up."""

    path: str
    size: int  # bytes
    sha256: str
    source: Path

    def is_on_the_hub_as(self, remote: Any) -> bool:
        """Whether the Hub's file (a `RepoFile`) has this content. Large ones are known there by SHA-256, others by
        git's SHA-1."""
        if remote.size != self.size:
            return False
        if remote.lfs is not None:
            return bool(remote.lfs.sha256 == self.sha256)
        content = self.source.read_bytes()
        return bool(remote.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest())


@dataclass
class Publication:
    """What `publish` made, and what it did with it.

    Attributes:
        files: revision -> all its files.
        folder: where the revisions' folders are; None if they were temporary and are gone.
        commits: revision -> the id of the commit that it is at on the Hub; empty after a dry run.
        sent, deleted: revision -> the paths that this run changed there.
    """

    repo_id: str
    files: dict[str, list[LocalFile]]
    folder: Path | None = None
    commits: dict[str, str] = field(default_factory=dict)
    sent: dict[str, list[str]] = field(default_factory=dict)
    deleted: dict[str, list[str]] = field(default_factory=dict)

    def listing(self) -> str:
        """Every file of every revision: SHA-256, size in bytes, path."""
        lines = []
        for revision, files in self.files.items():
            total = sum(file.size for file in files)
            lines.append(f"{self.repo_id}, revision {revision}: {len(files)} files, {total:,} bytes")
            width = max(len(f"{file.size:,}") for file in files)
            lines += [f"  {file.sha256}  {file.size:>{width},}  {file.path}" for file in files]
        return "\n".join(lines)


def publish(
    source: DiffusionPipeline | str | os.PathLike[str],
    repo_id: str,
    *,
    revisions: Sequence[str] = REVISIONS,
    card: str | os.PathLike[str] | None = None,
    media: Mapping[str, str | os.PathLike[str]] | None = None,
    dry_run: bool = False,
    output: str | os.PathLike[str] | None = None,
    replace: bool = False,
    private: bool | None = None,
    message: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
) -> Publication:
    """Build the revisions of a repository, check that they load, and put them on the Hub.

    Args:
        source: a loaded pipeline of this package, or a folder that one was saved to.
        repo_id: `owner/name`; made if it does not exist.
        revisions: which of `main` and `remote-code` go up.
        card: a name in `cards.all_cards()`, or the path of a card of your own, beside which a LICENSE.md may stand. By
            default the repository's name, if there is a card of that name: those cards say whose the weights are and
            what they can do, which is true of the published weights and of the tiny cascade, and of nothing else.
        media: prompt -> example clip (.mp4, .gif, .webp), shown with the card's widget. By default the card's own.
        dry_run: build and check only.
        output: a new or empty folder for the revisions' folders, which stay there; needed for a dry run. Weights
            become hard links to those of `source` where both are on one disk.
        replace: delete what the repository holds besides. Without it such a repository is left alone.
        private: for a new repository; None leaves it to the owner's settings.
        message: of the commits.
        token: of the Hub; by default the one that `huggingface_hub` finds (`HF_TOKEN`).
        endpoint: the Hub's address; likewise (`HF_ENDPOINT`).

    Returns:
        What was built and put up: `listing()` has every file.

    Raises:
        PublishError: the source is none of ours, is incomplete or does not load again; a card or clip cannot be used;
            the repository holds files that are not of this publication.
        UploadError: the Hub refused or was out of reach; the same call again goes on where it stopped.
    """
    _check_arguments(repo_id, revisions, dry_run, output)
    with tempfile.TemporaryDirectory(prefix="show1-publish-") as scratch:
        folder = Path(output) if output is not None else Path(scratch) / "revisions"
        if not isinstance(source, (str, os.PathLike)):
            if type(source).__name__ not in _pipelines():
                raise PublishError(f"`source` must be one of {', '.join(_pipelines())}, got {type(source).__name__}.")
            source.save_pretrained(Path(scratch) / "pipeline", safe_serialization=True)
            source = Path(scratch) / "pipeline"
        folders = build(Path(source), repo_id, folder, revisions, card, media)
        digests: dict[tuple[int, int], str] = {}
        files = {revision: list(_files_in(folders[revision], digests)) for revision in revisions}
        publication = Publication(repo_id, files, folder if output is not None else None)
        if not dry_run:
            try:
                _upload(publication, replace, private, message, token, endpoint)
            except PublishError:
                raise
            except Exception as error:  # the client's own, the network's, the disk's: the same to who waits
                told = " ".join(str(error.__cause__ or error).split())
                raise UploadError(f"{repo_id} is not up to date on the Hub: {told}") from error
        return publication


def _pipelines() -> list[str]:
    """What can be published: the stages and cascades of all families."""
    return sorted(name for family in all_families() for name in family.pipelines)


def _check_arguments(
    repo_id: str, revisions: Sequence[str], dry_run: bool, output: str | os.PathLike[str] | None
) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise PublishError(f"`repo_id` must be owner/name, got {repo_id!r}.") from error
    if "/" not in repo_id:
        raise PublishError(f"`repo_id` must be owner/name, got {repo_id!r}.")
    if isinstance(revisions, str) or not revisions or set(revisions) - {*REVISIONS}:
        raise PublishError(f"`revisions` must be some of {REVISIONS}, got {revisions!r}.")
    if dry_run and output is None:
        raise PublishError("`output` must be the folder that a dry run writes to, got None.")
    if output is not None and Path(output).exists() and (not Path(output).is_dir() or any(Path(output).iterdir())):
        raise PublishError(f"`output` must be a new or empty folder, got {os.fspath(output)!r}.")


# ---------------------------------------------------------------------------------------------------------------------
# Building


def build(
    source: Path,
    repo_id: str,
    folder: Path,
    revisions: Sequence[str] = REVISIONS,
    card: str | os.PathLike[str] | None = None,
    media: Mapping[str, str | os.PathLike[str]] | None = None,
) -> dict[str, Path]:
    """Write a folder for each revision below `folder` and check that it loads; returns revision -> folder.

    Raises `PublishError` as `publish` does.
    """
    index = read_index(source)
    extras = _extras(index["_class_name"], repo_id, card, media)
    family = family_of(index["_class_name"])
    family_requirements = () if family is None else family.requirements
    folders = {revision: folder / revision for revision in revisions}
    with tempfile.TemporaryDirectory(prefix="show1-publish-") as scratch:
        main = folders.get("main", Path(scratch) / "main")
        _copy_pipeline(source, index, main)
        if "remote-code" in folders:
            _copy_remote_code(main, folders["remote-code"])
    for revision, target in folders.items():
        needed = [*REQUIREMENTS[revision], *(family_requirements if revision == "main" else ())]
        for path, content in {**extras, "requirements.txt": _lines(needed)}.items():
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            (target / path).write_bytes(content)
        {"main": check_main, "remote-code": check_remote_code}[revision](target)
    return folders


def read_index(source: Path) -> dict[str, Any]:
    """The `model_index.json` of a folder that a pipeline of this package was saved to; `PublishError` for others."""
    try:
        index = json.loads((source / "model_index.json").read_text(encoding="utf-8"))
        name = index["_class_name"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise PublishError(
            f"`source` must be a folder that a pipeline was saved to, got {str(source)!r}, which has no readable "
            "model_index.json."
        ) from error
    if not isinstance(name, str) or name not in _pipelines():
        raise PublishError(
            f"`source` must hold one of {', '.join(_pipelines())}, got {str(source)!r} with {name!r}. "
            "`show1 convert` makes one of a published repository."
        )
    return index


def _copy_pipeline(source: Path, index: dict[str, Any], target: Path) -> None:
    """The index, and of each component the files that its loader reads."""
    target.mkdir(parents=True)
    for name, entry in index.items():
        if name.startswith("_") or not isinstance(entry, list) or entry[0] is None:
            continue
        folder = source / name
        if Path(name).name != name:
            raise PublishError(f"`source` must have its components in folders of its own, got one named {name!r}.")
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        if outside := [path for path in files if leads_out(source, path)]:
            raise PublishError(f"`source` must hold its own files, and {outside[0]} leads out of it.")
        weights = [path for path in files if path.suffix == WEIGHTS]
        if not files:
            raise PublishError(f"`source` must hold every component of its index, got {str(source)!r} without {name}.")
        if not weights and any(path.suffix in PICKLES for path in files):
            raise PublishError(
                f"`source` must hold its weights as safetensors, got {name} as {files[-1].name}. "
                "`show1 convert` makes them so."
            )
        if weights and not any(_has_no_variant(path.name) for path in weights):
            raise PublishError(
                f"`source` must hold the weights of {name} without a variant, besides which others may stand; got "
                f"{', '.join(path.name for path in weights)}."
            )
        for path in files:
            if path.suffix in COMPONENT_FILES and not path.name.startswith("."):
                _copy(path, target / path.relative_to(source))
    for name in BESIDE:
        if (source / name).is_file():
            if leads_out(source, source / name):
                raise PublishError(f"`source` must hold its own files, and {source / name} leads out of it.")
            _copy(source / name, target / name)
    (target / "model_index.json").write_text(_clean_json(index), encoding="utf-8")


def _has_no_variant(name: str) -> bool:
    """`model.safetensors` and `model-00001-of-00002.safetensors`, not `model.fp16.safetensors` and the like."""
    return name.count(".") == 1


def _copy(path: Path, target: Path) -> None:
    """A hard link to weights where that can be, since they are large and nothing changes them; else a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == WEIGHTS:
        try:
            os.link(path.resolve(), target)  # a file of the Hub's cache is a symbolic link
            return
        except OSError:  # another disk
            pass
    if path.suffix == ".json":
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and "_name_or_path" in content:
            target.write_text(_clean_json(content), encoding="utf-8")
            return
    shutil.copyfile(path, target)


def _clean_json(content: dict[str, Any]) -> str:
    """Without `_name_or_path`: it says where on its maker's disk a model lay, and nobody reads it."""
    kept = {name: value for name, value in content.items() if name != "_name_or_path"}
    return json.dumps(kept, indent=2, sort_keys=True) + "\n"


def _copy_remote_code(main: Path, target: Path) -> None:
    from .bundle import write_remote_code

    for path in sorted(main.rglob("*")):
        if path.is_file():
            _copy(path, target / path.relative_to(main))
    write_remote_code(target, target)


def _extras(
    pipeline: str,
    repo_id: str,
    card: str | os.PathLike[str] | None,
    media: Mapping[str, str | os.PathLike[str]] | None,
) -> dict[str, bytes]:
    """What both revisions hold besides the pipeline: path -> content."""
    name = repo_id.split("/")[1] if card is None else os.fspath(card)
    known = cards.all_cards()
    if name not in known and not Path(name).is_file():
        raise PublishError(f"`card` must be one of {', '.join(known)}, or the path of your own, got {name!r}.")
    clips = cards.media_of(name) if media is None and name in known else dict(media or {})
    extras = {}
    for prompt, path in clips.items():
        path = Path(path)
        if path.suffix.lower() not in MEDIA_ENDINGS or not path.is_file():
            raise PublishError(f"`media` must be files that end in {', '.join(MEDIA_ENDINGS)}, got {str(path)!r}.")
        extras[f"{cards.MEDIA_IN_REPO}/{cards.media_name(prompt, path.suffix.lower())}"] = path.read_bytes()
    if name in known:
        if known[name].pipeline != pipeline:
            raise PublishError(f"`card` must be of a {pipeline}, got {name!r}, of a {known[name].pipeline}.")
        text = cards.render(name, repo_id, {p: Path(c) for p, c in clips.items()}, cards.results_of(name))
        extras["LICENSE.md"] = card_sections.licence_note(known[name]).encode()
    else:
        text = Path(name).read_text(encoding="utf-8")
        if (Path(name).parent / "LICENSE.md").is_file():
            extras["LICENSE.md"] = (Path(name).parent / "LICENSE.md").read_bytes()
    if wrong := cards.problems(text, list(extras), ours=name in known):
        raise PublishError(f"`card` must be one that the Hub accepts, got {name!r}: {'; '.join(wrong)}.")
    extras["README.md"] = text.encode()
    extras["handler.py"] = Path(__file__).with_name("handler.py").read_bytes()
    return extras


def _lines(lines: Sequence[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def _files_in(folder: Path, digests: dict[tuple[int, int], str]) -> Iterator[LocalFile]:
    """All files below a folder. `digests` remembers those of files read before: the revisions' weights are links."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            status = path.stat()
            inode = (status.st_dev, status.st_ino)
            if inode not in digests:
                with path.open("rb") as file:
                    digests[inode] = hashlib.file_digest(file, "sha256").hexdigest()
            yield LocalFile(path.relative_to(folder).as_posix(), status.st_size, digests[inode], path)


# ---------------------------------------------------------------------------------------------------------------------
# Loading again


def check_main(folder: Path) -> None:
    """Load `main` as its users do, and every weight by its name. Raises `PublishError` if anything is not right.

    In half precision, which takes no more memory than the files of the published weights have on disk.
    """
    import torch
    from diffusers import DiffusionPipeline

    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    models: dict[str, Any] = {}
    try:
        for name, entry in index.items():
            if isinstance(entry, list) and any((folder / name).glob(f"*{WEIGHTS}")):
                model = getattr(importlib.import_module(entry[0]), entry[1])
                models[name], found = model.from_pretrained(
                    folder / name, dtype=torch.float16, output_loading_info=True
                )
                for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
                    if found[kind]:
                        raise PublishError(f"{name} has {kind.replace('_', ' ')}: {sorted(map(str, found[kind]))[:3]}")
        pipe = DiffusionPipeline.from_pretrained(folder, **models)
    except PublishError:
        raise
    except Exception as error:  # whatever stops a user from loading it is a reason not to publish it
        raise PublishError(f"`main` does not load again: {' '.join(str(error).split())}") from error
    if type(pipe).__name__ != index["_class_name"]:
        raise PublishError(f"`main` loads as a {type(pipe).__name__}, not as a {index['_class_name']}.")


_LOAD_WITHOUT_THE_PACKAGE = """\
import sys
for name in sys.argv[2:]:
    sys.modules[name] = None  # importing it fails, as where it is not installed
import torch
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True, dtype=torch.float16)
print(type(pipe).__name__)
"""


def check_remote_code(folder: Path) -> None:
    """Load `remote-code` in a process without this package; raises `PublishError` if it does not work."""
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    if not isinstance(index["_class_name"], list):
        raise PublishError(f"`remote-code` has no code of its own: its pipeline is {index['_class_name']!r}.")
    packages = dict.fromkeys(("diffusers_show1", *(family.library for family in all_families())))
    with tempfile.TemporaryDirectory(prefix="show1-modules-") as modules:
        done = subprocess.run(
            [sys.executable, "-c", _LOAD_WITHOUT_THE_PACKAGE, os.fspath(folder.resolve()), *packages],
            env={**os.environ, "HF_MODULES_CACHE": modules, "HF_HUB_OFFLINE": "1", "DIFFUSERS_VERBOSITY": "error"},
            capture_output=True,
            text=True,
            check=False,
        )
    made = done.stdout.split()[-1:]
    if done.returncode or made != index["_class_name"][1:]:
        told = done.stderr.strip().splitlines()[-1:] or [f"it is {made}"]
        raise PublishError(f"`remote-code` does not load without the package: {told[0]}")


# ---------------------------------------------------------------------------------------------------------------------
# The Hub


def _upload(
    publication: Publication,
    replace: bool,
    private: bool | None,
    message: str | None,
    token: str | None,
    endpoint: str | None,
) -> None:
    """Bring every revision of the repository to what `publication.files` says, each in one commit."""
    from huggingface_hub import HfApi

    repo_id = publication.repo_id
    api = HfApi(endpoint=endpoint, token=token, library_name="diffusers-show1", library_version=__version__)
    api.create_repo(repo_id, private=private, exist_ok=True)
    # Before `main` gets its files, so that a new branch starts empty.
    for revision in publication.files:
        if revision != "main":
            api.create_branch(repo_id, branch=revision, exist_ok=True)
    heads = {revision: api.model_info(repo_id, revision=revision).sha for revision in publication.files}
    there = {revision: _remote_files(api, repo_id, heads[revision]) for revision in publication.files}
    for revision, files in publication.files.items():
        extra = sorted(there[revision].keys() - {file.path for file in files} - {".gitattributes"})
        publication.deleted[revision] = extra
        if extra and not replace:
            raise PublishError(
                f"{repo_id} holds files in {revision} that are not of this publication, such as {extra[0]!r}. "
                "`replace` deletes them; nothing was changed."
            )
    for revision, files in publication.files.items():
        changed = [
            file
            for file in files
            if file.path not in there[revision] or not file.is_on_the_hub_as(there[revision][file.path])
        ]
        publication.sent[revision] = [file.path for file in changed]
        head = heads[revision]
        if changed or publication.deleted[revision]:
            head = _commit(api, repo_id, revision, head, changed, publication.deleted[revision], message)
        publication.commits[revision] = str(head)


def _remote_files(api: Any, repo_id: str, commit: str | None) -> dict[str, Any]:
    from huggingface_hub.hf_api import RepoFile

    entries = api.list_repo_tree(repo_id, recursive=True, revision=commit)
    return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}


def _commit(
    api: Any,
    repo_id: str,
    revision: str,
    head: str | None,
    changed: Sequence[LocalFile],
    deleted: Sequence[str],
    message: str | None,
) -> str:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    operations: list[Any] = [CommitOperationAdd(file.path, file.source) for file in changed]
    operations += [CommitOperationDelete(path) for path in deleted]
    made = api.create_commit(
        repo_id,
        operations,
        commit_message=message or f"Publish with diffusers-show1 {__version__}",
        revision=revision,
        parent_commit=head,  # refused if somebody else's commit came between
    )
    return str(made.oid)
