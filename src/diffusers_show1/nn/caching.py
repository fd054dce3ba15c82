# SPDX-License-Identifier: Apache-2.0
"""Feature caching for UNets (DeepCache, arXiv:2312.00858), as a cache of diffusers' `CacheMixin`.

From one denoising step to the next the deep blocks of a UNet change little. DeepCache runs the whole network at every
n-th step only; at the others the outermost blocks run, on what the deep ones gave the last time:

    full step      conv_in  down 0   down 1   middle   up 0   up 1   conv_out
                                                       keep ^
    cached step    conv_in  down 0                            up 1   conv_out
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from diffusers.hooks import HookRegistry, ModelHook, PyramidAttentionBroadcastConfig, TaylorSeerCacheConfig
from diffusers.hooks.hooks import BaseState, StateManager
from diffusers.models.cache_utils import CacheMixin
from torch import Tensor, nn


_HOOK = "show1_deep_cache"


@dataclass(frozen=True)
class DeepCacheConfig:
    """For `unet.enable_cache(DeepCacheConfig(...))`.

    The stages of this package tell the network where a denoising loop starts and ends, and its two guidance branches
    apart. Other callers wrap each call of the network in `with unet.cache_context("cond"):` (any name; one for each
    branch that is called by itself), and call `unet._reset_stateful_cache()` before a loop, as diffusers' pipelines
    do after it.

    Args:
        interval: the deep blocks run at every `interval`-th step, beginning with the first; at least 2.
        outer_blocks: blocks on each side that run at every step, from 1 to the network's blocks less 1.

    Raises:
        ValueError: a value out of range; for `outer_blocks` when the cache is enabled.
    """

    interval: int = 2
    outer_blocks: int = 1

    def __post_init__(self) -> None:
        for name, value, low in (("interval", self.interval, 2), ("outer_blocks", self.outer_blocks, 1)):
            if not isinstance(value, int) or isinstance(value, bool) or value < low:
                raise ValueError(f"`{name}` must be an integer of at least {low}, got {value!r}.")

    def apply(self, unet: Any) -> None:
        """Hooks the blocks of a network; `unet.enable_cache` calls it.

        Args:
            unet: a network with `down_blocks`, `mid_block` and `up_blocks`.

        Raises:
            ValueError: `outer_blocks` leaves no deep block.
        """
        blocks = len(unet.down_blocks)
        if self.outer_blocks >= blocks:
            raise ValueError(f"`outer_blocks` must be in 1..{blocks - 1} for this network, got {self.outer_blocks}.")
        states = StateManager(_State)
        last_outer = unet.down_blocks[self.outer_blocks - 1]
        deep_up = unet.up_blocks[: blocks - self.outer_blocks]
        hooked: list[tuple[nn.Module, ModelHook]] = [
            (last_outer, _CountSteps(states, self.interval)),
            # what it makes feeds deep blocks only
            (last_outer.downsamplers[0], _SkipLayer(states)),
            *((block, _SkipDownBlock(states)) for block in unet.down_blocks[self.outer_blocks :]),
            (unet.mid_block, _SkipLayer(states)),
            *((block, _SkipLayer(states)) for block in deep_up[:-1]),
            (deep_up[-1], _KeepOutput(states)),
        ]
        for module, hook in hooked:
            HookRegistry.check_if_exists_or_initialize(module).register_hook(hook, _HOOK)

    def remove(self, unet: nn.Module) -> None:
        """Takes the hooks out again; `unet.disable_cache` calls it.

        Args:
            unet: the network that `apply` hooked.
        """
        HookRegistry.check_if_exists_or_initialize(unet).remove_hook(_HOOK, recurse=True)


class _State(BaseState):
    """Of one context: how many calls there were, of what shape, and what the deep blocks gave last."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.steps = 0
        self.inputs: tuple = ()
        self.features: Tensor | None = None
        self.computes = True


class _DeepCacheHook(ModelHook):
    _is_stateful = True

    def __init__(self, states: StateManager):
        super().__init__()
        self.states = states

    def reset_state(self, module: nn.Module) -> nn.Module:
        self.states.reset()
        return module


