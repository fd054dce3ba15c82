# SPDX-License-Identifier: Apache-2.0
"""The one place that makes diffusers know this package.

Two things, both needed before `DiffusionPipeline.from_pretrained` can read a Show-1 repository:

* our library name, so that a saved index says `["diffusers_show1", "Show1UNet3DConditionModel"]` and loads again,
  from a folder and from the Hub;
* the names that the published repositories carry (`TextToVideoIFPipeline`, `showone.models.unet_3d_condition`, ...).

diffusers has no entry point for either, so its modules are taught the names: they answer to them by importing our
class on first use. This happens once, when diffusers' pipelines are first imported, and imports nothing of ours by
itself: `import diffusers_show1` stays as light as it looks.

Two functions of the loader are wrapped besides, both only for Show-1 repositories: the one that turns an index into a
class (the published refinement stage carries the name of a pipeline of diffusers), and the one that loads a component
(`folder.py` holds what is checked beyond diffusers' own checks; what is refused, and why, is said in one line).
`tests/hub/test_published.py` names each of these doors.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import re
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from pathlib import Path
from typing import Any


# Published class name in `model_index.json` -> our class.
PUBLISHED_PIPELINES = {
    "TextToVideoIFPipeline": "Show1KeyframePipeline",
    "TextToVideoIFInterpPipeline": "Show1InterpolationPipeline",
    "TextToVideoIFSuperResolutionPipeline_Cond": "Show1SuperResolutionPipeline",
}
PUBLISHED_UNET_MODULE = "showone.models.unet_3d_condition"
PUBLISHED_UNET_CLASS = "UNet3DConditionModel"
# The published refinement stage names a pipeline of diffusers, which keeps its meaning for everybody else's weights.
PUBLISHED_REFINEMENT = "VideoToVideoSDPipeline"
OWN_LIBRARY = "diffusers_show1"
OWN_PIPELINES = (
    "Show1CascadePipeline",
    "Show1InterpolationPipeline",
    "Show1KeyframePipeline",
    "Show1RefinementPipeline",
    "Show1SuperResolutionPipeline",
)
OWN_MODULAR = ("Show1Blocks", "Show1ModularPipeline")  # for `ModularPipeline` on what they saved
OWN_NETWORK = "Show1UNet3DConditionModel"  # for `AutoModel` on a network's own folder

_TRIGGER = "diffusers.pipelines.pipeline_utils"


def register() -> None:
    """Registers now. Idempotent; a name that diffusers has by itself keeps its meaning."""
    import diffusers
    import diffusers.pipelines
    from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES
    from diffusers.pipelines.pipeline_loading_utils import ALL_IMPORTABLE_CLASSES, LOADABLE_CLASSES

    methods = ["save_pretrained", "from_pretrained"]
    LOADABLE_CLASSES.setdefault("diffusers_show1", {"ModelMixin": methods})
    ALL_IMPORTABLE_CLASSES.setdefault("ModelMixin", methods)
    SINGLE_FILE_LOADABLE_CLASSES.setdefault(OWN_NETWORK, {"checkpoint_mapping_fn": _refuse_other_names})
    _teach(diffusers, {name: _own(name) for name in (*OWN_PIPELINES, *OWN_MODULAR, OWN_NETWORK)})
    _teach(diffusers, {published: _own(ours) for published, ours in PUBLISHED_PIPELINES.items()})
    _teach(diffusers.pipelines, {PUBLISHED_UNET_MODULE: _published_unet_module})
    _teach(diffusers.pipelines, {name: _own(name) for name in OWN_PIPELINES})  # where diffusers' tests look
    _wrap("_get_pipeline_class", _resolve_refinement)
    _wrap("load_sub_model", _check_components)


def _own(name: str) -> Callable[[], Any]:
    return lambda: getattr(importlib.import_module("diffusers_show1"), name)


def _published_unet_module() -> types.ModuleType:
    module = types.ModuleType(PUBLISHED_UNET_MODULE)
    setattr(module, PUBLISHED_UNET_CLASS, _own(OWN_NETWORK)())
    return module


def _refuse_other_names(config: dict[str, Any], checkpoint: dict[str, Any]) -> None:
    """Where parameters are missing `from_single_file` asks for a conversion. There is none: the names are one set."""
    import torch

    with torch.device("meta"):
        wanted = _own(OWN_NETWORK)().from_config(config).state_dict()
    missing = [name for name in wanted if name not in checkpoint]
    raise ValueError(
        f"The file lacks {len(missing)} of {len(wanted)} parameters of the network that `config` describes, such as "
        f"{missing[:3]}; it has {list(checkpoint)[:3]}."
    )


def _teach(module: types.ModuleType, names: dict[str, Callable[[], Any]]) -> None:
    """Makes `module` answer to `names`, besides what it knows: value by value, on first use."""
    known = module.__dict__.setdefault("_show1_names", {})
    if not known:
        before = type(module)

        class Taught(before):  # type: ignore[valid-type, misc]
            def __getattr__(self, name: str) -> Any:
                make = self.__dict__["_show1_names"].get(name)
                if make is None:
                    return super().__getattr__(name)
                value = make()
                setattr(self, name, value)
                return value

        Taught.__name__ = before.__name__
        module.__class__ = Taught
    known.update({name: make for name, make in names.items() if name in known or not hasattr(module, name)})


def _wrap(name: str, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Replaces a function of the loader by one around it; once, and says so when diffusers has it no longer."""
    from diffusers.utils import logging

    loader = sys.modules[_TRIGGER]
    before = getattr(loader, name, None)
    if before is None:
        logging.get_logger(__name__).warning(
            f"This diffusers has no `{_TRIGGER}.{name}`, which diffusers_show1 extends. Load the published refinement "
            "stage with `Show1RefinementPipeline.from_pretrained`; all else works as before."
        )
    elif not hasattr(before, "_show1"):
        after = wraps(before)(wrapper(before))
        after._show1 = True  # type: ignore[attr-defined]
        setattr(loader, name, after)


