# SPDX-License-Identifier: Apache-2.0
"""Plans: several trainings that make one cascade, in order or side by side.

A plan is a YAML file: recipes, which of them need which, and what of their exports goes into the cascade.

    cascade: Show1CascadePipeline        # the class that is made of the parts
    stage_defaults: {base: {...}}        # what its `model_index.json` holds
    parts:
      text:
        task: text
        config: tiny-text                # a recipe
        gives: {tokenizer: tokenizer, text_encoder: text_encoder}  # of the export -> of the cascade
      base:
        task: base
        config: tiny-base
        after: [text, image]             # with all that these need
        set: {model.components: "{cascade}", model.path: "{image}"}
        gives: {unet: base_unet, scheduler: base_scheduler}

In `set`, `{cascade}` is the folder of the cascade as far as it is done, and `{image}` the export of the part `image`.

The folder of a plan: `cascade/`, and `runs/PART/` for each part (see `trainer`). The same command goes on where it was
interrupted.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import transformers

from ..clips.files import replacing
from ..clips.words import shorten
from ..families import all_families, family_of
from ..learning.options import ConfigError, TrainConfig, checked, refuse, text
from ..tiny import world
from .catalogue import recipes, tasks
from .config import apply_override, build, build_section, read_recipe, recipe_path, to_yaml
from .trainer import Trainer


class PartFailed(RuntimeError):
    """A part of a plan did not come to its end."""


@checked
@dataclass(kw_only=True)
class Part:
    """One training of a plan.

    Args:
        task: a stage of a family, or one of the engine's own tasks.
        config: a recipe: its name, or a YAML file beside the plan.
        after: parts that have to be done before.
        set: changes of the recipe, `section.key: value`.
        gives: folders of the export -> components of the cascade.
    """

    task: str = text()
    config: str = text()
    after: tuple[str, ...] = text(())
    set: dict[str, Any] = field(default_factory=dict)
    gives: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """A plan, checked.

    Args:
        cascade: the class of what is made; `stage_defaults` are written into its index.
        vocabulary: whether it says beside that which words of the synthetic world it knows.
        parts: name -> training, those that others need before these.
    """

    cascade: str
    stage_defaults: Mapping[str, Any]
    vocabulary: bool
    parts: Mapping[str, Part]


KEYS = ("cascade", "stage_defaults", "vocabulary", "parts")


def load_plan(name: str) -> Plan:
    """Read a plan: a YAML file, or the name of one in the package.

    Raises:
        ConfigError: one that names the key, what is allowed, and the value.
    """
    shipped = recipes("plans")
    if name not in shipped and not os.path.isfile(name):
        if name in tasks() or name == "lora":
            raise ConfigError(f"`--config` must be given for {name}: a YAML file or the name of a recipe, got None")
        allowed = ", ".join([*tasks(), "lora", *shipped])
        raise ConfigError(f"`STAGE` must be one of {allowed}, or the YAML file of a plan, got {shorten(repr(name))}")
    path = shipped.get(name, Path(name))
    values = read_recipe(path)
    if unknown := sorted(str(key) for key in values if key not in KEYS):
        raise ConfigError(f"`{shorten(unknown[0])}` must be one of the keys of a plan: {', '.join(KEYS)}")
    if values.get("vocabulary") not in (None, "world"):
        refuse("vocabulary", values["vocabulary"], "world, or left out")
    cascade = values.get("cascade")
    if cascade not in [family.cascade for family in all_families()]:
        refuse("cascade", cascade, f"one of {', '.join(family.cascade for family in all_families())}")
    if not isinstance(values.get("stage_defaults", {}), dict):
        refuse("stage_defaults", values["stage_defaults"], "stages, each with options of its call")
    found = values.get("parts")
    if (
        not isinstance(found, dict)
        or not found
        or not all(isinstance(key, str) and key.isidentifier() for key in found)
    ):
        refuse("parts", found, "trainings by names of letters")
    parts: dict[str, Part] = {}
    for key, value in found.items():
        part = build_section(Part, value, f"parts.{key}.")
        if missing := [other for other in part.after if other not in parts]:
            refuse(f"parts.{key}.after", missing[0], f"one of the parts above it: {', '.join(parts) or 'none'}")
        if (beside := path.parent / part.config).is_file():
            part.config = str(beside)
        parts[key] = part
    return Plan(cascade, values.get("stage_defaults", {}), "vocabulary" in values, parts)


@dataclass(frozen=True)
class Workshop:
    """A plan at work in a folder.

    Args:
        plan: what is trained.
        folder: of all runs, and of the cascade.
        overrides: `section.key=value`, of every recipe, or `part:section.key=value`, of one.
        scale: of every run's steps.
        processes: trainings at the same time.
        echo: where lines for the user go.
    """

    plan: Plan
    folder: Path
    overrides: tuple[str, ...] = ()
    scale: float = 1.0
    processes: int = 1
    echo: Callable[[str], None] = print

    @property
    def cascade(self) -> Path:
        """The folder of the cascade."""
        return self.folder / "cascade"

    def export(self, name: str) -> Path:
        """The folder that a part's run exports to."""
        return self.folder / "runs" / name / "export"

    def recipe(self, name: str) -> TrainConfig:
        """The recipe of a part, with all that the plan and the user change. Raises `ConfigError`."""
        part = self.plan.parts[name]
        values = read_recipe(recipe_path(part.config))
        places = {each: str(self.export(each)) for each in self.plan.parts} | {"cascade": str(self.cascade)}
        for key, value in part.set.items():
            filled = value
            if isinstance(value, str) and value[:1] + value[-1:] == "{}":
                if value[1:-1] not in places:
                    refuse(f"parts.{name}.set.{key}", value, f"in braces one of {', '.join(places)}")
                filled = places[value[1:-1]]
            apply_override(values, f"{key}={json.dumps(filled)}")
        for override in self.overrides:
            one, colon, of_one = override.partition(":")
            if not colon or one not in self.plan.parts:
                apply_override(values, override)
            elif one == name:
                apply_override(values, of_one)
        config = build(values)
        config.run.steps = max(1, round(config.run.steps * self.scale))
        return config

    def check(self) -> None:
        """That every recipe can be read, before the first one is trained. Raises `ConfigError`."""
        for name, part in self.plan.parts.items():
            try:
                config = self.recipe(name)
            except ConfigError as error:
                raise ConfigError(f"{name}: {error}") from error
            if config.stage != part.task:
                refuse(f"parts.{name}.task", part.task, f"{config.stage}, which {part.config} is a recipe for")

    def run(self) -> Path:
        """Train all parts that are not yet done; returns the folder of the cascade.

        Raises:
            PartFailed: a training that ran in a process of its own.
        """
        if self.processes == 1:
            for name in self.plan.parts:
                if not self._done(name):
                    self.echo(f"{name} ({self.plan.parts[name].config})")
                    self._train_here(name)
                self._take(name)
        else:
            self._side_by_side()
        self._finish()
        return self.cascade

    def _done(self, name: str) -> bool:
        """Whether a part's run has been exported, by the recipe that it would be run with now."""
        if not self.export(name).is_dir():
            return False
        Trainer.check_folder(self.recipe(name), self.folder / "runs" / name)
        return True

    def _train_here(self, name: str) -> None:
        Trainer(self.recipe(name), self.folder / "runs" / name, lambda line: self.echo(f"{name}: {line}")).run()

    def _side_by_side(self) -> None:
        """Start what has what it needs, so many at a time, each with its share of the cores."""
        threads = str(max(1, (os.cpu_count() or 1) // self.processes))
        waiting, done = dict(self.plan.parts), set[str]()
        running: dict[str, subprocess.Popen] = {}
        failed: list[str] = []
        before = _stop_on_sigterm()
        try:
            while running or (waiting and not failed):
                for name in [name for name, part in waiting.items() if done.issuperset(part.after)]:
                    if self._done(name):
                        self._take(name)
                        done.add(name)
                        del waiting[name]
                    elif len(running) < self.processes and not failed:
                        del waiting[name]
                        running[name] = self._start(name, threads)
                for name, process in list(running.items()):
                    if process.poll() is None:
                        continue
                    del running[name]
                    if process.returncode == 0:
                        self._take(name)
                        done.add(name)
                        self.echo(f"{name}: done")
                    else:
                        failed.append(name)
                time.sleep(0.05)
        finally:  # asked to stop: every training saves and says so
            for process in running.values():
                process.send_signal(signal.SIGTERM)
            for process in running.values():
                process.wait()
            if before is not None:
                signal.signal(signal.SIGTERM, before)
        if failed:
            raise PartFailed(f"{', '.join(failed)} failed (see runs/NAME.log); the same command goes on from there")

    def _start(self, name: str, threads: str) -> subprocess.Popen:
        runs = self.folder / "runs"
        runs.mkdir(parents=True, exist_ok=True)
        recipe = runs / f"{name}.yaml"
        with replacing(recipe) as path:
            path.write_text(to_yaml(self.recipe(name)), encoding="utf-8")
        self.echo(f"{name} ({self.plan.parts[name].config}), see {runs / name}.log")
        command = [sys.executable, "-m", "diffusers_show1", "train", self.plan.parts[name].task]
        with (runs / f"{name}.log").open("a", encoding="utf-8") as log:
            return subprocess.Popen(
                [*command, "--config", str(recipe), "-o", str(runs / name)],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": threads},
                start_new_session=True,  # Ctrl-C is this process's, which then asks the others to stop, once
            )

    # --- the cascade -------------------------------------------------------------------------------------------------

    def _take(self, name: str) -> None:
        """Copy what a part gives into the cascade's folder, and enter it in the index."""
        index_path = self.cascade / "model_index.json"
        index = json.loads(index_path.read_text()) if index_path.exists() else {"_class_name": self.plan.cascade}
        for theirs, ours in self.plan.parts[name].gives.items():
            source = self.export(name) / theirs
            if not source.is_dir():
                refuse(f"parts.{name}.gives", theirs, f"a folder of {self.export(name)}")
            with replacing(self.cascade / ours) as path:
                shutil.copytree(source, path)
            index[ours] = _class_of(source)
        with replacing(index_path) as path:
            path.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def _finish(self) -> None:
        """The index as the cascade's own class writes it, once all its components are there."""
        family = family_of(self.plan.cascade)
        parts = family.cascade_class.from_pretrained(self.cascade).components
        pipe = family.cascade_class(**parts, stage_defaults=dict(self.plan.stage_defaults))
        pipe.save_config(self.cascade)
        if self.plan.vocabulary:
            told = json.dumps(world.vocabulary(), indent=2)
            (self.cascade / "vocabulary.json").write_text(f"{told}\n", encoding="utf-8")
        self.echo(f"done: {self.cascade}")


def _stop_on_sigterm() -> Any:
    """Have SIGTERM raise, as Ctrl-C does; returns what it did before, or None outside of the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return None

    def stop(signum: int, _frame: object) -> None:
        raise SystemExit(128 + signum)

    return signal.signal(signal.SIGTERM, stop)


def _class_of(folder: Path) -> list[Any]:
    """The library and class that a pipeline's index names for a saved component."""
    for name, key in (
        ("scheduler_config.json", "_class_name"),
        ("tokenizer_config.json", "tokenizer_class"),
        ("config.json", "_class_name"),
        ("config.json", "architectures"),
    ):
        if (folder / name).is_file() and (found := json.loads((folder / name).read_text()).get(key)):
            kind = found if isinstance(found, str) else found[0]
            family = family_of(kind)
            library = next((each.__name__ for each in (diffusers, transformers) if hasattr(each, kind)), None)
            return [library if family is None else family.library, kind]
    raise ValueError(f"`gives` must name folders of components, got {str(folder)!r}")


def prepare(
    name: str,
    output: Path,
    overrides: Iterable[str] = (),
    processes: int = 1,
    scale: float = 1.0,
    dry_run: bool = False,
    echo: Callable[[str], None] = print,
) -> Callable[[], None]:
    """Check everything that can be checked before the first training; what is returned trains, or only tells.

    Args:
        name: a plan: its name in the package (`tiny`), or a YAML file.
        output: the plan's folder.
        overrides: `section.key=value`, of every recipe, or `part:section.key=value`, of one.
        processes: trainings at the same time.
        scale: of every training's steps, which are at least one.
        dry_run: say what would be trained.
        echo: where lines for the user go.

    Returns:
        What trains, or tells.

    Raises:
        ConfigError: one that names the part, the key, what is allowed, and the value.
    """
    shop = Workshop(load_plan(name), output, tuple(overrides), scale, processes, echo)
    shop.check()

    def tell() -> None:
        for part_name, part in shop.plan.parts.items():
            config = shop.recipe(part_name)
            after = f", after {', '.join(part.after)}" if part.after else ""
            echo(f"{part_name}: {config.stage} by {part.config}, {config.run.steps} steps{after}")

    def run() -> None:
        shop.run()

    return tell if dry_run else run
