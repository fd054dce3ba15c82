# SPDX-License-Identifier: Apache-2.0
"""What a file of adapters holds for one network: layers, ranks and alphas, whoever wrote it.

A layer's change is alpha / rank * B A (arXiv:2106.09685, section 4.1). A file says alpha in a tensor beside the
layer's own, or in its metadata, or not at all, which means the rank. Layers go by several names:

    down_blocks.0.attentions.0.to_q.lora_A.weight, .lora_B.weight              peft
    down_blocks.0.attentions.0.processor.to_q_lora.down.weight, .up.weight     diffusers before peft
    down_blocks_0_attentions_0_to_q.lora_down.weight, .lora_up.weight, .alpha  kohya and most others

The last can't be undone by rule (is `temp_attentions` one word?), so they are looked up among the network's own names.

A file may come from a stranger. Which layers there are, and their ranks, is read off the tensors. Of the metadata only
numbers are taken, and names of layers as names, never as regular expressions.
"""

from __future__ import annotations

import importlib
import math
import numbers
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


MAX_ALPHA = 10**6

_KEY = re.compile(
    r"(?P<layer>.+?)(?:"
    r"(?P<A>\.lora_A\.weight|\.lora_down\.weight|[._]lora\.down\.weight|\.lora_embedding_A)"
    r"|(?P<B>\.lora_B\.weight|\.lora_up\.weight|[._]lora\.up\.weight|\.lora_embedding_B)"
    r"|(?P<bias>\.lora_B\.bias)"
    r"|(?P<magnitude>\.lora_magnitude_vector(?:\.weight)?)"
    r"|(?P<alpha>(?:[._]lora)?\.alpha)"
    r"|\.(?P<lokr>lokr_\w+))",
    re.DOTALL,
)
# Settings of peft that change nothing of what a loaded layer computes, or that are read off the tensors.
_WITHOUT_EFFECT = frozenset(
    "alpha alpha_pattern auto_mapping base_model_name_or_path bias decompose_both decompose_factor "
    "ensure_weight_tying eva_config exclude_modules fan_in_fan_out inference_mode init_lora_weights init_weights "
    "layers_pattern layers_to_transform lora_alpha lora_bias lora_dropout megatron_core module_dropout peft_type "
    "peft_version qalora_group_size r rank_dropout rank_dropout_scale rank_pattern revision runtime_config "
    "target_modules task_type use_dora use_effective_conv2d use_rslora".split()
)
_CONVOLUTIONS = (nn.Conv1d.__init__, nn.Conv2d.__init__, nn.Conv3d.__init__)
_INITIALISATIONS = (None, True, False, "gaussian", "eva", "orthogonal")  # those that leave the network's weights alone

# Part of a layer -> (key in the file, tensor).
Parts = dict[str, tuple[str, Tensor]]


