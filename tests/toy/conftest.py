# SPDX-License-Identifier: Apache-2.0
"""The toy is made known as a family of another package is, while its tests run."""

import pytest

from diffusers_show1 import families

from . import FAMILY


@pytest.fixture(scope="module", autouse=True)
def known():
    families.add(FAMILY)
    yield
    families._added.pop(FAMILY.name)
