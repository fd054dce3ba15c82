# SPDX-License-Identifier: Apache-2.0
"""The training loop: one network, one loss, a budget, on one process or on many (accelerate).

A loss is a function of the optimiser step (and of its part, under gradient accumulation) and draws its own data and
noise from a seed and that step. So the state of a run is the step, the weights, the optimiser, the moving average and
the loss scale, and nothing else: a run that goes on from a checkpoint equals one that was never stopped.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map

from .checkpoint import checkpoints, read_checkpoint, write_checkpoint


OPTIMISERS = {"adamw": ("torch.optim", "AdamW"), "adamw8bit": ("bitsandbytes.optim", "AdamW8bit")}


@dataclass
class FitOptions:
    """Budget and optimiser.

    Args:
        steps: how many; or `minutes`.
        minutes: how long. The schedule then follows the clock: one process only, and the result depends on the
            machine.
        learning_rate: after the warm-up, where a cosine begins.
        final_learning_rate: where the cosine ends.
        warmup_steps: of a linear warm-up from 0.
        weight_decay: AdamW's.
        betas: AdamW's.
        max_grad_norm: gradients are clipped to this norm.
        keep: the newest checkpoints that stay.
        log_every: steps between two lines of the log.
        ema_decay: of the moving average of the weights; it starts with a short memory.
        checkpoint_seconds: save after so many seconds of training.
        checkpoint_every: save at multiples of so many steps.
        dropout: off by default, since endless synthetic data cannot be overfitted, and it costs time. It is drawn
            from (step, part, process): exact on resuming, but not the same on another number of processes.
        optimiser: "adamw", or "adamw8bit" (states in 8 bits, by bitsandbytes).

    Raises:
        ValueError: both or neither of `steps` and `minutes`.
    """

    steps: int | None = None
    minutes: float | None = None
    learning_rate: float = 1e-3
    final_learning_rate: float = 2e-5
    warmup_steps: int = 50
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    ema_decay: float = 0.998
    max_grad_norm: float = 1.0
    checkpoint_seconds: float | None = 120.0
    checkpoint_every: int | None = None
    keep: int = 2
    log_every: int = 50
    dropout: bool = False
    optimiser: str = "adamw"

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise ValueError("give either steps or minutes")


@dataclass(frozen=True)
class StepReport:
    """One optimiser step: number of steps done, loss and gradient norm (before clipping), and the time it took."""

    step: int
    loss: float
    learning_rate: float
    grad_norm: float
    seconds: float


class Interrupted(SystemExit):
    """The run was asked to stop (SIGTERM, SIGINT), finished its step and saved; the exit code is 128 + the signal."""

    def __init__(self, step: int, signum: int):
        super().__init__(128 + signum)
        self.step = step


def learning_rate_at(step: int, progress: float, options: FitOptions) -> float:
    """Linear warm-up over the first steps, then a cosine from `learning_rate` down to `final_learning_rate`."""
    warmup = min(1.0, (step + 1) / options.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return warmup * (options.final_learning_rate + cosine * (options.learning_rate - options.final_learning_rate))


def make_optimiser(parameters: list[torch.nn.Parameter], options: FitOptions) -> torch.optim.Optimizer:
    """AdamW, its states in 32 or in 8 bits."""
    module, name = OPTIMISERS[options.optimiser]
    make = getattr(importlib.import_module(module), name)
    return make(parameters, lr=options.learning_rate, betas=options.betas, weight_decay=options.weight_decay)


def whole(value: Any) -> Any:
    """A tensor on the CPU, with the shards of all processes together (FSDP); a collective call then."""
    if isinstance(value, DTensor):
        value = value.full_tensor()
    return value.detach().cpu().clone() if isinstance(value, torch.Tensor) else value


def _shard(value: Any, like: torch.Tensor) -> Any:
    """This process's part of a whole tensor that belongs to the parameter `like`."""
    if isinstance(like, DTensor) and isinstance(value, torch.Tensor) and value.shape == like.shape:
        return distribute_tensor(value.to(like.device_mesh.device_type), like.device_mesh, like.placements)
    return value


