# SPDX-License-Identifier: Apache-2.0
"""Networks, one self-contained file each, importing torch and diffusers only; and a cache of their features."""

from .caching import DeepCacheConfig
from .unet_show1 import Show1UNet3DConditionModel


__all__ = ["DeepCacheConfig", "Show1UNet3DConditionModel"]
