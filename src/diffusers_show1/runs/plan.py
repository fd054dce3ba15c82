# SPDX-License-Identifier: Apache-2.0
"""Which clips are to be made, which of them have a job that is under way, and which are done."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
from pathlib import Path
from typing import Any

from .outputs import default_names, output_names
from .refusals import BadInput, refuse
from .settings import CONTENT_FLAGS, Settings, parse_settings, read_record, settings_from_flags, settings_from_json


FIELDS = {
    "prompts": "prompt",
    "prompts_file": "prompt",
    "steps": "stage_options",
    "guidance": "stage_options",
    "frames": "num_frames",
    "height": "stage_options",
    "width": "stage_options",
}  # of Settings, where the flag has another name


@dataclasses.dataclass
class Plan:
    """One clip to make: its settings and where it goes; with --job, its job's folder, and how far that is."""

    settings: Settings
    output: str
    folder: Path | None = None
    begun: bool = False
    done: bool = False

    @property
    def go_on(self) -> str:
        """How to go on with it after a fault, in a sentence; empty without a job."""
        return (
            "" if self.folder is None else f"To go on: show1 generate --job {shlex.quote(str(self.folder))} --resume"
        )


def plan(flags: dict[str, Any]) -> tuple[list[Plan], dict[str, Any] | None]:
    """The clips that the flags of `generate` ask for, and the record of `--from-json`; `BadInput` for bad ones."""
    given = [name for name in CONTENT_FLAGS if flags[name] not in (None, [])]
    if flags["resume"] and flags["job"] is None:
        refuse("--resume", True, "given beside --job")
    if flags["resume"] and flags["from_json"] is None and not {"prompts", "prompts_file"} & set(given):
        begun = read_job(flags["job"])
        if begun is None:
            refuse("--job", flags["job"], "the folder of a job that has begun", "with a prompt, one begins")
        for name in given:
            refuse(CONTENT_FLAGS[name], flags[name], "left out beside --resume", "the job says it already")
        asked, original = [begun.settings], None
    else:
        asked, original = settings_from_json(flags) if flags["from_json"] else (settings_from_flags(flags), None)
    if flags["output"] is None:
        outputs = default_names([settings.prompt for settings in asked])
    else:
        outputs = output_names(flags["output"], len(asked))
    if flags["job"] is None:
        return [Plan(settings, name) for settings, name in zip(asked, outputs, strict=True)], original
    plans = []
    for settings, name, folder in zip(asked, outputs, output_names(flags["job"], len(asked)), strict=True):
        begun = read_job(folder)
        if begun is None:
            plans.append(Plan(settings, name, Path(folder)))
            continue
        if not flags["resume"]:
            refuse("--job", folder, "a new folder", "a job has begun there; --resume goes on with it")
        if flags["output"] is None:
            if begun.folder != os.path.realpath(folder):
                refuse("--output", None, "given beside a job that was begun elsewhere", f"this one in {begun.folder}")
            name = begun.output
        check_same(begun.settings, settings, given if original is None else list(CONTENT_FLAGS))
        settings = dataclasses.replace(begun.settings, device=flags["device"] or begun.settings.device).check()
        here = absolute(name) == begun.output and (Path(folder) / "made.json").exists() and Path(name).exists()
        plans.append(Plan(settings, name, Path(folder), begun=True, done=here))
    return plans, original


@dataclasses.dataclass
class Begun:
    """What the job in a folder says: its settings, where its clip goes, and the folder that it was begun in."""

    settings: Settings
    output: str
    folder: str


def about(settings: Settings, output: str, folder: Path) -> dict[str, Any]:
    """What a job's folder keeps for `--resume` beside its own settings: what those don't say, and where things are.

    The folder itself is among it, so that a copy, or somebody else's job, is not taken for one that was begun there:
    such a job must not say where a clip is written.
    """
    own = vars(settings.for_job())
    rest = {name: value for name, value in dataclasses.asdict(settings).items() if name not in own}
    return {"settings": rest, "output": absolute(output), "folder": os.path.realpath(folder)}


def is_own(path: Path, settings: Settings) -> bool:
    """Whether a clip, or the JSON beside one, says that these very settings made it: it may be written again."""
    try:
        if path.suffix == ".json":
            made = parse_settings(json.loads(path.read_text(encoding="utf-8")), "", "", "")
        else:
            made, _ = read_record(path)
    except (BadInput, OSError, ValueError, RecursionError):
        return False
    # a stage's clip has a rate of its own, and stops there
    anyhow: dict[str, Any] = {"device": settings.device, "fps": settings.fps, "stop_after": settings.stop_after}
    return _known_options(dataclasses.replace(made, **anyhow)) == _known_options(settings)


def _known_options(settings: Settings) -> Settings:
    """The settings as JSON gives them back."""
    return Settings(**json.loads(json.dumps(dataclasses.asdict(settings))))


def absolute(output: str) -> str:
    """An output's name from any working folder; a slash at the end stays: it makes a folder of it."""
    return os.path.abspath(output) + ("/" if output.endswith("/") else "")


def read_job(folder: str) -> Begun | None:
    """The job in a folder, its settings checked, or None where none has begun."""
    from .folder import JobError, JobFolder

    try:
        record = JobFolder(folder).read()
    except JobError as error:
        refuse("--job", folder, "a folder for a job of its own", error)
    if record is None:
        return None
    kept = record.get("about")
    allowed = "the folder of a job that show1 generate began"
    if not isinstance(kept, dict) or not isinstance(kept.get("output"), str):
        refuse("--job", folder, allowed, "another program began this one")
    if not isinstance(kept.get("settings"), dict):
        refuse("--job", folder, allowed, "it has no settings")
    # Where both have a setting, the job's own is what runs.
    settings = parse_settings({"settings": kept["settings"] | record["settings"]}, "--job", folder, allowed)
    return Begun(settings, kept["output"], str(kept.get("folder")))


def check_same(begun: Settings, asked: Settings, flags: list[str]) -> None:
    """`BadInput` for a flag that asks for another clip than the job in the folder makes."""
    for flag in flags:
        name = FIELDS.get(flag, flag)
        pairs = [(name, getattr(begun, name), getattr(asked, name))]
        if name == "stage_options":  # those that are not asked for are the recipe's
            pairs = [
                (f"{stage} {key}", begun.stage_options.get(stage, {}).get(key), number)
                for stage, options in asked.stage_options.items()
                for key, number in options.items()
            ]
        for what, value, got in pairs:
            if value != got:
                refuse(CONTENT_FLAGS[flag], got, f"the job's, {value!r}", f"this is its {what}")
