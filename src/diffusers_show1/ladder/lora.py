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

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from diffusers.loaders import SD3LoraLoaderMixin
from diffusers.loaders.lora_base import LoraBaseMixin
from diffusers.utils import delete_adapter_layers, logging, require_peft_backend
from torch import nn

from .lora_files import read_adapter, some
from .lora_weights import check_weight, weights_by_layer


logger = logging.get_logger(__name__)

_OF_TEXT_ENCODER = re.compile(r"lora_te\d*_|(\w+_)?text_encoder(_\d)?\.")


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
    check_weight(given.get("scale", 1.0), f"{name}['scale']")


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
        """The layers of a file of adapters, with the name that this pipeline has for their network in front.

        The rest of a name is as in the file: what it means, and the scale in `.alpha` tensors, is found out when it is
        loaded into a network.

        Args:
            pretrained_model_name_or_path_or_dict: a Hub id, a folder, a file, or a dict of tensors.
            stage: a cascade's stage, for files that do not say whose their layers are.
            return_lora_metadata: also return the file's metadata (peft's settings, under the same names) or None.
            kwargs: `weight_name`, `subfolder`, `revision`, `token`, `cache_dir`, `local_files_only`, ... as in
                diffusers.

        Raises:
            ValueError: no layer of the file is for this pipeline, its metadata can't be read, or `stage` is needed or
                wrong. (Keys that name no layer at all, without a point, are warned of and left out, as in diffusers;
                so are layers of text encoders.)
        """
        place = cls._lora_places(stage)
        try:  # of diffusers' loaders this one leaves all names as they are
            layers, metadata = SD3LoraLoaderMixin.lora_state_dict(
                pretrained_model_name_or_path_or_dict, return_lora_metadata=True, **kwargs
            )
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"The adapter's metadata must be JSON, got {str(error)[:200]}.") from error
        if not isinstance(layers, dict) or not isinstance(metadata, (dict, type(None))):
            raise ValueError(
                f"The adapter must be a dict of tensors, its metadata another, got a {type(layers).__name__} and a "
                f"{type(metadata).__name__}."
            )
        if layers and not any("." in key for key in layers):  # not one names a layer of anything
            logger.warning(f"No LoRA keys associated to {cls.__name__} found: {some(layers)}. Nothing is loaded.")
            return ({}, None) if return_lora_metadata else {}
        if of_text := [key for key in layers if _OF_TEXT_ENCODER.match(key)]:
            logger.warning(f"The adapter's layers of text encoders, which take none, are left out: {some(of_text)}.")
        renamed: dict[str, torch.Tensor] = {}
        for key, value in layers.items():
            if (name := place(key)) in renamed:
                raise ValueError(f"The adapter has {key[:200]!r} of two networks: `stage` must say which is meant.")
            if name is not None:
                renamed[name] = value
        if not renamed:
            networks = [stage] if stage else cls._lora_networks
            raise ValueError(f"The adapter has nothing for {networks}; its keys are {some(layers)}.")
        if metadata is not None:
            own = {place(key, required=False): value for key, value in metadata.items()}
            metadata = {name: value for name, value in own.items() if name is not None}
        return (renamed, metadata) if return_lora_metadata else renamed

    @classmethod
    def _lora_stages(cls) -> dict[str, set[str]]:
        """Stage name -> what the file of a cascade calls that stage's network."""
        return {rung.name: {rung.network} for rung in cls.rungs}

    @classmethod
    def _lora_places(cls, stage: str | None) -> Callable[..., str | None]:
        """What gives a file's key with the name in front that this pipeline has for its network; None for others'.

        Args:
            stage: a stage's name, for its layers only.
        """
        stages = cls._lora_stages()
        if stage is not None and stage not in stages:
            raise ValueError(f"`stage` must be one of {list(stages)}, got {stage!r}.")
        names = {name for own in ([stages[stage]] if stage else stages.values()) for name in own}
        owners = {name: cls._lora_networks[0] if len(cls._lora_networks) == 1 else name for name in names}
        default = next(iter(owners.values())) if len(set(owners.values())) == 1 else None
        others = {rung.network for rung in _known_rungs(LoraMixin)}

        def place(key: str, required: bool = True) -> str | None:
            if key.startswith("lora_unet_"):  # as kohya has it
                key = f"unet.{key.removeprefix('lora_unet_')}"
            first, _, rest = key.partition(".")
            if first in owners:
                return f"{owners[first]}.{rest}"
            if _OF_TEXT_ENCODER.match(key) or first != "unet" and (first in others or first.endswith("_unet")):
                return None  # of another network of the cascade that saved it
            if default is None and required:
                raise ValueError(
                    f"`stage` must be one of {list(stages)}: the adapter does not say whose {key[:200]!r} is, got "
                    f"None."
                )
            return default and (f"{default}.{rest}" if first == "unet" else f"{default}.{key}")

        return place

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
        if adapter_name is not None and (not isinstance(adapter_name, str) or not _can_be_named(adapter_name)):
            raise ValueError(f"`adapter_name` must be a name without points, got {adapter_name!r}.")
        parts: dict[str, dict[str, torch.Tensor]] = {}
        for key, value in layers.items():
            component, _, rest = key.partition(".")
            parts.setdefault(component, {})[rest] = value
        adapters = {}
        for component, part in parts.items():
            network = getattr(self, component)
            if component not in self._lora_loadable_modules:
                raise ValueError(
                    f"`{component}` must be a network that takes adapters, got a {type(network).__name__}, which "
                    f"takes none. If a class that takes them reads the same weights, set `pipe.{component}` to, or "
                    f"pass to `from_pretrained` as `{component}`, CLASS.from_pretrained(stage's repository, "
                    f"subfolder='unet')."
                )
            own = {k.partition(".")[2]: v for k, v in (metadata or {}).items() if k.startswith(f"{component}.")}
            adapters[component] = read_adapter(network, component, part, own)
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
            for component, adapter in adapters.items():
                adapter.put_into(getattr(self, component), adapter_name, hotswap, low_memory)
        except Exception:
            for component in adapters:
                if adapter_name not in taken.get(component, []):
                    _take_out(getattr(self, component), adapter_name)
            raise
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
                    component: weights_by_layer(getattr(self, component), weight, f"adapter_weights['{component}']")
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

    @classmethod
    def _lora_stages(cls) -> dict[str, set[str]]:
        """Under its own name what a rung of that name has unless it says otherwise; and what known cascades have."""
        stages = {cls.stage_name: {f"{cls.stage_name}_unet"}}
        for rung in _known_rungs(LoraMixin):
            if issubclass(cls, rung.stage):
                stages.setdefault(rung.name, set()).add(rung.network)
        return stages


def _known_rungs(kind: Any) -> Iterator[Any]:
    """The rungs of every cascade there is."""
    yield from kind.__dict__.get("rungs", ())
    for further in kind.__subclasses__():
        yield from _known_rungs(further)


def _can_be_named(name: str) -> bool:
    """Whether peft can have a part of that name in a layer."""
    return bool(name) and "." not in name and not hasattr(nn.ModuleDict(), name)


def _take_out(network: Any, name: str) -> None:
    """The network without an adapter whose loading failed."""
    delete_adapter_layers(network, name)
    getattr(network, "peft_config", {}).pop(name, None)
    if not getattr(network, "peft_config", None):
        network.unload_lora()
