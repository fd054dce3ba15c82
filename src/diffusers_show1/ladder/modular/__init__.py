# SPDX-License-Identifier: Apache-2.0
"""A cascade as modular blocks: diffusers' way to put a step of one's own between two of ours."""

from .compose import blocks_of
from .pipeline import CascadeModularPipeline


__all__ = ["CascadeModularPipeline", "blocks_of"]
