# SPDX-License-Identifier: Apache-2.0
"""Real processes for jobs to be killed in."""

import multiprocessing
from multiprocessing import forkserver

import pytest


@pytest.fixture(scope="module")
def processes():
    """Starts processes that have the small pipeline in memory already: they are killed at work, not in imports."""
    # What a server has loaded is settled when it starts, and other tests may have started one for what they need.
    forkserver._forkserver._stop()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__.replace("conftest", "preloaded")])
    yield context
    forkserver._forkserver._stop()
