# SPDX-License-Identifier: Apache-2.0
"""A cascade as data, and what is done with it."""
