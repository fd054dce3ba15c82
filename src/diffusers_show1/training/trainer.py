# SPDX-License-Identifier: Apache-2.0
"""`show1 train`: a recipe, a folder, and everything between the first batch and the export.

The folder of a run:

    config.yaml             the whole recipe
    metrics.jsonl           a line per logged step, and per validation
    checkpoints/step-...    where the same command goes on
    validation/step-...     videos, their grid and captions
    export/                 what was trained, with the averaged weights, for `from_pretrained`
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from ..clips.files import replacing
from ..clips.metrics import psnr
from ..learning.options import ConfigError, TrainConfig
from ..learning.task import Task
from .batches import Batches, StepBatch
from .catalogue import task_of
from .checkpoint import checkpoints, read_checkpoint, write_checkpoint
from .config import build, differences, flatten, load_config, parse_yaml, to_dict, to_yaml
from .data import choose
from .loop import FitOptions, Interrupted, StepReport, Training, whole
from .report import Metrics, count_parameters, grid, memory_estimate, readable, save_picture, save_videos
from .source import DTYPES, Source
from .start import grow


PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


class Trainer:
    """One run, ready to start: everything is loaded and checked.

    Args:
        config: the recipe.
        folder: of the run; an interrupted one goes on from its last checkpoint.
        echo: where lines for the user go; called on the main process only.

    Raises:
        ConfigError: the recipe does not fit this machine, its own parts, or the run that the folder holds.
        ValueError, OSError: a model or the data cannot be read.
    """

    def __init__(self, config: TrainConfig, folder: Path, echo: Callable[[str], None] = print):
        self.config, self.folder = config, folder
        _check_installed(config)
        self.accelerator = Accelerator(
            mixed_precision=PRECISIONS[config.run.precision],
            log_with=list(config.run.trackers) or None,
            project_dir=str(folder),
        )
        self.echo = echo if self.accelerator.is_main_process else _silent
        self._check_processes()
        self.check_folder(config, folder)
        device = self.accelerator.device
        self.task: Task = task_of(config.stage, config.family)(config, device, Source(config, device))
        self.batches = Batches(config, self.accelerator, self.task.dataset())
        self.true_clips = self._true_clips()

    # --- checks ------------------------------------------------------------------------------------------------------

    def _check_processes(self) -> None:
        run, processes = self.config.run, self.accelerator.num_processes
        if run.batch_size % (processes * run.accumulation):
            raise ConfigError(
                f"`run.batch_size` must be a multiple of processes x run.accumulation ({processes} x "
                f"{run.accumulation}), got {run.batch_size}"
            )
        kind = self.accelerator.distributed_type
        if kind == DistributedType.FSDP and not self.accelerator.is_fsdp2:
            raise ConfigError("`fsdp_version` of accelerate must be 2, got 1 (accelerate launch --fsdp_version 2)")
        if kind in (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM, DistributedType.XLA):
            raise ConfigError(f"`distributed_type` of accelerate must be NO, MULTI_* or FSDP, got {kind.value}")

    @staticmethod
    def check_folder(config: TrainConfig, folder: Path) -> None:
        """That a folder is new, or holds a run of the same recipe. Raises `ConfigError`."""
        saved = folder / "config.yaml"
        if not saved.exists():
            return
        old = build(parse_yaml(saved.read_text(encoding="utf-8"), str(saved)))
        if changed := differences(old, config):
            raise ConfigError(
                f"`--output` must be a new folder or hold a run of the same recipe, got {str(folder)!r}, whose recipe "
                f"differs ({'; '.join(changed)})"
            )

    def _true_clips(self) -> tuple[Tensor, list[str]] | None:
        """Clips (b, 3, f, h, w) and captions to validate with, the same for the whole run; None without any."""
        validation = self.config.validation
        if validation.prompts or not validation.clips or self.batches.clips is None:
            return None
        # Steps of a run count from 0 with the run's seed: the validation's own seed makes these clips others.
        found = [choose(self.batches.clips, validation.seed, 2**31, index) for index in range(validation.clips)]
        return torch.stack([clip["frames"].transpose(0, 1) for clip in found]), [clip["caption"] for clip in found]

    # --- the run -----------------------------------------------------------------------------------------------------

    def run(self) -> Path:
        """Train to the last step, or go on to it.

        Returns:
            The folder of the exported stage, for `from_pretrained`.

        Raises:
            ConfigError: the pipeline cannot make videos with the recipe's validation options.
            Interrupted: the run was asked to stop, and has saved; the same call goes on from there.
            FloatingPointError: the loss is not finite.
            UnreadableDataError: there are no more clips that can be read.
        """
        config, accelerator = self.config, self.accelerator
        self.echo(f"{self.task.stage}: {self.task.start}")
        self.training = Training(self.task.network, fit_options(config), accelerator)
        if accelerator.is_main_process and not (self.folder / "config.yaml").exists():
            with replacing(self.folder / "config.yaml") as path:
                path.write_text(to_yaml(config), encoding="utf-8")
        position = self._resume()
        accelerator.wait_for_everyone()
        self.metrics = Metrics(self.folder / "metrics.jsonl", self.training.step) if self._main else None
        if config.run.trackers:
            values = {key: str(value) for key, value in flatten(to_dict(config)).items()}
            accelerator.init_trackers(f"show1-{config.stage}", config=values)
        if self.training.step == 0:
            self.validate()  # what it starts from; and what is wrong with the options shows now, not hours later
        self._logged = (self.training.step, time.monotonic())
        steps = self.batches(self.training.step, position)
        try:
            self.training.run(self._losses(steps), config.run.accumulation, self.save, self.report)
        except Interrupted as stopped:
            self.echo(f"stopped after step {stopped.step}; the same command goes on from there")
            raise
        finally:
            for skips in self.batches.skips:
                if skips.reasons:
                    self.echo(str(skips))
        if self._last_validated != self.training.step:
            self.validate()
        self.export()
        accelerator.end_training()
        return self.folder / "export"

    @property
    def _main(self) -> bool:
        return self.accelerator.is_main_process

    _last_validated = -1

    def _resume(self) -> int:
        """Go on from the last checkpoint, if there is one; returns this process's place in a stream."""
        found = checkpoints(self.folder / "checkpoints")
        if not found:
            return 0
        state = read_checkpoint(found[-1][1])
        positions = state.pop("positions")
        if self.config.data.kind == "stream" and len(positions) != self.accelerator.num_processes:
            raise ConfigError(
                f"`--num_processes` must be {len(positions)} to go on with a stream, got "
                f"{self.accelerator.num_processes}"
            )
        self.training.load_state_dict(state)
        self.echo(f"resumed at step {self.training.step}")
        return positions[self.accelerator.process_index] if self.config.data.kind == "stream" else 0

    def _losses(self, steps: Iterator[StepBatch]) -> Callable[[nn.Module, int, int], Tensor]:
        """The loss of every part of every step, asked for in order."""
        batch: StepBatch

        def loss(unet: nn.Module, step: int, part: int) -> Tensor:
            nonlocal batch
            if part == 0:
                batch = next(steps)
            return self.task.batch_loss(unet, batch.part(part, self.config.run.accumulation), step)

        return loss

    def report(self, done: StepReport) -> None:
        """Log a step, and validate after it, if it is time."""
        run = self.config.run
        if done.step % run.log_every == 0 or done.step == run.steps:
            step, before = self._logged
            self._logged = (done.step, time.monotonic())
            rate = run.batch_size * (done.step - step) / (self._logged[1] - before)
            values = {
                "loss": done.loss,
                "learning_rate": done.learning_rate,
                "grad_norm": done.grad_norm,
                "clips_per_second": rate,
            }
            self._log(done.step, values)
            left = (run.steps - done.step) * run.batch_size / rate / 60
            self.echo(
                f"step {done.step}/{run.steps} loss {done.loss:.5f} lr {done.learning_rate:.2e} "
                f"{rate:.3g} clips/s, {left:.1f} min left"
            )
        if run.validate_every and done.step % run.validate_every == 0:
            self.validate()
            self._logged = (done.step, time.monotonic())  # its time is not the training's

    def _log(self, step: int, values: dict[str, float]) -> None:
        if self.metrics is not None:
            self.metrics.write(step=step, **values)
        if self.config.run.trackers:
            self.accelerator.log(values, step=step)

    def save(self) -> None:
        """Write a checkpoint."""
        positions = self.accelerator.gather(torch.tensor([self.batches.position], device=self.accelerator.device))
        state = self.training.state_dict() | {"positions": positions.tolist()}
        if self._main:
            write_checkpoint(self.folder / "checkpoints", self.training.step, state, self.config.run.keep)
        self.accelerator.wait_for_everyone()

    # --- what comes out ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def validate(self) -> None:
        """Make videos with the averaged weights, in `validation/step-...`.

        All processes make the same ones, since a sharded network needs them all.
        """
        self._last_validated = self.training.step
        if not self.config.validation.prompts and self.true_clips is None:
            return
        true, captions = self.true_clips or (None, list(self.config.validation.prompts))
        given = None if true is None else self.task.given(true)
        generators = [
            torch.Generator().manual_seed(self.config.validation.seed + index) for index in range(len(captions))
        ]
        options = self.task.call_options() | self.config.validation.options
        inputs = {} if given is None else {"frames": given, "input_type": "latent"}
        with self.training.averaged() as network:
            figures = {} if true is None else dict(self.task.measure(network, true, captions))
            try:
                made = self.task.videos(network, prompt=captions, generator=generators, **inputs, **options)
            except (ValueError, TypeError) as error:
                raise ConfigError(
                    f"`validation.options` must fit the pipeline's call, got {options}: {error}"
                ) from error
        if not self._main:
            return
        folder = self.folder / "validation" / f"step-{self.training.step:08d}"
        if made is not None:
            made = made.transpose(1, 2).float().cpu() * 2 - 1
            shown = None if given is None else true
            save_videos(folder, made, captions, self.config.data.fps, given, shown)
            if shown is not None:
                figures["validation_psnr"] = psnr(made / 2 + 0.5, shown / 2 + 0.5)
        if figures:
            self._log(self.training.step, figures)
        told = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        if made is not None or told:
            self.echo(f"validation: {told if made is None else folder / 'grid.png'}")

    def export(self) -> None:
        """Write the averaged weights to `export/`, as what `from_pretrained` reads."""
        config, task = self.config, self.task
        with self.training.averaged() as network:
            weights = {name: whole(value) for name, value in network.state_dict().items()}
        if self._main:
            # A network of its own: the one in training may be sharded, and wrapped.
            plain = task.plain()
            plain.load_state_dict(weights)
            task.finish(plain, None if self.true_clips is None else self.true_clips[0])
            if config.model.grow:
                torch.manual_seed(config.run.seed)
                plain = grow(plain, config.model.grow)
            nn.Module.to(plain, DTYPES[config.run.export_dtype])  # diffusers' own warns of what is meant here
            with replacing(self.folder / "export") as path:
                task.save(plain, path, config.run.export_text_encoder)
        self.accelerator.wait_for_everyone()

    def dry_run(self) -> None:
        """Say what the run would be, and draw its first batch; nothing is trained."""
        run, task = self.config.run, self.task
        trained, frozen = count_parameters(task.network)
        self.echo(f"{task.stage}: {task.start}")
        self.echo(f"network: {trained:,} parameters trained, {frozen:,} frozen")
        batch = next(self.batches(0))
        count, _, *size = batch.clips["frames"].shape
        processes = self.accelerator.num_processes
        self.echo(
            f"batch: {count * processes} clips of {'x'.join(map(str, size))} (frames x height x width) for "
            f"{processes} processes, each in {run.accumulation} parts; {run.steps} steps"
        )
        at_once = run.batch_size // self.accelerator.num_processes // run.accumulation
        sharded = self.accelerator.num_processes if self.accelerator.is_fsdp2 else 1
        parts = memory_estimate(
            task.network, task.frozen(), task.example, at_once, self.config.optimizer.kind, sharded
        )
        self.echo(
            f"memory a process, estimated: {readable(sum(parts.values()))} ("
            + ", ".join(f"{name} {readable(value)}" for name, value in parts.items())
            + "; activations counted on a forward pass in float32)"
        )
        if batch.clips["frames"].numel():
            if self._main:
                save_picture(grid(list(batch.clips["frames"][:8])), self.folder / "first_batch.png")
            self.echo(f"first batch: {self.folder / 'first_batch.png'}")
        for caption in batch.clips["captions"][:8]:
            self.echo(f"  {caption}")


