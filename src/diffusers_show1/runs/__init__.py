# SPDX-License-Identifier: Apache-2.0
"""One video made and kept: its settings, its record, its job; what the command and the page share."""
