# SPDX-License-Identifier: Apache-2.0
"""LoRA adapters for stages and cascades, by diffusers' own methods and peft.

A file of adapters names each layer by its network and its place in it. Networks are called as the pipeline that saved
them calls its components:

    unet.down_blocks.2.temp_attentions.0...         saved by a stage
    base_unet.down_blocks.2.temp_attentions.0...    saved by a cascade
    down_blocks.2.temp_attentions.0...              saved by a network (`save_lora_adapter`)

A stage reads all three. So does a cascade, which for the first and the last has to be told whose they are
(`stage="base"`). What does not fit is an error before anything is changed.
"""

from __future__ import annotations

import numbers
import re
import sys
from collections.abc import Callable
from typing import Any

import torch
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.loaders.lora_base import LoraBaseMixin
from diffusers.utils import convert_unet_state_dict_to_peft, logging, require_peft_backend
from torch import nn


logger = logging.get_logger(__name__)


def check_lora_scale(cross_attention_kwargs: Any, name: str = "cross_attention_kwargs") -> None:
    """None, or a dict with nothing but a finite `scale`, as diffusers' pipelines take it.

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """
    if cross_attention_kwargs is None:
        return
    given = cross_attention_kwargs
    if not isinstance(given, dict) or set(given) - {"scale"}:
        raise ValueError(f"`{name}` must be None or {{'scale': number}}, got {given!r}.")
    _check_weight(given.get("scale", 1.0), f"{name}['scale']")


class LoadableNetworks:
    """The names of the networks that take adapters: of a class all, of a pipeline those that can.

    diffusers' own `UNet3DConditionModel`, which refinement accepts as its network, can't.
    """

    def __get__(self, pipe: Any, owner: Any) -> list[str]:
        names = owner._lora_networks
        return [name for name in names if pipe is None or hasattr(getattr(pipe, name), "load_lora_adapter")]


