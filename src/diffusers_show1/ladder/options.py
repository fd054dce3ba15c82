# SPDX-License-Identifier: Apache-2.0
"""The options of a cascade's stages: recipes, what a checkpoint has over them, and the caller's over those."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, ClassVar

from ..clips.words import shorten
from ..sampling.call import Call, Extent
from ..sampling.checks import check_count
from .rung import Recipe, Rung, StageOptions


class OptionsMixin:
    """What follows from options alone: which there are, how many frames each stage makes, how often networks run."""

    rungs: ClassVar[tuple[Rung, ...]]
    recipes: ClassVar[Mapping[str, Recipe]]
    stage_names: ClassVar[tuple[str, ...]]
    config: Any
    _memory_options: StageOptions = {}

    @classmethod
    def stage_option_names(cls, name: str) -> list[str]:
        """The options that `stage_options[name]` may hold: the stage's own call arguments.

        Args:
            name: one of `stage_names`.

        Returns:
            Names, in the order of the stage's signature.
        """
        return list(cls.rungs[cls.stage_names.index(name)].options)

    def resolve_options(
        self,
        recipe: str = "default",
        stage_options: StageOptions | None = None,
        num_frames: int | None = None,
    ) -> StageOptions:
        """The options a call would run with: the recipe's, the checkpoint's over them, the caller's over those.

        Of the checkpoint's, those that it has for this very recipe go over those that it has for all.

        Args:
            recipe: one of `recipes`.
            stage_options: the caller's, stage name -> options of that stage's call.
            num_frames: frames of the video, at least 1; sets how many the first stage makes. `None`: the recipe's.

        Returns:
            Stage name -> options, of every stage.

        Raises:
            ValueError: an unknown recipe, stage or option, naming what is allowed.
        """
        if recipe not in self.recipes:
            raise ValueError(f"`recipe` must be one of {sorted(self.recipes)}, got {recipe!r}.")
        options = {name: dict(values) for name, values in self.recipes[recipe].stages.items()}
        given = {} if stage_options is None else stage_options
        own = self.config.stage_defaults or {}
        own_for_recipe = own.get(recipe, {}) if isinstance(own, dict) else {}
        for source in (own, own_for_recipe, self._memory_options, given):
            name_of = "stage_options" if source is given else "stage_defaults"
            if not isinstance(source, dict) or not all(isinstance(values, dict) for values in source.values()):
                raise ValueError(
                    f"`{name_of}` must be a dict of stage name -> dict of options, got {shorten(repr(source))}."
                )
            for name, values in source.items():
                if source is own and name in self.recipes:
                    continue
                if name not in self.stage_names:
                    raise ValueError(f"`{name_of}` must name stages of {self.stage_names}, got {shorten(repr(name))}.")
                allowed = self.stage_option_names(name)
                for key in values:
                    if key not in allowed:
                        raise ValueError(
                            f"`{name_of}[{name!r}]` has no option {shorten(repr(key))}; it may hold {allowed}."
                        )
                options[name].update(values)
        first = self.rungs[0]
        if num_frames is not None and "num_frames" in first.options:
            options[first.name]["num_frames"] = self.frames_wanted(options, num_frames)[first.name]
        return options

    @classmethod
    def frames_wanted(cls, options: StageOptions, num_frames: int) -> dict[str, int]:
        """How many frames each stage has to give so that `num_frames` come out in the end.

        Args:
            options: of every stage.
            num_frames: of the video, at least 1.

        Returns:
            Stage name -> frames; what a stage makes beyond that is left out.
        """
        check_count(num_frames, "num_frames", low=1)
        wanted = {}
        for rung in reversed(cls.rungs):
            wanted[rung.name] = num_frames
            num_frames = rung.stage.frames_before(rung.call(options[rung.name]), num_frames)
        return wanted

    @classmethod
    def network_calls(cls, options: StageOptions, parts: Collection[str] = ()) -> dict[str, int]:
        """How often a run of a whole video calls its networks, stage by stage, counted as papers do.

        A guided step is two calls, whether they are made in one batch or not, and each window's steps are its own.

        Args:
            options: of every stage, as `resolve_options` returns them.
            parts: the optional networks that are there, such as `first_frame_unet`.

        Returns:
            Stage name -> calls.
        """
        calls = {}
        for rung, call, given, _ in cls.run_through(options):
            own = [name for name, part in rung.parts.items() if part in parts]
            calls[rung.name] = rung.stage.network_calls(call, given, own)
        return calls

    @classmethod
    def run_through(cls, options: StageOptions) -> Iterator[tuple[Rung, Call, Extent | None, Extent]]:
        """What each stage of a whole run would be called with, without a check and without running anything.

        Args:
            options: of every stage, as `resolve_options` returns them.

        Yields:
            A rung, its call, the extent of the frames that it is given (None for the first), and that of its own; a
            side that only a network knows is None.
        """
        given = None
        for rung in cls.rungs:
            call = rung.call(options[rung.name])
            extent = rung.stage.extent(call, given)
            yield rung, call, given, extent
            given = extent
