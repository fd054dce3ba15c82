# SPDX-License-Identifier: Apache-2.0
"""These tests are about the toy."""

from ..toy.conftest import known  # noqa: F401
