# SPDX-License-Identifier: Apache-2.0
"""The one place that makes diffusers know the families of this package, and those that others add to them.

What is needed before `DiffusionPipeline.from_pretrained` can read their repositories:

* the name of the library, so that a saved index says `["diffusers_show1", "Show1UNet3DConditionModel"]` and loads
  again, from a folder and from the Hub;
* the names that published repositories carry (`TextToVideoIFPipeline`, `showone.models.unet_3d_condition`, ...);
* for `ModularPipeline.from_pretrained` on a cascade's repository: which modular pipeline the cascade belongs to.

diffusers has no entry point for any of them, so its modules are taught the names: where they know a name not by
themselves they answer by importing our class, on first use. This happens once, when the module of diffusers is first
imported, and imports nothing of ours by itself: `import diffusers_show1` stays as light as it looks. Which names, the
families' entries say (`ladder/family.py`); one that is added later is made known when it is added.

Two functions of the loader are wrapped besides, both only for our pipelines: the one that turns an index into a class
(a published stage may carry the name of a pipeline of diffusers, which keeps its meaning over everybody else's
weights), and the one that loads a component (`loading.py` holds what is checked beyond diffusers' own checks; what is
refused, and why, is said in one line). `tests/hub/test_published.py` names each of these doors.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any

from .. import families
from ..ladder.family import Family


_LOADER = "diffusers.pipelines.pipeline_utils"
_METHODS = ["save_pretrained", "from_pretrained"]


def register() -> None:
    """Registers all families with diffusers' loader now. Idempotent; a name that diffusers has keeps its meaning."""
    import diffusers.pipelines.pipeline_utils  # noqa: F401

    families.tell(_register)
    _wrap("_get_pipeline_class", _resolve_pipeline)
    _wrap("load_sub_model", _check_components)


def _register(family: Family) -> None:
    import diffusers
    import diffusers.pipelines
    from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES
    from diffusers.pipelines.pipeline_loading_utils import ALL_IMPORTABLE_CLASSES, LOADABLE_CLASSES

    LOADABLE_CLASSES.setdefault(family.library, {"ModelMixin": _METHODS})
    ALL_IMPORTABLE_CLASSES.setdefault("ModelMixin", _METHODS)
    for network in family.networks:
        refuse = partial(_refuse_other_names, family, network)
        SINGLE_FILE_LOADABLE_CLASSES.setdefault(network, {"checkpoint_mapping_fn": refuse})
    own = {name: partial(family.load, name) for name in family.exports}
    _teach(diffusers, {**own, **{alias: own[ours] for alias, ours in family.aliases.items()}})
    _teach(diffusers.pipelines, {name: own[name] for name in family.pipelines})  # where diffusers' tests look
    if family.published_network is not None:
        _teach(diffusers.pipelines, {family.published_network[0]: partial(_published_module, family)})


def _published_module(family: Family) -> types.ModuleType:
    """What stands for the module that published indexes name: it has their network, which is ours."""
    assert family.published_network is not None
    name, network = family.published_network
    module = types.ModuleType(name)
    setattr(module, network, family.load(family.networks[0]))
    return module


def _refuse_other_names(family: Family, network: str, config: dict[str, Any], checkpoint: dict[str, Any]) -> None:
    """Where parameters are missing `from_single_file` asks for a conversion. There is none: the names are one set."""
    import torch

    with torch.device("meta"):
        wanted = family.load(network).from_config(config).state_dict()
    missing = [name for name in wanted if name not in checkpoint]
    raise ValueError(
        f"The file lacks {len(missing)} of {len(wanted)} parameters of the network that `config` describes, such as "
        f"{missing[:3]}; it has {list(checkpoint)[:3]}."
    )


def _register_library(family: Family) -> None:
    """diffusers looks up a component's class, and its base class, on the library that an index names."""
    names: dict[str, Callable[[], Any]] = {name: partial(family.load, name) for name in family.exports}
    _teach(importlib.import_module(family.library), {**names, "ModelMixin": _model_mixin})


def _model_mixin() -> Any:
    return importlib.import_module("diffusers.models.modeling_utils").ModelMixin


def _register_modular() -> None:
    """`init_pipeline` of blocks with a family's name, and `ModularPipeline` on what it saved."""
    from diffusers.modular_pipelines.modular_pipeline import MODULAR_PIPELINE_MAPPING

    def make_known(family: Family) -> None:
        if family.blocks is not None:
            pipeline = family.blocks[1]
            MODULAR_PIPELINE_MAPPING.setdefault(family.name, lambda config=None: pipeline)

    families.tell(make_known)


