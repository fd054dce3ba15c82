# SPDX-License-Identifier: Apache-2.0
"""Bundles: what a Hub repository carries so that it runs where this package is not installed.

    python -m diffusers_show1.hub.bundle            # writes pipelines/
    python -m diffusers_show1.hub.bundle --check    # or names its stale files

diffusers runs code from a repository (`trust_remote_code=True`) file by file: one file for the pipeline and one for
each component that is not a library's, all of them in one flat namespace and none with relative imports. So a
repository gets its pipeline as one file into which our modules are inlined, under a name that no other repository has,
and the network's file as it is in the folder of each UNet. `docs/remote_code.md` tells what a user sees of it.
"""

from __future__ import annotations

import argparse
import ast
import json
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ..families import all_families


PACKAGE = "diffusers_show1"
SOURCE = Path(__file__).parents[1]
NETWORK = "families/show1/unet.py"
NETWORK_MODULE = "unet_show1"  # as published repositories name it
NETWORK_CLASS = "Show1UNet3DConditionModel"
LINE_LENGTH = 119
DIFFUSERS_VERSION = "0.42.1"  # in the templates of pipelines/; a saved pipeline states its own


# --- the repositories --------------------------------------------------------------------------------------------


_T5 = {"text_encoder": ["transformers", "T5EncoderModel"], "tokenizer": ["transformers", "T5Tokenizer"]}
_CLIP = {"text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"]}
_SOLVER = ["diffusers", "DPMSolverMultistepScheduler"]
_NOISING = ["diffusers", "DDPMScheduler"]
_VAE = ["diffusers", "AutoencoderKL"]
_FEATURES = ["transformers", "CLIPImageProcessor"]
_NOTHING = [None, None]


@dataclass(frozen=True)
class Repository:
    """One Hub repository of the family.

    Args:
        folder: its name below `pipelines/`.
        source: the pipeline's module.
        module: what the bundle is called in the repository.
        pipeline: the pipeline's class.
        unets: the components that are our network.
        components: all others, as the index of the published weights names them.
        options: what else the index holds.
    """

    folder: str
    source: str
    module: str
    pipeline: str
    unets: tuple[str, ...]
    components: dict[str, list[str] | list[None]]
    options: dict[str, Any] = field(default_factory=dict)


REPOSITORIES = (
    Repository(
        folder="show-1-base",
        source="families/show1/keyframes.py",
        module="pipeline_show1_base",
        pipeline="Show1KeyframePipeline",
        unets=("unet",),
        components={**_T5, "scheduler": _SOLVER, "feature_extractor": _FEATURES, "safety_checker": _NOTHING},
    ),
    Repository(
        folder="show-1-interpolation",
        source="families/show1/interpolation.py",
        module="pipeline_show1_interpolation",
        pipeline="Show1InterpolationPipeline",
        unets=("unet",),
        components={**_T5, "scheduler": _SOLVER, "feature_extractor": _FEATURES, "safety_checker": _NOTHING},
    ),
    Repository(
        folder="show-1-sr1",
        source="families/show1/superres.py",
        module="pipeline_show1_superres",
        pipeline="Show1SuperResolutionPipeline",
        unets=("unet",),
        components={
            **_T5,
            "scheduler": _SOLVER,
            "image_noising_scheduler": _NOISING,
            "first_frame_unet": _NOTHING,  # DeepFloyd IF-II is gated: published without
            "first_frame_scheduler": _NOTHING,
            "feature_extractor": _FEATURES,
            "safety_checker": _NOTHING,
        },
    ),
    Repository(
        folder="show-1-sr2",
        source="families/show1/refine.py",
        module="pipeline_show1_refine",
        pipeline="Show1RefinementPipeline",
        unets=("unet",),
        components={
            **_CLIP,
            "vae": _VAE,
            "scheduler": _SOLVER,
            "feature_extractor": _NOTHING,
            "safety_checker": _NOTHING,
        },
    ),
    Repository(
        folder="show-1",
        source="families/show1/cascade.py",
        module="pipeline_show1",
        pipeline="Show1CascadePipeline",
        unets=("base_unet", "interpolation_unet", "superres_unet", "refine_unet"),
        components={
            **_T5,
            "base_scheduler": _SOLVER,
            "interpolation_scheduler": _SOLVER,
            "superres_scheduler": _SOLVER,
            "superres_image_noising_scheduler": _NOISING,
            **{f"refine_{name}": entry for name, entry in _CLIP.items()},
            "refine_vae": _VAE,
            "refine_scheduler": _SOLVER,
            "first_frame_unet": _NOTHING,
            "first_frame_scheduler": _NOTHING,
            "feature_extractor": _NOTHING,
            "safety_checker": _NOTHING,
        },
        options={"stage_defaults": None},
    ),
)


