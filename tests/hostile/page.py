# SPDX-License-Identifier: Apache-2.0
"""`docs/hostile_input.md`, from the table of cases: `python -m tests.hostile.page` writes it, `--check` compares."""

import argparse
from pathlib import Path

from .cases import CASES
from .readers import READERS
from .taken import TAKEN


PAGE = Path(__file__).parents[2] / "docs" / "hostile_input.md"
HEAD = """\
# Hostile input

Prompts, recipes, manifests, videos, settings, adapters and folders of weights may come from strangers. What cannot be
used is one clear error, before any work starts, and:

* **No path in a file escapes.** The videos that a manifest names lie in its folder, links followed, or are skipped.
  The shards that an index names lie beside it. `show1 convert` and `show1 publish` copy no link that leads out of the
  source (the Hub cache's own are followed). The settings in a clip's JSON say what is shown and with which model,
  which may be any folder or Hub id; where the output goes, and what it may overwrite, is never taken from them. The
  paths in a recipe of training are the user's own, like those of a command line.
* **No code of a repository runs** without `trust_remote_code=True`: no Python file, no pickle (weights are read as
  tensors only), and no module that an index names. `load_cascade` and `show1 generate` never set it, and a settings
  file cannot; `show1 publish` sets it to check the code that it has itself put into a repository, and an endpoint for
  the repository that it is made for.
* **Memory is not taken on a file's word.** A call's videos have at most 2^32 numbers. A video that is read has at most
  65536 frames, 2^25 pixels a frame and 4 GiB in all, whatever its header claims. Numbers in a network's config are
  bounded before it is built. An adapter's layers and ranks are read off its tensors, whatever its metadata claims, and
  no name in it is a regular expression. A prompt has at most 10000 characters: the caption cleaning takes the square
  of it in time.
* **Nothing but the file is read.** FFmpeg opens video files and no playlists, which would name others, and no
  protocols; Pillow opens PNG, GIF, WebP, JPEG, BMP, TIFF and JPEG 2000, each by its first bytes, and so starts no
  Ghostscript.
* **Nothing but a clip is replaced.** What is written goes to a file or a folder of frames, links followed; a pipe, a
  device, and a link that leads nowhere or in a circle are refused before any model runs. The temporary folders
  (`.show1-*`) that killed processes have left beside an output are removed, where a lock in them shows that nobody
  writes there any more, and nothing else is in them.

Not covered: faults in FFmpeg, Pillow and the tokenizers themselves, which read the bytes; folders whose files change
while they are read; and a pipe that is given on the command line, which is waited for as any program would.

The tables are made of the cases that the tests run (`tests/hostile/`): `python -m tests.hostile.page` writes them.

## Fuzzing

`tests/hostile/fuzz.py` changes good files at random and holds each reader to its contract: it takes the input or
raises its documented error, never another one; it answers within 20 seconds; it writes nothing. A short run with a
fixed seed is among the tests. A long one, of all readers or one, which leaves the inputs that it found in a folder:

<!-- block: parsed only, runs for an hour -->
```bash
python -m tests.hostile.fuzz --seconds 3600
python -m tests.hostile.fuzz --seconds 600 --reader video --seed 7 --keep found
```
"""


def cell(text: str) -> str:
    """A text in a table."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def text() -> str:
    """The whole page."""
    parts = [HEAD]
    for name, reader in READERS.items():
        errors = " or ".join(f"`{error.__name__}`" for error in reader.errors)
        rows = [f"| {cell(case.given)} | … {cell(case.says)} … |" for case in CASES if case.reader == name]
        parts.append(
            "\n".join([f"## {reader.title}", "", f"{errors}.", "", "| input | says |", "|---|---|", *rows, ""])
        )
    rows = [f"| {cell(taken.given)} | {cell(taken.becomes)} |" for taken in TAKEN]
    parts.append("\n".join(["## Odd, and taken", "", "| input | becomes |", "|---|---|", *rows, ""]))
    return "\n".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only compare")
    if parser.parse_args().check:
        return int(PAGE.read_text(encoding="utf-8") != text())
    PAGE.write_text(text(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
