# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of all origins to this package's layout: safetensors, sharded, an fp16 variant beside.

    convert("showlab/show-1-base", "show1-base", variant="fp16")            # a published stage
    convert("showlab", "show1", dtype="float16")                            # all four, as one cascade with one T5
    convert("DeepFloyd/IF-I-L-v1.0", "keyframes", stage="base")             # an image model, inflated to a video model
    convert("cerspense/zeroscope_v2_576w", "refiner")                       # ModelScope's network as refinement stage
    convert("checkpoint-9000.pt", "unet")                                   # a state dict -> a network alone

Which checkpoints there are and what becomes of them, the families say (`ladder/checkpoints.py`); which components a
stage and a cascade have, their classes.

A conversion is a list of parts, one a component. Each part is read (pickles as tensors only), written to a `.partial-`
folder, read again and compared bit by bit, and only then moved to its place; `conversion.json` keeps the account. So a
conversion that was killed goes on where it was when it is called again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..families import all_families, short_names
from ..ladder.checkpoints import Foreign, Network
from ..ladder.family import Family
from .folder import read_config
from .origin import NO_LICENCE, Origin, Source, licence_of
from .parts import VARIANTS, FilePart, FilesPart, InflatedPart, ModelPart, Part, SchedulerPart
from .recognise import recognise, recognise_index, resolve
from .weights import ConversionError


if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "float16", "bfloat16")
RECORD = "conversion.json"
LICENCE = "LICENSE-WEIGHTS.md"
# What an index lists besides, always empty: a safety checker is not converted.
_EMPTY_COMPONENTS = ("feature_extractor", "safety_checker")

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
        source: a Hub id or folder with a `model_index.json` (a published stage, a stage or cascade of ours, or a
            model that a family makes stages of: for Show-1 DeepFloyd IF, ModelScope and zeroscope); the short name of
            a published cascade (`"showlab"`), or a dict stage -> Hub id or folder of all stages (and for Show-1
            `"first_frame"` for DeepFloyd IF-II), for a cascade; a folder with a network alone (`config.json`); or a
            `.pt`, `.pth`, `.ckpt`, `.bin` or `.safetensors` file with a state dict.
        output: the folder to write. New, empty, or one that the same conversion began.
        dtype: of the weights written, `"float32"`, `"float16"` or `"bfloat16"`; by default as they are stored.
        variant: `"fp16"` or `"bf16"` writes weights of that kind beside, for `from_pretrained(..., variant="fp16")`.
        max_shard_size: bytes, or a text such as `"5GB"`; larger weights are cut into several files.
        stage: what to make of a model that several stages can be made of: of a DeepFloyd IF stage-I model `"base"`
            (the default) or `"interpolation"`.
        config: for a state dict: the name of a stage (its published network), a `config.json`, or a dict. By default
            a `config.json` beside the file, or else the published network that fits.
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
    stages = dict.fromkeys(name for family in all_families() for name in family.stages)
    if stage not in (None, *stages):
        raise ValueError(f"`stage` must be one of {', '.join(stages)}, got {stage!r}.")
    if isinstance(without, str) or not all(isinstance(item, str) for item in without):
        raise ValueError(f"`without` must be a list of component names, got {without!r}.")
    return {"dtype": name, "variant": variant, "max_shard_size": max_shard_size, "without": sorted(without)}


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
    if isinstance(source, Mapping):
        _refuse_beside(source, "a cascade", stage=stage, config=config, revision=revision)
        return _plan_cascade(_family_with(source), source, without)
    folder, family = resolve(source)
    if folder is None and family is not None:
        _refuse_beside(source, "a cascade", stage=stage, config=config, revision=revision)
        return _plan_cascade(family, {rung: r.repo_id for rung, r in family.published.items()}, without)
    source = folder or source
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
    if kind.family is None or kind.name == "none":
        published = [name for name, family in short_names().items() if family.short_names[name] is None]
        known = [f"{foreign.title}" for family in all_families() for foreign in family.known_checkpoints.foreign]
        stages = " or ".join(family.title for family in all_families())
        allowed = (
            f"a Hub id or folder of a {stages} stage or cascade, of {', of '.join(known)}, "
            f"{', '.join(map(repr, published))}, or a .pt, .pth, .ckpt, .bin or .safetensors file"
        )
        raise ValueError(f"`source` must be {allowed}, got {str(source)!r}, which is {kind}.")
    if kind.name == "cascade":
        _refuse_beside(source, "a cascade", stage=stage)
        return _plan_saved_cascade(kind.family, Origin(source, revision), without)
    assert kind.stage is not None
    possible = (kind.stage,) if kind.foreign is None else kind.foreign.classes[str(kind.class_name)]
    if stage is not None and stage not in possible:
        raise ValueError(f"`stage` must be {' or '.join(possible)} for {kind}, got {stage!r}.")
    origin = Origin(source, revision)
    known_licence = kind.family.known_checkpoints.licence if kind.name == "published" else kind.foreign
    return _plan_stage(
        kind.family, origin, kind.foreign, stage or kind.stage, without, licence_of(origin, known_licence)
    )


