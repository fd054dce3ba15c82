# SPDX-License-Identifier: Apache-2.0
"""Fixtures for all tests."""

import logging

import pytest


@pytest.fixture
def diffusers_log(caplog):
    """What diffusers' loggers, ours among them, say from here on (they do not reach pytest by themselves)."""
    from diffusers.utils import logging as diffusers_logging

    logger, level = logging.getLogger("diffusers_show1"), diffusers_logging.get_verbosity()
    root = logging.getLogger("diffusers")
    diffusers_logging.set_verbosity_warning()
    before = [(each, each.propagate) for each in (logger, root)]
    for each, _ in before:
        each.propagate = True
    with caplog.at_level(logging.WARNING):
        yield caplog
    for each, propagate in before:
        each.propagate = propagate
    diffusers_logging.set_verbosity(level)


@pytest.fixture
def same_attention_backend():
    """`set_attention_backend` also sets diffusers' global default: puts that back."""
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as registry

    before, _ = registry.get_active_backend()
    yield
    registry.set_active_backend(before)
