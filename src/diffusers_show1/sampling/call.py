# SPDX-License-Identifier: Apache-2.0
"""What goes into a stage and between stages: a call's arguments, a video's extent, and what is handed over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

from torch import Tensor


# What a video is, between stages.
PIXELS = "pixels"  # (b, 3, f, h, w), nominally in [-1, 1]
LATENTS = "latents"  # (b, c, f, h, w) of an autoencoder, scaled as the networks see them


class Extent(NamedTuple):
    """Of a video in pixels; a side that only the network knows is None."""

    frames: int
    height: Any
    width: Any


class Handover:
    """A video on its way from one stage to the next, in the model's own range.

    Args:
        video: (b, 3, f, h, w) in [-1, 1], or latents (b, c, f, h, w).
        vae: the autoencoder whose latents they are; None for pixels.
        decode: latents -> pixels; left out for pixels.
    """

    def __init__(self, video: Tensor, vae: Any = None, decode: Callable[[Tensor], Tensor] | None = None):
        self.video, self.vae, self._decode = video, vae, decode
        self._pixels: Tensor | None = video if decode is None else None

    @property
    def pixels(self) -> Tensor:
        """(b, 3, f, h, w); latents are decoded once, when this is first asked for."""
        if self._pixels is None:
            assert self._decode is not None
            self._pixels = self._decode(self.video)
        return self._pixels

    def first(self, frames: int) -> Handover:
        """The first frames only."""
        return Handover(self.video[:, :, :frames], self.vae, self._decode)


class Call(SimpleNamespace):
    """The arguments of a stage's call, by name: what `locals()` holds at its beginning."""

    def __init__(self, arguments: Mapping[str, Any]):
        super().__init__(**{name: value for name, value in arguments.items() if name not in ("self", "__class__")})
        self.callback_on_step_end_tensor_inputs: Any = arguments["callback_on_step_end_tensor_inputs"]
        if self.callback_on_step_end_tensor_inputs is None:
            wanted = getattr(self.callback_on_step_end, "tensor_inputs", ["latents"])
            self.callback_on_step_end_tensor_inputs = wanted

    @property
    def loop(self) -> dict[str, Any]:
        """What of it goes to every denoising loop."""
        names = ("eta", "cross_attention_kwargs", "callback_on_step_end", "callback_on_step_end_tensor_inputs")
        return {name: getattr(self, name) for name in names}

    @property
    def text(self) -> dict[str, Any]:
        """What of it says which text is meant."""
        names = ("prompt", "negative_prompt", "prompt_embeds", "negative_prompt_embeds")
        return {name: getattr(self, name) for name in names}

    @property
    def schedule(self) -> tuple[Any, Any, Any]:
        """Steps, timesteps and sigmas, of which a schedule is made."""
        return self.num_inference_steps, self.timesteps, self.sigmas
