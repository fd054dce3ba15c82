# SPDX-License-Identifier: Apache-2.0
"""Texts that several verbs share, made from what there is."""

from __future__ import annotations

from ..families import short_names
from ..runs.settings import DEFAULT_MODEL
from ..runs.vocabulary import vocabulary_of


def _model() -> str:
    places = {
        name: "published by its authors" if family.short_names[name] is None else "ships with the package"
        for name, family in short_names().items()
    }
    return ", ".join(f"{name} ({place})" for name, place in places.items()) + ", a folder, or a Hub id (owner/name)"


def _known() -> str:
    vocabulary = vocabulary_of(DEFAULT_MODEL)
    return "" if vocabulary is None else f"{DEFAULT_MODEL} knows: {vocabulary}. For example: {vocabulary.example}"


MODEL = _model()
"""What `--model` takes."""
KNOWN = _known()
"""What the model that is used by default understands."""
