# SPDX-License-Identifier: Apache-2.0
"""Show-1."""