def _family_with(sources: Mapping[str, Source]) -> Family:
    """The family whose stages a dict of sources names, or most of them.

    Raises:
        ValueError: it names other things, or not all stages.
    """

    def names(family: Family) -> tuple[str, ...]:
        return (*family.stages, *family.known_checkpoints.loans)

    family = max(all_families(), key=lambda family: len(sources.keys() & set(names(family))))
    if sources.keys() - set(names(family)) or set(family.stages) - sources.keys():
        got = ", ".join(map(str, sources)) or "nothing"
        loans = f", and may name {', '.join(loans)}" if (loans := family.known_checkpoints.loans) else ""
        raise ValueError(f"`source` must name {', '.join(family.stages)}{loans}, got {got}.")
    return family


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


def _plan_stage(
    family: Family, origin: Origin, foreign: Foreign | None, stage: str, without: list[str], licence: str
) -> Plan:
    """A repository with an index -> one stage."""
    table = _table(family.load(family.stages[stage]))
    _check_without(without, [name for name, needed in table.items() if not needed])
    parts: list[Part] = []
    dropped: list[str] = []
    for name, entry in _components(origin):
        if name in without:
            dropped.append(f"{name}: asked for by `without`")
        elif name not in table:
            dropped.append(f"{name}: the {stage} stage has no use for it")
        else:
            parts.append(_part(family, origin, name, entry, name == "unet", foreign, stage))
    have = {part.name for part in parts}
    for name, needed in table.items():
        if needed and name not in have:
            raise ConversionError(f"{origin.name} has no {name}, which the {stage} stage needs.")
    names = dict.fromkeys([*table, *_EMPTY_COMPONENTS], [None, None])
    components: dict[str, Any] = {**names, **{part.name: list(part.entry) for part in parts}}
    made = _index(family.stages[stage], **components)
    return Plan(f"the {stage} stage, from {origin.name}", parts, made, dropped, [origin], licence)


def _table(pipeline: Any) -> dict[str, bool]:
    """The components of a stage or cascade, by its signature, and whether it needs them."""
    expected, _ = pipeline._get_signature_keys(pipeline)
    return {name: name not in pipeline._optional_components for name in sorted(set(expected) - {*_EMPTY_COMPONENTS})}


def _part(
    family: Family,
    origin: Origin,
    name: str,
    entry: list[str],
    denoises: bool,
    foreign: Foreign | None = None,
    stage: str = "",
) -> Part:
    """How a component becomes one of ours; `denoises` where it stands for the network of the stage."""
    library, class_name = entry
    if denoises and foreign is not None and foreign.inflated:
        return InflatedPart(name, (family.library, family.networks[0]), origin, name, foreign.inflated[stage])
    ours = _own_network(family, class_name)
    if ours is not None:
        return ModelPart(name, (family.library, ours), origin, name)
    if denoises:
        raise ConversionError(f"{origin.name} has a {class_name} of {library} as {name}, which is not known here.")
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


def _own_network(family: Family, class_name: Any) -> str | None:
    """The network of the family that repositories give this name, with and without code of their own."""
    return class_name if class_name in family.networks else family.known_checkpoints.network_names.get(class_name)


