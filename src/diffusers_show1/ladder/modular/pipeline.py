# SPDX-License-Identifier: Apache-2.0
"""The modular pipeline that holds the blocks' components."""

from __future__ import annotations

import os
from typing import Any

from diffusers import ModularPipeline
from diffusers.modular_pipelines import ModularPipelineBlocks


class CascadeModularPipeline(ModularPipeline):
    """A pipeline of a cascade's blocks. A subclass says in `default_blocks_name` which, where nobody else does.

    Component names are those of the cascade, so a cascade's repository serves as it is.

    Args:
        blocks: the blocks to run; by default those that the repository names, or `default_blocks_name`.
        pretrained_model_name_or_path: a folder or Hub id that components are loaded from.
        config_dict: a cascade's index, where it has been read already.
        kwargs: diffusers' own.
    """

    def __init__(
        self,
        blocks: ModularPipelineBlocks | None = None,
        pretrained_model_name_or_path: str | os.PathLike[str] | None = None,
        config_dict: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        if pretrained_model_name_or_path is not None:  # diffusers joins it to other strings
            pretrained_model_name_or_path = os.fspath(pretrained_model_name_or_path)
        super().__init__(blocks, pretrained_model_name_or_path, config_dict=_what_is_there(config_dict), **kwargs)

    def set_progress_bar_config(self, **kwargs: Any) -> None:
        """As for `DiffusionPipeline`; reaches the stage behind every block, however deep that is nested.

        Args:
            kwargs: tqdm's, such as `disable=True`.
        """
        self._progress_bar_config = kwargs

    @classmethod
    def _load_pipeline_config(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> tuple[Any, Any]:
        modular, index = super()._load_pipeline_config(pretrained_model_name_or_path, **kwargs)
        return modular, _what_is_there(index)


def _what_is_there(index: dict[str, Any] | None) -> dict[str, Any] | None:
    """A cascade's index without the components that it says it does not have: diffusers would try to load them."""
    if index is None:
        return None
    return {name: value for name, value in index.items() if value not in ([None, None], (None, None))}
