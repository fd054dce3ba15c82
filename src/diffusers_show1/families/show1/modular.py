# SPDX-License-Identifier: Apache-2.0
"""The cascade as modular blocks."""

from ...ladder.modular import Show1Blocks, Show1ModularPipeline


__all__ = ["Show1Blocks", "Show1ModularPipeline"]
