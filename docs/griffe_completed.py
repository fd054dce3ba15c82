# SPDX-License-Identifier: Apache-2.0
"""Lets the reference show docstrings as `help` shows them: completed where the package completes them at import."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import griffe


class Completed(griffe.Extension):
    """Takes the docstring of functions that `documented` has completed from the imported package."""

    def on_function(self, *, func: griffe.Function, loader: Any, **kwargs: Any) -> None:
        if not any(str(decorator.value) == "documented" for decorator in func.decorators) or func.docstring is None:
            return
        module, _, owner = func.parent.path.rpartition(".")
        found = getattr(getattr(importlib.import_module(module), owner), func.name)
        func.docstring.value = inspect.cleandoc(found.__doc__)
