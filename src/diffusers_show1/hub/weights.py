# SPDX-License-Identifier: Apache-2.0
"""Weights as files: read as tensors only, found in whatever holds them, written, and verified by reading again."""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ..clips.words import shorten


class ConversionError(ValueError):
    """The source cannot be converted: damaged, incomplete, of the wrong shapes, or not what it says it is."""


def read_any(path: Path) -> Any:
    """The content of a `.safetensors` file or a pickle: tensors, and plain containers of them.

    Raises:
        ConversionError: the file is damaged, or a pickle that would run code.
        OSError: it cannot be opened.
    """
    with path.open("rb"):  # what cannot be opened is no damage
        pass
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # not a zip archive: the format before torch 1.6, which cannot be mapped
            return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        refused = refused_pickle(error) or "it is damaged, or no weights"
        raise ConversionError(f"{path.name} is refused: {refused}.") from error


def read_tensors(*paths: Path) -> dict[str, torch.Tensor]:
    """The tensors of a component's weight files, by their stored names."""
    tensors: dict[str, torch.Tensor] = {}
    for path in paths:
        content = read_any(path)
        if not isinstance(content, dict) or not all(isinstance(v, torch.Tensor) for v in content.values()):
            raise ConversionError(f"{path.name} is refused: it holds other things than a state dict.")
        tensors.update(content)
    return tensors


def refused_pickle(error: BaseException) -> str | None:
    """Why torch refused to unpickle, in one clause, if that is what an exception comes from; else None."""
    for cause in _causes(error):
        text = str(cause)
        if "weights_only" in text or "Weights only load failed" in text:
            named = re.search(r"GLOBAL ([\w.]+)", text)
            what = f"reading the pickle would run code, `{named[1]}`" if named else "the pickle is damaged"
            return f"{what}, and weights hold tensors only"
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An exception, and all that led to it."""
    waiting, seen = [error], set()
    while waiting:
        current = waiting.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        waiting += [e for e in (current.__cause__, current.__context__) if e is not None]


_PREFIXES = ("module.", "_orig_mod.", "unet.", "model.", "model.diffusion_model.")


def find_state_dict(
    content: Any, name: str, renames: Iterable[Callable[[str], str]] = ()
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The network's state dict in what a checkpoint holds, without prefixes, and the names of all else.

    Args:
        content: of the file.
        name: of the file, for messages.
        renames: what give our names of parameters that may be stored under others. The network is known by its
            `conv_in.weight`.

    Raises:
        ConversionError: there is none.
    """
    candidates: list[tuple[str, dict[str, Any]]] = []
    firsts = (lambda stored: stored, *renames)

    def walk(path: str, value: Any, depth: int) -> None:
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            candidates.append((path, value))
            if depth:
                for key, inner in value.items():
                    walk(f"{path}{key}.", inner, depth - 1)

    walk("", content, 2)
    for path, value in candidates:
        tensors = {key: inner for key, inner in value.items() if isinstance(inner, torch.Tensor)}
        for prefix in _all_prefixes(tensors, firsts):
            mine = {key[len(prefix) :]: inner for key, inner in tensors.items() if key.startswith(prefix)}
            rest = [path + key for key in value if key not in tensors or not key.startswith(prefix)]
            if path:
                top = path.split(".")[0]
                rest += [key for key in content if key != top]
            return mine, rest
        if any(".input_blocks." in f".{key}" for key in tensors):
            raise ConversionError(
                f"{name} has parameter names of a code older than diffusers (input_blocks...). Convert the same model "
                "from its repository in diffusers' format."
            )
    raise ConversionError(f"{name} holds no network that is known here: there is no conv_in.weight in it.")


def _all_prefixes(tensors: Mapping[str, Any], renames: Iterable[Callable[[str], str]]) -> list[str]:
    """Combinations of the usual prefixes, or "", behind which some name is the first convolution's."""
    found = set()
    for key in tensors:
        usual = re.match("(?:" + "|".join(map(re.escape, _PREFIXES)) + "){0,4}", key)
        assert usual is not None
        for dot in (0, *(match.end() for match in re.finditer(r"\.", usual[0]))):
            if any(rename(key[dot:]) == "conv_in.weight" for rename in renames):
                found.add(key[:dot])
    return sorted(found)


