# SPDX-License-Identifier: Apache-2.0
"""The modular pipeline that holds the blocks' components."""

from __future__ import annotations

import os
from typing import Any

from diffusers import ModularPipeline
from diffusers.modular_pipelines import ModularPipelineBlocks


class Show1ModularPipeline(ModularPipeline):
    """A pipeline of Show-1's blocks, by default `Show1Blocks`: the whole cascade.

    Component names are those of `Show1CascadePipeline`, so a cascade's repository serves as it is:

        pipe = Show1Blocks().init_pipeline(TINY_PATH)
        pipe.load_components(dtype=torch.float32)
        videos = pipe(prompt="a red circle moving right on a white background", output="videos")

    Args:
        blocks: the blocks to run; by default those that the repository names, or `Show1Blocks`.
        pretrained_model_name_or_path: a folder or Hub id that components are loaded from.
        kwargs: diffusers' own.
    """

    default_blocks_name = "Show1Blocks"

    def __init__(
        self,
        blocks: ModularPipelineBlocks | None = None,
        pretrained_model_name_or_path: str | os.PathLike[str] | None = None,
        **kwargs: Any,
    ):
        if pretrained_model_name_or_path is not None:  # diffusers joins it to other strings
            pretrained_model_name_or_path = os.fspath(pretrained_model_name_or_path)
        kwargs["config_dict"] = _present(kwargs.get("config_dict"))
        super().__init__(blocks, pretrained_model_name_or_path, **kwargs)

    def set_progress_bar_config(self, **kwargs: Any) -> None:
        """As for `DiffusionPipeline`; reaches the stage behind every block, however deep that is nested.

        Args:
            kwargs: tqdm's, such as `disable=True`.
        """
        self._progress_bar_config = kwargs

    @classmethod
    def _load_pipeline_config(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> tuple[Any, Any]:
        modular, index = super()._load_pipeline_config(pretrained_model_name_or_path, **kwargs)
        return modular, _present(index)


def _present(index: dict[str, Any] | None) -> dict[str, Any] | None:
    """diffusers would try to load what a cascade's `model_index.json` says that it does not have."""
    if index is None:
        return None
    return {name: value for name, value in index.items() if value not in ([None, None], (None, None))}
