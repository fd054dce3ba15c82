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
    from .clips.provenance import read_metadata
    from .clips.reading import read_fps, read_video
    from .clips.watermark import detect_watermark, embed_watermark
    from .clips.writing import save_video
    from .families.show1.cascade import Show1CascadePipeline
    from .families.show1.interpolation import Show1InterpolationPipeline
    from .families.show1.keyframes import Show1KeyframePipeline
    from .families.show1.refine import Show1RefinementPipeline
    from .families.show1.superres import Show1SuperResolutionPipeline
    from .families.show1.unet import Show1UNet3DConditionModel
    from .ladder.known_frames import KnownFrames
    from .ladder.modular import Show1Blocks, Show1ModularPipeline
    from .nn.caching import DeepCacheConfig
    from .runs.job import GenerationJob, JobSettings
    from .sampling.outputs import VideoPipelineOutput
    from .tiny import TINY_PATH

__version__ = "0.1.0"

_EXPORTS = {
    "GenerationJob": ".runs.job",
    "JobSettings": ".runs.job",
    "KnownFrames": ".ladder.known_frames",
    "DeepCacheConfig": ".nn.caching",
    "Show1Blocks": ".ladder.modular",
    "Show1CascadePipeline": ".families.show1.cascade",
    "Show1InterpolationPipeline": ".families.show1.interpolation",
    "Show1KeyframePipeline": ".families.show1.keyframes",
    "Show1ModularPipeline": ".ladder.modular",
    "Show1RefinementPipeline": ".families.show1.refine",
    "Show1SuperResolutionPipeline": ".families.show1.superres",
    "Show1UNet3DConditionModel": ".families.show1.unet",
    "TINY_PATH": ".tiny",
    "VideoPipelineOutput": ".sampling.outputs",
    "detect_watermark": ".clips.watermark",
    "embed_watermark": ".clips.watermark",
    "read_fps": ".clips.reading",
    "read_metadata": ".clips.provenance",
    "read_video": ".clips.reading",
    "save_video": ".clips.writing",
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
    "read_fps",
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
