# SPDX-License-Identifier: Apache-2.0
"""A cascade of small networks with random weights, in a folder, and engines over it."""

import socket
import time

import pytest

from diffusers_show1.demo.engine import Engine

from ..contract.components import pipeline


def finish(request, seconds=120):
    """Waits for a request's last view, and returns it."""
    end = time.monotonic() + seconds
    while not request.view.over:
        assert time.monotonic() < end, request.view
        time.sleep(0.005)
    return request.view


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def small_cascade(tmp_path_factory):
    """2 keyframes of 8x12, 5 frames, 16x24, 16x24; 2 or 3 steps a stage."""
    folder = tmp_path_factory.mktemp("cascade")
    pipeline("cascade", first_frame_unet=None, first_frame_scheduler=None).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def make_engine(small_cascade):
    """Makes engines over the small cascade, and closes them."""
    made = []

    def make(**options):
        made.append(Engine(small_cascade, device="cpu", **options))
        return made[-1]

    yield make
    for engine in made:
        engine.close()