class _CountSteps(_DeepCacheHook):
    """On the last outer down block, which always runs: decides whether the deep blocks run in this call."""

    def __init__(self, states: StateManager, interval: int):
        super().__init__(states)
        self.interval = interval

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[tuple, dict]:
        state = self.states.get_state()
        x_NCHW, num_frames = args[0], args[3]
        inputs = (x_NCHW.shape, x_NCHW.dtype, x_NCHW.device, num_frames)
        if inputs != state.inputs:  # another batch: nothing that was kept fits
            state.reset()
            state.inputs = inputs
        state.computes = state.features is None or state.steps % self.interval == 0
        state.steps += 1
        return args, kwargs


class _SkipLayer(_DeepCacheHook):
    """Hands its input on in a cached step; nobody reads it then."""

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        return self.fn_ref.original_forward(*args, **kwargs) if self.states.get_state().computes else args[0]


class _SkipDownBlock(_DeepCacheHook):
    """The same with as many skips as the block returns."""

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        if self.states.get_state().computes:
            return self.fn_ref.original_forward(*args, **kwargs)
        skips = len(module.resnets) + (module.downsamplers is not None)
        return args[0], (args[0],) * skips


class _KeepOutput(_DeepCacheHook):
    """On the last deep block: keeps what it gives, for the cached steps."""

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        state = self.states.get_state()
        if state.computes:
            state.features = self.fn_ref.original_forward(*args, **kwargs)
        return state.features


class FeatureCacheMixin(CacheMixin):
    """diffusers' `CacheMixin` of a UNet with `down_blocks`, `mid_block` and `up_blocks`."""

    _cache_config: Any = None

    def enable_cache(self, config: Any) -> None:
        """As in diffusers, for the caches that fit a UNet.

        Args:
            config: `DeepCacheConfig` (or any object with `apply(unet)` and `remove(unet)`), or one of diffusers':
                `PyramidAttentionBroadcastConfig`, or `TaylorSeerCacheConfig` with `cache_identifiers` of this network
                (such as `r".*attentions\\.\\d+"`; its own are those of transformers).

        Raises:
            ValueError: another config (diffusers' other caches want a row of transformer blocks), identifiers that
                name no layer or a down block, or a cache is enabled already.
        """
        if self.is_cache_enabled:
            raise ValueError(f"`disable_cache()` first: this network has a cache already, {self._cache_config!r}.")
        if isinstance(config, TaylorSeerCacheConfig):
            self._check_identifiers(config)
        if isinstance(config, (PyramidAttentionBroadcastConfig, TaylorSeerCacheConfig)):
            super().enable_cache(config)
            return
        if not hasattr(config, "apply"):
            raise ValueError(
                f"`config` must be a DeepCacheConfig, a PyramidAttentionBroadcastConfig or a TaylorSeerCacheConfig, "
                f"got {config!r}: diffusers' other caches want a row of transformer blocks, which a UNet has not."
            )
        config.apply(self)
        HookRegistry.check_if_exists_or_initialize(self).invalidate_child_registries_cache()
        self._cache_config = config

    def _check_identifiers(self, config: TaylorSeerCacheConfig) -> None:
        if config.use_lite_mode or not config.cache_identifiers:
            raise ValueError(
                "`config` must have `cache_identifiers` of this network's layers and no `use_lite_mode`, got "
                f"{config!r}: TaylorSeer's own patterns are those of transformers."
            )
        patterns = [*config.cache_identifiers, *(config.skip_predict_identifiers or ())]
        names = [name for name, _ in self.named_modules()]
        for pattern in patterns:
            found = [name for name in names if re.fullmatch(pattern, name)]
            if not found:
                raise ValueError(f"`config` must name layers of this network, got {pattern!r}, which names none.")
            if down := [name for name in found if re.fullmatch(r"down_blocks\.\d+", name)]:
                raise ValueError(
                    f"`config` must name layers that give one tensor, got {pattern!r}, which names {down[0]}: a down "
                    "block gives its skips, too."
                )

    def disable_cache(self) -> None:
        """Takes the cache out again."""
        if not hasattr(self._cache_config, "remove"):
            super().disable_cache()
            return
        self._cache_config.remove(self)
        HookRegistry.check_if_exists_or_initialize(self).invalidate_child_registries_cache()
        self._cache_config = None
