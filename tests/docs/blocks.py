# SPDX-License-Identifier: Apache-2.0
"""The code blocks of README, CONTRIBUTING and docs, and what becomes of each.

The language says what a block is: `python` runs, in one namespace a page; the lines of `bash` and the `$` lines of
`console` are commands, and run; `text` and `yaml` are no code. A block with a title is a file
(`yaml title="mine.yaml"`), which is written into the page's folder for the blocks after it. A comment above a block
changes that, with a reason:

    <!-- block: parsed only, trains for an hour -->    the real parser reads the command; of Python the imports run
    <!-- block: needs a GPU -->                        without one, statements may fail for want of it, and only so
    <!-- block: fails -->                              the commands do, with the message that is shown
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt


ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "CONTRIBUTING.md"]
PAGES += sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
LANGUAGES = {"python", "bash", "console", "text", "yaml"}
MARK = re.compile(r"<!-- block: (?P<mark>parsed only|needs a GPU|fails)(?:, (?P<reason>.+?))? -->\s*")


@dataclass(frozen=True)
class Block:
    """A fenced block: where it stands (line of its first line of content), what it is, and its mark if it has one."""

    page: str
    line: int
    language: str
    title: str | None
    content: str
    mark: str | None = None
    reason: str | None = None

    @property
    def commands(self) -> list[tuple[str, str]]:
        """The commands of a `bash` or `console` block, each with the output that is shown below it."""
        if self.language == "bash":
            joined = self.content.replace("\\\n", " ")
            return [(line, "") for line in joined.splitlines() if line.split("#")[0].strip()]
        first, *parts = re.split(r"^\$ ", self.content.replace("\\\n", " "), flags=re.MULTILINE)
        assert not first, f"{self.page}, line {self.line}: a console block begins with a command: $ ..."
        return [(command, shown) for command, _, shown in (part.partition("\n") for part in parts)]


def blocks(page: str) -> list[Block]:
    """All blocks of a page, in order; indented ones are refused, since they cannot say what they are."""
    found, before = [], ""
    for token in MarkdownIt("commonmark").parse((ROOT / page).read_text(encoding="utf-8")):
        assert token.type != "code_block", f"{page}, line {token.map[0] + 1}: indented code, use a fence"
        if token.type == "fence":
            language, _, rest = token.info.partition(" ")
            title = re.fullmatch(r'title="(.+)"', rest)
            mark = MARK.fullmatch(before)
            found.append(
                Block(
                    page,
                    token.map[0] + 2,
                    language,
                    title and title[1],
                    token.content,
                    **(mark.groupdict() if mark else {}),
                )
            )
        if token.nesting == 0:
            before = token.content if token.type == "html_block" else ""
    return found


def figure_commands() -> list[str]:
    """The commands that stand in a line of text beside the figures they made: `python benchmarks/...`."""
    found = set()
    for page in PAGES:
        for token in MarkdownIt("commonmark").parse((ROOT / page).read_text(encoding="utf-8")):
            found |= {
                part.content
                for part in token.children or ()
                if part.type == "code_inline" and part.content.startswith("python benchmarks/")
            }
    return sorted(found)
