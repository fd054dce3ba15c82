# SPDX-License-Identifier: Apache-2.0
"""Long generations in a folder of their own, which a killed process leaves fit to go on: see `job.py`."""
