# SPDX-License-Identifier: Apache-2.0
"""Cascades: stages called in a row."""

from .pipeline_show1 import Show1CascadePipeline


__all__ = ["Show1CascadePipeline"]
