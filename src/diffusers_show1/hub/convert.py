# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of all origins to this package's layout: safetensors, sharded, an fp16 variant beside.

    convert("showlab/show-1-base", "show1-base", variant="fp16")            # a published stage
    convert("showlab", "show1", dtype="float16")                            # all four, as one cascade with one T5
    convert("DeepFloyd/IF-I-L-v1.0", "keyframes", stage="base")             # an image model, inflated to a video model
    convert("cerspense/zeroscope_v2_576w", "refiner")                       # ModelScope's network as refinement stage
    convert("checkpoint-9000.pt", "unet")                                   # a state dict -> a network alone

A conversion is a list of parts, one a component. Each part is read (pickles as tensors only), written to a `.partial-`
folder, read again and compared bit by bit, and only then moved to its place; `conversion.json` keeps the account. So a
conversion that was killed goes on where it was when it is called again.
"""

from __future__ import annotations

import dataclasses
import filecmp
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .recognise import (
    FIRST_FRAME_REPO,
    PUBLISHED_REPOS,
    STAGE_CLASSES,
    find_index,
    licence_page,
    recognise,
    recognise_index,
)
from .registration import OWN_LIBRARY, OWN_NETWORK, refused_pickle


if TYPE_CHECKING:
    import torch

Source = str | Path
STAGES = tuple(STAGE_CLASSES)
DTYPES = ("float32", "float16", "bfloat16")
VARIANTS = {"fp16": "float16", "bf16": "bfloat16"}
RECORD = "conversion.json"
LICENCE = "LICENSE-WEIGHTS.md"
NETWORK = (OWN_LIBRARY, OWN_NETWORK)
# Our network, by the names that repositories give it: with and without code of their own.
_VIDEO_UNETS = ("UNet3DConditionModel", "ShowOneUNet3DConditionModel", OWN_NETWORK)

# The components of a stage, and which of them it can do without.
_PIXEL_COMPONENTS = {"tokenizer": False, "text_encoder": False, "unet": True, "scheduler": True}
COMPONENTS: dict[str, dict[str, bool]] = {
    "base": _PIXEL_COMPONENTS,
    "interpolation": _PIXEL_COMPONENTS,
    "superres": {
        **_PIXEL_COMPONENTS,
        "image_noising_scheduler": True,
        "first_frame_unet": False,
        "first_frame_scheduler": False,
    },
    "refine": {"tokenizer": False, "text_encoder": False, "unet": True, "vae": True, "scheduler": True},
}
# What a stage's index lists besides, always empty.
_EMPTY_COMPONENTS = {
    "base": ("feature_extractor",),
    "interpolation": ("feature_extractor",),
    "superres": ("feature_extractor",),
    "refine": (),
}
_CASCADE_OPTIONAL = (
    "tokenizer",
    "text_encoder",
    "refine_tokenizer",
    "refine_text_encoder",
    "first_frame_unet",
    "first_frame_scheduler",
)

_IF_UNET: dict[str, Any] = {
    "act_fn": "gelu",
    "addition_embed_type": "text",
    "attention_head_dim": 64,
    "cross_attention_norm": "group_norm",
    "encoder_hid_dim": 4096,
    "encoder_hid_dim_type": "text_proj",
    "mid_block_type": "UNetMidBlock3DSimpleCrossAttn",
    "out_channels": 6,
    "resnet_time_scale_shift": "scale_shift",
}
_KEYFRAME_UNET: dict[str, Any] = {
    **_IF_UNET,
    "sample_size": 64,
    "in_channels": 3,
    "block_out_channels": [320, 640, 960, 1280],
    "cross_attention_dim": 1280,
    "down_block_types": ["ResnetDownsampleBlock3D"] + 3 * ["SimpleCrossAttnDownBlock3D"],
    "layers_per_block": 3,
    "up_block_types": 3 * ["SimpleCrossAttnUpBlock3D"] + ["ResnetUpsampleBlock3D"],
}
# The published networks, for state dicts that come without a config.
PUBLISHED_UNETS: dict[str, dict[str, Any]] = {
    "base": _KEYFRAME_UNET,
    "interpolation": {**_KEYFRAME_UNET, "in_channels": 7},
    "superres": {
        **_IF_UNET,
        "sample_size": 256,
        "in_channels": 6,
        "block_out_channels": [128, 256, 512, 768, 768],
        "class_embed_type": "timestep",
        "cross_attention_dim": 768,
        "down_block_types": 3 * ["ResnetDownsampleBlock3D"] + 2 * ["SimpleCrossAttnDownBlock3D"],
        "layers_per_block": [2, 2, 3, 4, 2],
        "mid_block_scale_factor": 1.4142271248762552,  # close to the square root of 2, as published
        "resnet_out_scale_factor": 1.4142271248762552,
        "resnet_skip_time_act": True,
        "time_embedding_act_fn": "gelu",
        "time_embedding_dim": 768,
        "up_block_types": 2 * ["SimpleCrossAttnUpBlock3D"] + 3 * ["ResnetUpsampleBlock3D"],
    },
    "refine": {
        "sample_size": 32,
        "attention_head_dim": [5, 10, 20, 20],
        "cross_attention_dim": 1024,
        "transfromer_in_opt": True,
        "use_linear_projection": True,
    },
}

_LICENCES = {
    "showlab": "Show-1's weights are published under CC BY-NC 4.0 "
    "(https://creativecommons.org/licenses/by-nc/4.0/): not for commercial use, and with credit to their authors, "
    "Zhang et al., Show-1, https://arxiv.org/abs/2309.15818. Its pixel networks began as DeepFloyd IF's.",
    "if": "DeepFloyd IF's weights are under the DeepFloyd IF License Agreement, which a user accepts on the Hub: "
    "{page}. It binds what is made of them, this conversion included.",
    "modelscope": "ModelScope's text-to-video weights, and zeroscope's, which come from them, are published under "
    "CC BY-NC 4.0 (https://creativecommons.org/licenses/by-nc/4.0/): not for commercial use.",
}


class ConversionError(ValueError):
    """The source cannot be converted: damaged, incomplete, of the wrong shapes, or not what it says it is."""


# --- what the caller gets ----------------------------------------------------------------------------------------


@dataclasses.dataclass
class Report:
    """What a conversion did.

    Attributes:
        output: the folder.
        kind: what was made, in words.
        parts: component -> what was verified, e.g. `{"dtype": "float16", "tensors": 1827, "shards": 1}`.
        dropped: what the source has and the output lacks, with the reason, one line each.
        licence: the note in `LICENSE-WEIGHTS.md`.
        reused: components that an earlier call had finished.
    """

    output: Path
    kind: str
    parts: dict[str, dict[str, Any]]
    dropped: list[str]
    licence: str
    reused: list[str]

    def lines(self) -> list[str]:
        """The report, as the command prints it."""
        lines = [f"{self.output}: {self.kind}"]
        for name, facts in self.parts.items():
            text = ", ".join(
                f"{value} {key}" if isinstance(value, int) else str(value) for key, value in facts.items()
            )
            done = " (finished earlier)" if name in self.reused else ""
            lines.append(f"  {name or 'network'}: {text}{done}")
        return lines + [f"  dropped: {line}" for line in self.dropped] + [f"  licence: {self.licence}"]


def convert(
    source: Source | Mapping[str, Source],
    output: Source,
    *,
    dtype: str | torch.dtype | None = None,
    variant: str | None = None,
    max_shard_size: int | str = "5GB",
    stage: str | None = None,
    config: str | Path | Mapping[str, Any] | None = None,
    without: Sequence[str] = (),
    revision: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Converts a checkpoint to this package's layout.

    Args:
        source: a Hub id or folder with a `model_index.json` (a published stage, a stage or cascade of ours, DeepFloyd
            IF, ModelScope or zeroscope); `"showlab"`, or a dict stage -> Hub id or folder of all four (and
            `"first_frame"` for DeepFloyd IF-II), for a cascade; a folder with a network alone (`config.json`); or a
            `.pt`, `.pth`, `.ckpt`, `.bin` or `.safetensors` file with a state dict.
        output: the folder to write. New, empty, or one that the same conversion began.
        dtype: of the weights written, `"float32"`, `"float16"` or `"bfloat16"`; by default as they are stored.
        variant: `"fp16"` or `"bf16"` writes weights of that kind beside, for `from_pretrained(..., variant="fp16")`.
        max_shard_size: bytes, or a text such as `"5GB"`; larger weights are cut into several files.
        stage: what to make of a DeepFloyd IF stage-I model, `"base"` (the default) or `"interpolation"`.
        config: for a state dict: the name of a stage (its published network), a `config.json`, or a dict. By default
            a `config.json` beside the file, or else the published network whose shapes fit.
        without: components to leave out, for example `("text_encoder",)` when prompts are encoded elsewhere.
        revision: branch, tag or commit, for a Hub id.
        progress: is told what begins, one line a component.

    Returns:
        A `Report`. All parts have been read again from the output and compared bit by bit.

    Raises:
        ValueError: an argument cannot be used; before any work starts, naming it, its value and what is allowed.
        ConversionError: the source is damaged, incomplete, or not what its config says.
        OSError: a file cannot be read or written, or the Hub cannot be reached.
    """
    options = _check_options(dtype, variant, max_shard_size, stage, without)
    plan = _plan(source, stage, config, options["without"], revision)
    record = _Record.open(Path(output), plan, options)
    tell = progress or (lambda line: None)
    for part in plan.parts:
        if part.name in record.parts:
            tell(f"{part.label}: finished earlier")
            continue
        tell(f"{part.label}: {part.describe()}")
        partial = record.output / f".partial-{part.name or 'network'}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        facts, dropped = part.write(partial, options)
        record.finish(part, partial, facts, dropped)
    return record.close(plan)


