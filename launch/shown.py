"""Text that a model wrote, made safe to show: bounded, and with nothing that a terminal or a browser would act on.

HTML is escaped by the templates; here are the length, control characters (ANSI colours) and the marks that reorder a
line (right-to-left overrides), which escaping leaves alone.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shown:
    """A text as it may be shown, and how many characters of it were left out."""

    text: str
    left_out: int = 0


def shown(text: str, most_characters: int, most_lines: int) -> Shown:
    """The beginning of a text, its unprintable characters as `\\uXXXX`."""
    lines = text[:most_characters].splitlines()
    cut = "\n".join(lines[:most_lines])
    whole = len(text) <= most_characters and len(lines) <= most_lines
    return Shown(visible(cut), 0 if whole else len(text) - len(cut))


def visible(text: str) -> str:
    """The text with every unprintable character but tab and newline as `\\uXXXX`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\u{ord(c):04x}" for c in text)
