# SPDX-License-Identifier: Apache-2.0
"""Training: objectives, data, the loop, and the recipe of the tiny cascade."""
