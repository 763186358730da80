"""What an evaluation writes: one row an answer, and the fixed bug set."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ledex_ray.records import Status, TestResult, TestStatus, Verdict

MOST_FAILED_TESTS = 5  # kept with a sample: plus sets have hundreds a problem
_EXCEPTION = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,60}")


@dataclass(frozen=True)
class Bug:
    """A wrong solution of a held-out problem with its feedback, frozen for all models (method.md, section 8)."""

    id: str
    problem_id: str
    code: str
    feedback: str  # from public tests
    feedback_all: str = ""


@dataclass(frozen=True)
class Sample:
    """One answer of one model under one mode, with its verdict."""

    id: str
    parent_id: str  # the problem, for first solutions; the wrong sample or bug that was to be refined
    problem_id: str
    index: int
    label: str  # of the model
    stage: str  # prompt, sft or sft+rl
    mode: str  # initial, direct, explain, resample, random_feedback or no_feedback
    round: int
    bugs: str  # "own", "fixed" or "null"
    passed: bool
    weak: bool
    status: str
    copied: bool  # equal to the wrong code by AST
    n_prompt_tokens: int
    n_tokens: int
    normal_hash: str  # equal for programs that are equal by AST
    wrong_code: str
    feedback: str  # on this answer, from public tests
    explanation: str
    code: str
    text: str
    feedback_all: str = ""  # on this answer, from all tests
    feedback_from: str = ""  # which tests the prompt showed the results of: public or all; "" where none
    shown_feedback: str = ""  # what the prompt showed
    error: str = ""  # `error_type` of the verdict
    n_passed: int = 0
    n_tests: int = 0
    failed_tests: tuple[TestResult, ...] = ()  # the first few

    @property
    def key(self) -> tuple[str, str, int, str, str]:
        """What is measured together: (label, mode, round, bugs, feedback)."""
        return self.label, self.mode, self.round, self.bugs, self.feedback_from

    @property
    def cost(self) -> int:
        """Prompt and generated tokens: what equal cost is measured in."""
        return self.n_prompt_tokens + self.n_tokens


def failed_tests(verdict: Verdict) -> tuple[TestResult, ...]:
    """The first tests that ran and did not pass."""
    wrong = (t for t in verdict.tests if t.status not in (TestStatus.PASSED, TestStatus.NOT_RUN))
    return tuple(t for t, _ in zip(wrong, range(MOST_FAILED_TESTS), strict=False))


def error_type(verdict: Verdict) -> str:
    """What kind of wrong a program is: the exception's class, "wrong value", or the verdict's own name; "" if right."""
    if verdict.status is Status.PASSED:
        return ""
    if verdict.status is Status.FAILED:
        return "wrong value"
    if verdict.status is Status.ERROR:
        said = next((t.error for t in verdict.tests if t.status is TestStatus.ERROR and t.error), verdict.feedback_all)
        name = _EXCEPTION.match(said)
        if name and name.group().endswith(("Error", "Exception", "Interrupt", "Exit", "Iteration", "Warning")):
            return name.group()
        return "error"
    return verdict.status.lower()
