# SPDX-License-Identifier: Apache-2.0
"""Adapters for a motion or a style: LoRA (arXiv:2106.09685) on the temporal attentions of a frozen network, from one
or a few clips.

The Show-1 paper's abstract: the model is "readily adapted to motion customization and video stylization applications
through simple temporal attention layer finetuning". A recipe is a stage's, with a section `lora` more:

* a motion: whole clips, with captions that tell everything but the motion by words that the network knows. What they
  tell the network makes already, so what is left to learn is how it moves.
* a style: for super-resolution, from pairs of a clip without the style and with it (`objective.pairs`). Motion, shape
  and colour are in what that stage is given, and stay.

The folder of a run is that of `trainer`, but for `lora.yaml`, the section, and `export/`, which holds
`pytorch_lora_weights.safetensors` for `load_lora_weights`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from torch import nn

from ..clips.files import replacing
from ..learning.options import ConfigError, TrainConfig, checked, number
from .config import apply_override, build, build_section, read_recipe, recipe_path
from .loop import whole
from .trainer import Trainer


@checked
@dataclass(kw_only=True)
class LoraConfig:
    """The adapter.

    Args:
        rank: of the change of every layer.
        alpha: the change is multiplied by alpha / rank; rank by default.
    """

    rank: int = number(8, least=1, most=1024)
    alpha: float | None = number(None, least=0, above=True)


def temporal_layers(unet: nn.Module) -> list[str]:
    """The names of all linear layers of the temporal attentions."""
    return [
        name
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear) and ("temp_attentions." in name or name.startswith("transformer_in."))
    ]


def load_lora_config(name: str | Path, overrides: Iterable[str] = ()) -> tuple[TrainConfig, LoraConfig]:
    """A recipe, by its path or by the name of one in the package, changed by `section.key=value` overrides.

    Raises:
        ConfigError: one that names the key, what is allowed, and the value.
    """
    values = read_recipe(recipe_path(name, "lora"))
    for override in overrides:
        apply_override(values, override)
    lora = build_section(LoraConfig, values.pop("lora", {}), "lora.")
    config = build(values)
    if config.model.start == "scratch":
        raise ConfigError("`model.start` must be run, previous or from_2d: an adapter changes a trained network")
    return config, lora


class LoraTrainer(Trainer):
    """A run that trains an adapter and nothing else.

    Args:
        config: the stage's recipe; `model.path` is the network.
        lora: the adapter.
        folder, echo: as in `Trainer`.

    Raises:
        ConfigError, ValueError, OSError: as in `Trainer`; or the network has no temporal attention.
    """

    def __init__(
        self, config: TrainConfig, lora: LoraConfig, folder: Path, echo: Callable[[str], None] = print
    ) -> None:
        super().__init__(config, folder, echo)
        self.lora = lora
        self._check_adapter()
        from peft import LoraConfig as PeftConfig

        unet = self.task.network
        layers = temporal_layers(unet)
        if not layers:
            raise ConfigError(f"`model.path` must have temporal attentions, got {config.model.path!r}, without any")
        unet.requires_grad_(False)
        torch.manual_seed(config.run.seed)
        unet.add_adapter(PeftConfig(r=lora.rank, lora_alpha=lora.alpha or lora.rank, target_modules=layers))

    def _check_adapter(self) -> None:
        saved = self.folder / "lora.yaml"
        if saved.exists() and (old := yaml.safe_load(saved.read_text(encoding="utf-8"))) != self._section():
            raise ConfigError(
                f"`--output` must be a new folder or hold a run of the same recipe, got {str(self.folder)!r}, whose "
                f"lora is {old} and not {self._section()}"
            )

    def _section(self) -> dict[str, float]:
        return dataclasses.asdict(self.lora)

    def run(self) -> Path:
        """Train the adapter, or go on with it; returns the folder of its file. See `Trainer.run`."""
        if self.accelerator.is_main_process and not (self.folder / "lora.yaml").exists():
            with replacing(self.folder / "lora.yaml") as path:
                path.write_text(yaml.safe_dump(self._section()), encoding="utf-8")
        return super().run()

    def export(self) -> None:
        """Write the averaged adapter to `export/`."""
        from peft.utils import get_peft_model_state_dict

        with self.training.averaged() as unet:
            layers = {name: whole(value) for name, value in get_peft_model_state_dict(unet).items()}
        if self.accelerator.is_main_process:
            settings = self.task.network.peft_config["default"].to_dict()
            with replacing(self.folder / "export") as path:
                self.task.pipeline_class.save_lora_weights(
                    path, unet_lora_layers=layers, unet_lora_adapter_metadata=settings
                )
        self.accelerator.wait_for_everyone()


def train_lora(
    config: str | Path,
    output: str | Path,
    overrides: Iterable[str] = (),
    echo: Callable[[str], None] = print,
) -> Path:
    """Train an adapter by a recipe; an interrupted run in `output` goes on.

    Args:
        config: a YAML file, or the name of a recipe in the package: `tiny-motion`, `tiny-style`, `show1-motion`.
        output: the run's folder.
        overrides: `section.key=value`, such as `data.path=clips`.
        echo: where lines for the user go.

    Returns:
        The folder of `pytorch_lora_weights.safetensors`, for `load_lora_weights`.

    Raises:
        ConfigError, ValueError, OSError: before anything is trained.
    """
    return LoraTrainer(*load_lora_config(config, overrides), Path(output), echo).run()


def prepare(
    config: str | Path,
    output: Path,
    overrides: Iterable[str] = (),
    dry_run: bool = False,
    echo: Callable[[str], None] = print,
) -> Callable[[], None]:
    """Load and check everything; what is returned trains, or only looks (`dry_run`)."""
    trainer = LoraTrainer(*load_lora_config(config, overrides), output, echo)

    def run() -> None:
        trainer.echo(f"done: {trainer.run()}")

    return trainer.dry_run if dry_run else run
