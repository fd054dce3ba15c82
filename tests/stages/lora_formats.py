# SPDX-License-Identifier: Apache-2.0
"""One adapter in every spelling that people have: a rank and an alpha of its own in each layer, some convolutions."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.utils import set_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn

from ..contract.components import seeded


@dataclass(frozen=True)
class Layer:
    """One layer's change: alpha / rank * B A."""

    a: Tensor
    b: Tensor
    alpha: float


Layers = dict[str, Layer]


def mixed(unet: nn.Module, seed: int = 0) -> Layers:
    """Random layers for every third of the network's linear layers and plain convolutions, with seven scales."""
    generator = seeded(seed)
    found: Layers = {}
    modules = [(n, m) for n, m in unet.named_modules() if type(m) in (nn.Linear, nn.Conv2d, nn.Conv3d)]
    for i, (name, module) in enumerate(modules[::3]):
        rank, alpha = (1, 2, 4)[i % 3], (3.0, 0.5, 2.0, 8.0)[i % 4]
        inputs, after = tuple(module.weight.shape[1:]), (1,) * (module.weight.ndim - 2)
        a = torch.randn(rank, *inputs, generator=generator) * 0.1
        found[name] = Layer(a, torch.randn(module.weight.shape[0], rank, *after, generator=generator) * 0.1, alpha)
    return found


def by_hand(unet: nn.Module, layers: Layers) -> None:
    """The adapter put in by peft alone, with a pattern for each layer."""
    config = LoraConfig(
        r=1,
        lora_alpha=1,
        target_modules=list(layers),
        rank_pattern={f"^{name}": len(layer.a) for name, layer in layers.items()},
        alpha_pattern={f"^{name}": layer.alpha for name, layer in layers.items()},
    )
    inject_adapter_in_model(config, unet, adapter_name="hand")
    set_peft_model_state_dict(unet, peft_keys(layers), "hand")


def changed_weights(unet: nn.Module, layers: Layers) -> None:
    """W + alpha / rank * B A."""
    with torch.no_grad():
        for name, layer in layers.items():
            change = (layer.b.flatten(1) @ layer.a.flatten(1)).view(-1, *layer.a.shape[1:])
            unet.get_submodule(name).weight += layer.alpha / len(layer.a) * change


def peft_keys(layers: Layers) -> dict[str, Tensor]:
    pairs = [
        (f"{name}.lora_{part}.weight", value) for name, x in layers.items() for part, value in (("A", x.a), ("B", x.b))
    ]
    return dict(pairs)


# --- files -----------------------------------------------------------------------------------------------------------


def _spelt(layers: Layers, spell: Callable[[str, str], str]) -> dict[str, Tensor]:
    found = {}
    for name, layer in layers.items():
        parts = {"down": layer.a, "up": layer.b, "alpha": torch.tensor(layer.alpha)}
        found.update({spell(name, part): value for part, value in parts.items()})
    return found


def kohya(layers: Layers) -> dict[str, Tensor]:
    ends = {"down": "lora_down.weight", "up": "lora_up.weight", "alpha": "alpha"}
    return _spelt(layers, lambda name, part: f"lora_unet_{name.replace('.', '_')}.{ends[part]}")


def with_points(layers: Layers) -> dict[str, Tensor]:
    ends = {"down": "lora_down.weight", "up": "lora_up.weight", "alpha": "alpha"}
    return _spelt(layers, lambda name, part: f"unet.{name}.{ends[part]}")


def peft_with_alpha(layers: Layers) -> dict[str, Tensor]:
    ends = {"down": "lora_A.weight", "up": "lora_B.weight", "alpha": "alpha"}
    return _spelt(layers, lambda name, part: f"unet.{name}.{ends[part]}")


def old_diffusers(layers: Layers) -> dict[str, Tensor]:
    """Attentions' layers belong to a processor, all others to themselves."""

    def spell(name: str, part: str) -> str:
        attention, _, own = name.removesuffix(".0").rpartition(".")
        place = f"{attention}.processor.{own}_lora" if own in ("to_q", "to_k", "to_v", "to_out") else f"{name}.lora"
        return f"unet.{place}.alpha" if part == "alpha" else f"unet.{place}.{part}.weight"

    return _spelt(layers, spell)


def settings(layers: Layers, **changes: Any) -> dict[str, Any]:
    """What peft saves of a config, beside its tensors."""
    return {
        "r": 4,
        "lora_alpha": 8.0,
        "target_modules": list(layers),
        "rank_pattern": {name: len(layer.a) for name, layer in layers.items() if len(layer.a) != 4},
        "alpha_pattern": {name: layer.alpha for name, layer in layers.items() if layer.alpha != 8.0},
        "use_rslora": False,
        "use_dora": False,
        "lora_bias": False,
        "init_lora_weights": True,
        **changes,
    }


def write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any] | str | None = None) -> Path:
    """A file as diffusers writes it, its metadata anything."""
    text = metadata if isinstance(metadata, str) else json.dumps(metadata)
    save_file(tensors, path, {"format": "pt", **({} if metadata is None else {"lora_adapter_metadata": text})})
    return path


def with_metadata(path: Path, layers: Layers, component: str = "unet", **changes: Any) -> Path:
    metadata = {f"{component}.{key}": value for key, value in settings(layers, **changes).items()}
    return write(path, {f"{component}.{key}": value for key, value in peft_keys(layers).items()}, metadata)


SPELLINGS: dict[str, Callable[[Layers], dict[str, Tensor]]] = {
    "kohya": kohya,
    "points": with_points,
    "peft": peft_with_alpha,
    "old diffusers": old_diffusers,
}


def snapshot(pipe: Any) -> dict[str, Any]:
    """Everything of the networks that a refused adapter must leave alone."""
    networks = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    kinds = {f"{n}.{m}": type(module) for n, part in networks.items() for m, module in part.named_modules()}
    weights = {
        f"{n}.{key}": (value.clone(), value.requires_grad)
        for n, part in networks.items()
        for key, value in part.named_parameters()
    }
    configs = {
        n: (sorted(getattr(part, "peft_config", {})), hasattr(part, "peft_config")) for n, part in networks.items()
    }
    return {"kinds": kinds, "weights": weights, "configs": configs}


def same(before: dict[str, Any], after: dict[str, Any]) -> bool:
    old, new = before["weights"], after["weights"]
    return (
        before["kinds"] == after["kinds"]
        and before["configs"] == after["configs"]
        and old.keys() == new.keys()
        and all(torch.equal(old[key][0], new[key][0]) and old[key][1] == new[key][1] for key in old)
    )
