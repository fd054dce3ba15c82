# SPDX-License-Identifier: Apache-2.0
"""`show1 demo`: what it refuses. That it serves is seen in `test_browser.py`."""

import socket
import sys

import pytest

from diffusers_show1 import cli

from .conftest import free_port


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "0"], "--port must be a whole number from 1 to 65535, got 0"),
        (["--host", "no such host"], "--host must be an address of this machine, got 'no such host'"),
        (["--queue", "0"], "--queue must be a whole number of at least 1, got 0"),
        (["--offload", "disk"], "--offload must be one of none, model, sequential, got 'disk'"),
        (["--model", "tinny"], "--model must be tiny, showlab, a folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(capsys, arguments, message):
    assert cli.main(["demo", "--port", str(free_port()), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_a_taken_port_is_told_before_a_model_is_loaded(capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert cli.main(["demo", "--port", str(port), "--model", "never/loaded"]) == 2
    assert f"--port must be a port that is free at 127.0.0.1, got {port} (" in capsys.readouterr().err


def test_without_gradio_it_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)  # as if it were not there
    assert cli.main(["demo", "--port", str(free_port())]) == 1
    assert capsys.readouterr().err == 'show1: the demo needs gradio: pip install "diffusers-show1[demo]"\n'
