# SPDX-License-Identifier: Apache-2.0
"""A model card as a value: what differs from one to the other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a family says of one repository. Texts are Markdown; numbers and headings come from `hub/cards.py`.

    Args:
        title: the heading.
        summary: the sentences below it.
        pipeline: the class that the repository holds.
        stage: the rung; None for a cascade.
        base_model: the Hub ids that the weights come from; none if they were trained from scratch here.
        licence: of the weights, as the Hub calls it.
        tags: besides those of every card.
        prompts: the widget's examples.
        example: the line that calls the pipeline `pipe`; `{prompt}` in it stands for the first of `prompts`.
        numbers: what is said above the table of options.
        compared: a recipe whose options stand in the table, too, where they differ.
        own_numbers: the folder of the cascade whose `stage_defaults` the repository has; None where it has none.
        intended_use: the section of this name.
        limits: likewise.
        training: likewise.
        figures: the sections with figures that others reported; empty for none.
        results: the file in `benchmarks/results/` with what was measured here.
        parameters: of the network, counted from the published config.
        terms: the section on the licence.
        licence_file: the text of the repository's LICENSE.md, up to what it says of the code.
        citation: BibTeX.
    """

    title: str
    summary: str
    pipeline: str
    stage: str | None
    base_model: tuple[str, ...]
    licence: str
    tags: tuple[str, ...]
    prompts: tuple[str, ...]
    example: str
    numbers: str
    intended_use: str
    limits: str
    training: str
    terms: str
    licence_file: str
    citation: str
    compared: str | None = None
    own_numbers: Path | None = None
    figures: str = ""
    results: str | None = None
    parameters: int | None = None

    @property
    def published(self) -> bool:
        """The weights are their authors', converted: their licence, their data and their figures hold."""
        return bool(self.base_model)
