# SPDX-License-Identifier: Apache-2.0
"""Text in messages and files."""

from __future__ import annotations


def is_text(text: str) -> bool:
    """Whether a string can be written and encoded: JSON, YAML and command lines can spell half a character."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def shorten(text: str, most: int = 200) -> str:
    """A text for a message, cut where it is long."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"