def modern_names(stored: str) -> list[str]:
    """The names that a stored parameter may have in today's classes, likeliest first."""
    names = [stored, f"text_model.{stored}", stored.removeprefix("text_model.")]
    older = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
    return names + [stored.replace(old, new) for old, new in older.items() if old in stored]


def class_named(library: str, name: str) -> Any:
    return getattr(importlib.import_module(library), name)


def stored_dtype(raw: Mapping[str, torch.Tensor], model_class: Any) -> torch.dtype:
    """The number format that loses nothing: the stored one, or of a mixture the widest.

    A mixture that the class itself makes of the narrower one stays (T5 in half precision has some layers in float32).
    """
    kinds = sorted({v.dtype for v in raw.values() if v.is_floating_point()}, key=lambda kind: kind.itemsize)
    if len(kinds) == 2 and kinds[0] == torch.float16 and kinds[1] == torch.float32:
        kept = getattr(model_class, "_keep_in_fp32_modules", None) or ()
        wide = [name for name, v in raw.items() if v.dtype == torch.float32]
        if all(any(part in kept for part in name.split(".")) for name in wide):
            return kinds[0]
    return kinds[-1] if kinds and len({k.itemsize for k in kinds}) == len(kinds) else torch.float32


def load_model(
    model_class: Any, folder: Path, dtype: torch.dtype, variant: str | None, weights: Sequence[str] = (".safetensors",)
) -> Any:
    """`from_pretrained` on a folder, with missing parameters and other shapes an error instead of a warning."""
    from diffusers.utils import logging

    logger = logging.get_logger("diffusers.models.modeling_utils")
    level = logger.level
    logger.setLevel(logging.ERROR)  # unused parameters are in the report
    try:
        model, info = model_class.from_pretrained(
            folder,
            dtype=dtype,
            variant=variant,
            use_safetensors=weights[0].endswith(".safetensors"),
            output_loading_info=True,
        )
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # a class may raise anything for a config that is none of its own
        raise ConversionError(f"{folder.name}: {shorten(' '.join(str(error).split()), 500)}") from error
    finally:
        logger.setLevel(level)
    missing = sorted(info["missing_keys"])
    if missing or info["mismatched_keys"]:
        first = missing[0] if missing else str(sorted(info["mismatched_keys"])[0])
        count = len(missing) + len(info["mismatched_keys"])
        raise ConversionError(
            f"{folder.name}: {count} parameters are missing or of another shape, the first is {first}."
        )
    return model.eval()


def save_model(model: Any, folder: Path, max_shard_size: int | str, variant: str | None) -> None:
    # a transformers model keeps the name of the file that it was read from out of its config, a diffusers one does not
    if hasattr(model, "register_to_config"):
        model._internal_dict = type(model._internal_dict)(
            {k: v for k, v in model._internal_dict.items() if k != "_name_or_path"}
        )
    model.save_pretrained(folder, max_shard_size=max_shard_size, variant=variant)


def verify(
    model_class: Any,
    folder: Path,
    dtype: torch.dtype,
    variant: str | None,
    expected: Mapping[str, tuple[list[int], str, str]],
) -> None:
    """Reads what was written, and compares names, shapes, number formats and bits."""
    found = fingerprint(load_model(model_class, folder, dtype, variant))
    if found != expected:
        wrong = sorted(set(found) ^ set(expected)) or [name for name in expected if found[name] != expected[name]]
        raise OSError(f"{folder.name}: {wrong[0]} was not written as it was read.")


def fingerprint(model: Any) -> dict[str, tuple[list[int], str, str]]:
    """Shape, number format and digest of the bits, of each parameter and buffer of the state dict."""
    prints = {}
    for name, value in model.state_dict().items():
        bits = value.detach().contiguous().reshape(-1).view(torch.uint8)
        prints[name] = (list(value.shape), str(value.dtype), hashlib.blake2b(bits.numpy().data).hexdigest())
    return prints


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(*(t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (a, b)))


def check_cast(name: str, value: torch.Tensor, cast: torch.Tensor, label: str) -> None:
    if bool(value.isfinite().all()) and not bool(cast.isfinite().all()):
        raise ConversionError(
            f"{label}: {name} has values that do not fit into {str(cast.dtype).removeprefix('torch.')}."
        )


def check_finite(model: Any, variant: str, label: str) -> None:
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ConversionError(f"{label}: {name} has values that do not fit into the variant {variant}.")
