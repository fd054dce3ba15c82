# SPDX-License-Identifier: Apache-2.0
"""The embedded tiny cascade: where its weights lie, and the synthetic world it was trained on (`world`)."""

from pathlib import Path


TINY_PATH = Path(__file__).parent / "weights"

__all__ = ["TINY_PATH"]
