# SPDX-License-Identifier: Apache-2.0
"""The toy as diffusers' modular blocks, made from its rungs."""

from __future__ import annotations

from diffusers_show1.ladder.modular import CascadeModularPipeline, blocks_of

from .cascade import ToyCascadePipeline
from .unet import ToyUNet


BLOCKS = blocks_of(ToyCascadePipeline, __name__, model_name="toy", types={"unet": ToyUNet})
ToyBlocks = BLOCKS["ToyBlocks"]


class ToyModularPipeline(CascadeModularPipeline):
    """A pipeline of the toy's blocks, by default all of them."""

    default_blocks_name = "ToyBlocks"
