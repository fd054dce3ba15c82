# SPDX-License-Identifier: Apache-2.0
"""For a fork server to import: what its processes then have in memory, so that they are killed at work."""

import torch

from diffusers_show1.families.show1.cascade import Show1CascadePipeline  # noqa: F401
from diffusers_show1.runs import clip, job  # noqa: F401

from .small import shared_pipe


torch.set_num_threads(1)
shared_pipe()