def _silent(_line: str) -> None:
    """Other processes say nothing."""


def _check_installed(config: TrainConfig) -> None:
    needed = {f"run.trackers {name}": (name, name) for name in config.run.trackers}
    if config.optimizer.kind == "adamw8bit":
        needed["optimizer.kind adamw8bit"] = ("bitsandbytes", "'diffusers-show1[train-8bit]'")
    for key, (package, requirement) in needed.items():
        if importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"`{key}` needs the package {package}, which is not installed: pip install {requirement}"
            )


def fit_options(config: TrainConfig) -> FitOptions:
    """The loop's part of a recipe."""
    optimizer, run = config.optimizer, config.run
    return FitOptions(
        steps=run.steps,
        learning_rate=optimizer.learning_rate,
        final_learning_rate=optimizer.final_learning_rate,
        warmup_steps=optimizer.warmup_steps,
        weight_decay=optimizer.weight_decay,
        betas=(optimizer.beta1, optimizer.beta2),
        ema_decay=optimizer.ema_decay,
        max_grad_norm=optimizer.max_grad_norm,
        checkpoint_seconds=None,
        checkpoint_every=run.checkpoint_every,
        keep=run.keep,
        dropout=config.objective.dropout,
        optimiser=optimizer.kind,
    )


def prepare(
    stage: str,
    config: str | Path,
    output: Path,
    overrides: Iterable[str] = (),
    dry_run: bool = False,
    echo: Callable[[str], None] = print,
) -> Callable[[], None]:
    """Load and check everything; what is returned trains, or only looks (`dry_run`). See `Trainer` for the errors."""
    trainer = Trainer(load_config(stage, config, overrides), output, echo)

    def run() -> None:
        trainer.echo(f"done: {trainer.run()}")

    return trainer.dry_run if dry_run else run
