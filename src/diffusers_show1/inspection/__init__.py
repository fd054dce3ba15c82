# SPDX-License-Identifier: Apache-2.0
"""Pictures of what the stages of a cascade made, beside each other: `show1 inspect`, and the same for notebooks."""

from .plots import frame_plots, frame_statistics, summary
from .sheets import contact_sheet, side_by_side, temporal_slices


__all__ = ["contact_sheet", "frame_plots", "frame_statistics", "side_by_side", "summary", "temporal_slices"]
