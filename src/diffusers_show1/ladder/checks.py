# SPDX-License-Identifier: Apache-2.0
"""The checks of a cascade's call: all stages' text and options, before any model runs."""

from __future__ import annotations

from typing import Any, ClassVar

from ..sampling.call import Extent
from ..sampling.text import check_prompts, text_width
from .rung import Rung, StageOptions
from .texts import Embeds


class ChecksMixin:
    """Every stage's own checks, on what it will get."""

    rungs: ClassVar[tuple[Rung, ...]]
    readers: ClassVar[tuple[str, ...]]

    def check_text(
        self,
        names: tuple[str, ...],
        options: StageOptions,
        prompt: Any,
        negative_prompt: Any,
        embeds: Embeds,
    ) -> int:
        """Checks the prompts and embeddings of all stages against each other and their networks.

        Args:
            names: the stages to run, in their order.
            options: stage -> its call's options.
            prompt: the call's.
            negative_prompt: likewise.
            embeds: the call's, by the names of its arguments; (prompts, tokens, width) or None each.

        Returns:
            How many prompts there are.

        Raises:
            ValueError, TypeError: naming the argument, its value and what is allowed.
        """
        count: int | None = None
        for rung in (rung for rung in self.rungs if rung.name in names):
            reader, stage = rung.reader, self.stage(rung.name)
            given, negative = embeds.get(f"{reader}prompt_embeds"), embeds.get(f"{reader}negative_prompt_embeds")
            if prompt is None and given is None and reader != self.readers[0]:
                raise ValueError(
                    f"`{reader}prompt_embeds` is required with `{self.readers[0]}prompt_embeds`: stage {rung.name!r} "
                    "reads a text encoder of its own, got None."
                )
            # the first reader's embeddings stand in place of the prompt, the others' may stand beside it
            own = reader != self.readers[0]
            text = None if own and given is not None else prompt
            negative_text = None if own and negative is not None else negative_prompt
            here = check_prompts(text, negative_text, given, negative, text_width(stage.unet), reader)
            stage.check_encoder(text, given, negative, stage.needs_negative(rung.call(options[rung.name])), reader)
            if count not in (None, here):
                raise ValueError(f"`{reader}prompt_embeds` must hold {count} rows, one a prompt, got {here}.")
            count = here
        assert count is not None
        return count

    def check_stages(
        self,
        names: tuple[str, ...],
        options: StageOptions,
        batch: int,
        num_frames: int | None = None,
        callback_tensor_inputs: list[str] | None = None,
        given: tuple[int, Extent] | None = None,
    ) -> dict[str, Extent]:
        """Runs every stage's own checks on what it will get, so that a bad option of the last one is told at once.

        Args:
            names: the stages to run, in their order.
            options: stage -> its call's options, from `resolve_options`.
            batch: how many videos.
            num_frames: how many frames the video is to have; None keeps all.
            callback_tensor_inputs: what the step callback asks for, or None.
            given: how many videos the first of them is given, and their extent; None where it takes none.

        Returns:
            Stage -> what it will make.

        Raises:
            ValueError, TypeError: what a stage's checks raise, with the stage's name before it.
        """
        wanted = {} if num_frames is None else self.frames_wanted(options, num_frames)
        extents = {}
        for rung in (rung for rung in self.rungs if rung.name in names):
            call = rung.call({**options[rung.name], "callback_on_step_end_tensor_inputs": callback_tensor_inputs})
            try:
                batch, extent = self.stage(rung.name).check_call(call, batch, given)
            except (ValueError, TypeError) as error:
                raise type(error)(f"stage {rung.name!r}: {error}") from None
            extents[rung.name] = extent._replace(frames=min(extent.frames, wanted.get(rung.name, extent.frames)))
            given = batch, extents[rung.name]
        return extents