def _register_models() -> None:
    """`ModularPipeline` on a cascade's repository asks which model the cascade's class is a pipeline of."""
    from diffusers.pipelines.auto_pipeline import SUPPORTED_TASKS_MAPPINGS

    def make_known(family: Family) -> None:
        if family.blocks is not None:
            for name in (family.cascade, family.blocks[1]):  # it compares names, so that no class need be imported
                SUPPORTED_TASKS_MAPPINGS.append({family.name: type(name, (), {})})

    families.tell(make_known)


def _teach(module: types.ModuleType, names: dict[str, Callable[[], Any]]) -> None:
    """Makes `module` answer to `names`, besides what it knows by itself: value by value, on first use."""
    if "_show1_names" not in vars(module):
        before = type(module)

        class Taught(before):  # type: ignore[valid-type, misc]
            def __getattr__(self, name: str) -> Any:
                try:
                    if hasattr(before, "__getattr__"):
                        return super().__getattr__(name)
                    raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
                except AttributeError:
                    make = vars(self).get("_show1_names", {}).get(name)
                    if make is None:
                        raise
                value = make()
                setattr(self, name, value)
                return value

        Taught.__name__ = before.__name__
        vars(module)["_show1_names"] = {}
        module.__class__ = Taught
    vars(module)["_show1_names"].update(names)


def _wrap(name: str, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Replaces a function of the loader by one around it; once, and says so when diffusers has it no longer."""
    loader = sys.modules[_LOADER]
    before = getattr(loader, name, None)
    if before is None:
        from diffusers.utils import logging

        hidden = [
            f"`{family.stages[rung]}.from_pretrained`"
            for family in families.all_families()
            for rung, repository in family.published.items()
            if not repository.alias
        ]
        logging.get_logger(__name__).warning(
            f"This diffusers has no `{_LOADER}.{name}`, which diffusers_show1 extends. Load what was published under "
            f"a name of diffusers with {', '.join(hidden)}; all else works as before."
        )
    elif not hasattr(before, "_show1"):
        after = wraps(before)(wrapper(before))
        after._show1 = True  # type: ignore[attr-defined]
        setattr(loader, name, after)


def _is_ours(class_name: Any) -> bool:
    return any(class_name in family.pipelines for family in families.all_families())


def _published_under_a_taken_name(index: Any) -> Any:
    """Our class for an index whose name is a pipeline of diffusers over a network of ours; else None."""
    name = index.get("_class_name") if isinstance(index, dict) else None
    for family in families.all_families():
        if isinstance(name, str) and name not in family.aliases and (ours := family.pipeline_of(index)):
            return family.load(ours)
    return None


def _resolve_pipeline(before: Callable[..., Any]) -> Callable[..., Any]:
    """`DiffusionPipeline` on a published stage gives ours; a named class, or custom code, is obeyed."""

    def _get_pipeline_class(
        class_obj: Any, config: Any = None, *args: Any, custom_pipeline: Any = None, **kwargs: Any
    ) -> Any:
        found = None
        if class_obj.__name__ == "DiffusionPipeline" and custom_pipeline is None:
            found = _published_under_a_taken_name(config)
        if found is None:
            found = before(class_obj, config, *args, custom_pipeline=custom_pipeline, **kwargs)
        if config is not None and _is_ours(found.__name__):
            from .loading import check_index

            check_index(config, found._get_signature_keys(found)[0])
        return found

    return _get_pipeline_class


def _check_components(before: Callable[..., Any]) -> Callable[..., Any]:
    """A component of our pipelines is checked before it is built and after, and whatever goes wrong is one line."""

    def load_sub_model(*args: Any, **kwargs: Any) -> Any:
        if not _is_ours(getattr(kwargs.get("pipeline_class"), "__name__", None)):
            return before(*args, **kwargs)
        from .loading import load_component

        return load_component(before, *args, **kwargs)

    return load_sub_model


# What is done when a module of diffusers has been imported.
_JOINTS: dict[str, Callable[[], None]] = {
    _LOADER: register,
    "diffusers.pipelines.auto_pipeline": _register_models,
    "diffusers.modular_pipelines.modular_pipeline": _register_modular,
}


def install() -> None:
    """Registers as soon as the modules of diffusers that are taught are imported: now, if they are already."""
    families.tell(_register_library)
    for name, join in _JOINTS.items():
        if name in sys.modules:
            join()
    if not any(isinstance(finder, _RegisterAfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _RegisterAfterImport())


class _RegisterAfterImport(importlib.abc.MetaPathFinder):
    """Finds the modules to be taught as everybody else would, and teaches them when they have been executed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        join = _JOINTS.get(fullname)
        if join is None:
            return None
        found = (finder.find_spec(fullname, path, target) for finder in list(sys.meta_path) if finder is not self)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: types.ModuleType) -> None:
            execute(module)
            join()

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
