# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of the toy's original code, whose parameters have other names."""

from __future__ import annotations

from diffusers_show1.ladder.checkpoints import Checkpoints, Network


_NAMES = (  # a regular expression of the original's -> ours
    (r"^time_mlp\.0\.", "time_embedding.linear_1."),
    (r"^time_mlp\.2\.", "time_embedding.linear_2."),
    (r"^stem\.", "conv_in."),
    (r"^body\.", "blocks."),
    (r"^head\.", "conv_out."),
)
CHECKPOINTS = Checkpoints(
    licence="The toy's weights are in the public domain.",
    networks={"frames": Network("ToyUNet", {"in_channels": 4, "out_channels": 4}, renamed=_NAMES)},
)