@dataclass(frozen=True)
class Adapter:
    """An adapter of one network, checked against it.

    Args:
        tensors: peft's names -> tensors.
        settings: arguments of peft's `LoraConfig`; None for LoKr, whose settings diffusers reads off the tensors.
        scales: layer -> (rank, alpha).
    """

    tensors: dict[str, Tensor]
    settings: dict[str, Any] | None
    scales: dict[str, tuple[int, float]]

    def put_into(self, network: Any, name: str, hotswap: bool = False, low_cpu_mem_usage: bool = False) -> None:
        """Loads it into the network that it was read for.

        Args:
            network: with diffusers' `PeftAdapterMixin`.
            name: the adapter's.
            hotswap: replaces the adapter of that name, see diffusers.
            low_cpu_mem_usage: see diffusers.

        Raises:
            ValueError: a LoKr file whose tensors peft lays out in another way.
        """
        if hotswap and name in getattr(network, "peft_config", {}):
            self._check_swap(network, name)
        trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
        try:
            network.load_lora_adapter(
                dict(self.tensors),
                prefix=None,
                adapter_name=name,
                hotswap=hotswap,
                low_cpu_mem_usage=low_cpu_mem_usage,
                metadata=self.settings,
            )
        finally:
            for parameter in trainable:  # peft freezes them for good, and on a CPU even that moves the last bit
                parameter.requires_grad_(True)
        if self.settings is None:
            self._check_lokr(network, name)
        else:
            self._set_alphas(network, name, self.settings)

    def _check_swap(self, network: Any, name: str) -> None:
        """Only layers that have the adapter can change it. peft compares alphas, which are set below anyway."""
        new = [layer for layer in self.scales if name not in getattr(network.get_submodule(layer), "lora_A", {})]
        if new:
            raise ValueError(f"`hotswap` must be of layers that {name!r} has, got {some(new)}.")
        network.peft_config[name].alpha_pattern = {}

    def _set_alphas(self, network: Any, name: str, settings: dict[str, Any]) -> None:
        """Each layer's alpha, and the config's, which is saved with the layers. peft itself would look for each layer
        among all patterns, and not at all when an adapter is swapped."""
        config = network.peft_config[name]
        config.r, config.rank_pattern = settings["r"], settings["rank_pattern"]
        config.lora_alpha = Counter(alpha for _, alpha in self.scales.values()).most_common(1)[0][0]
        config.alpha_pattern = {}
        for place, (rank, alpha) in self.scales.items():
            layer = network.get_submodule(place)
            layer.train(network.training)  # new layers would drop out in a network that does not
            layer.r[name], layer.lora_alpha[name] = rank, alpha
            scale = alpha / (math.sqrt(rank) if layer.use_rslora[name] else rank)
            if isinstance(layer.scaling[name], Tensor):  # a compiled network that was prepared for swaps
                layer.scaling[name].fill_(scale)
            else:
                layer.scaling[name] = scale
            if alpha != config.lora_alpha:
                config.alpha_pattern[_exactly([place])] = alpha

    def _check_lokr(self, network: Any, name: str) -> None:
        # by its name: diffusers refuses a repository's code that has an import, anywhere, of what is not installed
        get_peft_model_state_dict = importlib.import_module("peft.utils").get_peft_model_state_dict
        if there := set(get_peft_model_state_dict(network, adapter_name=name)) ^ set(self.tensors):
            raise ValueError(f"The adapter's LoKr factors are not those that peft would make: {some(sorted(there))}.")


def read_adapter(
    network: nn.Module, component: str, given: dict[str, Any], metadata: dict[str, Any] | None = None
) -> Adapter:
    """An adapter's tensors for one network, under peft's names, with the rank and the alpha of each layer.

    Args:
        network: whose layers they are.
        component: its name, for messages.
        given: keys without the component's name -> tensors, as in the file.
        metadata: peft's settings, as in the file.

    Returns:
        What fits the network.

    Raises:
        ValueError: naming the keys and shapes, or the settings, that do not fit.
    """
    modules = _modules(network)
    names = _names(modules)
    layers: dict[str, Parts] = {}
    strangers, lokr = [], False
    for key, value in given.items():
        found = _KEY.fullmatch(key)
        place = names.get(found["layer"].replace(".processor.", ".")) if found else None
        if found is None or place is None:
            strangers.append(key)
            continue
        lokr = lokr or found.lastgroup == "lokr"
        part = found["lokr"] or str(found.lastgroup)
        if part in layers.setdefault(place, {}):
            raise ValueError(f"The adapter has two keys for one place: {layers[place][part][0]!r} and {key!r}.")
        layers[place][part] = (key, _tensor(value, key))
    if strangers:
        raise ValueError(f"The adapter has keys that match no layer of `{component}`: {some(strangers)}.")
    settings = _checked(metadata or {})
    if lokr:
        return _lokr(modules, layers, settings)
    for place, parts in layers.items():
        _check_sizes(modules[place], component, parts)
    for place, parts in layers.items():
        _check_whole(parts, place)
    return _lora(modules, layers, settings, metadata)


