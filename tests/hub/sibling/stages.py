# SPDX-License-Identifier: Apache-2.0
"""Its stages."""

from __future__ import annotations

from diffusers_show1 import Show1InterpolationPipeline, Show1KeyframePipeline


class SiblingKeyframePipeline(Show1KeyframePipeline):
    """Text to keyframes."""


class SiblingInterpolationPipeline(Show1InterpolationPipeline):
    """Frames between frames."""
