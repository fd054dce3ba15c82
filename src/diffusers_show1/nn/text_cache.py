# SPDX-License-Identifier: Apache-2.0
"""What a prompt alone decides in a network, computed once a denoising loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers.hooks.group_offloading import _is_group_offload_enabled
from torch import Tensor, nn


class TextCache:
    """What the layers of one network made of one prompt, for further calls with it: its projected keys and values.

        cache = unet.text_cache()
        for t in timesteps:
            prediction = unet(sample, t, encoder_hidden_states=text, text_cache=cache).sample

    The first call fills it, the others read it. It belongs to the text, the weights and the adapters of that first
    call: whoever changes one of them makes a new cache. With gradients, or in a network compiled as a whole, it stays
    empty and every call projects the text anew.
    """

    def __init__(self) -> None:
        self._kept: dict[nn.Module, Any] = {}

    def once(self, module: nn.Module, project: Callable[[Tensor], Any], text: Tensor) -> Any:
        """`project(text)`, or what it was in the first call."""
        if torch.compiler.is_compiling() or torch.is_grad_enabled():
            return project(text)
        if module not in self._kept:
            self._kept[module] = project(text)
        return self._kept[module]


class TextCacheMixin:
    """Of a network whose `forward` takes a `text_cache`, and that begins with a layer `conv_in`."""

    def text_cache(self) -> TextCache | None:
        """A cache for calls with one and the same text, or None where the network has to project it in every call.

        That is where group offloading moves layer by layer: it loads each layer ahead, in the order of the first call,
        and a layer left out later would stay on the device.

        Returns:
            A new cache for `forward`'s `text_cache`, or `None`.
        """
        return None if _is_group_offload_enabled(self.conv_in) else TextCache()
