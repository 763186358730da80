"""What reference solutions return, for data sets that come without expected values (HumanEval+, MBPP+)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import TracebackType

from ledex_ray.literals import to_literal
from ledex_ray.problems import Limits, Problem
from ledex_ray.readers import CanonicalRun, load_problems

from .config import JudgeConfig
from .worker import Judge

log = logging.getLogger(__name__)

LIMITS = Limits(cpu_seconds=180.0, memory_mb=4096)


class CanonicalRunner:
    """Runs reference solutions in a judge's sandbox, started when it is first needed. A context manager."""

    def __init__(self, config: JudgeConfig | None = None) -> None:
        self._config, self._judge = config, None  # type: tuple[JudgeConfig | None, Judge | None]

    def __call__(self, problem: Problem, arguments: Sequence[str]) -> CanonicalRun:
        """What the first canonical solution returns for each tuple of arguments; raises BadInput where it fails."""
        if self._judge is None:
            self._judge = Judge(self._config)
        values, cpu_seconds = self._judge.outputs(problem, problem.canonical_solutions[0], arguments, LIMITS)
        log.info("expected values of %s: %d calls, %.2f s", problem.id, len(values), cpu_seconds)
        return CanonicalRun(tuple(_literal(value) for value in values), cpu_seconds)

    def close(self) -> None:
        if self._judge is not None:
            self._judge.close()
            self._judge = None

    def __enter__(self) -> CanonicalRunner:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _literal(value: object) -> str | None:
    """The value as literal text; None for what has none (a match object, a value too large to carry)."""
    try:
        return to_literal(value)
    except ValueError:
        return None


def ready_problems(spec: str, config: JudgeConfig | None = None) -> list[Problem]:
    """The problems of a SPEC with every expected value known (computed once, then cached). Raises BadInput."""
    with CanonicalRunner(config) as run:
        return load_problems(spec, run)