class LoraMixin(LoraBaseMixin):
    """diffusers' adapter methods over every network in `_lora_networks`.

    `enable_lora`, `disable_lora`, `delete_adapters`, `unload_lora_weights`, `get_list_adapters` and `set_lora_device`
    are inherited. Fusing puts an adapter's change into the weights themselves: it saves time, and `unfuse_lora` takes
    it out again up to rounding. `unload_lora_weights` gives back the very network.
    """

    stage_name: str  # of a stage: what cascades call it
    _lora_networks: list[str]  # components, in a cascade `<stage>_unet`
    _lora_loadable_modules = LoadableNetworks()  # inherited methods read it

    # --- files -----------------------------------------------------------------------------------------------------

    @classmethod
    def lora_state_dict(
        cls,
        pretrained_model_name_or_path_or_dict: Any,
        stage: str | None = None,
        return_lora_metadata: bool = False,
        **kwargs: Any,
    ) -> dict[str, torch.Tensor] | tuple[dict[str, torch.Tensor], dict[str, Any] | None]:
        """The layers of a file of adapters, under the names that this pipeline's networks have.

        Args:
            pretrained_model_name_or_path_or_dict: a Hub id, a folder, a file, or a dict of tensors.
            stage: a cascade's stage, for files that do not say whose their layers are.
            return_lora_metadata: also return the file's metadata (peft's settings, under the same names) or None.
            kwargs: `weight_name`, `subfolder`, `revision`, `token`, `cache_dir`, `local_files_only`, ... as in
                diffusers.

        Raises:
            ValueError: no layer of the file is for this pipeline, or `stage` is needed or wrong. (Keys that name no
                layer at all, without a point, are warned of and left out, as in diffusers.)
        """
        source = pretrained_model_name_or_path_or_dict
        layers, _, metadata = StableDiffusionLoraLoaderMixin.lora_state_dict(
            source, return_lora_metadata=True, **kwargs
        )
        wanted = cls._lora_component(stage)
        if layers and not any("." in key for key in layers):  # not one names a layer of anything
            logger.warning(f"No LoRA keys associated to {cls.__name__} found: {_some(layers)}. Nothing is loaded.")
            return ({}, None) if return_lora_metadata else {}
        renamed = {}
        for key, value in layers.items():
            if (place := cls._lora_place(key, wanted)) is not None:
                renamed[place] = value
        if not renamed:
            networks = [wanted] if wanted else cls._lora_networks
            raise ValueError(f"The adapter has nothing for {networks}; its keys are {_some(layers)}.")
        if metadata is not None:
            metadata = {place: v for k, v in metadata.items() if (place := cls._lora_place(k, wanted)) is not None}
        return (renamed, metadata) if return_lora_metadata else renamed

    @classmethod
    def _lora_component(cls, stage: str | None) -> str | None:
        """The one network that an adapter without a cascade's names is for, if that is known."""
        if cls._lora_networks == ["unet"]:
            if stage not in (None, cls.stage_name):
                raise ValueError(f"`stage` must be {cls.stage_name!r} or None here, got {stage!r}.")
            return "unet"
        stages = [name.removesuffix("_unet") for name in cls._lora_networks]
        if stage is not None and stage not in stages:
            raise ValueError(f"`stage` must be one of {stages}, got {stage!r}.")
        return stage and f"{stage}_unet"

    @classmethod
    def _lora_place(cls, key: str, wanted: str | None) -> str | None:
        """A file's key with the component's name that this pipeline has for it in front; None: for other networks."""
        first, _, rest = key.partition(".")
        if first.endswith("_unet"):  # saved by a cascade
            component = "unet" if wanted == "unet" and first == f"{cls.stage_name}_unet" else first
            return f"{component}.{rest}" if component in ([wanted] if wanted else cls._lora_networks) else None
        if wanted is None:
            stages = [name.removesuffix("_unet") for name in cls._lora_networks]
            raise ValueError(f"`stage` must be one of {stages}: the adapter does not say whose {key!r} is, got None.")
        return f"{wanted}.{rest}" if first == "unet" else f"{wanted}.{key}"

    @classmethod
    def save_lora_weights(
        cls,
        save_directory: Any,
        is_main_process: bool = True,
        weight_name: str | None = None,
        save_function: Callable | None = None,
        safe_serialization: bool = True,
        **layers: Any,
    ) -> None:
        """Saves adapters' layers, as `pytorch_lora_weights.safetensors` if not named otherwise.

        Args:
            save_directory: made if it is not there.
            weight_name: the file's name.
            layers: for each network, under its component's name, `unet_lora_layers=` (peft's
                `get_peft_model_state_dict(pipe.unet)`, names -> tensors) and, to keep rank and scale for sure,
                `unet_lora_adapter_metadata=` (`pipe.unet.peft_config["name"].to_dict()`). In a cascade
                `base_unet_lora_layers=` and so on.

        Raises:
            ValueError: no layers.
            TypeError: an argument for a network that this pipeline does not have.
        """
        ends: dict[str, dict[str, Any]] = {"_lora_layers": {}, "_lora_adapter_metadata": {}}
        for name, value in layers.items():
            end = next((end for end in ends if name.removesuffix(end) in cls._lora_networks), None)
            if end is None:
                allowed = [f"{component}{end}" for component in cls._lora_networks for end in ends]
                raise TypeError(f"`save_lora_weights` takes {allowed}, got {name!r}.")
            if value:
                ends[end][name.removesuffix(end)] = value
        if not ends["_lora_layers"]:
            allowed = [f"{component}_lora_layers" for component in cls._lora_networks]
            raise ValueError(f"Layers of at least one network are required, as one of {allowed}, got none.")
        cls._save_lora_weights(
            save_directory=save_directory,
            lora_layers=ends["_lora_layers"],
            lora_metadata=ends["_lora_adapter_metadata"],
            is_main_process=is_main_process,
            weight_name=weight_name,
            save_function=save_function,
            safe_serialization=safe_serialization,
        )

    # --- networks --------------------------------------------------------------------------------------------------

    @require_peft_backend
    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: Any,
        adapter_name: str | None = None,
        hotswap: bool = False,
        stage: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Loads an adapter into the networks that its file names.

        Args:
            pretrained_model_name_or_path_or_dict: a Hub id, a folder, a file, or a dict of tensors.
            adapter_name: the name to call it by; `default_0` and so on if not given.
            hotswap: replace the loaded adapter of that name, see diffusers.
            stage: a cascade's stage, for files that do not say whose their layers are.
            kwargs: as for `lora_state_dict`; `low_cpu_mem_usage` as in diffusers.

        Raises:
            ValueError: before anything is changed, naming what does not fit: keys that match no layer of the
                network, tensors of another size, a name that is taken, a `stage` that is needed or wrong.
        """
        low_memory = kwargs.pop("low_cpu_mem_usage", False)
        layers, metadata = self.lora_state_dict(
            pretrained_model_name_or_path_or_dict, stage, return_lora_metadata=True, **kwargs
        )
        parts: dict[str, dict[str, torch.Tensor]] = {}
        for key, value in layers.items():
            component, _, rest = key.partition(".")
            parts.setdefault(component, {})[rest] = value
        for component, part in parts.items():
            if component not in self._lora_loadable_modules:
                kind = type(getattr(self, component)).__name__
                raise ValueError(
                    f"`{component}` must be a Show1UNet3DConditionModel to take adapters, got a {kind}, which takes "
                    f"none. Ours reads the same weights: set `pipe.{component}` to, or pass to `from_pretrained` as "
                    f"`{component}`, Show1UNet3DConditionModel.from_pretrained(stage's repository, subfolder='unet')."
                )
            parts[component] = convert_unet_state_dict_to_peft(part)
            _check_layers(getattr(self, component), component, parts[component])
        taken = self.get_list_adapters()
        names = {name for component in taken for name in taken[component]}
        if adapter_name is None:
            adapter_name = next(name for i in range(len(names) + 1) if (name := f"default_{i}") not in names)
        elif not hotswap and (full := [c for c in parts if adapter_name in taken.get(c, [])]):
            raise ValueError(
                f"`adapter_name` must be new to {full}, which have {sorted(names)}, got {adapter_name!r}."
            )

        # Layers can't be exchanged under offloading's hooks. diffusers would put the hooks back once a network, and
        # on the default device.
        device = self._execution_device
        on_model, sequential, by_group = self._optionally_disable_offloading(self)
        try:
            for component, part in parts.items():
                trainable = [p for p in getattr(self, component).parameters() if p.requires_grad]
                own = {k.partition(".")[2]: v for k, v in (metadata or {}).items() if k.startswith(f"{component}.")}
                getattr(self, component).load_lora_adapter(
                    part,
                    prefix=None,
                    adapter_name=adapter_name,
                    hotswap=hotswap,
                    low_cpu_mem_usage=low_memory,
                    metadata=own or None,
                )
                for parameter in trainable:  # peft freezes them for good, and on a CPU even that moves the last bit
                    parameter.requires_grad_(True)
        finally:
            if on_model:
                self.enable_model_cpu_offload(device=device)
            elif sequential:
                self.enable_sequential_cpu_offload(device=device)
            elif by_group:
                from diffusers.hooks.group_offloading import _maybe_remove_and_reapply_group_offloading

                for component in parts:
                    _maybe_remove_and_reapply_group_offloading(getattr(self, component))

    def set_adapters(self, adapter_names: str | list[str], adapter_weights: Any = None) -> None:
        """Chooses the adapters that a call runs with, and how much of each.

        Args:
            adapter_names: one or several.
            adapter_weights: one for all of them, or a list of one an adapter. Each is a number (`None`: 1), or a dict
                of them by network, whose values may be dicts again, by block: `{"unet": {"down": 0.5, "mid": 2, "up":
                {"block_1": [0, 1, 1]}}}`. A list has one weight for each layer of a block (an attention with its
                ResNet block and its temporal layers). What is not named has weight 1.

        Raises:
            ValueError: an adapter that is not loaded, not as many weights as adapters, a block or layer that the
                network does not have, or no finite number, named.
        """
        several = isinstance(adapter_weights, list)
        expanded = []
        for weights in adapter_weights if several else [adapter_weights]:
            if isinstance(weights, dict):  # the names of other components are left to diffusers, which warns of them
                weights = {
                    component: _by_layer(getattr(self, component), weight, f"adapter_weights['{component}']")
                    if component in self._lora_loadable_modules and isinstance(weight, dict)
                    else weight
                    for component, weight in weights.items()
                }
            expanded.append(weights)
        super().set_adapters(adapter_names, expanded if several else expanded[0])

    def fuse_lora(
        self,
        components: list[str] | None = None,
        lora_scale: float = 1.0,
        safe_fusing: bool = False,
        adapter_names: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Puts adapters into the weights of `components` (all by default); see diffusers."""
        super().fuse_lora(components or self._lora_loadable_modules, lora_scale, safe_fusing, adapter_names, **kwargs)

    def unfuse_lora(self, components: list[str] | None = None, **kwargs: Any) -> None:
        """Takes fused adapters out of the weights of `components` (all by default) again."""
        super().unfuse_lora(components or self._lora_loadable_modules, **kwargs)

    # A stage of a cascade is a new pipeline whenever it is asked for: what is fused or active is read off the layers.

    @property
    def fused_loras(self) -> set[str]:
        """The names of the adapters that are in the weights."""
        return {name for layer in self._lora_layers() for name in layer.merged_adapters}

    @property
    def num_fused_loras(self) -> int:
        return len(self.fused_loras)

    @require_peft_backend
    def get_active_adapters(self) -> list[str]:
        """The names of the adapters that a call runs with, of all networks."""
        names = [n for layer in self._lora_layers() for n in layer.active_adapters if n in layer.scaling]
        return list(dict.fromkeys(names))

    def _lora_layers(self) -> list[Any]:
        """The layers that peft put in. It is not imported: a file that does can't be loaded without it."""
        networks = [getattr(self, component) for component in self._lora_loadable_modules]
        return [layer for network in networks for layer in network.modules() if hasattr(layer, "merged_adapters")]