# --- reading a module --------------------------------------------------------------------------------------------


@dataclass
class Definition:
    """One top-level statement that binds names: its lines, the comments right above it, what it refers to."""

    names: tuple[str, ...]
    text: str
    divider: str  # the `# --- title ---` line that it stands under
    blank_lines: int  # above it
    is_block: bool  # a function or class
    uses: frozenset[str]


@dataclass
class Module:
    path: str
    summary: str  # its docstring
    imports: dict[str, tuple[str, str | None]]  # local name -> (module, name in it), libraries only
    depends: tuple[str, ...]  # our modules, in order of import
    definitions: list[Definition]


@cache
def read_module(path: str) -> Module:
    """Reads `src/diffusers_show1/<path>`.

    Raises:
        ValueError: something at the top level that a bundle can't take over as it stands.
    """
    source = (SOURCE / path).read_text(encoding="utf-8")
    lines = source.splitlines()
    tree = ast.parse(source)
    module = Module(path, ast.get_docstring(tree) or "", {}, (), [])
    depends: dict[str, None] = {}
    divider, end = "", 0
    for node in tree.body:
        start = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))]) - 1
        above, end = lines[end:start], node.end_lineno or node.lineno
        divider = next((line for line in reversed(above) if line.startswith("# --- ")), divider)
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            if _is_ours(node):
                depends.update(dict.fromkeys(_resolve(node, path)))
            else:
                module.imports.update(_bindings(node))
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)):
            if any(isinstance(n, (ast.Import, ast.ImportFrom)) and _is_ours(n) for n in ast.walk(node)):
                raise ValueError(f"{path}:{node.lineno}: an import of ours inside a definition can't be inlined.")
            comments = [line for line in above if line.startswith("#") and not line.startswith("# --- ")]
            module.definitions.append(
                Definition(
                    names=_bound(node),
                    text="\n".join([*comments, *lines[start:end]]),
                    divider=divider,
                    blank_lines=next((i for i, line in enumerate(reversed(above)) if line), len(above)),
                    is_block=isinstance(node, (ast.FunctionDef, ast.ClassDef)),
                    uses=frozenset(
                        n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)
                    ),
                )
            )
        elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):  # the docstring
            raise ValueError(f"{path}:{node.lineno}: only imports, definitions and assignments can be inlined.")
    module.depends = tuple(depends)
    return module


def _is_ours(node: ast.Import | ast.ImportFrom) -> bool:
    if isinstance(node, ast.Import):
        return any(alias.name.split(".")[0] == PACKAGE for alias in node.names)
    return node.level > 0 or (node.module or "").split(".")[0] == PACKAGE


def _resolve(node: ast.Import | ast.ImportFrom, path: str) -> Iterator[str]:
    """The paths of our modules that a relative `from` import at the top of `path` names."""
    if isinstance(node, ast.Import) or node.level == 0 or any(a.asname or a.name == "*" for a in node.names):
        raise ValueError(f"{path}:{node.lineno}: import ours with `from .x import name`, without alias or star.")
    folder = Path(path).parents[node.level - 1]
    target = folder.joinpath(*node.module.split(".")) if node.module else folder
    package = target / "__init__.py"
    yield (package if (SOURCE / package).is_file() else target.with_suffix(".py")).as_posix()