class Training:
    """A network in training: with its optimiser and its moving average, wrapped for this machine by accelerate.

    Args:
        model: parameters that do not require gradients stay as they are, and are in no checkpoint.
    """

    def __init__(self, model: torch.nn.Module, options: FitOptions, accelerator: Accelerator):
        self.options, self.accelerator = options, accelerator
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.model, self.optimiser = accelerator.prepare(model, make_optimiser(trained, options))
        self.network = accelerator.unwrap_model(self.model)
        self.parameters = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        # inv_gamma / power: a short memory at first, so that an early export is not mostly initialisation.
        self.ema = EMAModel(self.parameters, decay=options.ema_decay, use_ema_warmup=True, inv_gamma=10, power=1.0)
        self.step, self.elapsed = 0, 0.0

    def state_dict(self) -> dict[str, Any]:
        """All that a run needs to go on, as whole tensors on the CPU; call it on every process."""
        frozen = {name for name, parameter in self.network.named_parameters() if not parameter.requires_grad}
        model = {name: value for name, value in self.network.state_dict().items() if name not in frozen}
        state = {
            "model": model,
            "optimiser": self.optimiser.state_dict(),
            "ema": self.ema.state_dict(),
            "step": self.step,
            "elapsed": self.elapsed,
        }
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        return tree_map(whole, state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`, which may come from a run on another number of processes."""
        current = self.network.state_dict()
        saved = {name: _shard(value, current[name]) for name, value in state["model"].items() if name in current}
        self.network.load_state_dict({**current, **state["model"], **saved})
        slots = {
            index: {name: _shard(value, self.parameters[index]) for name, value in slot.items()}
            for index, slot in state["optimiser"]["state"].items()
        }
        self.optimiser.load_state_dict({**state["optimiser"], "state": slots})
        shadows = zip(state["ema"]["shadow_params"], self.parameters, strict=True)
        self.ema.load_state_dict(
            {**state["ema"], "shadow_params": [_shard(value.to(like.device), like) for value, like in shadows]}
        )
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self.elapsed = state["step"], state["elapsed"]

    @contextlib.contextmanager
    def averaged(self) -> Iterator[torch.nn.Module]:
        """The unwrapped network with its averaged weights, for as long as the block lasts."""
        self.ema.store(self.parameters)
        self.ema.copy_to(self.parameters)
        self.network.eval()
        try:
            yield self.network
        finally:
            self.ema.restore(self.parameters)

    @property
    def progress(self) -> float:
        """Share of the budget that is used up."""
        if self.options.steps is not None:
            return self.step / self.options.steps
        return self.elapsed / (self.options.minutes * 60)

    def train_step(self, loss: Callable[[torch.nn.Module, int, int], torch.Tensor], parts: int) -> StepReport:
        """One optimiser step on `parts` losses, whose gradients are averaged over parts and processes."""
        started = time.monotonic()
        rate = learning_rate_at(self.step, self.progress, self.options)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.model.train(self.options.dropout)
        self.optimiser.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.accelerator.device)
        for part in range(parts):
            if self.options.dropout:
                torch.manual_seed((self.step * parts + part) * self.accelerator.num_processes + self._rank)
            last = part == parts - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model):
                value = loss(self.model, self.step, part) / parts
                self.accelerator.backward(value)
            total += value.detach()
        mean = self.accelerator.reduce(total, reduction="mean").item()
        if not math.isfinite(mean):
            raise FloatingPointError(
                f"the loss of step {self.step} is {mean}: a smaller learning rate, or another precision, may help"
            )
        norm = self.accelerator.clip_grad_norm_(self.parameters, self.options.max_grad_norm)
        self.optimiser.step()
        self.ema.step(self.parameters)
        self.step += 1
        seconds = time.monotonic() - started
        self.elapsed += seconds
        return StepReport(self.step, mean, rate, float(whole(norm)), seconds)

    @property
    def _rank(self) -> int:
        return self.accelerator.process_index

    def run(
        self,
        loss: Callable[[torch.nn.Module, int, int], torch.Tensor],
        parts: int = 1,
        save: Callable[[], None] = lambda: None,
        report: Callable[[StepReport], None] = lambda _: None,
    ) -> None:
        """Train until the budget is used up.

        Args:
            loss: (network, optimiser step, part of the step) -> mean loss of this process's clips of that part. It has
                to call the network that it is given, which is wrapped.
            parts: losses per optimiser step (gradient accumulation).
            save: called on every process when a checkpoint is due, and at the end.
            report: called on every process after every step.

        Raises:
            Interrupted: after SIGTERM or SIGINT, when the step is done and saved. A second signal ends at once.
            FloatingPointError: the loss is not finite.
        """
        saved_step, saved_at = self.step, self.elapsed
        with _asked_to_stop() as asked:
            while self.progress < 1:
                report(self.train_step(loss, parts))
                signum = self._agree(asked)
                if signum or self._due(saved_at):
                    save()
                    saved_step, saved_at = self.step, self.elapsed
                if signum:
                    raise Interrupted(self.step, signum)
        if saved_step != self.step or self.step == 0:
            save()

    def _due(self, saved_at: float) -> bool:
        every, seconds = self.options.checkpoint_every, self.options.checkpoint_seconds
        if every is not None and self.step % every == 0:
            return True
        return seconds is not None and self.elapsed - saved_at > seconds

    def _agree(self, asked: list[int]) -> int:
        """The signal that some process got, the same answer on all; 0 without."""
        if self.accelerator.num_processes == 1:
            return max(asked, default=0)
        own = torch.tensor([max(asked, default=0)], device=self.accelerator.device)
        return int(self.accelerator.gather(own).max())


@contextlib.contextmanager
def _asked_to_stop() -> Iterator[list[int]]:
    """The signals (SIGTERM, SIGINT) that came while the block ran; the second one acts as it did before."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield asked
        return
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for signum, handler in before.items():
            signal.signal(signum, handler)

    def note(signum: int, _frame: object) -> None:
        asked.append(signum)
        restore()

    for signum in before:
        signal.signal(signum, note)
    try:
        yield asked
    finally:
        restore()


def fit(
    model: torch.nn.Module,
    loss_at: Callable[[int], torch.Tensor],
    options: FitOptions,
    checkpoint: str | os.PathLike | None = None,
    on_checkpoint: Callable[[torch.nn.Module], None] | None = None,
    parameters: Iterable[torch.nn.Parameter] | None = None,
    log: Callable[[str], None] = print,
) -> torch.nn.Module:
    """Train `model` in place, on this process alone, and leave it with its averaged weights.

    Args:
        model: trained where it lies: those of its parameters that require gradients.
        loss_at: step number -> loss, a tensor ().
        options: budget and optimiser.
        checkpoint: folder of checkpoints to go on from when there are any, and to write them to.
        on_checkpoint: called with the averaged model after every checkpoint (to export it, or to measure it).
        parameters: the only ones to train; the others are frozen.
        log: where lines for the user go.

    Returns:
        The model that was passed.

    Raises:
        Interrupted: the run was asked to stop, and has saved; the same call goes on from there.
        FloatingPointError: the loss is not finite.
    """
    if parameters is not None:
        chosen = {id(parameter) for parameter in parameters}
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.requires_grad and id(parameter) in chosen)
    on_cpu = next(model.parameters()).device.type == "cpu"
    training = Training(model, options, Accelerator(cpu=on_cpu))
    folder = None if checkpoint is None else Path(checkpoint)
    if folder is not None and (found := checkpoints(folder)):
        training.load_state_dict(read_checkpoint(found[-1][1]))
        log(f"resumed at step {training.step}, {training.elapsed / 60:.1f} min")

    def save() -> None:
        if folder is not None:
            write_checkpoint(folder, training.step, training.state_dict(), options.keep)
        if on_checkpoint is not None:
            with training.averaged() as averaged:
                on_checkpoint(averaged)

    running: float | None = None

    def report(done: StepReport) -> None:
        nonlocal running
        running = done.loss if running is None else 0.98 * running + 0.02 * done.loss
        if done.step % options.log_every == 0:
            rate = f"lr {done.learning_rate:.2e} {training.elapsed / done.step:.3f} s/it"
            log(f"step {done.step} {training.elapsed / 60:.2f} min loss {running:.5f} {rate}")

    try:
        training.run(lambda _model, step, _part: loss_at(step), save=save, report=report)
    except Interrupted as stopped:
        log(f"stopped after step {stopped.step}; the same call goes on from there")
        raise
    training.ema.copy_to(training.parameters)
    return model.eval()
