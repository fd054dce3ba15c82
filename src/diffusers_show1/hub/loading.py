# SPDX-License-Identifier: Apache-2.0
"""A component of our pipelines, loaded by diffusers between our checks; whatever goes wrong is one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..clips.words import shorten
from .folder import check_component, check_index, check_parameters
from .weights import refused_pickle


__all__ = ["check_index", "load_component"]


def load_component(load: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Calls diffusers' `load_sub_model` with its arguments, and checks what lies in the component's folder.

    Raises:
        ValueError: the folder holds what is not read here, or describes no component.
        OSError: the component cannot be read, or its weights are refused.
    """
    name, root = kwargs["name"], Path(kwargs["cached_folder"])
    try:
        check_component(root / name, kwargs["library_name"], kwargs["is_pipeline_module"])
        component = load(*args, **kwargs)
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