def is_published_refinement(index: Any) -> bool:
    """Whether a `model_index.json` is the refinement stage's under diffusers' name: its UNet is Show-1's."""
    if not isinstance(index, dict) or index.get("_class_name") != PUBLISHED_REFINEMENT:
        return False
    unet = index.get("unet")
    return isinstance(unet, (list, tuple)) and tuple(unet) in (
        (PUBLISHED_UNET_MODULE, PUBLISHED_UNET_CLASS),
        (OWN_LIBRARY, OWN_NETWORK),
    )


def _resolve_refinement(before: Callable[..., Any]) -> Callable[..., Any]:
    """`DiffusionPipeline` on the published refinement stage gives ours; a named class, or custom code, is obeyed."""

    def _get_pipeline_class(
        class_obj: Any, config: Any = None, *args: Any, custom_pipeline: Any = None, **kwargs: Any
    ) -> Any:
        if class_obj.__name__ == "DiffusionPipeline" and custom_pipeline is None and is_published_refinement(config):
            found = _own("Show1RefinementPipeline")()
        else:
            found = before(class_obj, config, *args, custom_pipeline=custom_pipeline, **kwargs)
        if found.__name__ in OWN_PIPELINES and config is not None:
            from .folder import check_index

            check_index(config, found._get_signature_keys(found)[0])
        return found

    return _get_pipeline_class


def _check_components(before: Callable[..., Any]) -> Callable[..., Any]:
    """A component of our pipelines is checked before it is built and after, and whatever goes wrong is one line."""

    def load_sub_model(*args: Any, **kwargs: Any) -> Any:
        if getattr(kwargs.get("pipeline_class"), "__name__", None) not in OWN_PIPELINES:
            return before(*args, **kwargs)
        from ..clips.words import shorten
        from .folder import check_component, check_parameters

        name, root = kwargs["name"], Path(kwargs["cached_folder"])
        try:
            check_component(root / name, kwargs["library_name"], kwargs["is_pipeline_module"])
            component = before(*args, **kwargs)
            check_parameters(component, root / name)
        except (ImportError, MemoryError):
            raise
        except Exception as error:  # a class may raise anything for a config that is none of its own
            if (refused := refused_pickle(error)) is not None:
                raise OSError(f"The weights of `{name}` in {root} are refused: {refused}.") from error
            kind = ValueError if isinstance(error, ValueError) else OSError
            told = shorten(" ".join(str(error).split()), 500)
            raise kind(f"The component `{name}` in {root} cannot be loaded: {told}") from error
        return component

    return load_sub_model


def refused_pickle(error: BaseException) -> str | None:
    """Why torch refused to unpickle, in one clause, if that is what an exception comes from; else None."""
    for cause in _causes(error):
        text = str(cause)
        if "weights_only" in text or "Weights only load failed" in text:
            named = re.search(r"GLOBAL ([\w.]+)", text)
            what = f"reading the pickle would run code, `{named[1]}`" if named else "the pickle is damaged"
            return f"{what}, and weights hold tensors only"
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An exception, and all that led to it."""
    waiting, seen = [error], set()
    while waiting:
        current = waiting.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        waiting += [e for e in (current.__cause__, current.__context__) if e is not None]


def install() -> None:
    """Registers as soon as diffusers' pipelines are imported: now, if they are already."""
    if _TRIGGER in sys.modules:
        register()
    elif not any(isinstance(finder, _RegisterAfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _RegisterAfterImport())


class _RegisterAfterImport(importlib.abc.MetaPathFinder):
    """Finds one module as everybody else would, and registers when it has been executed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _TRIGGER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: types.ModuleType) -> None:
            execute(module)
            register()

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