# --- arguments ---------------------------------------------------------------------------------------------------


def _check_options(dtype: Any, variant: Any, max_shard_size: Any, stage: Any, without: Any) -> dict[str, Any]:
    """The options that decide what is written, in JSON's types; a ValueError for the first that cannot be used."""
    name = None if dtype is None else str(dtype).removeprefix("torch.")
    if name not in (None, *DTYPES):
        raise ValueError(f"`dtype` must be one of {', '.join(DTYPES)}, or None to keep it, got {dtype!r}.")
    if variant not in (None, *VARIANTS):
        raise ValueError(f"`variant` must be one of {', '.join(VARIANTS)}, or None for none, got {variant!r}.")
    if variant is not None and VARIANTS[variant] == name:
        raise ValueError(f"`variant` must differ from `dtype`, got {variant!r} beside {name!r}: they are the same.")
    if isinstance(max_shard_size, str):
        match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(K|M|G|T)I?B?", max_shard_size.upper())
        good = match is not None and float(match[1]) > 0
    else:
        good = isinstance(max_shard_size, int) and not isinstance(max_shard_size, bool) and max_shard_size > 0
    if not good:
        raise ValueError(f"`max_shard_size` must be bytes above 0 or a text such as '5GB', got {max_shard_size!r}.")
    if stage not in (None, *STAGES):
        raise ValueError(f"`stage` must be one of {', '.join(STAGES)}, got {stage!r}.")
    if isinstance(without, str) or not all(isinstance(item, str) for item in without):
        raise ValueError(f"`without` must be a list of component names, got {without!r}.")
    return {"dtype": name, "variant": variant, "max_shard_size": max_shard_size, "without": sorted(without)}