def _bindings(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, tuple[str, str | None]]]:
    for alias in node.names:
        if isinstance(node, ast.ImportFrom):
            yield alias.asname or alias.name, (node.module or "", alias.name)
        else:
            yield alias.asname or alias.name.split(".")[0], (alias.name, None)


def _bound(node: ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign) -> tuple[str, ...]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return (node.name,)
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return tuple(n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name))


# --- writing a bundle --------------------------------------------------------------------------------------------


def bundle(source: str, pipeline: str) -> str:
    """The module `source` and all it needs of ours as one file: every definition `pipeline` reaches, and no other."""
    modules = list(_in_order(source))
    kept = _reachable(modules, pipeline)
    sections = [(module, [d for d in module.definitions if id(d) in kept]) for module in modules]
    sections = [(module, definitions) for module, definitions in sections if definitions]
    used = {name for _, definitions in sections for d in definitions for name in d.uses}
    body = "".join(_section(module, definitions) for module, definitions in sections)
    imports = _import_lines([module for module, _ in sections], used)
    return f"{_head(sections)}\n{imports}{body}"


def _in_order(path: str, seen: set[str] | None = None) -> Iterator[Module]:
    """Our modules that `path` needs, each behind those that it needs itself."""
    seen = set() if seen is None else seen
    if path in seen:
        return
    seen.add(path)
    ladder = [repository.source for repository in REPOSITORIES]  # what is no pipeline comes first
    for dependency in sorted(read_module(path).depends, key=lambda p: ladder.index(p) if p in ladder else -1):
        yield from _in_order(dependency, seen)
    yield read_module(path)


def _reachable(modules: list[Module], root: str) -> set[int]:
    """The ids of the definitions that `root` refers to, directly or not. A name means one thing in all modules."""
    owners: dict[str, Definition] = {}
    for module in modules:
        for definition in module.definitions:
            for name in definition.names:
                first = owners.setdefault(name, definition)
                if name != "__all__" and first.text != definition.text:
                    raise ValueError(f"`{name}` means two things, the second in {module.path}: rename one.")
    for module in modules:
        if clash := sorted(owners.keys() & module.imports.keys()):
            raise ValueError(f"{module.path} imports names that another module of ours defines: {clash}.")
    kept: set[int] = set()
    queue = [root]
    while queue:
        found = owners.get(queue.pop())
        if found is not None and id(found) not in kept:
            kept.add(id(found))
            queue.extend(found.uses)
    return kept


def _import_lines(modules: Iterable[Module], used: set[str]) -> str:
    """The merged imports of libraries, in isort's order, as ruff formats them."""
    bindings: dict[str, tuple[str, str | None]] = {}
    for module in modules:
        for name, origin in module.imports.items():
            if bindings.setdefault(name, origin) != origin:
                raise ValueError(f"{module.path} imports another `{name}` than the modules before it.")
    groups: list[list[str]] = [["from __future__ import annotations"], [], []]
    members: dict[str, list[str]] = {}
    for name, (library, member) in sorted(bindings.items(), key=lambda item: item[1][0].lower()):
        if name not in used:
            continue
        if member is None:
            alias = "" if name == library.split(".")[0] else f" as {name}"
            groups[_group(library)].append(f"import {library}{alias}")
        else:
            members.setdefault(library, []).append(member if member == name else f"{member} as {name}")
    for library, names in members.items():
        names.sort(key=lambda n: (not n.isupper(), not n[0].isupper(), n.lower()))
        line = f"from {library} import {', '.join(names)}"
        if len(line) > LINE_LENGTH:
            line = f"from {library} import (\n" + "".join(f"    {name},\n" for name in names) + ")"
        groups[_group(library)].append(line)
    return "\n\n".join("\n".join(group) for group in groups if group) + "\n"


