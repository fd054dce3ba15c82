# SPDX-License-Identifier: Apache-2.0
"""`show1 env`: what a report of a problem should carry."""

from __future__ import annotations

from ..runs.machine import devices
from ..runs.versions import versions
from .say import say


def env() -> None:
    """Print the versions and devices that a report of a problem should carry."""
    import platform

    import torch

    lines = {"python": platform.python_version(), "platform": platform.platform()}
    lines |= {name: version or "not installed" for name, version in versions().items()}
    lines["cpu"] = f"{torch.get_num_threads()} threads"
    for device in devices()[1:]:
        lines[device] = "available"
        if device.startswith("cuda"):
            properties = torch.cuda.get_device_properties(device)
            lines[device] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    width = max(map(len, lines))
    for name, value in lines.items():
        say(f"{name:{width}}  {value}")
