# SPDX-License-Identifier: Apache-2.0
"""Keyframes that begin with given ones: image to video, and videos longer than one clip."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.callbacks import PipelineCallback
from torch import Tensor

from ..clips.arrays import to_model_space
from ..sampling.checks import check_number
from ..sampling.latents import fold, unfold
from ..sampling.noise import draw


class KnownFrames(PipelineCallback):
    """Makes the first keyframes be the given ones, and the others go on from them; no training is needed.

    After each step the known frames take their places again, with noise of the level that the step has reached
    (replacement), and the other frames move so that the network's own estimate of the known ones comes out right
    (reconstruction guidance: Ho et al., Video Diffusion Models, 2022, section 3.1, Eq. 7; here it corrects the noisy
    frames between the steps, not the estimate within one). Replacement alone leaves the others where chance put them.

    It is a callback for the keyframe stage, or for a whole cascade, whose later stages it leaves alone:

        pipe(prompt, callback_on_step_end=KnownFrames([image]))

    Each step costs one call of the network more, with its gradient, in as much memory as training on one clip takes.

    Args:
        frames: the known first keyframes, at least 1 and fewer than the stage makes, in any form of `to_model_space`;
            resized to the keyframes' size. One video, or one for each of the call.
        weight: of the guidance, at least 0; 0 is replacement alone. 10 was best of 0, 5 and 10 on the tiny cascade.
        generator: of the known frames' noise.
    """

    def __init__(self, frames: Any, weight: float = 10.0, generator: torch.Generator | None = None):
        super().__init__()
        check_number(weight, "weight", low=0)
        self.frames = to_model_space(frames)
        self.weight = weight
        self.generator = generator
        self.known, self.noise = self.frames, self.frames  # of the call that runs; set by its first step

    @property
    def tensor_inputs(self) -> list[str]:
        return ["latents", "prompt_embeds"]

    def beside(self, callback: Callable | None, tensor_inputs: list[str] | None) -> tuple[Callable, list[str]]:
        """One callback that does this and then a caller's own.

        Args:
            callback: the caller's, or None.
            tensor_inputs: what it asks for, or None.

        Returns:
            The callback, and what it asks for.
        """
        if callback is None:
            return self, self.tensor_inputs
        own = tensor_inputs if tensor_inputs is not None else getattr(callback, "tensor_inputs", ["latents"])

        def both(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            tensors = {**tensors, **self(pipeline, step, timestep, tensors)}
            return {**tensors, **(callback(pipeline, step, timestep, {name: tensors[name] for name in own}) or {})}

        return both, list(dict.fromkeys([*self.tensor_inputs, *own]))

    def callback_fn(self, pipeline: Any, step_index: int, timestep: Any, callback_kwargs: dict) -> dict[str, Tensor]:
        """What the stage calls after each step.

        Args:
            pipeline: the stage.
            step_index: the step that was made, from 0.
            timestep: its diffusion timestep.
            callback_kwargs: `latents`, (b, 3, f, h, w), and `prompt_embeds`, (prompts, tokens, width).

        Returns:
            `latents`, (b, 3, f, h, w), changed; nothing for a stage that makes no keyframes.
        """
        if pipeline.takes:  # frames: a later stage
            return {}
        latents = callback_kwargs["latents"]
        count = self.frames.shape[2]
        if step_index == 0:
            self.begin(pipeline, latents)
        if step_index + 1 == len(pipeline.timesteps):
            return {"latents": torch.cat([self.known, latents[:, :, count:]], dim=2)}

        next_timestep = pipeline.timesteps[step_index + 1]
        signal = pipeline.scheduler.alphas_cumprod[next_timestep.cpu().long()].sqrt().item()
        noise = (1 - signal**2) ** 0.5
        latents = torch.cat([signal * self.known + noise * self.noise, latents[:, :, count:]], dim=2)
        if self.weight:
            gradient = self.gradient(pipeline, latents, next_timestep, callback_kwargs["prompt_embeds"], signal, noise)
            moved = latents - self.weight * signal / 2 * gradient
            latents = torch.cat([latents[:, :, :count], moved[:, :, count:]], dim=2)
        return {"latents": latents}

    def begin(self, pipeline: Any, latents: Tensor) -> None:
        """Brings the known frames to the call's size and draws their noise.

        Args:
            pipeline: the keyframe stage.
            latents: (b, 3, f, h, w) of the call.

        Raises:
            ValueError: `frames` do not fit the call, or the scheduler scales its samples.
        """
        batch, _, num_frames, height, width = latents.shape
        videos, _, count = self.frames.shape[:3]
        if count >= num_frames or videos not in (1, batch):
            raise ValueError(
                f"`frames` must hold 1 or {batch} videos of at most {num_frames - 1} keyframes, "
                f"got {videos} of {count}."
            )
        if pipeline.scheduler.init_noise_sigma != 1:
            raise ValueError(
                "`KnownFrames` needs a scheduler that preserves variance (DDPM, DDIM, DPM-Solver++, UniPC), "
                f"got {type(pipeline.scheduler).__name__}."
            )
        small = F.interpolate(fold(self.frames), (height, width), mode="bilinear", antialias=True, align_corners=False)
        self.known = unfold(small, videos).expand(batch, -1, -1, -1, -1).to(latents)
        self.noise = draw(tuple(self.known.shape), self.generator, like=latents)

    def gradient(
        self, pipeline: Any, latents: Tensor, timestep: Tensor, text: Tensor, signal: float, noise: float
    ) -> Tensor:
        """The gradient of the squared error of the network's estimate of the known frames.

        Args:
            pipeline: the keyframe stage.
            latents: (b, 3, f, h, w), with noise of the level of `timestep`.
            timestep: one diffusion timestep, ().
            text: the prompt's embeddings (b, tokens, width).
            signal: what the clean frames are multiplied with at `timestep`.
            noise: what the noise is multiplied with.

        Returns:
            The gradient by `latents`, (b, 3, f, h, w).
        """
        with torch.enable_grad():
            latents = latents.detach().requires_grad_()
            prediction = pipeline.unet(latents, timestep, encoder_hidden_states=text, return_dict=False)[0]
            prediction = prediction[:, : latents.shape[1]]  # without a predicted variance
            estimate = {
                "epsilon": lambda: (latents - noise * prediction) / signal,
                "v_prediction": lambda: signal * latents - noise * prediction,
                "sample": lambda: prediction,
            }[pipeline.scheduler.config.prediction_type]()
            error = (estimate[:, :, : self.known.shape[2]] - self.known).square().sum()
            return torch.autograd.grad(error, latents)[0]
