# SPDX-License-Identifier: Apache-2.0
"""The reference says what the code does: every entry of docs/reference against its signature and its body.

An entry is a `::: path` line of a page, and, of a class, each public method that mkdocs shows with it.
"""

import ast
import inspect
import re
from functools import cache
from pathlib import Path

import griffe
import pytest
import yaml

import diffusers_show1
from diffusers_show1.families import all_families


ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "reference").glob("*.md"))
# mkdocs.yml does not show them either: how a stage checks its call is between it and a cascade.
NOT_SHOWN = {"check_inputs", "check_call", "check_options", "check_drawn"}
SHOWN_SPECIAL = {"__call__"}
ENTRY = re.compile(r"^::: diffusers_show1\.(\S+)\n(    options: .*)?", re.MULTILINE)
# What has a shape must say so: "(b, 3, f, h, w)", "()", or by what stands above ("likewise", "as that callback got").
SHAPED = re.compile(r"\b(Tensor|ndarray)\b")
SHAPE = re.compile(r"\(\)|\([^()]*(\([^()]*\)[^()]*)?,.*\)|likewise|as that callback got|to_model_space")


@cache
def package() -> griffe.Module:
    completed = griffe.load_extensions(str(ROOT / "docs" / "griffe_completed.py"))
    return griffe.load("diffusers_show1", search_paths=[ROOT / "src"], docstring_parser="google", extensions=completed)


@cache
def overridden() -> set[str]:
    """What a stage says of itself: described once, with `StagePipeline`."""
    return {name for name, member in package()["ladder.stage.StagePipeline"].members.items() if member.docstring}


@cache
def entries() -> dict[str, griffe.Object]:
    """Path -> what the reference shows of it, methods too."""
    found = {}
    for page in PAGES:
        for path, options in ENTRY.findall(page.read_text()):
            entry = found[path] = package()[path]
            chosen = yaml.safe_load(options)["options"].get("members") if options else None
            for name, member in entry.members.items() if entry.is_class else ():
                public = not name.startswith("_") or name in SHOWN_SPECIAL
                if name in overridden() and member.docstring is None:  # what overrides it is described with it
                    continue
                if name in chosen if chosen is not None else public and name not in NOT_SHOWN:
                    if member.is_function and "property" not in member.labels:
                        found[f"{path}.{name}"] = member
    return found


def sections(entry: griffe.Object) -> dict[str, list]:
    """Kind -> the parts of a docstring's sections of that kind; fails where griffe has a complaint."""
    assert entry.docstring, f"{entry.path} has no docstring"
    return {part.kind.value: part.value for part in entry.docstring.parse("google", warnings=False)}


def raised_here(entry: griffe.Function) -> set[str]:
    """The classes of `raise SomeError(...)` in a function's own body."""
    return {
        node.exc.func.id
        for node in ast.walk(ast.parse(entry.source))
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name)
    }


@pytest.mark.parametrize("path", entries())
def test_arguments_are_those_of_the_signature(path):
    entry = entries()[path]
    documented = sections(entry)
    takes = [parameter for parameter in entry.parameters if parameter.name not in ("self", "cls")]
    told = {
        each.name.lstrip("*"): f"{each.annotation} {each.description}"
        for kind in ("parameters", "attributes")
        for each in documented.get(kind, ())
        if kind == "parameters" or each.name in {parameter.name for parameter in takes}
    }
    assert set(told) == {each.name for each in takes}
    assert all(text.split(maxsplit=1)[1:] for text in told.values())
    for each in takes:
        if SHAPED.search(str(each.annotation)) and "Callable" not in str(each.annotation):
            assert SHAPE.search(told[each.name]), f"`{each.name}` lacks its shape: {told[each.name]}"


@pytest.mark.parametrize("path", [path for path, entry in entries().items() if entry.is_function])
def test_results_have_shapes_and_errors_are_told(path):
    entry = entries()[path]
    documented = sections(entry)
    returns = str(entry.returns)
    if returns != "None":
        assert {"returns", "yields"} & set(documented), f"{path} returns {returns} and does not say what that is"
        text = " ".join(
            f"{each.annotation} {each.description}" for each in documented.get("returns") or documented["yields"]
        )
        if SHAPED.search(returns):
            assert SHAPE.search(text), f"{path} lacks the shape of what it returns: {text}"
        if "VideoPipelineOutput" in returns:
            assert "frames" in text, f"{path} does not say how many frames it returns, of what size: {text}"
    errors = [str(each.annotation).strip("()").split(",") for each in documented.get("raises", ())]
    told = {name.strip() for names in errors for name in names}
    assert raised_here(entry) <= told
    if path.endswith("Pipeline.__call__"):
        assert told >= {"ValueError", "TypeError"}


@pytest.mark.parametrize("family", all_families(), ids=lambda family: family.name)
def test_components_of_a_cascade_are_those_of_its_rungs(family):
    """Its `__init__` is made of the rungs, so griffe does not see it."""
    cascade = family.cascade_class
    listed = inspect.getdoc(cascade).partition("Components:\n")[2]
    told = re.findall(r"^    (\w+)(?: \(.*?\))?: \S", listed, re.MULTILINE)
    assert told == [name for name in inspect.signature(cascade.__init__).parameters if name != "self"]


def test_all_public_names_are_in_the_reference():
    shown = {path.rpartition(".")[2] for path in entries()}
    index = "".join(page.read_text() for page in PAGES)
    missing = {
        name for name in diffusers_show1.__all__ if name not in shown and f"diffusers_show1.{name}" not in index
    }
    assert not missing