# --- where the weights come from ---------------------------------------------------------------------------------

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


# --- the plan ----------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Plan:
    """What a conversion makes: parts to write, and the index that holds them together (None: a network alone)."""

    kind: str
    parts: list[Part]
    index: dict[str, Any] | None
    dropped: list[str]
    origins: list[Origin | Path]
    licence: str

    @cached_property
    def identity(self) -> str:
        ids = [o.identity if isinstance(o, Origin) else _file_identity(o) for o in self.origins]
        return hashlib.sha256(json.dumps([ids, self.kind]).encode()).hexdigest()


def _file_identity(path: Path) -> str:
    stat = path.stat()
    return f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}"


def _plan(
    source: Source | Mapping[str, Source],
    stage: str | None,
    config: Any,
    without: list[str],
    revision: str | None,
) -> Plan:
    """Looks at the source and decides what to do; reads small files only.

    Raises:
        ValueError: `source`, `stage`, `config` or `without` cannot be used, naming it, its value and what is allowed.
    """
    if isinstance(source, Mapping) or str(source) == "showlab":
        _refuse_beside(source, "a cascade", stage=stage, config=config, revision=revision)
        return _plan_cascade(PUBLISHED_REPOS if isinstance(source, (str, Path)) else source, without)
    path = Path(source)
    if path.is_file():
        _refuse_beside(source, "a state dict", stage=stage, revision=revision, without=without or None)
        return _plan_file(path, config)
    if config is not None:
        raise ValueError(f"`config` must be left out beside {str(source)!r}, which has one, got {config!r}.")
    if path.is_dir() and not (path / "model_index.json").exists() and (path / "config.json").exists():
        _refuse_beside(source, "a network", revision=revision, without=without or None)
        return _plan_network(Origin(path), stage)
    kind = recognise(source, revision)
    if kind.name == "cascade":
        _refuse_beside(source, "a cascade", stage=stage)
        return _plan_saved_cascade(Origin(source, revision), without)
    allowed = (
        "a Hub id or folder of a Show-1 stage or cascade, of a DeepFloyd IF or a ModelScope model, 'showlab', "
        "or a .pt, .pth, .ckpt, .bin or .safetensors file"
    )
    if kind.name not in ("published", "stage", "if", "modelscope"):
        raise ValueError(f"`source` must be {allowed}, got {str(source)!r}, which is {kind}.")
    assert kind.stage is not None
    possible = ("base", "interpolation") if (kind.name, kind.stage) == ("if", "base") else (kind.stage,)
    if stage is not None and stage not in possible:
        raise ValueError(f"`stage` must be {' or '.join(possible)} for {kind}, got {stage!r}.")
    return _plan_stage(Origin(source, revision), kind.name, stage or kind.stage, without)


def _refuse_beside(source: Any, what: str, **given: Any) -> None:
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"`{name}` must be left out for {what} ({str(source)!r}), got {value!r}.")


def _read_index(origin: Origin) -> dict[str, Any]:
    return json.loads((origin.fetch("model_index.json") / "model_index.json").read_text(encoding="utf-8"))


def _index(class_name: str, **components: Any) -> dict[str, Any]:
    import diffusers

    index = {"_class_name": class_name, "_diffusers_version": diffusers.__version__, **components}
    return dict(sorted(index.items()))


def _check_without(without: Sequence[str], optional: Iterable[str]) -> None:
    for name in without:
        if name not in optional:
            raise ValueError(f"`without` may hold {', '.join(sorted(optional))}, got {name!r}.")


def _plan_stage(origin: Origin, family: str, stage: str, without: list[str]) -> Plan:
    """A repository with an index -> one stage."""
    _check_without(without, [name for name, needed in COMPONENTS[stage].items() if not needed])
    parts, dropped = _stage_parts(origin, family, stage, without)
    names = dict.fromkeys([*COMPONENTS[stage], *_EMPTY_COMPONENTS[stage]], [None, None])
    components: dict[str, Any] = {**names, **{part.name: list(part.entry) for part in parts}}
    made = _index(STAGE_CLASSES[stage], **components)
    words = f"the {stage} stage, from {origin.name}"
    return Plan(words, parts, made, dropped, [origin], _licence_of(origin, family))


def _stage_parts(origin: Origin, family: str, stage: str, without: Sequence[str]) -> tuple[list[Part], list[str]]:
    """The parts that a repository gives a stage, and what of the repository is left behind."""
    parts: list[Part] = []
    dropped: list[str] = []
    for name, entry in _components(origin):
        if name in without:
            dropped.append(f"{name}: asked for by `without`")
        elif name not in COMPONENTS[stage]:
            dropped.append(f"{name}: the {stage} stage has no use for it")
        else:
            parts.append(_part(origin, name, entry, family, stage))
    have = {part.name for part in parts}
    for name, needed in COMPONENTS[stage].items():
        if needed and name not in have:
            raise ConversionError(f"{origin.name} has no {name}, which the {stage} stage needs.")
    return parts, dropped


def _part(origin: Origin, name: str, entry: list[str], family: str, stage: str) -> Part:
    library, class_name = entry
    if name.endswith("unet") and family != "image" and not name.startswith("first_frame"):
        if family == "if":
            return InflatedPart(name, NETWORK, origin, name, in_channels={"interpolation": 7}.get(stage))
        if class_name not in _VIDEO_UNETS:
            raise ConversionError(f"{origin.name} has a {class_name} of {library} as unet, which is not known here.")
        return ModelPart(name, NETWORK, origin, name)
    # An index must not make this import a module of its choice: what is imported is among these.
    if library not in ("diffusers", "transformers"):
        raise ConversionError(
            f"{origin.name} has a {name} of {library}, and only diffusers and transformers are read."
        )
    if "scheduler" in name:
        return SchedulerPart(name, (library, class_name), origin, name)
    if "tokenizer" in name:
        return FilesPart(name, (library, class_name), origin, name)
    return ModelPart(name, (library, class_name), origin, name)


