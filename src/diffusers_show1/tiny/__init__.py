# SPDX-License-Identifier: Apache-2.0
"""The embedded tiny cascade: where its weights lie, and the synthetic world it was trained on (`world`)."""

from pathlib import Path


WEIGHTS = Path(__file__).parent / "weights"  # a folder for each family
TINY_PATH = WEIGHTS / "show1"

__all__ = ["TINY_PATH", "WEIGHTS"]
