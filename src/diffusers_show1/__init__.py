# SPDX-License-Identifier: Apache-2.0
"""Show-1 text-to-video for today's diffusers: pixels for the layout, latents for the detail.

    import torch
    from diffusers_show1 import Show1CascadePipeline, TINY_PATH

    pipe = Show1CascadePipeline.from_pretrained(TINY_PATH)
    frames = pipe("a red circle moving right on a white background").frames[0]

Names are imported when first used. Importing this package also lets diffusers' own `DiffusionPipeline.from_pretrained`
read Show-1 repositories (see `hub/registration.py`).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .hub import registration as _registration


if TYPE_CHECKING:
    from .cascades import Show1CascadePipeline
    from .frames import read_video, save_video
    from .jobs.job import GenerationJob, JobSettings
    from .models import DeepCacheConfig, Show1UNet3DConditionModel
    from .modular import Show1Blocks, Show1ModularPipeline
    from .outputs import VideoPipelineOutput
    from .provenance import read_metadata
    from .stages import (
        KnownFrames,
        Show1InterpolationPipeline,
        Show1KeyframePipeline,
        Show1RefinementPipeline,
        Show1SuperResolutionPipeline,
    )
    from .tiny import TINY_PATH
    from .watermark import detect_watermark, embed_watermark

__version__ = "0.1.0"

_EXPORTS = {
    "GenerationJob": ".jobs.job",
    "JobSettings": ".jobs.job",
    "KnownFrames": ".stages",
    "DeepCacheConfig": ".models",
    "Show1Blocks": ".modular",
    "Show1CascadePipeline": ".cascades",
    "Show1InterpolationPipeline": ".stages",
    "Show1KeyframePipeline": ".stages",
    "Show1ModularPipeline": ".modular",
    "Show1RefinementPipeline": ".stages",
    "Show1SuperResolutionPipeline": ".stages",
    "Show1UNet3DConditionModel": ".models",
    "TINY_PATH": ".tiny",
    "VideoPipelineOutput": ".outputs",
    "detect_watermark": ".watermark",
    "embed_watermark": ".watermark",
    "read_metadata": ".provenance",
    "read_video": ".frames",
    "save_video": ".frames",
}

__all__ = [
    "TINY_PATH",
    "DeepCacheConfig",
    "GenerationJob",
    "JobSettings",
    "KnownFrames",
    "Show1Blocks",
    "Show1CascadePipeline",
    "Show1InterpolationPipeline",
    "Show1KeyframePipeline",
    "Show1ModularPipeline",
    "Show1RefinementPipeline",
    "Show1SuperResolutionPipeline",
    "Show1UNet3DConditionModel",
    "VideoPipelineOutput",
    "__version__",
    "detect_watermark",
    "embed_watermark",
    "read_metadata",
    "read_video",
    "save_video",
]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        value = getattr(importlib.import_module(_EXPORTS[name], __name__), name)
    elif name == "ModelMixin":
        # diffusers looks up a component's base class on the library that an index names
        value = importlib.import_module("diffusers.models.modeling_utils").ModelMixin
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})


_registration.install()