def _plan_cascade(sources: Mapping[str, Source], without: list[str]) -> Plan:
    """A source a stage -> one cascade, with the base stage's T5 for all pixel stages."""
    unknown = [name for name in sources if name not in (*STAGES, "first_frame")]
    missing = [name for name in STAGES if name not in sources]
    if unknown or missing:
        got = ", ".join(map(str, sources)) or "nothing"
        raise ValueError(f"`source` must name {', '.join(STAGES)}, and may name first_frame, got {got}.")
    _check_without(without, _CASCADE_OPTIONAL)
    parts: list[Part] = []
    dropped: list[str] = []
    origins: list[Origin | Path] = []
    licences: list[str] = []
    for stage, source in sources.items():
        kind = recognise(source)
        is_stage = kind.name in ("published", "stage", "modelscope") and kind.stage == stage
        if not (is_stage if stage in STAGES else (kind.name, kind.stage) == ("if", "superres")):
            what = f"the {stage} stage" if stage in STAGES else f"DeepFloyd IF-II ({FIRST_FRAME_REPO})"
            raise ValueError(f"`source[{stage!r}]` must be {what}, got {str(source)!r}, which is {kind}.")
        origin = Origin(source)
        for name, entry in _components(origin):
            if stage == "first_frame":
                own = f"first_frame_{name}" if name in ("unet", "scheduler") else None
                reason = "the first frame has no use for it"
            else:
                own = _name_in_cascade(stage, name)
                reason = f"the {stage} stage has no use for it"
                if name in ("tokenizer", "text_encoder") and stage in ("interpolation", "superres"):
                    own, reason = None, "the base stage's serves all pixel stages"
                if own is not None and own.startswith("first_frame") and "first_frame" in sources:
                    own, reason = None, "`source['first_frame']` takes its place"
            if own in without:
                own, reason = None, "asked for by `without`"
            if own is None:
                dropped.append(f"{stage} {name}: {reason}")
            else:
                family = "image" if stage == "first_frame" else kind.name
                parts.append(dataclasses.replace(_part(origin, name, entry, family, stage), name=own))
        origins.append(origin)
        licences.append(_licence_of(origin, kind.name))
    made = _cascade_index(parts, None)
    names = ", ".join(o.name for o in origins if isinstance(o, Origin))
    return Plan(f"a cascade, from {names}", parts, made, dropped, origins, "\n\n".join(dict.fromkeys(licences)))


def _plan_saved_cascade(origin: Origin, without: list[str]) -> Plan:
    """A cascade as this package saves it -> the same, in another number format or sharded otherwise."""
    _check_without(without, _CASCADE_OPTIONAL)
    known = {_name_in_cascade(stage, name) for stage in STAGES for name in COMPONENTS[stage]}
    parts: list[Part] = []
    dropped: list[str] = []
    for name, entry in _components(origin):
        if name in without:
            dropped.append(f"{name}: asked for by `without`")
        elif name not in known:
            dropped.append(f"{name}: a cascade has no use for it")
        else:
            parts.append(_part(origin, name, entry, "stage", ""))
    made = _cascade_index(parts, _read_index(origin).get("stage_defaults"))
    return Plan(f"a cascade, from {origin.name}", parts, made, dropped, [origin], _licence_of(origin, "cascade"))


def _components(origin: Origin) -> list[tuple[str, list[str]]]:
    """The components that a repository has, with their library and class."""
    index = _read_index(origin)
    return [
        (name, entry)
        for name, entry in index.items()
        if not name.startswith("_") and isinstance(entry, list) and len(entry) == 2 and entry[0] is not None
    ]


def _name_in_cascade(stage: str, name: str) -> str | None:
    """What a stage's component is called in a cascade; None for one that a cascade has not."""
    if name not in COMPONENTS[stage]:
        return None
    if name.startswith("first_frame") or (name in ("tokenizer", "text_encoder") and stage != "refine"):
        return name
    return f"{stage}_{name}"


def _cascade_index(parts: Sequence[Part], stage_defaults: Any) -> dict[str, Any]:
    needed = [_name_in_cascade(stage, n) for stage in STAGES for n, must in COMPONENTS[stage].items() if must]
    have = {part.name: list(part.entry) for part in parts}
    for name in needed:
        if name not in have:
            raise ConversionError(f"The sources have no {name}, which a cascade needs.")
    components: dict[str, Any] = {**dict.fromkeys(_CASCADE_OPTIONAL, [None, None]), **have}
    return _index("Show1CascadePipeline", **components, stage_defaults=stage_defaults)


def _plan_network(origin: Origin, stage: str | None) -> Plan:
    """A folder with a network alone -> the same of ours."""
    name = json.loads((origin.root / "config.json").read_text(encoding="utf-8")).get("_class_name")
    part: Part
    if name == "UNet2DConditionModel":
        channels = {"interpolation": 7}.get(stage or "")
        part = InflatedPart("", NETWORK, origin, "", in_channels=channels)
        family = "if"
    elif name in _VIDEO_UNETS:
        _refuse_beside(origin.name, "a video network", stage=stage)
        part = ModelPart("", NETWORK, origin, "")
        family = "network"
    else:
        allowed = ", ".join(("UNet2DConditionModel", *_VIDEO_UNETS))
        raise ValueError(f"`source` must hold one of {allowed}, got {origin.source!r}, which holds a {name}.")
    return Plan(f"a network, from {origin.name}", [part], None, [], [origin], _licence_of(origin, family))


