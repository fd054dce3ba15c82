# SPDX-License-Identifier: Apache-2.0
"""The losses, by the name that they are documented under; `learning.objectives` has them."""

from ..learning.objectives import (
    interpolation_loss,
    keyframe_loss,
    refinement_loss,
    superres_loss,
    upsample_frames,
    vae_loss,
)


__all__ = [
    "interpolation_loss",
    "keyframe_loss",
    "refinement_loss",
    "superres_loss",
    "upsample_frames",
    "vae_loss",
]
