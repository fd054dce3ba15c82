# SPDX-License-Identifier: Apache-2.0
"""Runs the blocks of a page, in a process that is not the tests': see `blocks.py` for what becomes of which."""

from __future__ import annotations

import argparse
import ast
import configparser
import contextlib
import doctest
import importlib.util
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import imageio_ffmpeg

from diffusers_show1 import families

from .blocks import ROOT, Block, blocks


def set_up(environment: dict[str, str]) -> None:
    """Makes the process a user's: with a Hub and a cache of its own, and our warnings as errors."""
    os.environ.update(environment)
    warnings.filterwarnings("error", module="diffusers_show1")


def run_page(page: str, folder: Path) -> tuple[str | None, dict[int, float]]:
    """Runs all blocks of a page in `folder`; what went wrong, if anything, and processor seconds by a block's line."""
    os.chdir(folder)
    families._added.clear()  # by a page before
    namespace: dict[str, Any] = {"__name__": "__main__"}
    seconds = {}
    for block in blocks(page):
        began = sum(os.times()[:4])
        try:
            run_block(block, namespace)
        except BaseException:  # SystemExit is a failure, too
            return f"{page}, block at line {block.line}:\n{traceback.format_exc()}", seconds
        seconds[block.line] = round(sum(os.times()[:4]) - began, 1)
    return None, seconds


def run_block(block: Block, namespace: dict[str, Any]) -> None:
    if block.title is not None:
        path = Path(block.title)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.content, encoding="utf-8")
    elif block.language == "python":
        run_python(block, namespace)
    elif block.language in ("bash", "console"):
        for command, shown in block.commands:
            run = {"parsed only": parse_command, "fails": fail_command}.get(block.mark, run_command)
            printed = run(command)
            flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
            assert not shown or doctest.OutputChecker().check_output(shown, printed, flags), (
                f"$ {command}\nshould print\n{shown}\nand printed\n{printed}"
            )


# --- Python ------------------------------------------------------------------------------------------------------


def run_python(block: Block, namespace: dict[str, Any]) -> None:
    """Executes statement by statement, so that a GPU's absence is told from a mistake."""
    missed = 0
    for statement in ast.parse("\n" * (block.line - 1) + block.content, block.page).body:
        if block.mark == "parsed only" and not isinstance(statement, ast.Import | ast.ImportFrom):
            continue
        code = compile(ast.Module([statement], type_ignores=[]), block.page, "exec")
        try:
            exec(code, namespace)
        except Exception as error:
            if block.mark != "needs a GPU" or has_accelerator() or not re.search("accelerator|CUDA", str(error)):
                raise
            missed += 1
    assert missed or block.mark != "needs a GPU" or has_accelerator(), "this runs without a GPU: take the mark away"


def has_accelerator() -> bool:
    import torch

    return torch.accelerator.is_available()


# --- commands ----------------------------------------------------------------------------------------------------


def run_show1(words: list[str]) -> tuple[int, str, str]:
    """The command in this process: its exit code, and what it wrote to standard output and to standard error."""
    from diffusers_show1.cli import main

    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.redirect_stderr(io.StringIO()) as said:
        code = main(words)
    return code, printed.getvalue(), said.getvalue()


def fail_command(command: str) -> str:
    """Runs a `show1` command that has to fail; returns its message."""
    code, _, said = run_show1(shlex.split(command)[1:])
    assert code in (1, 2), f"{command}: exit code {code}"
    return said


def run_command(command: str) -> str:
    """Runs a command line; returns what it printed to standard output."""
    words = shlex.split(command, comments=True)
    if words[0] == "show1":
        code, printed, said = run_show1(words[1:])
        assert code == 0, f"{command}: exit code {code}\n{printed}{said}"
        return printed
    if words[:2] == ["python", "-m"]:
        with contextlib.redirect_stdout(io.StringIO()) as printed, mock.patch.object(sys, "argv", words[2:]):
            runpy.run_module(words[2], run_name="__main__", alter_sys=True)
        return printed.getvalue()
    if words[0] == "ffmpeg":  # the one that our dependencies bring
        command = shlex.join([imageio_ffmpeg.get_ffmpeg_exe(), *words[1:]])
    if words[0] == "python":
        command = shlex.join([sys.executable, str(ROOT / words[1]), *words[2:]])
    done = subprocess.run(["bash", "-euc", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def parse_command(command: str) -> str:
    """Has the real parser of a command read its line, and stops there."""
    words = shlex.split(command, comments=True)
    PARSERS[words[0]](words[1:])
    return ""


def parse_show1(words: list[str]) -> None:
    import typer

    from diffusers_show1.cli import app

    group = typer.main.get_command(app)
    context = group.make_context("show1", list(words))
    name, verb, rest = group.resolve_command(context, [*context._protected_args, *context.args])
    verb.make_context(name, rest, parent=context)


class _Parsed(Exception):
    """The arguments were read."""


@contextlib.contextmanager
def stop_after_parsing(words: list[str]) -> Iterator[None]:
    """Inside, a script whose arguments are `words` ends where its `ArgumentParser` has read them."""
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser: argparse.ArgumentParser, *arguments: Any, **options: Any) -> None:
        parse(parser, *arguments, **options)
        raise _Parsed

    with (
        mock.patch.object(argparse.ArgumentParser, "parse_args", parse_and_stop),
        mock.patch.object(sys, "argv", words),
        contextlib.suppress(_Parsed),
    ):
        yield
        raise AssertionError(f"{words} ended without reading arguments")


def parse_python(words: list[str]) -> None:
    if words[0] == "-m":
        with stop_after_parsing(words[1:]):
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        script = ROOT / words[0]
        with stop_after_parsing(words), mock.patch.object(sys, "path", [str(script.parent), *sys.path]):
            runpy.run_path(str(script), run_name="__main__")


def parse_pip(words: list[str]) -> None:
    """`pip install` of this package: the extras and the files that it names are there."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    assert words[0] == "install"
    for word in words[1:]:
        name, extra = re.fullmatch(r"([^\[]+)(?:\[(.+)\])?", word).groups()
        assert name in ("-c", ".", setup["metadata"]["name"]) or (ROOT / name).is_file(), word
        assert extra is None or extra in setup["options.extras_require"], word


def parse_make(words: list[str]) -> None:
    subprocess.run(["make", "--dry-run", *words], cwd=ROOT, check=True, capture_output=True)


def parse_accelerate(words: list[str]) -> None:
    from accelerate.commands.launch import launch_command_parser

    assert words[0] == "launch"
    launched = launch_command_parser().parse_args(words[1:])
    assert launched.module
    assert importlib.util.find_spec(launched.training_script)
    parse_show1(launched.training_script_args)


def parse_diffusers(words: list[str]) -> None:
    from diffusers.commands.diffusers_cli import main

    with stop_after_parsing(["diffusers-cli", *words]):
        main()


def parse_script(words: list[str]) -> None:
    subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run"), *words], check=True)


PARSERS: dict[str, Callable[[list[str]], None]] = {
    "show1": parse_show1,
    "python": parse_python,
    "pip": parse_pip,
    "make": parse_make,
    "accelerate": parse_accelerate,
    "diffusers-cli": parse_diffusers,
    ".ci/run": parse_script,
}