class StageLoraMixin(LoraMixin):
    """Adapters of a stage: its one network is `unet`. The text encoders stay as they are."""

    _lora_networks = ["unet"]


def _by_layer(network: nn.Module, weights: dict[str, Any], name: str) -> dict[str, float]:
    """Weights by block, as weights by parts of layers' names, of which diffusers takes the first that a name has.

    diffusers itself does this for image networks, and knows no other attentions in a block than `attentions`.
    """
    found: dict[str, float] = {}
    _check_keys(weights, ["down", "mid", "up"], name)
    for part, of_part in weights.items():
        blocks = [network.mid_block] if part == "mid" else getattr(network, f"{part}_blocks")
        keys = [f"block_{i}" for i in range(len(blocks))]
        by_block = of_part if isinstance(of_part, dict) and part != "mid" else dict.fromkeys(keys, of_part)
        _check_keys(by_block, keys, f"{name}['{part}']")
        for key, of_block in by_block.items():
            index = keys.index(key)
            prefix = "mid_block." if part == "mid" else f"{part}_blocks.{index}."
            count = 1 if part == "mid" else len(blocks[index].resnets)
            values = of_block if isinstance(of_block, list) else [of_block]
            if len(values) not in (1, count):
                raise ValueError(
                    f"`{name}['{part}']` must have {count} weights for {key}, one a layer, got {of_block}."
                )
            for value in values:
                _check_weight(value, f"{name}['{part}']")
            if len(values) == 1:
                found[prefix] = values[0]
                continue
            for layer, value in enumerate(values):
                for kind in ("resnets", "temp_convs", "attentions", "temp_attentions"):
                    found[f"{prefix}{kind}.{layer}."] = value
    return {**found, "": 1.0}  # what every name has: all other layers