def _plan_cascade(family: Family, sources: Mapping[str, Source], without: list[str]) -> Plan:
    """A source a stage -> one cascade; what stages share comes from the first of them."""
    cascade = family.cascade_class
    _check_without(without, [name for name, needed in _table(cascade).items() if not needed])
    rungs = {rung.name: rung for rung in cascade.rungs}
    owners: dict[str, str] = {}
    for rung in cascade.rungs:
        for part in rung.parts.values():
            owners.setdefault(part, rung.name)
    loans = {name: loan for name, loan in family.known_checkpoints.loans.items() if name in sources}
    lent = {part: name for name, loan in loans.items() for part in loan.components.values()}
    parts: list[Part] = []
    dropped: list[str] = []
    origins: list[Origin | Path] = []
    licences: list[str] = []
    for stage, source in sources.items():
        kind = recognise(source)
        loan = loans.get(stage)
        if loan is not None:
            right = (kind.name, kind.stage) == (loan.foreign, loan.rung)
        else:
            video = kind.foreign is None or not kind.foreign.inflated
            same = kind.stage is not None and family.stages.get(kind.stage) == family.stages[stage]
            right = kind.family is family and same and video
        if not right:
            what = f"the {stage} stage" if loan is None else loan.title
            raise ValueError(f"`source[{stage!r}]` must be {what}, got {str(source)!r}, which is {kind}.")
        origin = Origin(source)
        for name, entry in _components(origin):
            own: str | None
            if loan is not None:
                own = loan.components.get(name)
                reason = f"the {stage.replace('_', ' ')} has no use for it"
            else:
                own = None if name in _EMPTY_COMPONENTS else rungs[stage].parts.get(name)
                reason = f"the {stage} stage has no use for it"
                if own is not None and owners[own] != stage:
                    reason = f"the {owners[own]} stage's serves all that share it"
                    own = None
                elif own is not None and own in lent:
                    reason = f"`source[{lent[own]!r}]` takes its place"
                    own = None
            if own is not None and own in without:
                own, reason = None, "asked for by `without`"
            if own is None:
                dropped.append(f"{stage} {name}: {reason}")
            else:
                denoises = loan is None and own == rungs[stage].network
                parts.append(dataclasses.replace(_part(family, origin, name, entry, denoises), name=own))
        origins.append(origin)
        known = family.known_checkpoints.licence if kind.name == "published" else kind.foreign
        licences.append(licence_of(origin, known))
    made = _cascade_index(family, parts, None)
    names = ", ".join(o.name for o in origins if isinstance(o, Origin))
    return Plan(f"a cascade, from {names}", parts, made, dropped, origins, "\n\n".join(dict.fromkeys(licences)))


def _plan_saved_cascade(family: Family, origin: Origin, without: list[str]) -> Plan:
    """A cascade as this package saves it -> the same, in another number format or sharded otherwise."""
    table = _table(family.cascade_class)
    _check_without(without, [name for name, needed in table.items() if not needed])
    networks = {rung.network for rung in family.cascade_class.rungs}
    parts: list[Part] = []
    dropped: list[str] = []
    for name, entry in _components(origin):
        if name in without:
            dropped.append(f"{name}: asked for by `without`")
        elif name not in table:
            dropped.append(f"{name}: a cascade has no use for it")
        else:
            parts.append(_part(family, origin, name, entry, name in networks))
    made = _cascade_index(family, parts, _read_index(origin).get("stage_defaults"))
    return Plan(f"a cascade, from {origin.name}", parts, made, dropped, [origin], licence_of(origin, None))


def _components(origin: Origin) -> list[tuple[str, list[str]]]:
    """The components that a repository has, with their library and class."""
    index = _read_index(origin)
    return [
        (name, entry)
        for name, entry in index.items()
        if not name.startswith("_") and isinstance(entry, list) and len(entry) == 2 and entry[0] is not None
    ]


