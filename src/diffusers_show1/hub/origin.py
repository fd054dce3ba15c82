# SPDX-License-Identifier: Apache-2.0
"""Where weights come from: a repository or a folder, which files it has, and what its licence is."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from ..ladder.checkpoints import Foreign, licence_page
from .folder import leads_out
from .recognise import find_index
from .remote import answered
from .weights import ConversionError


Source = str | Path

_WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)"
    r"(?:\.(?P<variant>[a-z]\w*))?(?:-\d{5}-of-\d{5})?(?:\.(?P<old_variant>[a-z]\w*))?\.(?P<format>safetensors|bin)"
)
_OTHER_WEIGHTS = (".msgpack", ".h5", ".onnx", ".pt", ".pth", ".ckpt", ".safetensors", ".bin", ".ot")


class Origin:
    """A repository or a folder: what files it has, and the ones that are asked for as local paths.

    Attributes:
        name: the Hub id, or the folder's name.
        identity: the commit, or a digest of the folder's file names, sizes and times: what must not change between
            two calls of one conversion.
        files: paths inside, sorted.
    """

    def __init__(self, source: Source, revision: str | None = None):
        self.source = str(source)
        self.local = Path(source).is_dir()
        if self.local:
            root = Path(source).resolve()
            self.name = root.name
            found = sorted(p for p in root.rglob("*") if p.is_file())
            self.files = [p.relative_to(root).as_posix() for p in found]
            if outside := [name for name, path in zip(self.files, found, strict=True) if leads_out(root, path)]:
                raise ConversionError(f"{self.name} must hold its own files, and {outside[0]} leads out of it.")
            facts = [
                (name, stat.st_size, stat.st_mtime_ns) for name, stat in ((n, (root / n).stat()) for n in self.files)
            ]
            self.identity = hashlib.sha256(json.dumps([str(root), facts]).encode()).hexdigest()
            self.root = root
        else:
            self.name = self.source
            self.identity, self.files = _hub_files(self.source, revision)

    def fetch(self, *names: str) -> Path:
        """Makes sure that files are here; returns the folder that they are relative to."""
        if self.local:
            return self.root
        from huggingface_hub import hf_hub_download

        root = Path()
        for name in names:
            with answered(self.source):
                path = Path(hf_hub_download(self.source, name, revision=self.identity))
            root = path.parents[name.count("/")]
        return root

    def inside(self, folder: str) -> list[str]:
        """The names of the files directly in `folder` (`""` is the top)."""
        prefix = f"{folder}/" if folder else ""
        rest = [name[len(prefix) :] for name in self.files if name.startswith(prefix)]
        return [name for name in rest if "/" not in name]

    def weights(self, folder: str) -> tuple[str | None, list[str]]:
        """The variant to read (None for none) and the weight files of a component: safetensors rather than pickles."""
        found: dict[tuple[bool, bool, str], list[str]] = {}
        for name in self.inside(folder):
            if match := _WEIGHTS.fullmatch(name):
                variant = match["variant"] or match["old_variant"] or ""
                key = (variant != "", match["format"] == "bin", variant)
                found.setdefault(key, []).append(name)
        if not found:
            raise ConversionError(f"{self.name} has no weights in {folder or 'its top folder'}.")
        best = min(found)
        names = sorted(found[best])
        for name in names:
            if match := re.search(r"-\d{5}-of-(\d{5})\.", name):
                if len(names) != int(match[1]):
                    raise ConversionError(f"{self.name} has {len(names)} of {int(match[1])} shards of {folder}.")
                break
        return best[2] or None, names


def _hub_files(repo_id: str, revision: str | None) -> tuple[str, list[str]]:
    """The commit that a revision names, and the files in it; from the cache where the Hub cannot be reached."""
    from huggingface_hub import HfApi, get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, HfHubHTTPError

    try:
        info = HfApi().model_info(repo_id, revision=revision)
        return info.sha or "", sorted(sibling.rfilename for sibling in info.siblings or [])
    except HfHubHTTPError:
        raise
    except Exception:  # no connection, of whatever kind, or offline by request
        commit = find_index(repo_id, revision).parent.name
        try:
            return commit, sorted(f.path for f in get_cached_repo_tree(repo_id, revision=commit))
        except CachedRepoTreeNotFoundError as error:
            raise OSError(f"{repo_id} is not in the cache as a whole, and the Hub cannot be reached") from error


NO_LICENCE = "The source came without a licence that could be read: its terms, whatever they are, still hold."


def licence_of(origin: Origin, known: str | Foreign | None) -> str:
    """What the weights are under: what is known of them, or what the source says."""
    where = f"Converted from {origin.name}" + ("." if origin.local else f" (commit {origin.identity}).")
    if isinstance(known, Foreign):
        page = known.page if origin.local else licence_page(origin.name)
        return f"{where} {known.licence.format(page=page)}"
    if known:
        return f"{where} {known}"
    named = None
    if "README.md" in origin.files:
        text = (origin.fetch("README.md") / "README.md").read_text(encoding="utf-8", errors="replace")
        match = re.match(r"---\n(?:.*\n)*?license: *(\S+)", text)
        named = match[1] if match else None
    return f"{where} Its card names the licence {named}." if named else f"{where} {NO_LICENCE}"
