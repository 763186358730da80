"""Which problem a sample's `task_id` means: exact ids, and for MBPP and MBPP+ the number alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ledex_ray.problems import Problem

NUMBERED = re.compile(r"(?:MBPP/|Mbpp/)?(\d+)")


def by_task_id(problems: Iterable[Problem]) -> dict[str, Problem]:
    """Problems by every id under which `resolve_task_id` finds them: their own, and "#<number>" for MBPP's."""
    index: dict[str, Problem] = {}
    for problem in problems:
        index[problem.id] = problem
        if problem.benchmark in ("mbpp", "mbppplus") and (match := NUMBERED.fullmatch(problem.id)):
            index[f"#{int(match[1])}"] = problem
    return index


def resolve_task_id(task_id: object, index: Mapping[str, Problem]) -> Problem | None:
    """The problem that a sample means, or None; `index` is from `by_task_id`.

    Exact match of the text first; else, for MBPP and MBPP+ alone, the number: 11, "11", "MBPP/11" and "Mbpp/11".
    """
    if isinstance(task_id, bool) or not isinstance(task_id, int | str):
        return None
    text = str(task_id)
    if text in index and not text.startswith("#"):
        return index[text]
    match = NUMBERED.fullmatch(text)
    return index.get(f"#{int(match[1])}") if match else None
