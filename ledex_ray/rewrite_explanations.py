"""The words for a wrong solution beside a right one that was written apart from it: what differs, and what that does.

A seeded bug comes with its edit (mutant_explanations.py); here only the two programs are known. Where they differ in
one line the explanation says so as for an edit; else it names the line from which the solution has to be written anew.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from ledex_ray.mutant_explanations import explain_edit

LONGEST_QUOTE = 60


def nearest(wrong: str, right: Sequence[str]) -> str:
    """The right program that has most in common with the wrong one, line by line; the first of equals."""
    lines = list(_lines(wrong).values())

    def likeness(code: str) -> float:
        return difflib.SequenceMatcher(None, lines, list(_lines(code).values()), autojunk=False).ratio()

    return max(right, key=likeness)


def explain_rewrite(wrong: str, right: str, feedback: str) -> str:
    """Why `wrong` fails, in one or two sentences tied to its feedback. For equal programs only the latter is said."""
    numbered = _lines(wrong)
    before, after = list(numbered.values()), list(_lines(right).values())
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    changes = [change for change in matcher.get_opcodes() if change[0] != "equal"]
    if not changes:
        return explain_edit(1, "the code does not do what is asked", feedback, key=wrong)
    _, start, end, right_start, right_end = changes[0]
    line = list(numbered)[min(start, len(before) - 1)] if before else 1
    quoted = _quote(before[start]) if start < len(before) else ""
    if len(changes) == 1 and end - start == right_end - right_start == 1:
        clause = f"`{quoted}` should be `{_quote(after[right_start])}`"
    elif len(changes) == 1 and start == end and right_end - right_start == 1:
        clause = f"`{_quote(after[right_start])}` is missing"
    elif quoted:
        clause = f"from `{quoted}` on the code does not do what is asked and has to be written anew"
    else:
        clause = "the code ends too early"
    return explain_edit(line, clause, feedback, key=wrong)


def _lines(code: str) -> dict[int, str]:
    """The lines that say something, by their number as a prompt shows them."""
    return {n: line.rstrip() for n, line in enumerate(code.strip("\n").splitlines(), 1) if line.strip()}


def _quote(line: str) -> str:
    text = " ".join(line.split())
    return (text if len(text) <= LONGEST_QUOTE else text[: LONGEST_QUOTE - 3] + "...").replace("`", "'")
