# SPDX-License-Identifier: Apache-2.0
"""What a model knows, where that can be listed: a small one says it in its folder, in `vocabulary.json`.

{"form": "a COLOUR SHAPE", "words": {"COLOUR": ["red", "blue"], "SHAPE": ["circle"]}, "example": "a red circle"}
"""

from __future__ import annotations

import dataclasses
import json
import re
from functools import cache

from .settings import Settings, model_folder


FILE = "vocabulary.json"


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The prompts that a model understands.

    Args:
        form: of a prompt; what stands there in capitals is one of `words`.
        words: what is in capitals -> what may stand for it.
        example: a prompt, filled in.
    """

    form: str
    words: dict[str, list[str]]
    example: str

    def unknown(self, prompt: str) -> list[str]:
        """The words of a prompt that the model has never seen, in order."""
        fixed = [word for word in _words(self.form) if word not in self.words]
        known = {*fixed, *(word for texts in self.words.values() for text in texts for word in _words(text))}
        return [word for word in dict.fromkeys(_words(prompt.lower())) if word not in known]

    def __str__(self) -> str:
        kinds = "; ".join(f"{kind}: {', '.join(texts)}" for kind, texts in self.words.items())
        return f"{self.form} ({kinds})"


@cache
def vocabulary_of(model: str) -> Vocabulary | None:
    """What the model in a folder, or with a name of its own, knows; None where it does not say, or knows more."""
    folder = model_folder(model)
    if folder is None:
        return None
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
        words = {str(kind): [str(text) for text in texts] for kind, texts in found["words"].items()}
        return Vocabulary(str(found["form"]), words, str(found["example"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def doubts(settings: Settings) -> str:
    """What is to be said of a prompt that the model can't understand; empty where it can, or nobody knows.

    An adapter may have taught it words of its own.
    """
    vocabulary = None if settings.lora else vocabulary_of(settings.model)
    unknown = [] if vocabulary is None else vocabulary.unknown(settings.prompt)
    if vocabulary is None or not unknown:
        return ""
    some = ", ".join(map(repr, unknown[:8])) + (", ..." if len(unknown) > 8 else "")
    return f"this model does not know {some}. It knows: {vocabulary}. For example: {vocabulary.example}"


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text)
