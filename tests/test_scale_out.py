# SPDX-License-Identifier: Apache-2.0
"""One process alone; two, one of them killed, are in `test_examples.py`."""

import pytest
from accelerate import PartialState

from diffusers_show1.runs.scale_out import share


@pytest.fixture
def fresh_state():
    """accelerate keeps what it found out in its classes: other tests shall find out for themselves."""
    PartialState._reset_state()
    yield
    PartialState._reset_state()


@pytest.mark.usefixtures("fresh_state")
def test_a_process_alone_gets_what_is_left_in_order():
    asked = []

    def is_done(job):
        asked.append(job)
        return job % 3 == 0

    assert share(range(8), is_done) == [1, 2, 4, 5, 7]
    assert asked == list(range(8))
    assert share([], is_done) == []
    assert share([3, 6], is_done) == []
