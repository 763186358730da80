"""Two programs side by side, line by line, with the changed part of a changed line marked. Bounded in its input."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

MOST_LINES = 400


@dataclass(frozen=True)
class Cell:
    """One line of one side: its number (0 where the side has none), and its text in three parts, the middle changed."""

    number: int = 0
    head: str = ""
    changed: str = ""
    tail: str = ""


@dataclass(frozen=True)
class Row:
    """One line of the comparison: same, changed, removed or added."""

    kind: str
    left: Cell
    right: Cell


def side_by_side(before: str, after: str) -> list[Row]:
    """The rows of the comparison, each side cut at MOST_LINES lines."""
    left, right = before.splitlines()[:MOST_LINES], after.splitlines()[:MOST_LINES]
    rows: list[Row] = []
    for tag, i, j, k, n in difflib.SequenceMatcher(None, left, right).get_opcodes():
        if tag == "equal":
            rows += [Row("same", Cell(i + s + 1, left[i + s]), Cell(k + s + 1, right[k + s])) for s in range(j - i)]
            continue
        paired = min(j - i, n - k)
        for s in range(paired):
            a, b = _marked(left[i + s], right[k + s])
            rows.append(Row("changed", Cell(i + s + 1, *a), Cell(k + s + 1, *b)))
        rows += [Row("removed", Cell(s + 1, "", left[s]), Cell()) for s in range(i + paired, j)]
        rows += [Row("added", Cell(), Cell(s + 1, "", right[s])) for s in range(k + paired, n)]
    return rows


def _marked(a: str, b: str) -> tuple[tuple[str, str, str], tuple[str, str, str]]:
    """Both lines cut into (same beginning, what differs, same end)."""
    shortest = min(len(a), len(b))
    head = next((i for i in range(shortest) if a[i] != b[i]), shortest)
    tail = next((i for i in range(shortest - head) if a[-1 - i] != b[-1 - i]), shortest - head)
    return (a[:head], a[head : len(a) - tail], a[len(a) - tail :]), (
        b[:head],
        b[head : len(b) - tail],
        b[len(b) - tail :],
    )
