# SPDX-License-Identifier: Apache-2.0
"""One component of a conversion: how it is read, made into what our classes hold, written and verified."""

from __future__ import annotations

import dataclasses
import filecmp
import inspect
import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel

from ..clips.words import shorten
from ..families import all_families, family_of
from ..ladder.checkpoints import Network
from .folder import check_files, check_numbers, read_config
from .origin import Origin
from .weights import (
    ConversionError,
    check_cast,
    check_finite,
    class_named,
    find_state_dict,
    fingerprint,
    load_model,
    modern_names,
    read_any,
    read_tensors,
    same_bits,
    save_model,
    stored_dtype,
    verify,
)


VARIANTS = {"fp16": "float16", "bf16": "bfloat16"}


@dataclasses.dataclass
class Part:
    """One component of the output: `name` is its folder (`""`: the top), `entry` its line of the index."""

    name: str
    entry: tuple[str, str]

    @property
    def label(self) -> str:
        return self.name or "network"

    def describe(self) -> str:
        raise NotImplementedError

    def write(self, folder: Path, options: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """Writes the component into an empty folder and verifies it; returns facts and what is dropped."""
        raise NotImplementedError


@dataclasses.dataclass
class FilesPart(Part):
    """A component without weights, copied: a tokenizer."""

    origin: Origin
    folder: str

    def describe(self) -> str:
        return f"copying from {self.origin.name}"

    def write(self, folder: Path, options: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        names = [n for n in self.origin.inside(self.folder) if not n.startswith(".")]
        if not names:
            raise ConversionError(f"{self.origin.name} has no files in {self.folder}.")
        paths = [f"{self.folder}/{name}" for name in names]
        root = self.origin.fetch(*paths)
        for name, path in zip(names, paths, strict=True):
            shutil.copyfile(root / path, folder / name)
            if not filecmp.cmp(root / path, folder / name, shallow=False):
                raise OSError(f"{name} of {self.folder} was not written as it was read.")
        return {"files": len(names)}, []


@dataclasses.dataclass
class SchedulerPart(FilesPart):
    """A scheduler's config, in strict JSON: a published `-Infinity` is the default and goes."""

    def write(self, folder: Path, options: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        path = f"{self.folder}/scheduler_config.json"
        if path not in self.origin.files:
            raise ConversionError(f"{self.origin.name} has no {path}.")
        root = self.origin.fetch(path)
        try:
            config = read_config(root / path)
        except ValueError as error:
            raise ConversionError(f"{self.name} of {self.origin.name}: {error}.") from error
        infinite = [k for k, v in config.items() if isinstance(v, float) and not math.isfinite(v)]
        kept = {key: value for key, value in config.items() if key not in infinite}
        text = json.dumps(kept, indent=2, sort_keys=True, allow_nan=False) + "\n"
        (folder / "scheduler_config.json").write_text(text, encoding="utf-8")
        try:
            scheduler = getattr(diffusers, self.entry[1])
            before, after = (dict(scheduler.from_pretrained(where).config) for where in (root / self.folder, folder))
        except Exception as error:  # a scheduler may raise anything for a config that is none of its own
            told = " ".join(str(error).split())
            raise ConversionError(f"{path} of {self.origin.name} describes no {self.entry[1]}: {told}") from error
        lost = [key for key in infinite if before[key] != after.get(key)]
        if lost:
            raise ConversionError(f"{path} has {lost[0]}={config[lost[0]]}, which JSON cannot say.")
        return {"files": 1}, [f"{self.name} {key}: {config[key]} is no JSON, and the default" for key in infinite]


@dataclasses.dataclass
class ModelPart(Part):
    """A network or an encoder, read by its class and written again."""

    origin: Origin
    folder: str

    def describe(self) -> str:
        return f"converting from {self.origin.name}"

    def load(self, raw: Mapping[str, torch.Tensor], dtype: torch.dtype) -> Any:
        return load_model(self.model_class(), self.root / self.folder, dtype, *self.origin.weights(self.folder))

    def model_class(self) -> Any:
        return class_named(*self.entry)

    def read(self) -> dict[str, torch.Tensor]:
        """The stored tensors, by their stored names."""
        _, weights = self.origin.weights(self.folder)
        prefix = f"{self.folder}/" if self.folder else ""
        small = [n for n in self.origin.inside(self.folder) if n.endswith(".json")]
        if "config.json" not in small:
            raise ConversionError(f"{self.origin.name} has no {prefix}config.json.")
        # fetching the config last makes its folder, the component's, the one that `fetch` returns
        self.root = self.origin.fetch(*[prefix + name for name in [*weights, *small]])
        try:
            check_files(self.root / prefix)
        except ValueError as error:
            raise ConversionError(f"{self.label} of {self.origin.name}: {error}.") from error
        return read_tensors(*(self.root / prefix / name for name in weights))

    def write(self, folder: Path, options: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        raw = self.read()
        model_class = self.model_class()
        dtype = getattr(torch, options["dtype"]) if options["dtype"] else stored_dtype(raw, model_class)
        model = self.load(raw, dtype)
        compared, unused = self.compare(raw, model)
        dropped = [f"{self.label} {name}: the network has no such parameter" for name in unused]
        save_model(model, folder, options["max_shard_size"], None)
        written = fingerprint(model)
        del model, raw
        verify(model_class, folder, dtype, None, written)
        facts: dict[str, Any] = {"dtype": str(dtype).removeprefix("torch."), "tensors": len(written)}
        facts |= {"compared": compared, "files": len(list(folder.glob("*.safetensors")))}
        if options["variant"] and VARIANTS[options["variant"]] == facts["dtype"]:
            dropped.append(f"{self.label} variant {options['variant']}: the weights are {facts['dtype']} as they are")
        elif options["variant"]:
            kind = getattr(torch, VARIANTS[options["variant"]])
            model = load_model(model_class, folder, kind, None)
            check_finite(model, options["variant"], self.label)
            save_model(model, folder, options["max_shard_size"], options["variant"])
            written = fingerprint(model)
            del model
            verify(model_class, folder, kind, options["variant"], written)
            facts["variant"] = options["variant"]
        return facts, dropped

    def compare(self, raw: Mapping[str, torch.Tensor], model: Any) -> tuple[int, list[str]]:
        """Checks the model in memory against the stored tensors; returns how many are equal, and the stored rest."""
        state = model.state_dict()
        unused = []
        compared = 0
        for stored, value in raw.items():
            name = next((n for n in modern_names(stored) if n in state), None)
            if name is None:
                unused.append(stored)
                continue
            expected = value.to(state[name].dtype).reshape(state[name].shape)
            if not same_bits(expected, state[name]):
                raise ConversionError(f"{self.label}: {stored} was read with other values than the file holds.")
            if expected.is_floating_point() and expected.dtype != value.dtype:
                check_cast(stored, value, expected, self.label)
            compared += 1
        return compared, unused


@dataclasses.dataclass
class InflatedPart(ModelPart):
    """An image UNet, made a video UNet: its weights become the spatial layers, new temporal layers the identity."""

    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def describe(self) -> str:
        return f"inflating the image network of {self.origin.name}"

    def load(self, raw: Mapping[str, torch.Tensor], dtype: torch.dtype) -> Any:
        image = load_model(UNet2DConditionModel, self.root / self.folder, dtype, *self.origin.weights(self.folder))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the temporal layers' inner weights are new: the same in every conversion
            try:
                return self.model_class().from_2d(image, **self.overrides)
            except ValueError as error:
                raise ConversionError(f"{self.origin.name}: {error}") from error

    def compare(self, raw: Mapping[str, torch.Tensor], model: Any) -> tuple[int, list[str]]:
        weight = raw.get("conv_in.weight")
        extra = model.conv_in.weight.shape[1] - (weight.shape[1] if weight is not None else 0)
        if weight is not None and extra > 0:  # new input channels start at zero
            raw = {**raw, "conv_in.weight": F.pad(weight, (0, 0, 0, 0, 0, extra))}
        return super().compare(raw, model)


@dataclasses.dataclass
class FilePart(ModelPart):
    """A network from a state dict in one file: the first of `networks` that it fits."""

    origin: Path  # type: ignore[assignment]
    folder: Any  # the networks that it may be, or None for the published ones

    def describe(self) -> str:
        return f"converting {self.origin.name}"

    def read(self) -> dict[str, torch.Tensor]:
        known = [network for family in all_families() for network in family.known_checkpoints.networks.values()]
        renames = [network.rename for network in self.folder or known if network.renamed]
        stored, self.left = find_state_dict(read_any(self.origin), self.origin.name, renames)
        first_error = None
        for network in fitting_networks(stored, self.origin.name) if self.folder is None else self.folder:
            try:
                raw = {network.rename(name): value for name, value in stored.items()}
                self.expected = self.skeleton(network, raw)
            except ConversionError as error:
                first_error = first_error or error
                continue
            family = family_of(network.class_name)
            assert family is not None
            self.entry = (family.library, network.class_name)
            return raw
        assert first_error is not None
        raise first_error

    def skeleton(self, network: Network, raw: Mapping[str, torch.Tensor]) -> Any:
        """The network without numbers, if the state dict has all of its parameters."""
        try:
            check_numbers(dict(network.config), "`config`")
            family = family_of(network.class_name)
            assert family is not None
            with torch.device("meta"):
                model = family.load(network.class_name).from_config(dict(network.config))
        except Exception as error:  # of the wrong types, or of sizes that do not fit together
            told = shorten(" ".join(str(error).split()), 500)
            raise ConversionError(f"`config` describes no network for {self.origin.name}: {told}") from error
        expected = model.state_dict()
        missing = [name for name in expected if name not in raw]
        if missing:
            raise ConversionError(
                f"{self.origin.name} lacks {len(missing)} of the {len(expected)} parameters of the network that "
                f"`config` describes, the first is {missing[0]}."
            )
        for name, value in expected.items():
            if value.shape != raw[name].shape:
                raise ConversionError(
                    f"{self.origin.name} has {name} of shape {tuple(raw[name].shape)}, and `config` describes "
                    f"{tuple(value.shape)}."
                )
        return model

    def load(self, raw: Mapping[str, torch.Tensor], dtype: torch.dtype) -> Any:
        names = self.expected.state_dict()
        state = {name: raw[name].to(dtype) if raw[name].is_floating_point() else raw[name] for name in names}
        self.expected.load_state_dict(state, assign=True)
        return self.expected.eval()

    def compare(self, raw: Mapping[str, torch.Tensor], model: Any) -> tuple[int, list[str]]:
        compared, unused = super().compare(raw, model)
        return compared, [*unused, *self.left]


def fitting_networks(raw: Mapping[str, torch.Tensor], name: str) -> list[Network]:
    """The published networks whose first convolution fits a state dict."""
    fitting, out_channels, in_channels = [], 0, 0
    for family in all_families():
        for network in family.known_checkpoints.networks.values():
            first = next((value for stored, value in raw.items() if network.rename(stored) == "conv_in.weight"), None)
            if first is None:
                continue
            out_channels, in_channels = (*first.shape, 0, 0)[:2]
            defaults = inspect.signature(family.load(network.class_name).__init__).parameters
            config = {**{key: value.default for key, value in defaults.items()}, **network.config}
            widths = config.get("block_out_channels", (out_channels,))  # not every network says so
            if (widths[0], config.get("in_channels")) == (out_channels, in_channels):
                fitting.append(network)
    if not fitting:
        raise ConversionError(
            f"{name} is none of the published networks: its first convolution is {in_channels} to {out_channels} "
            "channels. Its `config` is needed."
        )
    return fitting
