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
        nsfw_detected: with a safety checker, for each video whether it was flagged as not safe for work, here or in
            `stages`. A flagged video is black. `None`: nothing was checked.
        watermark_detected: likewise for watermarks of stock photographs, by a checker that looks for them (IF's).

    As a tuple, `return_dict=False`: those that are not `None`, in this order.
    """

    frames: Frames
    stages: dict[str, Any] | None = None
    nsfw_detected: list[bool] | None = None
    watermark_detected: list[bool] | None = None
