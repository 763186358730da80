"""Expected values of HumanEval+ and MBPP+: computed once by the reference solutions, kept under LEDEX_CACHE.

The reference solutions run in the judge, which lies in another room: the caller hands in `run_canonical`. What is kept
is named by a hash of the solution and all its inputs, so that another version of the data is computed anew.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ledex_ray.problems import Limits, Problem
from ledex_ray.readers.evalplus import pending_arguments, with_expected

log = logging.getLogger(__name__)

VERSION = 1
MAX_CPU_SECONDS = 60.0  # EvalPlus' own cap for a task
MAX_LITERAL = 1_000_000  # characters; a dozen extreme inputs give values of up to a gigabyte


@dataclass(frozen=True)
class CanonicalRun:
    """What a reference solution returned: one literal a call, None where the value has none or is too large."""

    values: tuple[str | None, ...]
    cpu_seconds: float = 0.0  # of all calls together; 0 when unknown


RunCanonical = Callable[[Problem, Sequence[str]], CanonicalRun]
"""Runs `problem.canonical_solutions[0]` on calls given as literal tuples of arguments; raises where one fails."""


def needs_expected(problem: Problem) -> bool:
    """Whether some test of the problem still waits for its expected value."""
    return any(pending_arguments(test) is not None for test in problem.tests)


def resolve_expected(problems: Iterable[Problem], run_canonical: RunCanonical | None) -> list[Problem]:
    """The same problems with every expected value known, from the cache or from `run_canonical`.

    Without `run_canonical` those that the cache lacks stay pending. A problem gets a CPU limit of its own where its
    reference solution needs more than a quarter of the default. Where tests were left out that cost is mostly theirs,
    and the default stays.
    """
    return [_resolve(p, run_canonical) if needs_expected(p) else p for p in problems]


def _resolve(problem: Problem, run_canonical: RunCanonical | None) -> Problem:
    arguments = [a for a in map(pending_arguments, problem.tests) if a is not None]
    arguments = list(dict.fromkeys(arguments))
    path = cache_folder() / "expected" / f"{_digest(problem, arguments)}.json"
    if path.exists():
        stored = json.loads(path.read_text())
        run = CanonicalRun(tuple(stored["values"]), stored["cpu_seconds"])
    elif run_canonical is None:
        return problem
    else:
        run = run_canonical(problem, arguments)
        assert len(run.values) == len(arguments), f"{problem.id}: {len(run.values)} values for {len(arguments)} calls"
        kept = tuple(v if v is None or len(v) <= MAX_LITERAL else None for v in run.values)
        run = CanonicalRun(kept, run.cpu_seconds)
        _write(path, json.dumps(dataclasses.asdict(run)))
    resolved = with_expected(problem, dict(zip(arguments, run.values, strict=True)))
    if left_out := len(problem.tests) - len(resolved.tests):
        log.info(
            "%s: %d of %d tests left out, their expected values are too large", problem.id, left_out, len(problem.tests)
        )
    needed = min(4 * run.cpu_seconds, MAX_CPU_SECONDS)
    if problem.limits is None and not left_out and needed > Limits().cpu_seconds:
        resolved = dataclasses.replace(resolved, limits=Limits(cpu_seconds=needed))
    return resolved


def cache_folder() -> Path:
    """LEDEX_CACHE, or ~/.cache/ledex."""
    return Path(os.environ.get("LEDEX_CACHE") or Path.home() / ".cache" / "ledex")


def _digest(problem: Problem, arguments: Sequence[str]) -> str:
    text = "\0".join([str(VERSION), problem.entry_point, problem.canonical_solutions[0], *arguments])
    return hashlib.sha256(text.encode()).hexdigest()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".part", delete=False) as file:
        file.write(text)
    os.replace(file.name, path)