def _plan_file(path: Path, config: Any) -> Plan:
    """A file with a state dict -> a network of ours."""
    if path.suffix not in (".pt", ".pth", ".ckpt", ".bin", ".safetensors"):
        raise ValueError(f"`source` must be a .pt, .pth, .ckpt, .bin or .safetensors file, got {str(path)!r}.")
    beside = path.parent / "config.json"
    if config is None and beside.exists():
        config = beside
    if isinstance(config, (str, Path)) and str(config) not in STAGES:
        if not Path(config).is_file():
            raise ValueError(f"`config` must be one of {', '.join(STAGES)}, or a JSON file, got {str(config)!r}.")
        try:
            config = json.loads(Path(config).read_text(encoding="utf-8"))
        except ValueError:
            raise ValueError(f"`config` must be a JSON file, got {str(config)!r}, which is none.") from None
    elif isinstance(config, str):
        config = PUBLISHED_UNETS[config]
    part = FilePart("", NETWORK, path, config)
    return Plan(f"a network, from {path.name}", [part], None, [], [path], _NO_LICENCE)


# --- licences ----------------------------------------------------------------------------------------------------

_NO_LICENCE = "The source came without a licence that could be read: its terms, whatever they are, still hold."


def _licence_of(origin: Origin, family: str) -> str:
    """What the weights are under, as well as the source says."""
    where = f"Converted from {origin.name}" + ("." if origin.local else f" (commit {origin.identity}).")
    if family == "published":
        return f"{where} {_LICENCES['showlab']}"
    if family == "if":
        page = licence_page(origin.name) if not origin.local else "https://huggingface.co/DeepFloyd/IF-I-XL-v1.0"
        return f"{where} {_LICENCES['if'].format(page=page)}"
    if family == "modelscope":
        return f"{where} {_LICENCES['modelscope']}"
    named = None
    if "README.md" in origin.files:
        text = (origin.fetch("README.md") / "README.md").read_text(encoding="utf-8", errors="replace")
        match = re.match(r"---\n(?:.*\n)*?license: *(\S+)", text)
        named = match[1] if match else None
    return f"{where} Its card names the licence {named}." if named else f"{where} {_NO_LICENCE}"


