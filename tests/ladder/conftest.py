# SPDX-License-Identifier: Apache-2.0
"""These tests are about the toy."""

from ..toy import conftest  # noqa: F401  makes it known
