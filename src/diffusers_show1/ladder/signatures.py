# SPDX-License-Identifier: Apache-2.0
"""The signatures that a cascade's rungs make: its components, and the embeddings that its call takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

from diffusers import DiffusionPipeline

from ..sampling.call import PIXELS
from ..sampling.outputs import VideoPipelineOutput
from .rung import Rung


def check_rungs(rungs: tuple[Rung, ...]) -> None:
    """Rungs that can stand on each other.

    Raises:
        ValueError: two of one name, or one that can't take what the one before it gives, named.
    """
    names = [rung.name for rung in rungs]
    if len(set(names)) < len(names):
        raise ValueError(f"`rungs` must have names of their own, got {names}.")
    for before, rung in zip(rungs, rungs[1:], strict=False):
        gives = {before.stage.gives, PIXELS}  # latents are decoded for a stage that takes pixels
        if not gives & set(rung.stage.takes):
            raise ValueError(
                f"`rungs`: {rung.name!r} takes {' or '.join(rung.stage.takes) or 'no frames'}, and {before.name!r} "
                f"gives {before.stage.gives}."
            )


def initialiser(cls: type[Any]) -> Callable[..., None]:
    """`__init__` with every rung's components as arguments: those that are required, then the others.

    diffusers reads the components of a pipeline off that signature, names, types and all.
    """
    self_ = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    found: dict[str, inspect.Parameter] = {}
    for rung in cls.rungs:
        hints = get_type_hints(rung.stage.__init__)
        for own, parameter in list(inspect.signature(rung.stage.__init__).parameters.items())[1:]:
            name = rung.parts[own]
            found.setdefault(name, parameter.replace(name=name, annotation=hints.get(own, Any)))
    always = [found.pop("feature_extractor"), found.pop("safety_checker")]
    defaults = self_.replace(name="stage_defaults", default=None, annotation=dict | None)
    required = [p for p in found.values() if p.default is inspect.Parameter.empty]
    optional = [p for p in found.values() if p.default is not inspect.Parameter.empty]
    signature = inspect.Signature([self_, *required, *optional, defaults, *always])

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        components = {name: part for name, part in bound.arguments.items() if name not in ("self", "stage_defaults")}
        DiffusionPipeline.__init__(self)
        self.register_modules(**components)
        self.register_to_config(stage_defaults=bound.arguments["stage_defaults"])

    __init__.__signature__ = signature
    __init__.__annotations__ = {p.name: p.annotation for p in signature.parameters.values() if p.name != "self"}
    __init__.__qualname__, __init__.__module__ = f"{cls.__qualname__}.__init__", cls.__module__
    return __init__


def caller(cls: type[Any], call: Callable[..., Any]) -> Callable[..., Any]:
    """`__call__` with the embeddings of every reader among its arguments, by name and in the docstring."""
    general = inspect.signature(call)
    ends = {
        "prompt_embeds": "(prompts, tokens, width), from `pipe.{stage}.encode_prompt`; needed with `prompt_embeds`.",
        "negative_prompt_embeds": "likewise, (prompts, tokens, width), of the negative prompts.",
    }
    told: dict[str, str] = {}
    for reader in cls.readers[1:]:
        stage = next(rung.name for rung in cls.rungs if rung.reader == reader)
        told |= {f"{reader}{end}": text.format(stage=stage) for end, text in ends.items()}
    embeds = general.parameters["prompt_embeds"]
    own = [embeds.replace(name=name, kind=inspect.Parameter.KEYWORD_ONLY) for name in told]
    kept = [p for p in general.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]

    def __call__(self: Any, *args: Any, **kwargs: Any) -> VideoPipelineOutput | tuple:
        return call(self, *args, **kwargs)

    doc = inspect.cleandoc(call.__doc__ or "")
    before, after = doc[: doc.index("    embeds: ")], doc[doc.index("\nReturns:") :]
    __call__.__doc__ = before + "".join(f"    {name}: {text}\n" for name, text in told.items()) + after
    __call__.__signature__ = general.replace(parameters=[*kept, *own])
    __call__.__qualname__, __call__.__module__ = f"{cls.__qualname__}.__call__", cls.__module__
    return __call__
