# SPDX-License-Identifier: Apache-2.0
"""All that decides what a clip looks like: read from flags or from a JSON, and checked without a framework."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..families import all_families, family_of, short_names
from ..ladder.family import Family
from .adapters import read_adapter, resolved
from .refusals import BadInput, one_of, refuse


if TYPE_CHECKING:
    from .job import JobSettings

DEFAULT_MODEL = "tiny"  # ships with the package
DEFAULT_RECIPE = "default"  # which every cascade has
DTYPES = ("float32", "float16", "bfloat16")
MAX_STEPS = 1000  # the length of every published training schedule
MAX_SEED = 2**53  # whole numbers up to here survive any JSON reader
MAX_CHARACTERS = 10_000  # of a prompt
MAX_FRAMES = 2**16  # which `read_video` reads back
CONTENT_FLAGS = {
    "prompts": "PROMPT",
    "prompts_file": "--prompts-file",
    "model": "--model",
    "seed": "--seed",
    "steps": "--steps",
    "guidance": "--guidance",
    "lora": "--lora",
    "frames": "--frames",
    "height": "--height",
    "width": "--width",
    "stop_after": "--stop-after",
    "recipe": "--recipe",
    "negative_prompt": "--negative-prompt",
    "fps": "--fps",
    "dtype": "--dtype",
}  # what --from-json and --resume say already


@dataclasses.dataclass(frozen=True)
class Settings:
    """All that decides what a clip looks like. What is None is left to the cascade, or to the machine."""

    prompt: str
    seed: int
    negative_prompt: str | None = None
    model: str = DEFAULT_MODEL
    model_revision: str | None = None
    recipe: str = DEFAULT_RECIPE
    stage_options: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    num_frames: int | None = None
    stop_after: str | None = None
    fps: float | None = None
    lora: list[str] = dataclasses.field(default_factory=list)
    device: str = "auto"
    dtype: str = "auto"

    def check(self) -> Settings:
        """Raise `BadInput` for the first value that cannot be used; needs no model, and asks the Hub for nothing.

        Names of stages and recipes are those of the model's cascade; where that is on the Hub, loading it tells.
        """
        for argument, text in (("PROMPT", self.prompt), ("--negative-prompt", self.negative_prompt or "")):
            if len(text) > MAX_CHARACTERS:
                refuse(argument, text, f"a text of at most {MAX_CHARACTERS} characters")
            try:
                text.encode()
            except UnicodeEncodeError:  # a command line and a JSON can hold half a character
                refuse(argument, text, "a text in Unicode")
        if not self.prompt.strip():
            refuse("PROMPT", self.prompt, "a text that is not empty")
        if not 0 <= self.seed <= MAX_SEED:
            refuse("--seed", self.seed, f"a whole number from 0 to {MAX_SEED}")
        if self.num_frames is not None and self.num_frames < 2:
            refuse("--frames", self.num_frames, "a whole number of at least 2")
        if self.num_frames is not None and self.num_frames > MAX_FRAMES:
            refuse("--frames", self.num_frames, f"a whole number of at most {MAX_FRAMES}")
        if self.fps is not None and not 0.1 <= self.fps <= 1000:
            refuse("--fps", self.fps, "a number above 0, from 0.1 to 1000")
        one_of("--dtype", self.dtype, ("auto", *DTYPES))
        if not re.fullmatch(r"auto|cpu|(cuda|mps|xpu)(:[0-9]{1,2})?", self.device):
            refuse("--device", self.device, "one of auto, cpu, cuda, cuda:N, mps, xpu, xpu:N")
        # It becomes a part of a path in the Hub's cache.
        if self.model_revision is not None and not re.fullmatch(r"\w+([./-]\w+)*", self.model_revision):
            refuse("model_revision", self.model_revision, "a branch, tag or commit")
        for text in self.lora:
            read_adapter(text)
        family = check_model(self.model)
        if family is not None:
            self.check_names(tuple(family.stages))
            if self.recipe != DEFAULT_RECIPE:
                one_of("--recipe", self.recipe, sorted(family.cascade_class.recipes))
        return self

    def for_job(self) -> JobSettings:
        """What of it a job is begun with."""
        from .job import JobSettings

        return JobSettings(**{field.name: getattr(self, field.name) for field in dataclasses.fields(JobSettings)})

    def check_names(self, stages: Sequence[str]) -> None:
        """Raise `BadInput` unless all stages that are named are among `stages`, those of the cascade."""
        if self.stop_after is not None:
            one_of("--stop-after", self.stop_after, stages)
        for stage in self.stage_options:
            one_of("stage_options", stage, stages)


def per_stage(
    argument: str, text: str, number: type, least: float, most: float, stages: Sequence[str]
) -> dict[str, Any]:
    """Numbers by stage from `"20"` (every stage) or `"base=20,superres=4"` (the others keep the recipe's).

    Args:
        argument: where the text stands, for messages.
        text: what stands there.
        number: `int` or `float`.
        least: each value has to be at least this.
        most: and at most this.
        stages: the cascade's, in order.

    Raises:
        BadInput: for anything else.
    """
    kind = "a whole number" if number is int else "a number"
    limits = f"of at least {least:g}" if math.isinf(most) else f"from {least:g} to {most:g}"
    allowed = f"{kind} {limits}, or stage=number pairs with commas between ({', '.join(stages)})"
    values: dict[str, Any] = {}
    for item in text.split(","):
        stage, equals, value = item.rpartition("=")
        named = (stage.strip(),) if equals else tuple(stages)
        try:
            parsed = number(value)
        except ValueError:
            refuse(argument, text, allowed)
        # Written so that NaN fails; a stage named twice, or a pair beside a number for all, would hide one of the two.
        if (
            not (least <= parsed <= most)
            or math.isinf(parsed)
            or values.keys() & set(named)
            or set(named) - set(stages)
        ):
            refuse(argument, text, allowed)
        values.update(dict.fromkeys(named, parsed))
    return values


def read_prompts(text: str) -> list[str]:
    """The prompts of a prompts file: one a line, stripped; empty lines and lines that begin with `#` are left out."""
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def check_model(model: str) -> Family | None:
    """The family of the cascade that `model` names, or None where only the Hub knows.

    Args:
        model: one of `short_names()`, a folder of a cascade, or what has the form of a Hub id.

    Raises:
        BadInput: it is none of them.
    """
    allowed = f"{', '.join(short_names())}, a folder that holds a cascade, or a Hub id (owner/name)"
    if model in short_names():
        return short_names()[model]
    folder = model_folder(model)
    if folder is not None:
        try:
            index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
            name = index["_class_name"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            refuse("--model", model, allowed, f"{folder} has no readable model_index.json")
        names = name if isinstance(name, list) else [name]
        found = next((family for family in all_families() if family.cascade in names), None)
        if found is None:
            refuse("--model", model, allowed, f"{folder} holds a {name}")
        return found
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(model)
    except HFValidationError:
        refuse("--model", model, allowed, "there is no folder of this name")
    if "/" not in model:
        refuse("--model", model, allowed, "there is no folder of this name")
    return None


def stage_names(model: str) -> tuple[str, ...]:
    """The stages of the cascade that `model` names, in order; as `cascade_family`."""
    return tuple(cascade_family(model).stages)


def cascade_family(model: str) -> Family:
    """The family of the cascade that `model` names; for a Hub id, its index is asked for.

    Raises:
        BadInput: it is no cascade, or the Hub cannot be reached.
    """
    family = check_model(model)
    if family is None:
        from ..hub.recognise import recognise

        try:
            kind = recognise(model)
        except OSError as error:
            refuse("--model", model, "a model that can be loaded", str(error).strip().splitlines()[0])
        family = family_of(kind.class_name or "")
        if family is None or not kind.generates:
            refuse("--model", model, "a cascade", f"it is {kind}")
    return family


def stage_of_size(model: str, stop_after: str | None) -> str:
    """The stage that decides the size of the clip: of those that run, the last that takes `height` and `width`."""
    rungs = cascade_family(model).cascade_class.rungs
    names = [rung.name for rung in rungs]
    if stop_after is not None:
        one_of("--stop-after", stop_after, names)
        rungs = rungs[: names.index(stop_after) + 1]
    return next(rung.name for rung in reversed(rungs) if {"height", "width"} <= {*rung.options})


def model_folder(model: str) -> Path | None:
    """The local folder that `model` names, or None when it is to come from the Hub."""
    if model in short_names():
        return short_names()[model].short_names[model]
    return Path(model) if os.path.isdir(model) else None


def settings_from_flags(flags: dict[str, Any], stages: Sequence[str] = ()) -> list[Settings]:
    """The settings of every clip that the flags of `generate` ask for, checked.

    Args:
        flags: by the names of `CONTENT_FLAGS`, and `device`.
        stages: the cascade's, where it is loaded already.
    """
    prompts = list(flags["prompts"] or [])
    if flags["prompts_file"] is not None:
        try:
            prompts += read_prompts(flags["prompts_file"].read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError) as error:
            refuse("--prompts-file", str(flags["prompts_file"]), "a text file in UTF-8", error)
    if not prompts:
        refuse("PROMPT", "", "at least one prompt, here or in --prompts-file")
    options: dict[str, dict[str, Any]] = {}
    if flags["steps"] is not None or flags["guidance"] is not None:
        stages = stages or stage_names(flags["model"] or DEFAULT_MODEL)
    if flags["steps"] is not None:
        for stage, value in per_stage("--steps", flags["steps"], int, 1, MAX_STEPS, stages).items():
            options.setdefault(stage, {})["num_inference_steps"] = value
    if flags["guidance"] is not None:
        for stage, value in per_stage("--guidance", flags["guidance"], float, 1, math.inf, stages).items():
            options.setdefault(stage, {})["guidance_scale"] = value
    size = {side: flags[side] for side in ("height", "width") if flags[side] is not None}
    for side, value in size.items():
        if value < 1:
            refuse(f"--{side}", value, "a whole number of at least 1")
    if size:
        stage = stage_of_size(flags["model"] or DEFAULT_MODEL, flags["stop_after"])
        options[stage] = options.get(stage, {}) | size
    seed = secrets.randbelow(2**32) if flags["seed"] is None else flags["seed"]
    given = {name: flags[name] for name in ("negative_prompt", "stop_after", "fps")}
    given |= {name: flags[name] for name in ("model", "recipe", "device", "dtype") if flags[name] is not None}
    given |= {"num_frames": flags["frames"], "stage_options": options}
    given["lora"] = [resolved(text) for text in flags["lora"] or []]
    if "model" in given and given["model"] not in short_names() and model_folder(given["model"]) is not None:
        given["model"] = str(Path(given["model"]).resolve())  # so that the JSON means the same from another folder
    return [Settings(prompt, seed + index, **given).check() for index, prompt in enumerate(prompts)]


def settings_from_json(flags: dict[str, Any]) -> tuple[list[Settings], dict[str, Any]]:
    """The settings in the JSON that `--from-json` names, and the whole of it; only the device may be changed."""
    for name, argument in CONTENT_FLAGS.items():
        if flags[name] not in (None, []):
            refuse(argument, flags[name], "left out beside --from-json", "the JSON says it already")
    settings, record = read_record(flags["from_json"])
    return [dataclasses.replace(settings, device=flags["device"] or settings.device).check()], record


def read_record(path: Path) -> tuple[Settings, dict[str, Any]]:
    """The checked settings in a JSON or clip that `show1 generate` wrote, and the whole record; `BadInput` if none."""
    allowed = "a JSON file that show1 generate wrote, or a clip that carries it"
    if path.is_dir() or path.suffix.lower() in (".mp4", ".gif", ".webp"):
        from ..clips.provenance import read_metadata

        try:
            record = read_metadata(path)
        except (ValueError, OSError) as error:
            raise BadInput(str(error).replace("`path`", "--from-json", 1)) from error
        return parse_settings(record, "--from-json", str(path), allowed), record
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        refuse("--from-json", str(path), allowed, error.strerror)
    except (ValueError, RecursionError):
        refuse("--from-json", str(path), allowed, "this is no JSON")
    return parse_settings(record, "--from-json", str(path), allowed), record


def parse_settings(record: Any, argument: str, source: str, allowed: str) -> Settings:
    """The checked settings in what a JSON holds; `BadInput` about `argument`, which named `source`, if it has none."""
    given = record.get("settings") if isinstance(record, dict) else None
    if not isinstance(given, dict):
        refuse(argument, source, allowed, "it has no settings")
    given = {"lora": [], **given}  # of records from before there was one
    types: dict[str, Any] = {
        "seed": int,
        "num_frames": int,
        "fps": (int, float),
        "stage_options": dict,
        "lora": list,
    }
    values: dict[str, Any] = {}
    for field in dataclasses.fields(Settings):
        value = values[field.name] = given.get(field.name)
        right = isinstance(value, types.get(field.name, str)) and not isinstance(value, bool)
        if not right and not (value is None and field.default is None):
            refuse(argument, source, allowed, f"its {field.name} is {value!r}")
    if not all(isinstance(options, dict) for options in values["stage_options"].values()):
        refuse(argument, source, allowed, "its stage_options are not options by stage")
    if not all(isinstance(text, str) for text in values["lora"]):
        refuse(argument, source, allowed, "its lora are not all texts")
    return Settings(**values).check()
