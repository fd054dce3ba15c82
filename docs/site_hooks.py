# SPDX-License-Identifier: Apache-2.0
"""What the site has beyond docs/ (mkdocs.yml asks for it): pages of the repository, the examples, and the command.

Pages link to files by their paths in the repository (`../CONTRIBUTING.md`, `../examples/text_to_video.py`), so that
links hold where the repository is read, too; here these links are turned to the pages of the site.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, InclusionLevel


ROOT = Path(__file__).parents[1]
# a file of the repository -> its page in the site
PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
PAGES |= {f"examples/{path.name}": f"source/{path.stem}.md" for path in sorted((ROOT / "examples").glob("*.py"))}
LINK = re.compile(r"(?<=\]\()(?!https?:|#)[^)#\s]+")


def on_config(config: Any) -> Any:
    """Puts pages of docs/ that the nav does not have yet at the end of it."""
    named = set(re.findall(r"[\w/]+\.md", str(config.nav)))
    others = sorted(path.name for path in (ROOT / "docs").glob("*.md") if path.name not in named)
    if others:
        config.nav.append({"More": others})
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages that have no file in docs/."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        if source.endswith(".py"):  # reached from the pages that show it, and not from the nav
            text = f"# {Path(source).name}\n\n```python\n{text}```\n"
        level = InclusionLevel.NOT_IN_NAV if source.endswith(".py") else InclusionLevel.INCLUDED
        files.append(File.generated(config, page, content=text, inclusion=level))
    command = [sys.executable, "-m", "typer", "diffusers_show1.cli", "utils", "docs", "--name", "show1"]
    told = subprocess.run([*command, "--title", "The command"], capture_output=True, text=True, check=True)
    files.append(File.generated(config, "reference/command.md", content=told.stdout))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turns links that lead out of docs/, or come from outside of it, to pages of the site."""
    here = page.file.src_uri
    source = next((source for source, target in PAGES.items() if target == here), f"docs/{here}")

    def turned(link: re.Match[str]) -> str:
        parts: list[str] = []
        for part in (PurePosixPath(source).parent / link[0]).parts:
            parts = parts[:-1] if part == ".." else [*parts, part]
        target = "/".join(parts)
        if target not in PAGES and source.startswith("docs/"):
            return link[0]
        return "../" * here.count("/") + PAGES.get(target, target.removeprefix("docs/"))

    return LINK.sub(turned, markdown)
