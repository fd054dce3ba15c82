# SPDX-License-Identifier: Apache-2.0
"""Every code block of README, CONTRIBUTING and docs runs as it stands, on the tiny cascade."""

import re
import shutil

import pytest

from .blocks import LANGUAGES, PAGES, ROOT, blocks, figure_commands
from .given import GIVEN
from .running import parse_command, run_page


@pytest.mark.pages
@pytest.mark.parametrize("page", [page for page in PAGES if "```" in (ROOT / page).read_text(encoding="utf-8")])
def test_page_runs_as_it_stands(page, tmp_path, request, user):
    if re.search(r"\bshowlab\b", (ROOT / page).read_text(encoding="utf-8")):
        request.getfixturevalue("models_on_hub")
    if page in GIVEN:
        GIVEN[page](tmp_path, request.getfixturevalue)
    failure, seconds = user.submit(run_page, page, tmp_path).result()
    print(page, seconds)  # seconds by line of the block; pytest -rP shows them
    shutil.rmtree(tmp_path)
    assert failure is None, failure


def test_commands_beside_figures_are_read_by_their_parsers(user):
    assert figure_commands()
    for command in figure_commands():
        user.submit(parse_command, command).result()


def test_blocks_say_what_they_are():
    everything = [block for page in PAGES for block in blocks(page)]
    assert {block.language for block in everything if block.title is None} <= LANGUAGES
    parsed_only = [block for block in everything if block.mark == "parsed only"]
    assert all(block.reason for block in parsed_only)
    assert len(parsed_only) <= 25, "run what can be run"
