# SPDX-License-Identifier: Apache-2.0
"""The toy is made known as a family of another package is."""

from diffusers_show1 import families

from . import FAMILY


families.add(FAMILY)