def _cascade_index(family: Family, parts: Sequence[Part], stage_defaults: Any) -> dict[str, Any]:
    table = _table(family.cascade_class)
    have = {part.name: list(part.entry) for part in parts}
    for name, needed in table.items():
        if needed and name not in have:
            raise ConversionError(f"The sources have no {name}, which a cascade needs.")
    components: dict[str, Any] = {**dict.fromkeys([*table, *_EMPTY_COMPONENTS], [None, None]), **have}
    return _index(family.cascade, **components, stage_defaults=stage_defaults)


_IMAGE_NETWORK = "UNet2DConditionModel"


def _plan_network(origin: Origin, stage: str | None) -> Plan:
    """A folder with a network alone -> the same of ours."""
    try:
        name = read_config(origin.root / "config.json").get("_class_name")
    except ValueError as error:
        raise ConversionError(f"{origin.name}: {error}.") from error
    image = [(f, foreign) for f in all_families() for foreign in f.known_checkpoints.foreign if foreign.inflated]
    if name == _IMAGE_NETWORK and image:
        rungs = dict.fromkeys(rung for _, foreign in image for rung in foreign.inflated)
        if stage not in (None, *rungs):
            raise ValueError(f"`stage` must be one of {', '.join(rungs)} for an image network, got {stage!r}.")
        family, foreign = next(pair for pair in image if stage is None or stage in pair[1].inflated)
        entry = (family.library, family.networks[0])
        part: Part = InflatedPart("", entry, origin, "", foreign.inflated.get(stage or "", {}))
        return Plan(f"a network, from {origin.name}", [part], None, [], [origin], licence_of(origin, foreign))
    for family in all_families():
        if (ours := _own_network(family, name)) is not None:
            _refuse_beside(origin.name, "a video network", stage=stage)
            part = ModelPart("", (family.library, ours), origin, "")
            return Plan(f"a network, from {origin.name}", [part], None, [], [origin], licence_of(origin, None))
    known = [(*family.known_checkpoints.network_names, *family.networks) for family in all_families()]
    allowed = ", ".join(dict.fromkeys((_IMAGE_NETWORK, *(name for names in known for name in names))))
    raise ValueError(f"`source` must hold one of {allowed}, got {origin.source!r}, which holds a {name}.")


def _plan_file(path: Path, config: Any) -> Plan:
    """A file with a state dict -> a network of ours."""
    if path.suffix not in (".pt", ".pth", ".ckpt", ".bin", ".safetensors"):
        raise ValueError(f"`source` must be a .pt, .pth, .ckpt, .bin or .safetensors file, got {str(path)!r}.")
    beside = path.parent / "config.json"
    if config is None and beside.exists():
        config = beside
    published = [family.known_checkpoints.networks for family in all_families()]
    names = dict.fromkeys(name for networks in published for name in networks)
    networks: list[Network] | None = None
    if isinstance(config, (str, Path)) and str(config) not in names:
        if not Path(config).is_file():
            raise ValueError(f"`config` must be one of {', '.join(names)}, or a JSON file, got {str(config)!r}.")
        try:
            config = read_config(Path(config))
        except ValueError as error:
            raise ValueError(f"`config` must be a JSON file of a network, got {str(config)!r}: {error}.") from None
    elif isinstance(config, str):
        networks = [known[config] for known in published if config in known]
    if isinstance(config, Mapping):
        networks = [Network(name, config) for name in _networks_named(config.get("_class_name"))]
    part = FilePart("", ("", ""), path, networks)
    return Plan(f"a network, from {path.name}", [part], None, [], [path], NO_LICENCE)


def _networks_named(class_name: Any) -> list[str]:
    """Our networks that a config with this class name may be of: all of them, where it names none of ours."""
    named = [ours for family in all_families() if (ours := _own_network(family, class_name)) is not None]
    return named or [name for family in all_families() for name in family.networks]


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
                record.parts, record.dropped = dict(before["parts"]), list(before["dropped"])
            except (OSError, ValueError, KeyError, TypeError):
                raise ValueError(f"`output` must be {allowed}, got {str(output)!r}, which is not empty.") from None
            if not same:
                raise ValueError(
                    f"`output` must be {allowed}, got {str(output)!r}, which holds a conversion "
                    "of another source or with other options."
                )
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
