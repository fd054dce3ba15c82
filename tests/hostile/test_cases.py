# SPDX-License-Identifier: Apache-2.0
"""Every case of the table: the documented error, with its message, and nothing read, written or run elsewhere."""

from pathlib import Path

import pytest

from diffusers_show1.runs import settings
from diffusers_show1.sampling.text import MAX_CHARACTERS

from . import page
from .cases import CASES
from .readers import READERS
from .taken import TAKEN


@pytest.mark.parametrize("case", CASES, ids=[f"{case.reader}: {case.given}" for case in CASES])
def test_refused(case, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path)
    made = case.made(tmp_path / "in")
    before = entries(tmp_path)
    reader = READERS[case.reader]
    with pytest.raises(reader.errors) as caught:
        reader.call(made)
    assert case.says in str(caught.value)
    assert len(str(caught.value)) < 2000  # whatever the input: it is read by somebody
    left = entries(tmp_path) - before
    if reader.work:  # begun, and not finished
        left = {path for path in left if path.parts[:2] != ("in", "out")}
        assert not list(tmp_path.rglob("out/model_index.json"))
    assert left == set()


def entries(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*")}


@pytest.mark.parametrize("taken", TAKEN, ids=[taken.given for taken in TAKEN])
def test_taken(taken, tmp_path):
    assert taken.result(tmp_path)


def test_the_table_is_long_enough_and_has_no_case_twice():
    names = [(case.reader, case.given) for case in CASES]
    assert len(names) == len(set(names)) >= 60
    assert {case.reader for case in CASES} == set(READERS)


def test_the_page_is_fresh():
    assert page.PAGE.read_text(encoding="utf-8") == page.text(), "run: python -m tests.hostile.page"


def test_the_command_and_the_pipelines_have_one_limit():
    assert settings.MAX_CHARACTERS == MAX_CHARACTERS
