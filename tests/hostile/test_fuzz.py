# SPDX-License-Identifier: Apache-2.0
"""A short run of the fuzzer, the same every time; `fuzz.py` says how to make a long one."""

import time
from dataclasses import replace

import pytest

from . import fuzz as module
from .fuzz import TARGETS, NoAnswer, fuzz, patience


INPUTS = {"prompt": 40, "index": 60}  # the others get more: they answer in less than a millisecond


@pytest.mark.parametrize("name", TARGETS)
def test_readers_keep_their_word(name):
    tried, findings = fuzz(name, 0, lambda done: done == INPUTS.get(name, 150))
    assert tried == INPUTS.get(name, 150)
    assert findings == []


def test_the_fuzzer_finds_what_is_wrong(monkeypatch, tmp_path):
    """A reader that raises something else, and one that writes, are findings, and their inputs are kept."""
    wrong = replace(TARGETS["csv"], errors=())
    monkeypatch.setitem(TARGETS, "csv", wrong)
    _, findings = fuzz("csv", 0, lambda done: done == 30, tmp_path / "found")
    assert findings
    assert len(list((tmp_path / "found").iterdir())) == len(findings)
    monkeypatch.setitem(TARGETS, "csv", replace(wrong, call=lambda path: (path.parent / "new").touch()))
    assert fuzz("csv", 0, lambda done: done == 1)[1] == ["csv, seed 0, input 0: something was written"]


def test_patience_ends(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 1)
    with pytest.raises(NoAnswer), patience():
        time.sleep(60)
