# SPDX-License-Identifier: Apache-2.0
"""Output classes of the pipelines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import torch
from diffusers.utils import BaseOutput


Frames = np.ndarray | torch.Tensor | list[list[PIL.Image.Image]]


@dataclass
class VideoPipelineOutput(BaseOutput):
    """What every stage and cascade returns.

    Args:
        frames: the videos, by `output_type`: `"np"` an array (b, f, h, w, c) in 0..1; `"pt"` a tensor (b, f, c, h, w)
            in 0..1; `"pil"` a list of lists of images; `"latent"` the tensor (b, c, f, h, w) in the model's own space,
            unclamped.
        stages: cascades only, with `return_stages=True`: stage name -> that stage's frames, in the same form.
    """

    frames: Frames
    stages: dict[str, Any] | None = None