def _check_keys(given: dict[str, Any], allowed: list[str], name: str) -> None:
    if unknown := [key for key in given if key not in allowed]:
        raise ValueError(f"`{name}` must have keys among {allowed}, got {unknown}.")


def _check_weight(value: Any, name: str) -> None:
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not abs(value) <= sys.float_info.max:
        raise ValueError(f"`{name}` must be a finite number, got {value!r}.")


def _check_layers(network: nn.Module, component: str, layers: dict[str, torch.Tensor]) -> None:
    """Every key of an adapter must name a layer of `network`, and the tensors have that layer's sizes."""
    modules = dict(network.named_modules())
    strangers = []
    for key, value in layers.items():
        layer, found, part = re.match(r"(.*?)(\.lo(?:ra|kr)_|$)(.*)", key).groups()
        weight = getattr(modules.get(layer), "weight", None)
        if not found or weight is None:
            strangers.append(key)
        elif part.startswith(("A.weight", "B.weight")):
            side, own = (1, value.shape[1]) if part.startswith("A") else (0, value.shape[0])
            if own != weight.shape[side]:
                raise ValueError(
                    f"The adapter does not fit `{component}`: {key!r} is {tuple(value.shape)}, for a layer of "
                    f"{weight.shape[side]} {'inputs' if side else 'outputs'}."
                )
    if strangers:
        raise ValueError(f"The adapter has keys that match no layer of `{component}`: {_some(strangers)}.")


def _some(names: Any) -> str:
    names = list(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(repr(name) for name in names[:3]) + more
