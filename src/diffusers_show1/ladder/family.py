# SPDX-License-Identifier: Apache-2.0
"""A family as an entry: what registration, loading, conversion, publishing, cards, training and the commands read.

An entry is light. It holds names and strings; the modules that they name are imported when somebody asks for what is
in them, so that `import diffusers_show1` stays as quick as it is.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from .cascade import CascadePipeline


@dataclass(frozen=True)
class Repository:
    """One published repository, as its authors released it.

    Args:
        repo_id: on the Hub.
        index_name: what its `model_index.json` calls the pipeline.
        alias: whether `DiffusionPipeline` may take that name for ours whoever's weights it stands over. Not where
            the name is a pipeline of diffusers: then the network's entry has to be this family's, too.
    """

    repo_id: str
    index_name: str
    alias: bool = True


@dataclass(frozen=True)
class Family:
    """One cascade, its networks and stages, and everything that is known of them by name.

    Args:
        name: of its folder, and of its modular blocks (`model_name`).
        title: as people write it.
        package: where its modules are, such as `"diffusers_show1.families.show1"`.
        library: what a saved index names as the library of its classes: the top-level package that exports them.
        cascade: the cascade's class.
        exports: public class -> the module of `package` that defines it; networks, stages and the cascade.
        networks: those of `exports` that are networks.
        published: rung -> its published repository. Empty for a family without published weights.
        published_network: what an index of the published repositories calls their network: (module, class).
        short_names: names for `--model`: name -> the folder of a cascade, or None for the published one.
        loaders: `"module:function"` in `package`, which loads the published cascade: called with what
            `load_cascade` was called with.
        converters: the module of `package` that reads foreign checkpoints (`checkpoints.py`).
        tasks: the module of `package` with the training tasks (`tasks.py`), as `TASKS`: one for each stage.
        recipes: the folder with the training recipes: YAML files, those of adapters in `lora/`, plans in `plans/`.
        cards: the module of `package` with the model cards (`cards.py`).
        bundles: class -> what its single-file bundle is called in a repository.
        licence: of the published weights, in a sentence.
    """

    name: str
    title: str
    package: str
    cascade: str
    exports: Mapping[str, str]
    networks: tuple[str, ...]
    library: str = "diffusers_show1"
    published: Mapping[str, Repository] = field(default_factory=dict)
    published_network: tuple[str, str] | None = None
    short_names: Mapping[str, Path | None] = field(default_factory=dict)
    loader: str | None = None
    checkpoints: str | None = None
    tasks: str | None = None
    recipes: Path | None = None
    cards: str | None = None
    bundles: Mapping[str, str] = field(default_factory=dict)
    licence: str = ""

    def module(self, name: str) -> Any:
        """A module of the family, imported."""
        return importlib.import_module(f"{self.package}.{name}")

    def load(self, name: str) -> Any:
        """One of `exports`."""
        return getattr(self.module(self.exports[name]), name)

    @property
    def cascade_class(self) -> type[CascadePipeline]:
        return self.load(self.cascade)

    @property
    def stages(self) -> dict[str, str]:
        """Rung -> the class of its stage."""
        return {rung.name: rung.stage.__name__ for rung in self.cascade_class.rungs}

    @property
    def pipelines(self) -> tuple[str, ...]:
        """The classes that are pipelines: stages and cascade."""
        return tuple(name for name in self.exports if name not in self.networks)


def lazily(family: Family, name: str) -> Callable[[], Any]:
    """What gives one of a family's `exports` when it is called."""
    return lambda: family.load(name)
