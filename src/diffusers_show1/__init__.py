# SPDX-License-Identifier: Apache-2.0
"""Show-1 text-to-video for today's diffusers: pixels for the layout, latents for the detail.

    import torch
    from diffusers_show1 import Show1CascadePipeline, TINY_PATH

    pipe = Show1CascadePipeline.from_pretrained(TINY_PATH)
    frames = pipe("a red circle moving right on a white background").frames[0]

Names are imported when first used. Importing this package also lets diffusers' own `DiffusionPipeline.from_pretrained`
read the repositories of the families that it knows (see `hub/registration.py`).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .families import all_families as _all_families
from .hub import registration as _registration
from .version import __version__


# ruff: noqa: F401  what follows is for type checkers alone
if TYPE_CHECKING:
    from .clips.provenance import read_metadata
    from .clips.reading import read_fps, read_video
    from .clips.watermark import detect_watermark, embed_watermark
    from .clips.writing import save_video
    from .families.show1.cascade import Show1CascadePipeline
    from .families.show1.interpolation import Show1InterpolationPipeline
    from .families.show1.keyframes import Show1KeyframePipeline
    from .families.show1.modular import Show1Blocks, Show1ModularPipeline
    from .families.show1.refine import Show1RefinementPipeline
    from .families.show1.superres import Show1SuperResolutionPipeline
    from .families.show1.unet import Show1UNet3DConditionModel
    from .ladder.known_frames import KnownFrames
    from .nn.caching import DeepCacheConfig
    from .runs.job import GenerationJob, JobSettings
    from .sampling.outputs import VideoPipelineOutput
    from .tiny import TINY_PATH

_EXPORTS = {
    "TINY_PATH": "diffusers_show1.tiny",
    "DeepCacheConfig": "diffusers_show1.nn.caching",
    "GenerationJob": "diffusers_show1.runs.job",
    "JobSettings": "diffusers_show1.runs.job",
    "KnownFrames": "diffusers_show1.ladder.known_frames",
    "VideoPipelineOutput": "diffusers_show1.sampling.outputs",
    "WindowStore": "diffusers_show1.sampling.windows",
    "detect_watermark": "diffusers_show1.clips.watermark",
    "embed_watermark": "diffusers_show1.clips.watermark",
    "read_fps": "diffusers_show1.clips.reading",
    "read_metadata": "diffusers_show1.clips.provenance",
    "read_video": "diffusers_show1.clips.reading",
    "save_video": "diffusers_show1.clips.writing",
}
# Families of other packages are exported there.
_EXPORTS |= {
    name: f"{family.package}.{module}"
    for family in _all_families()
    if family.library == __name__
    for name, module in family.exports.items()
}

__all__ = sorted([*_EXPORTS, "__version__"], key=lambda name: (not name.isupper(), name))


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})


_registration.install()
