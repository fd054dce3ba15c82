# SPDX-License-Identifier: Apache-2.0
"""What a network's weights are before its training begins (Show-1 paper, Sec. 3.2, 3.4 and 4.1).

The paper starts the keyframe network from an image model, the interpolation network from the keyframe network, and
super-resolution from an image super-resolution model. Whatever is new computes nothing at first: temporal layers and
attention in more blocks are the identity, new input channels and class embeddings have zero weights. So training
begins at what the source does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from ..families import all_families, family_of
from ..learning.task import saved_config


KINDS = ("scratch", "image", "network")
# Parameters that may be larger than the source's, and the axis along which zeros are put behind the source's values.
GROWING = {"conv_in.weight": 1, "conv_out.weight": 0, "conv_out.bias": 0}


@dataclass(frozen=True)
class Start:
    """A network in float32, and where its parameters come from; `str()` sums them up in one line.

    Args:
        unet: the network.
        copied: parameters that are the source's.
        extended: parameters that are the source's with zeros behind them.
        fresh: parameters that the source does not have.
    """

    unet: Any
    copied: tuple[str, ...]
    extended: tuple[str, ...]
    fresh: tuple[str, ...]

    def __str__(self) -> str:
        def part(names: tuple[str, ...], what: str) -> str:
            modules = list(dict.fromkeys(name.rsplit(".", 1)[0] for name in names))
            few = ", ".join(modules[:3]) + (", ..." if len(modules) > 3 else "")
            return f"{len(names)} {what}" + (f" ({few})" if names and what != "copied" else "")

        parts = (part(self.copied, "copied"), part(self.extended, "extended"), part(self.fresh, "fresh"))
        return f"parameters: {', '.join(parts)}"


def start_unet(
    kind: str,
    source: str | Path | Mapping[str, Any],
    subfolder: str | None = None,
    network: type | None = None,
    **changes: Any,
) -> Start:
    """The network that a training begins with.

    Args:
        kind: `"scratch"`: random weights (from torch's global generator; temporal layers are the identity).
            `"image"`: an image UNet of diffusers, inflated by the network's `from_2d`. `"network"`: a network, of the
            stage before or of a saved run.
        source: a folder that `save_pretrained` wrote, of a network or of a pipeline, or the name of a repository on
            the Hub; with "scratch" also a config as a mapping or a .json file.
        subfolder: the network's place in `source`; by default `source` itself or else `unet`. In a cascade's folder it
            is `base_unet` and so on.
        network: its class; by default `Show1UNet3DConditionModel`.
        changes: values of the config in which the new network differs from the source. Carrying weights over allows
            for `in_channels` (the new ones, behind the old, get zero weights: the network ignores them at first) and
            `out_channels` (likewise: a variance that is added starts in the middle of its range), for
            `class_embed_type` and `num_class_embeds` where the source has none (the last layer starts at zero), for
            `down_block_types` and `up_block_types` with attention in more blocks, and for whatever needs no weights.

    Returns:
        The network in float32, in evaluation mode, and a report of what was copied, extended and fresh.

    Raises:
        ValueError: an unknown `kind` or config key, nothing to be found at `source`, or a parameter that can't be
            carried over, with both shapes and what to change.
        OSError: the repository on the Hub can't be read.
    """
    if kind not in KINDS:
        raise ValueError(f"`kind` must be one of {KINDS}, got {kind!r}.")
    network = network or _first_network()
    known = network._get_init_keys(network)
    if unknown := sorted(set(changes) - known):
        raise ValueError(
            f"`changes` must be values of the network's config, got {unknown}; there are {sorted(known)}."
        )
    config, place = _find(network, source, subfolder)
    if kind == "scratch":
        if unknown := sorted(key for key in set(config) - known if not key.startswith("_")):
            raise ValueError(f"`source` must hold a network's config, got {unknown}; there are {sorted(known)}.")
        unet = network.from_config({**config, **changes})
        return Start(unet.eval(), (), (), tuple(unet.state_dict()))

    if not place:
        raise ValueError(
            f"`source` must be a folder or a repository on the Hub for {kind!r}: a config has no weights."
        )
    found = config.get("_class_name")
    if found not in (wanted := _readable(kind, network)):
        raise ValueError(f"`source` must hold {' or '.join(wanted)} for {kind!r}, got {found} in {source}.")
    if kind == "image":
        image = UNet2DConditionModel.from_pretrained(**place, torch_dtype=torch.float32)
        unet, given = network.from_2d(image), set(image.state_dict())
    else:
        unet = network.from_pretrained(**place, torch_dtype=torch.float32)
        given = set(unet.state_dict())
    return _carry_over(unet, given, changes)


def grow(network: nn.Module, changes: Mapping[str, Any]) -> nn.Module:
    """`network` in float32 with a config that differs by `changes`; what is new in it computes nothing.

    Raises:
        ValueError: a parameter that can't be carried over, as in `start_unet`.
    """
    return _carry_over(network, set(network.state_dict()), changes).unet


def _first_network() -> Any:
    family = all_families()[0]
    return family.load(family.networks[0])


def _readable(kind: str, network: type) -> tuple[str, ...]:
    """The classes whose weights `network` can begin with."""
    if kind == "image":
        return ("UNet2DConditionModel",)
    family = family_of(network.__name__)
    foreign = () if family is None or family.published_network is None else family.published_network[1:]
    return (*foreign, network.__name__)


def _find(
    network: Any, source: str | Path | Mapping[str, Any], subfolder: str | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """The config at `source`, and the arguments of `from_pretrained` that lead there."""
    if isinstance(source, Mapping):
        return dict(source), {}
    path = Path(source)
    if path.is_file() and path.suffix == ".json":
        return json.loads(path.read_text()), {}
    if path.is_dir():
        if subfolder is None:
            subfolder = "" if (path / "config.json").is_file() else "unet"
        if not (path / subfolder / "config.json").is_file():
            raise ValueError(
                f"`source` must hold a network, got {path}, which has no {Path(subfolder) / 'config.json'}."
            )
    elif path.is_absolute() or len(path.parts) != 2:
        raise ValueError(f"`source` must be a folder or the name of a repository on the Hub, got {str(source)!r}.")
    place = {"pretrained_model_name_or_path": str(source), "subfolder": "unet" if subfolder is None else subfolder}
    return dict(network.load_config(**place)), place


def _carry_over(source: Any, given: set[str], changes: Mapping[str, Any]) -> Start:
    """`source` as it is, or its weights in a network whose config differs by `changes`; `given` are the known ones."""
    changed = [key for key, value in changes.items() if _plain(source.config[key]) != _plain(value)]
    unet = type(source).from_config({**saved_config(source), **changes}) if changed else source
    old, new = source.state_dict(), unet.state_dict()

    carried: dict[str, Tensor] = {}
    extended: list[str] = []
    for name in dict.fromkeys([*new, *old]):
        if name in old and name in new and old[name].shape == new[name].shape:
            carried[name] = old[name]
        elif name in old and name in new and _grows(name, old[name], new[name]):
            carried[name] = torch.zeros_like(new[name])
            carried[name][tuple(slice(side) for side in old[name].shape)] = old[name]
            extended.append(name)
        elif name in old or not _may_be_new(name):
            shapes = [str(tuple(state[name].shape)) if name in state else "absent" for state in (old, new)]
            kept = ", ".join(f"`{key}` ({_plain(source.config[key])!r})" for key in changed)
            raise ValueError(
                f"`{name}` is {shapes[0]} in the source and {shapes[1]} in the new network: of what is carried over "
                f"only the input and output channels may grow, and only attention and a class embedding be added. "
                f"Keep the source's {kept}, or start from scratch."
            )
    unet.load_state_dict({**new, **carried})
    _silence(unet, {name for name in new if name not in carried})
    return Start(
        unet.eval(),
        copied=tuple(name for name in carried if name in given and name not in extended),
        extended=tuple(extended),
        fresh=tuple(name for name in new if name not in carried or name not in given),
    )


def _may_be_new(name: str) -> bool:
    return name.startswith("class_embedding.") or ".attentions." in name or ".temp_attentions." in name


def _silence(unet: nn.Module, fresh: set[str]) -> None:
    """Zeros in the last layer of whatever is new (the outermost module that has one): it computes nothing, but is not
    dead. A new temporal attention is the identity as it is made, by zeros in the same place."""
    silent: tuple[str, ...] = ()
    for name, module in unet.named_modules():
        if not name or name.startswith(silent) or not any(parameter.startswith(f"{name}.") for parameter in fresh):
            continue
        if name == "class_embedding":
            last = getattr(module, "linear_2", module)
        elif hasattr(module, "proj_out"):
            last = module.proj_out
        elif hasattr(module, "to_out"):
            last = module.to_out[0]
        else:
            continue
        silent = (*silent, f"{name}.")
        for parameter in last.parameters():
            torch.nn.init.zeros_(parameter)


def _grows(name: str, old: Tensor, new: Tensor) -> bool:
    """Whether a parameter only gets longer, along the axis on which that is allowed."""
    axis = GROWING.get(name)
    return axis is not None and all(
        a == b or (i == axis and a < b) for i, (a, b) in enumerate(zip(old.shape, new.shape, strict=True))
    )


def _plain(value: Any) -> Any:
    """A config value that compares equal whether it was read from JSON or not."""
    return list(value) if isinstance(value, tuple) else value