def some(names: Iterable[str]) -> str:
    """The first three names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(repr(name[:200]) for name in names[:3]) + more


# --- the network's layers --------------------------------------------------------------------------------------------


def _modules(network: nn.Module) -> dict[str, nn.Module]:
    """Name -> module of all that have weights, without what adapters have put around them."""
    modules = {}
    for name, module in network.named_modules():
        if re.search(r"\.(base_layer|lora_\w+|lokr_\w+)(\.|$)", name):
            continue
        module = module.get_base_layer() if hasattr(module, "get_base_layer") else module
        if getattr(module, "weight", None) is not None:
            modules[name] = module
    return modules


def _names(modules: dict[str, nn.Module]) -> dict[str, str]:
    """What a file may call a layer -> its name. A spelling that two layers share is none."""
    spelt: dict[str, set[str]] = {}
    for name in modules:
        for other in (name.replace(".", "_"), name.removesuffix(".0")):  # diffusers' `to_out_lora` is of `to_out.0`
            spelt.setdefault(other, set()).add(name)
    return {**{other: min(owners) for other, owners in spelt.items() if len(owners) == 1}, **{n: n for n in modules}}


def _sizes(module: Any) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] | None:
    """What A has after the rank, B after outputs and rank, and a magnitude's shape; None: takes no adapter."""
    if type(module).__init__ in _CONVOLUTIONS:  # peft makes A of the layer's own class, with arguments of torch's
        ones = (1,) * (module.weight.ndim - 2)
        return tuple(module.weight.shape[1:]), ones, (1, module.out_channels, *ones)
    if isinstance(module, nn.Embedding):
        return (module.num_embeddings,), (), (module.embedding_dim,)
    if hasattr(module, "in_features"):  # quantised weights have shapes of their own
        return (module.in_features,), (), (module.out_features,)
    return None


# --- layers of a file ------------------------------------------------------------------------------------------------


def _tensor(value: Any, key: str) -> Tensor:
    """A tensor of finite numbers."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        value = torch.tensor(float(value))  # an alpha that somebody put there by hand
    if not isinstance(value, Tensor) or value.is_complex() or value.dtype == torch.bool:
        raise ValueError(f"The adapter's {key[:200]!r} must be a tensor of real numbers, got {_kind(value)}.")
    if not torch.isfinite(value.float()).all():
        raise ValueError(f"The adapter's {key[:200]!r} must have finite numbers, got {_kind(value)} with others.")
    return value


def _kind(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _check_sizes(module: nn.Module, component: str, parts: Parts) -> None:
    """Each tensor by itself must have the layer's sizes."""
    sizes = _sizes(module)
    for part, (key, value) in parts.items():
        if sizes is None:
            kind = type(module).__name__
            raise ValueError(f"The adapter does not fit `{component}`: {key!r} is for a {kind}, which takes none.")
        inputs, after, magnitude = sizes
        outputs = math.prod(magnitude)
        wanted: dict[str, tuple[Any, ...]] = {
            "A": ("rank", *inputs),
            "B": (outputs, "rank", *after),
            "bias": (outputs,),
            "magnitude": magnitude,
        }
        shape = tuple(value.shape)
        if part == "alpha":
            if value.numel() != 1:
                raise ValueError(f"The adapter's {key!r} must be one number, got {shape}.")
        elif len(shape) != len(wanted[part]) or any(
            own < 1 if size == "rank" else own != size for own, size in zip(shape, wanted[part], strict=True)
        ):
            side = f"{inputs[0]} inputs" if part == "A" else f"{outputs} outputs"
            must = ", ".join(map(str, wanted[part]))
            raise ValueError(
                f"The adapter does not fit `{component}`: {key!r} is {shape}, must be ({must}), for a layer of {side}."
            )


def _check_whole(parts: Parts, place: str) -> None:
    """A layer must have both its matrices, of one rank."""
    have = ", ".join(f"{key!r} {tuple(value.shape)}" for key, value in parts.values())
    if "A" not in parts or "B" not in parts:
        raise ValueError(f"The adapter must have both matrices (down and up, A and B) for `{place}`, got only {have}.")
    if parts["A"][1].shape[0] != parts["B"][1].shape[1]:
        raise ValueError(f"The adapter's matrices for `{place}` must have one rank, got {have}.")


