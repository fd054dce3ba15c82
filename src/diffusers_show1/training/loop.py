# SPDX-License-Identifier: Apache-2.0
"""The training loop: one model, one loss, a budget of steps or of minutes, and resumable checkpoints.

The loss is a function of the step number and draws its own data and noise from (seed, step), so the state of a run is
the step, the weights, the optimiser and the moving average: a resumed run equals an uninterrupted one.
"""

import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel


@dataclass
class FitOptions:
    """Budget and optimiser. Give `steps`, or `minutes` (the schedule then follows the clock), not both."""

    steps: int | None = None
    minutes: float | None = None
    learning_rate: float = 1e-3
    final_learning_rate: float = 2e-5
    warmup_steps: int = 50
    weight_decay: float = 1e-4
    ema_decay: float = 0.998
    max_grad_norm: float = 1.0
    checkpoint_seconds: float = 120.0
    log_every: int = 50
    dropout: bool = False  # endless synthetic data cannot be overfitted, and dropout costs time

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise ValueError("give either steps or minutes")


def learning_rate_at(step: int, progress: float, options: FitOptions) -> float:
    """Linear warm-up over the first steps, then a cosine from `learning_rate` down to `final_learning_rate`."""
    warmup = min(1.0, (step + 1) / options.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return warmup * (options.final_learning_rate + cosine * (options.learning_rate - options.final_learning_rate))


def fit(
    model: torch.nn.Module,
    loss_at: Callable[[int], torch.Tensor],
    options: FitOptions,
    checkpoint: str | os.PathLike | None = None,
    on_checkpoint: Callable[[torch.nn.Module], None] | None = None,
    parameters: Iterable[torch.nn.Parameter] | None = None,
    log: Callable[[str], None] = print,
) -> torch.nn.Module:
    """Train `model` in place and leave it with its averaged weights.

    Args:
        loss_at: step number -> scalar loss.
        checkpoint: file to resume from when it exists, and to write every `checkpoint_seconds` and at the end.
        on_checkpoint: called with the averaged model after every checkpoint (to export it, or to measure it).
    """
    parameters = [p for p in (parameters or model.parameters()) if p.requires_grad]
    optimiser = torch.optim.AdamW(
        parameters, lr=options.learning_rate, betas=(0.9, 0.99), weight_decay=options.weight_decay
    )
    # inv_gamma / power: a short memory at first, so that an early export is not mostly initialisation.
    ema = EMAModel(parameters, decay=options.ema_decay, use_ema_warmup=True, inv_gamma=10, power=1.0)
    step, elapsed = 0, 0.0
    if checkpoint is not None and Path(checkpoint).exists():
        state = torch.load(checkpoint, map_location=parameters[0].device, weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        ema.load_state_dict(state["ema"])
        ema.to(parameters[0].device)
        step, elapsed = state["step"], state["elapsed"]
        log(f"resumed at step {step}, {elapsed / 60:.1f} min")

    def save() -> None:
        if checkpoint is not None:
            state = {
                "model": model.state_dict(),
                "optimiser": optimiser.state_dict(),
                "ema": ema.state_dict(),
                "step": step,
                "elapsed": elapsed,
            }
            Path(checkpoint).parent.mkdir(parents=True, exist_ok=True)
            torch.save(state, f"{checkpoint}.partial")
            os.replace(f"{checkpoint}.partial", checkpoint)
        if on_checkpoint is not None:
            ema.store(parameters)
            ema.copy_to(parameters)
            model.eval()
            on_checkpoint(model)
            ema.restore(parameters)

    saved_at, running = elapsed, None
    while (step < options.steps) if options.steps is not None else (elapsed < options.minutes * 60):
        started = time.monotonic()
        progress = step / options.steps if options.steps is not None else elapsed / (options.minutes * 60)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate_at(step, progress, options)
        model.train(options.dropout)
        loss = loss_at(step)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, options.max_grad_norm)
        optimiser.step()
        ema.step(parameters)
        step += 1
        elapsed += time.monotonic() - started
        running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
        if step % options.log_every == 0:
            rate = f"lr {group['lr']:.2e} {elapsed / step:.3f} s/it"
            log(f"step {step} {elapsed / 60:.2f} min loss {running:.5f} {rate}")
        if elapsed - saved_at > options.checkpoint_seconds:
            save()
            saved_at = elapsed
    save()
    ema.copy_to(parameters)
    return model.eval()
