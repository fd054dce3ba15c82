# SPDX-License-Identifier: Apache-2.0
"""Each message that docs/troubleshooting.md quotes is one that the source has, word by word."""

import ast
import importlib.util
from functools import cache
from pathlib import Path

import pytest

from .blocks import ROOT, blocks


VALUE = "\0"  # stands where a message has a value
MESSAGES = [block.content.strip() for block in blocks("docs/troubleshooting.md") if block.language == "text"]


def template(node: ast.expr) -> str:
    """A string with `VALUE` in the places of its values."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(template(part) for part in node.values)
    if isinstance(node, ast.BinOp):  # text that is added up
        return template(node.left) + template(node.right)
    return VALUE


@cache
def templates() -> set[str]:
    """Every string of our source, and of diffusers' loader, whose messages users of this package meet."""
    loader = Path(importlib.util.find_spec("diffusers").origin).parent / "pipelines" / "pipeline_utils.py"
    found = set()
    for path in [*(ROOT / "src").rglob("*.py"), loader]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr | ast.BinOp) or isinstance(node, ast.Constant) and node.value:
                found.add(template(node))
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "refuse":
                # runs/refusals.py: refuse(argument, value, allowed, note)
                argument, _, allowed, *note = (template(given) for given in node.args)
                found.add(f"{argument} must be {allowed}, got {VALUE}" + "".join(f" ({each})" for each in note))
    return found


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message[:40])
def test_message_is_in_the_source(message):
    # what stands between two "..." is text of the message; values and parts of it may be left out
    parts = [part for part in (part.strip() for part in message.split("...")) if len(part) > 3]
    assert sum(map(len, parts)) > 20
    assert any(holds(text, parts) for text in templates()), f"no such message: {message}"


def holds(text: str, parts: list[str]) -> bool:
    """Whether `parts` stand in a text in this order."""
    for part in parts:
        _, found, text = text.partition(part)
        if not found:
            return False
    return True


def test_there_are_enough_of_them():
    assert len(MESSAGES) >= 25
