# SPDX-License-Identifier: Apache-2.0
"""What a stage does between noise and frames."""
