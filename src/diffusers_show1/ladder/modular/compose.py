# SPDX-License-Identifier: Apache-2.0
"""A cascade's rungs as blocks, and the blocks put together."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from diffusers.modular_pipelines import AutoPipelineBlocks, SequentialPipelineBlocks

from ...sampling.call import LATENTS, PIXELS
from ..cascade import CascadePipeline
from ..rung import Rung
from .blocks import (
    DecodeStep,
    InputStep,
    PixelsStep,
    RungStep,
    TextEncoderStep,
    VideoInputStep,
    component_types,
)


Step = tuple[str, type[Any]]  # what a block is called in a composition, and its class


def blocks_of(
    cascade: type[CascadePipeline],
    module: str,
    *,
    model_name: str,
    types: Mapping[str, type] | None = None,
    block_names: Mapping[str, str] | None = None,
) -> dict[str, type[Any]]:
    """The blocks of a cascade: its rungs, its text encoders, what is before and behind them, and all in a row.

    A class is called by the cascade's name and what it does. Of a `MyCascadePipeline` with a rung of the class
    `MyFramesPipeline`: `MyInputStep`, `MyTextEncoderStep`, `MyFramesStep`, `MyDecodeStep`, `MyBlocks`. Two rungs
    of one class go by their own names. Latents before a rung that takes pixels have a block in between
    (`MyFramesPixelsStep`). Where a given video can stand in the place of all stages but the last, there are
    `MyVideoInputStep`, `MyPixelBlocks`, which are those stages, and `MySourceStep`, which is the one or the other.

    Args:
        cascade: the class.
        module: where the classes are to be found: the `__name__` of a module of the family.
        model_name: the family's, by which diffusers finds its modular pipeline.
        types: a stage's component -> the class to load it by where no index says another, before what the stage's
            `__init__` says.
        block_names: rung -> what its block is called in a composition, where not as the rung.

    Returns:
        Name -> class.

    Raises:
        ValueError: a recipe gives a negative prompt to some of the stages that read one text encoder.
    """
    _check_readers(cascade)
    maker = _Maker(cascade, module, model_name, component_types(cascade, types or {}))
    names = {rung.name: rung.name for rung in cascade.rungs} | dict(block_names or {})
    steps = _steps(cascade, maker, names)
    told, workflows = "text to video through all stages", {"text2video": {"prompt": True}}
    last = cascade.rungs[-1]
    if len(cascade.rungs) > 1 and PIXELS in last.stage.takes:
        steps = _from_a_video(cascade, maker, steps)
        told += f", or a given video through {last.name!r}"
        workflows["video2video"] = {"prompt": True, "video": True}
    steps = [("input", maker.block("InputStep", InputStep)), *steps]
    steps.append(("decode", maker.block("DecodeStep", DecodeStep, rung=last)))
    maker.row("Blocks", f"{maker.prefix}: {told}.", steps, _workflow_map=workflows)
    return maker.made


class _Maker:
    """Makes classes, and keeps them by name."""

    def __init__(self, cascade: type[CascadePipeline], module: str, model_name: str, types: Mapping[str, type]):
        self.prefix = cascade.__name__.removesuffix("CascadePipeline")
        self.made: dict[str, type[Any]] = {}
        self.module, self.model_name = module, model_name
        self.of_blocks = {"cascade": cascade, "types": types, "model_name": model_name}

    def make(self, name: str, base: type, doc: str, **attributes: Any) -> type[Any]:
        name = self.prefix + name
        self.made[name] = type(name, (base,), {"__doc__": doc, "__module__": self.module, **attributes})
        return self.made[name]

    def block(self, name: str, base: type, doc: str | None = None, **attributes: Any) -> type[Any]:
        """A block of the cascade; it is described as its base class is, where `doc` is left out."""
        return self.make(name, base, doc or inspect.getdoc(base) or "", **self.of_blocks, **attributes)

    def row(self, name: str, doc: str, steps: list[Step], **attributes: Any) -> type[Any]:
        """Blocks in a row."""
        own = {"block_names": [name for name, _ in steps], "block_classes": [block for _, block in steps]}
        own |= {"model_name": self.model_name, "description": doc}
        return self.make(name, SequentialPipelineBlocks, doc, **own, **attributes)


def _steps(cascade: type[CascadePipeline], maker: _Maker, names: Mapping[str, str]) -> list[Step]:
    """Every rung's block, its text encoder's before the first that reads it, and one between latents and pixels."""
    steps: list[Step] = []
    readers: set[str] = set()
    classes = [rung.stage for rung in cascade.rungs]
    before: Rung | None = None
    for rung in cascade.rungs:
        if rung.reader not in readers:
            block = maker.block(f"{_camel(rung.reader)}TextEncoderStep", TextEncoderStep, reader=rung.reader)
            steps.append((f"{rung.reader}text_encoder", block))
            readers.add(rung.reader)
        if before is not None and before.stage.gives == LATENTS and LATENTS not in rung.stage.takes:
            block = maker.block(f"{_camel(before.name)}PixelsStep", PixelsStep, rung=before)
            steps.append((f"{before.name}_pixels", block))
            before = None
        title = rung.stage.__name__.removeprefix(maker.prefix).removesuffix("Pipeline")
        if classes.count(rung.stage) > 1:
            title = _camel(rung.name)
        told = (inspect.getdoc(rung.stage) or "").split("\n\n")[0]
        latents = before if before is not None and before.stage.gives == LATENTS else None
        steps.append((names[rung.name], maker.block(f"{title}Step", RungStep, told, rung=rung, before=latents)))
        before = rung
    return steps


def _from_a_video(cascade: type[CascadePipeline], maker: _Maker, steps: list[Step]) -> list[Step]:
    """The same blocks, those before the last rung's behind a choice: they, or a given video."""
    last = cascade.rungs[-1]
    *earlier, final = steps
    # its text encoder is needed either way, before the choice where the other stages read it as well
    text = next(step for step in earlier if step[0] == f"{last.reader}text_encoder")
    shared = any(rung.reader == last.reader for rung in cascade.rungs[:-1])
    earlier.remove(text)
    told = f"Text to the frames that {last.name!r} takes: the stages before it."
    pixels = maker.row("PixelBlocks", told, earlier)
    choice = maker.make(
        "SourceStep",
        AutoPipelineBlocks,
        doc := f"Frames for {last.name!r}: those of `video` where it is given, or the other stages' by the prompt.",
        block_classes=[maker.block("VideoInputStep", VideoInputStep), pixels],
        block_names=["video", "text"],
        block_trigger_inputs=["video", None],
        description=doc,
    )
    return [text, ("frames", choice), final] if shared else [("frames", choice), text, final]


def _check_readers(cascade: type[CascadePipeline]) -> None:
    for name, recipe in cascade.recipes.items():
        told = recipe.negative_prompt_stages
        for reader in cascade.readers:
            here = {told is None or rung.name in told for rung in cascade.rungs if rung.reader == reader}
            if len(here) > 1:
                raise ValueError(
                    f"`recipes`: {name!r} must give a negative prompt to all of the stages that read "
                    f"'{reader}text_encoder', or to none, got {told}."
                )


def _camel(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))
