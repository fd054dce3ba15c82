# SPDX-License-Identifier: Apache-2.0
"""What its files share."""

HEADS = 2