def _group(module: str) -> int:
    return 1 if module.split(".")[0] in sys.stdlib_module_names else 2


def _head(sections: list[tuple[Module, list[Definition]]]) -> str:
    """Licence, origin, contents, and the docstring of the pipeline's module."""
    width = max(len(module.path) for module, _ in sections)
    origin = f"""\
Generated by `make bundle` (python -m {PACKAGE}.hub.bundle) from the package diffusers-show1: to change
something, edit the package and generate anew. It stands alone; of the package it holds what this pipeline uses:"""
    contents = [_wrap(f"    {m.path:<{width}}  {_title(m, ds)}", indent=width + 6) for m, ds in sections]
    return f'''\
# SPDX-License-Identifier: Apache-2.0
#
{_comment(origin)}
#
{_comment(*contents)}
"""{sections[-1][0].summary}

This file and its repository need no package of ours:

    pipe = DiffusionPipeline.from_pretrained("the repository or its folder", trust_remote_code=True)
"""
'''


def _title(module: Module, definitions: list[Definition]) -> str:
    """A line on what a bundle has of a module: its summary, or the names where it is a small part of it."""
    names = [name for d in definitions for name in d.names]
    public = [name for d in module.definitions if d.is_block for name in d.names if not name.startswith("_")]
    if len(names) <= 3 and not set(public) <= set(names):
        return ", ".join(names)
    return module.summary.splitlines()[0]


def _section(module: Module, definitions: list[Definition]) -> str:
    title = _title(module, definitions)
    text = module.summary if module.summary.startswith(title) else title
    rule = "=" * (LINE_LENGTH - 2)
    paragraphs = "\n\n".join(_wrap(paragraph) for paragraph in text.split("\n\n"))
    header = _comment(rule, module.path, "", paragraphs, rule)
    parts = [f"\n\n{header}\n"]
    divider, previous = "", None
    for definition in definitions:
        if definition.divider != divider:
            divider, previous = definition.divider, None
            parts.append(f"\n\n{divider}\n")
        apart = previous is None or previous.is_block or definition.is_block
        parts.append("\n" * (2 if apart else definition.blank_lines) + definition.text + "\n")
        previous = definition
    return "".join(parts)


def _wrap(paragraph: str, indent: int = 0) -> str:
    return textwrap.fill(paragraph, LINE_LENGTH - 2, subsequent_indent=" " * indent, break_on_hyphens=False)


def _comment(*texts: str) -> str:
    return "\n".join(f"# {line}".rstrip() for text in texts for line in text.split("\n"))


# --- folders -----------------------------------------------------------------------------------------------------


def repository_files(repository: Repository, unets: Iterable[str] | None = None) -> dict[str, str]:
    """The code of a repository, path -> text; `unets` are the components that get the network, by default all."""
    files = {f"{repository.module}.py": bundle(repository.source, repository.pipeline)}
    network = (SOURCE / NETWORK).read_text(encoding="utf-8")
    for unet in repository.unets if unets is None else unets:
        files[f"{unet}/{NETWORK_MODULE}.py"] = network
    return files


def index_template(repository: Repository) -> dict[str, Any]:
    """The `model_index.json` of a repository's remote-code revision, for the published weights."""
    components = {**repository.components, **{unet: [NETWORK_MODULE, NETWORK_CLASS] for unet in repository.unets}}
    return {
        "_class_name": [repository.module, repository.pipeline],
        "_diffusers_version": DIFFUSERS_VERSION,
        **components,
        **repository.options,
    }


def _json(index: dict[str, Any]) -> str:
    return json.dumps(index, indent=2, sort_keys=True) + "\n"  # as diffusers writes it