def _lora(
    modules: dict[str, nn.Module],
    layers: dict[str, Parts],
    settings: dict[str, Any],
    metadata: dict[str, Any] | None,
) -> Adapter:
    """Layers whose tensors fit."""
    alpha_of = _of_layers(settings, "lora_alpha", 8, "alpha_pattern") if metadata else None  # 8 is peft's own
    dora = bool(settings.get("use_dora")) or any("magnitude" in parts for parts in layers.values())
    biased = any("bias" in parts for parts in layers.values())
    tensors, scales = {}, {}
    for place, parts in layers.items():
        a, b = parts["A"][1], parts["B"][1]
        rank = a.shape[0]
        if "alpha" in parts:
            alpha = _number(parts["alpha"][1].item(), parts["alpha"][0])
        else:
            alpha = alpha_of(place) if alpha_of else rank
        scales[place] = (rank, alpha)
        embedding = isinstance(modules[place], nn.Embedding)
        tensors[f"{place}.lora_embedding_A" if embedding else f"{place}.lora_A.weight"] = a
        tensors[f"{place}.lora_embedding_B" if embedding else f"{place}.lora_B.weight"] = b
        if biased:
            if embedding:
                raise ValueError(f"The adapter has biases, which peft does not have for `{place}`, an Embedding.")
            tensors[f"{place}.lora_B.bias"] = parts["bias"][1] if "bias" in parts else b.new_zeros(b.shape[0])
        if dora:
            if "magnitude" not in parts:
                raise ValueError(f"The adapter uses DoRA and must have a `lora_magnitude_vector` for `{place}`.")
            tensors[f"{place}.lora_magnitude_vector"] = parts["magnitude"][1]
    ranks: dict[int, list[str]] = {}
    for place, (rank, _) in scales.items():
        ranks.setdefault(rank, []).append(place)
    usual = max(ranks, key=lambda rank: len(ranks[rank]))
    config = {
        "r": usual,
        "lora_alpha": usual,  # each layer's own is set when it is there
        "rank_pattern": {_exactly(places): rank for rank, places in ranks.items() if rank != usual},
        "target_modules": list(scales),
        "lora_dropout": settings.get("lora_dropout", 0.0),
        "use_rslora": settings.get("use_rslora", False),
        "use_dora": dora,
        "lora_bias": biased,
    }
    return Adapter(tensors, config, scales)


def _exactly(places: list[str]) -> str:
    """Layers' names as a pattern of peft, which are regular expressions of what a name ends with."""
    names = "|".join(map(re.escape, places))
    return f"^{names}" if len(places) == 1 else f"^(?:{names})"


def _factor(parts: dict[str, Tensor], name: str) -> tuple[int, int]:
    """The shape of a factor, which may be in two parts."""
    if name in parts:
        return parts[name].shape[0], parts[name].shape[1]
    return parts[f"{name}_a"].shape[0], parts[f"{name}_b"].shape[1]


def _lokr(modules: dict[str, Any], layers: dict[str, Parts], settings: dict[str, Any]) -> Adapter:
    """LoKr's factors (arXiv:2309.14859, section 3), alpha / rank in the first of them, as diffusers expects it."""
    alpha_of = _of_layers(settings, "alpha", 8, "alpha_pattern") if settings else None
    rank_of = _of_layers(settings, "r", 8, "rank_pattern") if settings else None
    tensors = {}
    for place, parts in layers.items():
        have = ", ".join(f"{key!r} {tuple(value.shape)}" for key, value in parts.values())
        for factor in ("lokr_w1", "lokr_w2"):
            if ({factor} <= parts.keys()) == ({f"{factor}_a", f"{factor}_b"} <= parts.keys()):
                raise ValueError(f"The adapter must have `{factor}`, or its two parts, for `{place}`, got {have}.")
        if strange := [key for part, (key, value) in parts.items() if part != "alpha" and value.ndim < 2]:
            raise ValueError(f"The adapter's LoKr factors must be matrices, got {some(strange)}: {have}.")
        if isinstance(modules[place], nn.Linear):
            sides = [_factor({part: value for part, (_, value) in parts.items()}, f"lokr_w{i}") for i in (1, 2)]
            made = tuple(math.prod(side) for side in zip(*sides, strict=True))
            if made != (wanted := (modules[place].out_features, modules[place].in_features)):
                raise ValueError(f"The adapter's LoKr factors for `{place}` must make {wanted}, got {made} of {have}.")
        scale = 1.0
        inner = next((parts[part][1].shape[0] for part in ("lokr_w2_b", "lokr_w1_b") if part in parts), None)
        if "alpha" in parts:  # LyCORIS: of use only where there is a rank
            alpha = _number(parts["alpha"][1].reshape(-1)[0].item(), parts["alpha"][0])
            scale = alpha / inner if inner else 1.0
        elif alpha_of and rank_of:
            if rank_of(place) <= 0:
                raise ValueError(f"`r` of the adapter must be positive, got {rank_of(place)!r}.")
            scale = alpha_of(place) / rank_of(place)
        for part, (_, value) in parts.items():
            if part != "alpha":
                first = part in ("lokr_w1", "lokr_w1_a")
                tensors[f"{place}.{part}"] = value * scale if first and scale != 1.0 else value
    return Adapter(tensors, None, {})


