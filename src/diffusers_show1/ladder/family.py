# SPDX-License-Identifier: Apache-2.0
"""A family as an entry: what registration, loading, conversion, publishing, cards, training and the commands read.

An entry is light. It holds names and strings; the modules that they name are imported when somebody asks for what is
in them, so that `import diffusers_show1` stays as quick as it is.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .checkpoints import Checkpoints


if TYPE_CHECKING:
    from .card import Card
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
        cascade: the cascade's class.
        exports: public class -> the module of `package` that defines it: networks, stages, cascade, modular classes.
        networks: those of `exports` that are networks; the first is the one that denoises.
        stages: rung -> the class of its stage, in the order of the cascade. Two rungs may share a class.
        blocks: the modular blocks of the whole cascade, and the modular pipeline over them; None for a family without.
        library: what a saved index names as the library of its classes: the top-level package that exports them.
        requirements: what the `requirements.txt` of its repositories asks for besides this package.
        published: rung -> its published repository. Empty for a family without published weights.
        published_network: what an index of the published repositories calls their network: (module, class).
        short_names: names for `--model`: name -> the folder of a cascade, or None for the published one.
        loader: `"module:function"` in `package`, which loads the published cascade: called with the options of
            `load_cascade`.
        checkpoints: the module of `package` that knows other people's checkpoints (`checkpoints.py`); its
            `CHECKPOINTS` is a `ladder.checkpoints.Checkpoints`.
        tasks: the module of `package` with the training tasks (`tasks.py`), as `TASKS`: one for each stage.
        recipes: the folder with the training recipes: YAML files, those of adapters in `lora/`, plans in `plans/`.
        cards: the module of `package` with the model cards (`cards.py`); its `CARDS` maps names to
            `ladder.card.Card`.
        bundles: class -> what its single-file bundle is called in a repository; pipelines and networks.
        components: what an index names where a pipeline's signature leaves the class of a component open: its name, or
            the end of it (`"scheduler"`), or `Class.component` for one pipeline -> `library.Class`, or the name of a
            network. By default a network is the first of `networks`, and what is optional is left out.
        licence: of the published weights, in a sentence.
    """

    name: str
    title: str
    package: str
    cascade: str
    exports: Mapping[str, str]
    networks: tuple[str, ...]
    stages: Mapping[str, str]
    blocks: tuple[str, str] | None = None
    library: str = "diffusers_show1"
    requirements: tuple[str, ...] = ()
    published: Mapping[str, Repository] = field(default_factory=dict)
    published_network: tuple[str, str] | None = None
    short_names: Mapping[str, Path | None] = field(default_factory=dict)
    loader: str | None = None
    checkpoints: str | None = None
    tasks: str | None = None
    recipes: Path | None = None
    cards: str | None = None
    bundles: Mapping[str, str] = field(default_factory=dict)
    components: Mapping[str, str] = field(default_factory=dict)
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
    def known_checkpoints(self) -> Checkpoints:
        """What it knows of checkpoints that are not in its own layout; nothing by default."""
        return Checkpoints() if self.checkpoints is None else self.module(self.checkpoints).CHECKPOINTS

    @property
    def known_cards(self) -> Mapping[str, Card]:
        """Its model cards, by name."""
        return {} if self.cards is None else self.module(self.cards).CARDS

    def load_published(self, **kwargs: Any) -> CascadePipeline:
        """The cascade of the published stages."""
        assert self.loader is not None, f"{self.title} has no published cascade"
        module, function = self.loader.split(":")
        return getattr(self.module(module), function)(**kwargs)

    @property
    def pipelines(self) -> tuple[str, ...]:
        """The classes that are pipelines of diffusers' kind: stages and cascade."""
        return tuple(dict.fromkeys((*self.stages.values(), self.cascade)))

    @property
    def aliases(self) -> dict[str, str]:
        """Published index name that may stand for ours whoever's weights it is over -> our class."""
        return {
            repository.index_name: self.stages[rung] for rung, repository in self.published.items() if repository.alias
        }

    @property
    def names(self) -> tuple[str, ...]:
        """Everything that no two families may both have: its own name, classes, aliases and short names."""
        return (self.name, *self.exports, *self.aliases, *self.short_names)

    def is_network(self, entry: Any) -> bool:
        """Whether an entry of a `model_index.json` is a network of this family, saved by it or published."""
        ours = ((self.library, name) for name in self.networks)
        return isinstance(entry, (list, tuple)) and tuple(entry) in (self.published_network, *ours)

    def pipeline_of(self, index: Any) -> str | None:
        """The class of this family that a `model_index.json` describes, by its own or its published name.

        A published name that diffusers has, too, is this family's where a network of the family stands beside it.
        """
        name = index.get("_class_name") if isinstance(index, Mapping) else None
        if isinstance(name, (list, tuple)) and len(name) == 2:  # [file of the repository, class]
            name = name[1]
        if not isinstance(name, str):
            return None
        if name in self.pipelines:
            return name
        for rung, repository in self.published.items():
            if name == repository.index_name and (repository.alias or any(map(self.is_network, index.values()))):
                return self.stages[rung]
        return None

    def rung_of(self, class_name: str) -> str | None:
        """The first rung whose stage is of this class; None for the cascade."""
        return next((rung for rung, stage in self.stages.items() if stage == class_name), None)
