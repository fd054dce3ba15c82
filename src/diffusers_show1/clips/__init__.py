# SPDX-License-Identifier: Apache-2.0
"""Frames as files and arrays: leaves, which import nothing else of ours."""
