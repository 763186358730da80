"""`Problem` and its tests, the project's own JSONL format, and the SPEC strings that name problem sets.

Foreign formats (MBPP, HumanEval, EvalPlus, APPS, CodeContests) are read in `ledex_ray.readers`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Compare = Literal["equal", "close", "unordered", "json"]
SPLITS = ("train", "validation", "test", "prompt", "heldout")


@dataclass(frozen=True)
class AssertTest:
    """One assert statement (it may carry its own preparation lines), run in the judge against a proxy."""

    code: str


@dataclass(frozen=True)
class CallTest:
    """One call with an expected value. `args`, `kwargs`, `expected` are Python literals as text."""

    args: str
    expected: str
    kwargs: str = "{}"
    compare: Compare = "equal"
    atol: float = 0.0
    rtol: float = 0.0


@dataclass(frozen=True)
class OracleTest:
    """One call whose result is judged by code of the data set: `check(args, got) -> bool` defined by `oracle`."""

    args: str
    oracle: str
    kwargs: str = "{}"


@dataclass(frozen=True)
class StdioTest:
    """One run of the program as a script: standard input, and the standard output expected of it."""

    stdin: str
    stdout: str


@dataclass(frozen=True)
class CheckTest:
    """Code that defines `check(candidate)`, as HumanEval does; the whole of it is one test."""

    check: str


Test = AssertTest | CallTest | OracleTest | StdioTest | CheckTest


@dataclass(frozen=True)
class Limits:
    """What one program with all its tests may use (one case, for stdin/stdout)."""

    cpu_seconds: float = 10.0
    memory_mb: int = 1024


@dataclass(frozen=True)
class Problem:
    """A programming task with its tests. The first `n_public` tests may be shown in feedback."""

    id: str
    text: str
    tests: tuple[Test, ...]
    entry_point: str = ""
    prompt: str = ""  # what a `completion` is appended to; empty when the set has none
    setup: str = ""  # code run before the tests, in the judge
    canonical_solutions: tuple[str, ...] = ()
    limits: Limits | None = None
    n_public: int = 1
    split: str = ""  # one of SPLITS; empty when the set has none
    benchmark: str = ""  # bundled, mbpp, humaneval, mbppplus, humanevalplus, apps, codecontests or jsonl
    meta: dict[str, str] = field(default_factory=dict)  # difficulty, topic

    @property
    def public_tests(self) -> tuple[Test, ...]:
        return self.tests[: self.n_public]