def all_files() -> dict[str, str]:
    """Everything that is generated below `pipelines/`, path -> text."""
    return {
        f"{repository.folder}/{path}": text
        for repository in REPOSITORIES
        for path, text in {
            **repository_files(repository),
            "model_index.json": _json(index_template(repository)),
        }.items()
    }


def stale_files(folder: Path) -> list[str]:
    """Paths below `folder` that are missing, differ from what would be written, or would not be written."""
    wanted = all_files()
    present = {
        path.relative_to(folder).as_posix()
        for repository in REPOSITORIES
        for path in (folder / repository.folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    stale = [path for path, text in wanted.items() if path not in present or _read(folder / path) != text]
    return sorted([*stale, *(present - wanted.keys())])


def _read(path: Path) -> str:
    return path.read_bytes().decode("utf-8")  # line ends as they are


def write_all(folder: Path) -> None:
    for name in stale_files(folder):
        (folder / name).unlink(missing_ok=True)
    _write(all_files(), folder)


def _write(files: dict[str, str], folder: Path) -> None:
    for path, text in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)  # never through a link into a cache
        target.write_bytes(text.encode("utf-8"))


def write_remote_code(pipe_or_folder: Any, folder: str | Path) -> Path:
    """Writes a stage or cascade as a folder that loads without this package.

    The folder can be published as it is, or loaded where it lies, by a stock
    `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)`.

    Args:
        pipe_or_folder: a loaded pipeline, which is saved; or the folder of a saved or published one, whose files are
            copied as they are, so that all variants and dtypes stay.
        folder: where to write; the source's own folder is changed in place.

    Returns:
        The folder.

    Raises:
        ValueError: no pipeline of this package.
    """
    folder = Path(folder)
    if hasattr(pipe_or_folder, "save_pretrained"):
        repository = _find_repository({"_class_name": type(pipe_or_folder).__name__})  # before anything is written
        pipe_or_folder.save_pretrained(folder)
    else:
        source = Path(pipe_or_folder)
        repository = _find_repository(_read_index(source))
        if source.resolve() != folder.resolve():
            shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    index = _read_index(folder)
    unets = [name for name, entry in index.items() if not name.startswith("_") and _is_network(entry)]
    index["_class_name"] = [repository.module, repository.pipeline]
    index.update({unet: [NETWORK_MODULE, NETWORK_CLASS] for unet in unets})
    _write({**repository_files(repository, unets), "model_index.json": _json(index)}, folder)
    return folder


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / "model_index.json"
    if not path.is_file():
        raise ValueError(f"`pipe_or_folder` must be a pipeline or the folder of a saved one, got {str(folder)!r}.")
    return json.loads(path.read_text(encoding="utf-8"))


def _find_repository(index: dict[str, Any]) -> Repository:
    name = index["_class_name"]
    name = name if isinstance(name, str) else name[1]
    ours = next((found for family in all_families() if (found := family.pipeline_of(index))), name)
    for repository in REPOSITORIES:
        if repository.pipeline == ours:
            return repository
    raise ValueError(f"`pipe_or_folder` must be one of {[r.pipeline for r in REPOSITORIES]}, got a {name}.")


def _is_network(entry: Any) -> bool:
    """Whether an index entry is our network, by any name that it is saved or published under."""
    known = any(family.is_network(entry) for family in all_families())
    return known or (isinstance(entry, list) and entry[1] == NETWORK_CLASS)  # or one of a bundle


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog=f"python -m {PACKAGE}.hub.bundle", description="Writes pipelines/.")
    parser.add_argument("--check", action="store_true", help="write nothing; name stale files and exit with 1")
    parser.add_argument("--output", type=Path, default=Path("pipelines"), help="the folder (default: pipelines)")
    options = parser.parse_args(arguments)
    if not options.check:
        write_all(options.output)
        return 0
    stale = stale_files(options.output)
    for path in stale:
        print(f"{options.output / path} is stale: run `make bundle`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