# --- metadata --------------------------------------------------------------------------------------------------------


def _checked(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of peft that may be used; a ValueError for those that would change what a layer computes."""
    for name, value in settings.items():
        if value and name not in _WITHOUT_EFFECT:
            raise ValueError(f"The adapter's setting `{name[:200]}` is not supported, got {_short(value)}.")
    for name in ("use_rslora", "use_dora", "lora_bias"):
        if not isinstance(settings.get(name, False), bool):
            raise ValueError(f"`{name}` of the adapter must be true or false, got {_short(settings[name])}.")
    start = settings.get("init_lora_weights")
    if not isinstance(start, (str, bool, type(None))) or start not in _INITIALISATIONS:
        raise ValueError(
            f"`init_lora_weights` of the adapter must be one of {_INITIALISATIONS}, got {_short(start)}: others "
            f"change the network's own weights. peft converts such adapters, see its `save_pretrained`."
        )
    dropout = _number(settings.get("lora_dropout", 0.0), "lora_dropout")
    if not 0 <= dropout < 1:
        raise ValueError(f"`lora_dropout` of the adapter must be in [0, 1), got {dropout!r}.")
    return settings


def _of_layers(settings: dict[str, Any], name: str, default: float, pattern: str) -> Callable[[str], float]:
    """A number of every layer, as peft has it: that of the first pattern that the layer's name ends with, or one.

    The patterns are looked up by name. Regular expressions are refused: they can take for ever.
    """
    everywhere = _number(settings.get(name, default), name)
    patterns = settings.get(pattern) or {}
    if not isinstance(patterns, dict):
        raise ValueError(f"`{pattern}` of the adapter must be a dict, got {_short(patterns)}.")
    known: dict[str, tuple[int, float]] = {}
    for order, (key, value) in enumerate(patterns.items()):
        value = _number(value, pattern)
        start, names = ("^", key[1:]) if key.startswith("^") else ("", key)
        group = re.fullmatch(r"\(\?:(.*)\)", names)  # as `_exactly` writes them
        for plain in (group[1] if group else names).replace("\\.", ".").split("|" if group else "\0"):
            if not re.fullmatch(r"[\w.]+", plain):
                raise ValueError(f"`{pattern}` of the adapter must name layers, got {_short(key)}.")
            known.setdefault(start + plain, (order, value))

    def of(layer: str) -> float:
        words = layer.split(".")
        ends = [f"^{layer}", *(".".join(words[i:]) for i in range(len(words)))]
        found = [known[end] for end in ends if end in known]
        return min(found)[1] if found else everywhere

    return of


def _number(value: Any, name: str) -> float:
    """A finite number of a size that makes sense."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not abs(value) <= MAX_ALPHA:
        raise ValueError(
            f"`{name[:200]}` of the adapter must be a number in -{MAX_ALPHA}..{MAX_ALPHA}, got {_short(value)}."
        )
    return value  # type: ignore[return-value]


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a whole number of more than 4300 digits, brackets in brackets
        return f"a {type(value).__name__}"
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text)} characters)"