# --- parts -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Part:
    """One component of the output: `name` is its folder (`""`: the top), `entry` its line of the index."""

    name: str
    entry: tuple[str, str]

    @property
    def label(self) -> str:
        return self.name or "network"

    def describe(self) -> str:
        raise NotImplementedError

    def write(self, folder: Path, options: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """Writes the component into an empty folder and verifies it; returns facts and what is dropped."""
        raise NotImplementedError


@dataclasses.dataclass
class FilesPart(Part):
    """A component without weights, copied: a tokenizer."""

    origin: Origin
    folder: str

    def describe(self) -> str:
        return f"copying from {self.origin.name}"

    def write(self, folder: Path, options: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        names = [n for n in self.origin.inside(self.folder) if not n.startswith(".")]
        if not names:
            raise ConversionError(f"{self.origin.name} has no files in {self.folder}.")
        paths = [f"{self.folder}/{name}" for name in names]
        root = self.origin.fetch(*paths)
        for name, path in zip(names, paths, strict=True):
            shutil.copyfile(root / path, folder / name)
            if not filecmp.cmp(root / path, folder / name, shallow=False):
                raise OSError(f"{name} of {self.folder} was not written as it was read.")
        return {"files": len(names)}, []


@dataclasses.dataclass
class SchedulerPart(FilesPart):
    """A scheduler's config, in strict JSON: a published `-Infinity` is the default and goes."""

    def write(self, folder: Path, options: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        import diffusers

        path = f"{self.folder}/scheduler_config.json"
        if path not in self.origin.files:
            raise ConversionError(f"{self.origin.name} has no {path}.")
        root = self.origin.fetch(path)
        config = json.loads((root / path).read_text(encoding="utf-8"))
        infinite = [k for k, v in config.items() if isinstance(v, float) and not math.isfinite(v)]
        kept = {key: value for key, value in config.items() if key not in infinite}
        text = json.dumps(kept, indent=2, sort_keys=True, allow_nan=False) + "\n"
        (folder / "scheduler_config.json").write_text(text, encoding="utf-8")
        scheduler = getattr(diffusers, self.entry[1])
        before, after = (dict(scheduler.from_pretrained(where).config) for where in (root / self.folder, folder))
        lost = [key for key in infinite if before[key] != after.get(key)]
        if lost:
            raise ConversionError(f"{path} has {lost[0]}={config[lost[0]]}, which JSON cannot say.")
        return {"files": 1}, [f"{self.name} {key}: {config[key]} is no JSON, and the default" for key in infinite]


@dataclasses.dataclass
class ModelPart(Part):
    """A network or an encoder, read by its class and written again."""

    origin: Origin
    folder: str

    def describe(self) -> str:
        return f"converting from {self.origin.name}"

    def load(self, raw: Mapping[str, torch.Tensor], dtype: torch.dtype) -> Any:
        return _load(self.model_class(), self.root / self.folder, dtype, *self.origin.weights(self.folder))

    def model_class(self) -> Any:
        return _class(*self.entry)

    def read(self) -> dict[str, torch.Tensor]:
        """The stored tensors, by their stored names."""
        _, weights = self.origin.weights(self.folder)
        prefix = f"{self.folder}/" if self.folder else ""
        small = [n for n in self.origin.inside(self.folder) if n.endswith(".json")]
        if "config.json" not in small:
            raise ConversionError(f"{self.origin.name} has no {prefix}config.json.")
        # fetching the config last makes its folder, the component's, the one that `fetch` returns
        self.root = self.origin.fetch(*[prefix + name for name in [*weights, *small]])
        return read_tensors(*(self.root / prefix / name for name in weights))

    def write(self, folder: Path, options: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        import torch

        raw = self.read()
        model_class = self.model_class()
        dtype = getattr(torch, options["dtype"]) if options["dtype"] else _stored_dtype(raw, model_class)
        model = self.load(raw, dtype)
        compared, unused = self.compare(raw, model)
        dropped = [f"{self.label} {name}: the network has no such parameter" for name in unused]
        _save(model, folder, options["max_shard_size"], None)
        written = _fingerprint(model)
        del model, raw
        _verify(model_class, folder, dtype, None, written)
        facts: dict[str, Any] = {"dtype": str(dtype).removeprefix("torch."), "tensors": len(written)}
        facts |= {"compared": compared, "files": len(list(folder.glob("*.safetensors")))}
        if options["variant"] and VARIANTS[options["variant"]] == facts["dtype"]:
            dropped.append(f"{self.label} variant {options['variant']}: the weights are {facts['dtype']} as they are")
        elif options["variant"]:
            kind = getattr(torch, VARIANTS[options["variant"]])
            model = _load(model_class, folder, kind, None)
            _check_finite(model, options["variant"], self.label)
            _save(model, folder, options["max_shard_size"], options["variant"])
            written = _fingerprint(model)
            del model
            _verify(model_class, folder, kind, options["variant"], written)
            facts["variant"] = options["variant"]
        return facts, dropped

    def compare(self, raw: Mapping[str, torch.Tensor], model: Any) -> tuple[int, list[str]]:
        """Checks the model in memory against the stored tensors; returns how many are equal, and the stored rest."""
        state = model.state_dict()
        unused = []
        compared = 0
        for stored, value in raw.items():
            name = next((n for n in _modern_names(stored) if n in state), None)
            if name is None:
                unused.append(stored)
                continue
            expected = value.to(state[name].dtype).reshape(state[name].shape)
            if not _same_bits(expected, state[name]):
                raise ConversionError(f"{self.label}: {stored} was read with other values than the file holds.")
            if expected.is_floating_point() and expected.dtype != value.dtype:
                _check_cast(stored, value, expected, self.label)
            compared += 1
        return compared, unused


@dataclasses.dataclass
class InflatedPart(ModelPart):
    """An image UNet, made a video UNet: its weights become the spatial layers, new temporal layers the identity."""

    in_channels: int | None = None

    def describe(self) -> str:
        return f"inflating the image network of {self.origin.name}"

    def load(self, raw: Mapping[str, torch.Tensor], dtype: torch.dtype) -> Any:
        import torch
        from diffusers import UNet2DConditionModel

        from ..models import Show1UNet3DConditionModel

        image = _load(UNet2DConditionModel, self.root / self.folder, dtype, *self.origin.weights(self.folder))
        overrides = {} if self.in_channels is None else {"in_channels": self.in_channels}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the temporal layers' inner weights are new: the same in every conversion
            try:
                return Show1UNet3DConditionModel.from_2d(image, **overrides)
            except ValueError as error:
                raise ConversionError(f"{self.origin.name}: {error}") from error

    def compare(self, raw: Mapping[str, torch.Tensor], model: Any) -> tuple[int, list[str]]:
        import torch.nn.functional as F

        weight = raw.get("conv_in.weight")
        extra = model.conv_in.weight.shape[1] - (weight.shape[1] if weight is not None else 0)
        if weight is not None and extra > 0:  # new input channels start at zero
            raw = {**raw, "conv_in.weight": F.pad(weight, (0, 0, 0, 0, 0, extra))}
        return super().compare(raw, model)


@dataclasses.dataclass
class FilePart(ModelPart):
    """A network from a state dict in one file."""

    origin: Path  # type: ignore[assignment]
    folder: Any  # the config: a dict, or None to find the published one that fits

    def describe(self) -> str:
        return f"converting {self.origin.name}"

    def read(self) -> dict[str, torch.Tensor]:
        self.state, self.left = find_state_dict(read_any(self.origin), self.origin.name)
        return self.state

    def load(self, raw: Mapping[str, torch.Tensor], dtype: torch.dtype) -> Any:
        import torch

        from ..models import Show1UNet3DConditionModel

        config = self.folder if self.folder is not None else _fitting_config(raw, self.origin.name)
        with torch.device("meta"):
            model = Show1UNet3DConditionModel.from_config(dict(config))
        expected = model.state_dict()
        missing = [name for name in expected if name not in raw]
        if missing:
            raise ConversionError(
                f"{self.origin.name} lacks {len(missing)} of the {len(expected)} parameters of the network that "
                f"`config` describes, the first is {missing[0]}."
            )
        for name, value in expected.items():
            if value.shape != raw[name].shape:
                raise ConversionError(
                    f"{self.origin.name} has {name} of shape {tuple(raw[name].shape)}, and `config` describes "
                    f"{tuple(value.shape)}."
                )
        state = {name: raw[name].to(dtype) if raw[name].is_floating_point() else raw[name] for name in expected}
        model.load_state_dict(state, assign=True)
        return model.eval()

    def compare(self, raw: Mapping[str, torch.Tensor], model: Any) -> tuple[int, list[str]]:
        compared, unused = super().compare(raw, model)
        return compared, [*unused, *self.left]


# --- tensors -----------------------------------------------------------------------------------------------------


def read_any(path: Path) -> Any:
    """The content of a `.safetensors` file or a pickle: tensors, and plain containers of them.

    Raises:
        ConversionError: the file is damaged, or a pickle that would run code.
    """
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # not a zip archive: the format before torch 1.6, which cannot be mapped
            return torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        refused = refused_pickle(error) or "it is damaged, or no weights"
        raise ConversionError(f"{path.name} is refused: {refused}.") from error


def read_tensors(*paths: Path) -> dict[str, torch.Tensor]:
    """The tensors of a component's weight files, by their stored names."""
    import torch

    tensors: dict[str, torch.Tensor] = {}
    for path in paths:
        content = read_any(path)
        if not isinstance(content, dict) or not all(isinstance(v, torch.Tensor) for v in content.values()):
            raise ConversionError(f"{path.name} is refused: it holds other things than a state dict.")
        tensors.update(content)
    return tensors


_PREFIXES = ("module.", "_orig_mod.", "unet.", "model.", "model.diffusion_model.")


def find_state_dict(content: Any, name: str) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The network's state dict in what a checkpoint holds, without prefixes, and the names of all else.

    Raises:
        ConversionError: there is none.
    """
    import torch

    candidates: list[tuple[str, dict[str, Any]]] = []

    def walk(path: str, value: Any, depth: int) -> None:
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            candidates.append((path, value))
            if depth:
                for key, inner in value.items():
                    walk(f"{path}{key}.", inner, depth - 1)

    walk("", content, 2)
    for path, value in candidates:
        tensors = {key: inner for key, inner in value.items() if isinstance(inner, torch.Tensor)}
        for prefix in _all_prefixes(tensors):
            if f"{prefix}conv_in.weight" in tensors:
                mine = {key[len(prefix) :]: inner for key, inner in tensors.items() if key.startswith(prefix)}
                rest = [path + key for key in value if key not in tensors or not key.startswith(prefix)]
                if path:
                    top = path.split(".")[0]
                    rest += [key for key in content if key != top]
                return mine, rest
        if any(".input_blocks." in f".{key}" for key in tensors):
            raise ConversionError(
                f"{name} has parameter names of a code older than diffusers (input_blocks...). Convert the same model "
                "from its repository in diffusers' format."
            )
    raise ConversionError(f"{name} holds no network of Show-1: there is no conv_in.weight in it.")


def _all_prefixes(tensors: Mapping[str, Any]) -> list[str]:
    """ "", and combinations of the usual prefixes that some name has."""
    found = {key[: -len("conv_in.weight")] for key in tensors if key.endswith("conv_in.weight")}
    return sorted(p for p in found if re.fullmatch("(?:" + "|".join(map(re.escape, _PREFIXES)) + ")*", p))


def _fitting_config(raw: Mapping[str, torch.Tensor], name: str) -> dict[str, Any]:
    """The published network whose first convolution fits."""
    out_channels, in_channels = raw["conv_in.weight"].shape[:2]
    for config in PUBLISHED_UNETS.values():
        first = config.get("block_out_channels", [320])[0]
        if (first, config.get("in_channels", 4)) == (out_channels, in_channels):
            return config
    raise ConversionError(
        f"{name} is none of the published networks: its first convolution is {in_channels} to {out_channels} "
        "channels. Its `config` is needed."
    )


def _modern_names(stored: str) -> list[str]:
    """The names that a stored parameter may have in today's classes, likeliest first."""
    names = [stored, f"text_model.{stored}", stored.removeprefix("text_model.")]
    older = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
    return names + [stored.replace(old, new) for old, new in older.items() if old in stored]


def _class(library: str, name: str) -> Any:
    import importlib

    return getattr(importlib.import_module(library), name)


def _stored_dtype(raw: Mapping[str, torch.Tensor], model_class: Any) -> torch.dtype:
    """The number format that loses nothing: the stored one, or of a mixture the widest.

    A mixture that the class itself makes of the narrower one stays (T5 in half precision has some layers in float32).
    """
    import torch

    kinds = sorted({v.dtype for v in raw.values() if v.is_floating_point()}, key=lambda kind: kind.itemsize)
    if len(kinds) == 2 and kinds[0] == torch.float16 and kinds[1] == torch.float32:
        kept = getattr(model_class, "_keep_in_fp32_modules", None) or ()
        wide = [name for name, v in raw.items() if v.dtype == torch.float32]
        if all(any(part in kept for part in name.split(".")) for name in wide):
            return kinds[0]
    return kinds[-1] if kinds and len({k.itemsize for k in kinds}) == len(kinds) else torch.float32


def _load(
    model_class: Any, folder: Path, dtype: torch.dtype, variant: str | None, weights: Sequence[str] = (".safetensors",)
) -> Any:
    """`from_pretrained` on a folder, with missing parameters and other shapes an error instead of a warning."""
    from diffusers.utils import logging

    logger = logging.get_logger("diffusers.models.modeling_utils")
    level = logger.level
    logger.setLevel(logging.ERROR)  # unused parameters are in the report
    try:
        model, info = model_class.from_pretrained(
            folder,
            dtype=dtype,
            variant=variant,
            use_safetensors=weights[0].endswith(".safetensors"),
            output_loading_info=True,
        )
    except (RuntimeError, OSError, ValueError) as error:
        raise ConversionError(f"{folder.name}: {' '.join(str(error).split())}") from error
    finally:
        logger.setLevel(level)
    missing = sorted(info["missing_keys"])
    if missing or info["mismatched_keys"]:
        first = missing[0] if missing else str(sorted(info["mismatched_keys"])[0])
        count = len(missing) + len(info["mismatched_keys"])
        raise ConversionError(
            f"{folder.name}: {count} parameters are missing or of another shape, the first is {first}."
        )
    return model.eval()


def _save(model: Any, folder: Path, max_shard_size: int | str, variant: str | None) -> None:
    # a transformers model keeps the name of the file that it was read from out of its config, a diffusers one does not
    if hasattr(model, "register_to_config"):
        model._internal_dict = type(model._internal_dict)(
            {k: v for k, v in model._internal_dict.items() if k != "_name_or_path"}
        )
    model.save_pretrained(folder, max_shard_size=max_shard_size, variant=variant)


def _verify(
    model_class: Any,
    folder: Path,
    dtype: torch.dtype,
    variant: str | None,
    expected: Mapping[str, tuple[list[int], str, str]],
) -> None:
    """Reads what was written, and compares names, shapes, number formats and bits."""
    found = _fingerprint(_load(model_class, folder, dtype, variant))
    if found != expected:
        wrong = sorted(set(found) ^ set(expected)) or [name for name in expected if found[name] != expected[name]]
        raise OSError(f"{folder.name}: {wrong[0]} was not written as it was read.")


def _fingerprint(model: Any) -> dict[str, tuple[list[int], str, str]]:
    """Shape, number format and digest of the bits, of each parameter and buffer of the state dict."""
    import torch

    prints = {}
    for name, value in model.state_dict().items():
        bits = value.detach().contiguous().reshape(-1).view(torch.uint8)
        prints[name] = (list(value.shape), str(value.dtype), hashlib.blake2b(bits.numpy().data).hexdigest())
    return prints


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    import torch

    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(*(t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (a, b)))


def _check_cast(name: str, value: torch.Tensor, cast: torch.Tensor, label: str) -> None:
    if bool(value.isfinite().all()) and not bool(cast.isfinite().all()):
        raise ConversionError(
            f"{label}: {name} has values that do not fit into {str(cast.dtype).removeprefix('torch.')}."
        )


def _check_finite(model: Any, variant: str, label: str) -> None:
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ConversionError(f"{label}: {name} has values that do not fit into the variant {variant}.")


# --- the account of a conversion ---------------------------------------------------------------------------------


class _Record:
    """`conversion.json`: what is made of what, and which parts are finished."""

    def __init__(self, output: Path, plan: Plan, options: Mapping[str, Any]):
        self.output = output
        self.parts: dict[str, dict[str, Any]] = {}
        self.dropped: list[str] = []
        self.begun = {"kind": plan.kind, "identity": plan.identity, "options": dict(options)}

    @classmethod
    def open(cls, output: Path, plan: Plan, options: Mapping[str, Any]) -> _Record:
        """A new record, or that of the same conversion, begun earlier.

        Raises:
            ValueError: `output` is a file, or holds something else.
        """
        record = cls(output, plan, options)
        allowed = "a new or empty folder, or one that the same conversion began"
        if output.exists() and not output.is_dir():
            raise ValueError(f"`output` must be {allowed}, got {str(output)!r}, which is a file.")
        if output.is_dir() and any(output.iterdir()):
            try:
                before = json.loads((output / RECORD).read_text(encoding="utf-8"))
                same = before["begun"] == json.loads(json.dumps(record.begun))
            except (OSError, ValueError, KeyError, TypeError):
                raise ValueError(f"`output` must be {allowed}, got {str(output)!r}, which is not empty.") from None
            if not same:
                raise ValueError(
                    f"`output` must be {allowed}, got {str(output)!r}, which holds {before['begun'].get('kind')} "
                    "of another source or with other options."
                )
            record.parts, record.dropped = before["parts"], before["dropped"]
        for origin in plan.origins:
            root = origin.root if isinstance(origin, Origin) and origin.local else None
            if root is not None and root in (output.resolve(), *output.resolve().parents):
                raise ValueError(f"`output` must be outside of `source`, got {str(output)!r}.")
        output.mkdir(parents=True, exist_ok=True)
        record.reused = list(record.parts)
        record.save()
        return record

    reused: list[str]

    def save(self, **more: Any) -> None:
        content = {"begun": self.begun, "parts": self.parts, "dropped": self.dropped, **more}
        _write(self.output / RECORD, content)

    def finish(self, part: Part, partial: Path, facts: dict[str, Any], dropped: list[str]) -> None:
        """Moves a verified part to its place and notes it."""
        if part.name:
            final = self.output / part.name
            shutil.rmtree(final, ignore_errors=True)
            os.replace(partial, final)
        else:
            for file in sorted(partial.iterdir(), key=lambda file: file.name == "config.json"):
                os.replace(file, self.output / file.name)
            partial.rmdir()
        self.parts[part.name] = facts
        self.dropped += dropped
        self.save()

    def close(self, plan: Plan) -> Report:
        """Writes the licence and, last, the index: a folder with an index is a finished conversion."""
        note = plan.licence
        (self.output / LICENCE).write_text(f"# Licence of these weights\n\n{note}\n", encoding="utf-8")
        for origin in plan.origins:
            if not isinstance(origin, Origin):
                continue
            for name in origin.inside(""):
                if re.fullmatch(r"(LICEN[SC]E|NOTICE|COPYING)([.-].*)?", name) and name != LICENCE:
                    label = "" if len(plan.origins) == 1 else f".{origin.name.replace('/', '--')}"
                    shutil.copyfile(origin.fetch(name) / name, self.output / f"{name}{label}")
        for leftover in self.output.glob(".partial-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        if plan.index is not None:
            assert recognise_index(plan.index).name in ("stage", "cascade")
            _write(self.output / "model_index.json", plan.index)
        dropped = [*plan.dropped, *self.dropped]
        self.save(finished=True, licence=note)
        parts = {part.name: self.parts[part.name] for part in plan.parts}
        return Report(self.output, plan.kind, parts, dropped, note, self.reused)


def _write(path: Path, content: Any) -> None:
    """JSON to a file, whole or not at all."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(new, path)
