# SPDX-License-Identifier: Apache-2.0
"""The slot for a safety checker, as DeepFloyd IF has it in diffusers: it sees frames before they are handed out."""

from __future__ import annotations

from typing import Any

import PIL.Image
import torch
from diffusers.pipelines.deepfloyd_if.safety_checker import IFSafetyChecker
from diffusers.utils import logging
from torch import Tensor

from ..clips.arrays import from_model_space
from ..sampling.outputs import VideoPipelineOutput


logger = logging.get_logger(__name__)


class SafetyMixin:
    """The optional components `safety_checker` and `feature_extractor`, for stages and for the cascade."""

    # transformers 5 loads no model that lacks this, and diffusers 0.42 gives it to Stable Diffusion's checker alone.
    if not hasattr(IFSafetyChecker, "all_tied_weights_keys"):
        IFSafetyChecker.all_tied_weights_keys = {}

    def check_safety_parts(self) -> None:
        """Refuses a checker without its images' preparation, before any model runs.

        Raises:
            ValueError: there is a `safety_checker` and no `feature_extractor`.
        """
        if self.safety_checker is not None and self.feature_extractor is None:
            raise ValueError(
                "`feature_extractor` must be the one of the `safety_checker` (a CLIPImageProcessor), got None."
            )

    @torch.no_grad()
    def run_safety_checker(self, video: Tensor) -> tuple[list[bool], list[bool] | None]:
        """Shows every frame to the checker.

        Args:
            video: (b, 3, f, h, w) in model space.

        Returns:
            For each video whether a frame of it was flagged as not safe for work; the same for watermarks of stock
            photographs, or `None` of a checker that does not look for them (Stable Diffusion's).
        """
        found = []
        for one in video:  # one at a time: a batch of long videos may not fit
            images = (from_model_space(one[None].float(), "np")[0] * 255).round().astype("uint8")
            clip_input = self.feature_extractor(list(images), return_tensors="pt").pixel_values
            # The checker writes into the images that it flags: these are its own. Which it flags is what counts here.
            _, *flags = self.safety_checker(
                images=list(images), clip_input=clip_input.to(self._execution_device, self.safety_checker.dtype)
            )
            found.append([any(of_frames) for of_frames in flags])
        nsfw, *watermarks = (list(flags) for flags in zip(*found, strict=True))
        return nsfw, watermarks[0] if watermarks else None

    def to_output(self, video: Tensor, output_type: str) -> VideoPipelineOutput:
        """What is handed out of a finished video: checked where there is a checker, black where it flags a frame.

        Args:
            video: (b, 3, f, h, w) in model space.
            output_type: `"pil"`, `"np"`, `"pt"`; or `"latent"`, which is not checked.

        Returns:
            `VideoPipelineOutput`.
        """
        frames = from_model_space(video, output_type)
        if self.safety_checker is None or output_type == "latent":
            return VideoPipelineOutput(frames=frames)
        nsfw, watermarks = self.run_safety_checker(video)
        output = VideoPipelineOutput(frames=frames, nsfw_detected=nsfw, watermark_detected=watermarks)
        if any(flags := flagged(output)):
            logger.warning(
                f"The safety checker flagged {sum(flags)} of {len(video)} videos: all of their frames are black. "
                "Another prompt or seed may help."
            )
            black_out(output.frames, flags)
        return output


def flagged(output: VideoPipelineOutput) -> list[bool]:
    """For each video whether it was flagged, for whatever reason; empty where nothing was checked."""
    reasons = [flags for flags in (output.nsfw_detected, output.watermark_detected) if flags is not None]
    return [any(flags) for flags in zip(*reasons, strict=True)]


def black_out(frames: Any, flags: list[bool]) -> None:
    """Makes all frames of the flagged videos black, in place; `frames` in any form of `output_type`."""
    for i, flag in enumerate(flags):
        if flag and isinstance(frames, list):
            frames[i] = [PIL.Image.new("RGB", frame.size) for frame in frames[i]]
        elif flag:
            frames[i] = 0


def join_outputs(outputs: dict[str, VideoPipelineOutput]) -> VideoPipelineOutput:
    """A cascade's output: the last stage's frames, all stages', and which videos were flagged in any.

    A video that the last stage's frames condemn is black in the others too. The reverse does not hold: whether the
    result is shown depends on itself alone, and so on nothing that only asks for more stages to be returned.
    """
    last = list(outputs.values())[-1]
    for output in outputs.values():
        black_out(output.frames, flagged(last))

    def of_any(name: str) -> list[bool] | None:
        if getattr(last, name) is None:
            return None
        return [any(flags) for flags in zip(*(getattr(output, name) for output in outputs.values()), strict=True)]

    return VideoPipelineOutput(
        frames=last.frames,
        stages={stage: output.frames for stage, output in outputs.items()},
        nsfw_detected=of_any("nsfw_detected"),
        watermark_detected=of_any("watermark_detected"),
    )
