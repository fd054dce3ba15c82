# SPDX-License-Identifier: Apache-2.0
"""Parts that networks of several families share. Only torch and diffusers are imported here.

Shape suffixes in all of its files: B videos, F frames, N = B·F images, C channels, H W height and width, P = H·W
positions, L text tokens, D text width.
"""
