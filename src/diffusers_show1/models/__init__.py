# SPDX-License-Identifier: Apache-2.0
"""Networks: one self-contained file each, importing torch and diffusers only."""

from .unet_show1 import Show1UNet3DConditionModel


__all__ = ["Show1UNet3DConditionModel"]
