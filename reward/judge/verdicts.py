"""From what the referee saw and how the child ended to a verdict: statuses, and the feedback that a prompt may show."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ledex_ray.problems import Limits, Problem, StdioTest
from ledex_ray.records import Status, TestResult, TestStatus, Verdict

from . import stdio
from .feedback import feedback
from .inside.zygote import EXITED, TIMED_OUT

_OVERALL = (  # the first that applies
    (TestStatus.MEMORY, Status.MEMORY),
    (TestStatus.TIMEOUT, Status.TIMEOUT),
    (TestStatus.CRASHED, Status.CRASHED),
    (TestStatus.ERROR, Status.ERROR),
    (TestStatus.FAILED, Status.FAILED),
    (TestStatus.OPAQUE, Status.FAILED),
    (TestStatus.NOT_RUN, Status.FAILED),
)
_SHOWN_OUTPUT = 300


@dataclass(frozen=True)
class Ending:
    """How the child ended, as the fork server and the supervisor saw it."""

    why: int
    wait_status: int
    cpu_seconds: float
    wall_seconds: float
    peak_memory_mb: float
    over_disk: bool

    def status(self, limits: Limits, factor: int = 1) -> TestStatus:
        """What to call it when the program was not meant to end."""
        if self.over_disk:
            return TestStatus.MEMORY
        if self.why == TIMED_OUT or self.cpu_seconds >= limits.cpu_seconds * factor:
            return TestStatus.TIMEOUT
        if self.peak_memory_mb >= 0.9 * limits.memory_mb:
            return TestStatus.MEMORY
        return TestStatus.CRASHED

    def from_outside(self, limits: Limits, factor: int = 1) -> bool:
        """Whether somebody else killed it, as the kernel does when the machine has no memory left.

        A program cannot do that to itself: it may send no signal, and its CPU limit ends it no sooner than ours.
        """
        killed = os.WIFSIGNALED(self.wait_status) and os.WTERMSIG(self.wait_status) == signal.SIGKILL
        return self.why == EXITED and killed and self.status(limits, factor) is TestStatus.CRASHED

    def describe(self, status: TestStatus, limits: Limits) -> str:
        if status is TestStatus.TIMEOUT:
            return f"the program did not finish within {limits.cpu_seconds:g} s"
        if status is TestStatus.MEMORY:
            return "the program wrote too much to disk" if self.over_disk else _too_much(limits)
        if os.WIFSIGNALED(self.wait_status):
            return f"the program's process was ended by {signal.Signals(os.WTERMSIG(self.wait_status)).name}"
        return f"the program's process ended by itself with status {os.waitstatus_to_exitcode(self.wait_status)}"


def _too_much(limits: Limits) -> str:
    return f"the program needed more than {limits.memory_mb} MB of memory"


class Report:
    """Collects one program's results, test by test, into its verdict."""

    def __init__(self, problem: Problem, limits: Limits, tier: str, program: str) -> None:
        self.problem, self._limits, self._tier, self._program = problem, limits, tier, program
        self._results: dict[int, TestResult] = {}
        self._weak = False
        self._infra = ""
        self._cpu = self._peak = 0.0
        self.stopped = False

    def add_calls(self, indices: Sequence[int], reply: dict[str, Any], ending: Ending, weak: bool) -> None:
        """The referee's reply for the tests with these indices."""
        self._count(ending)
        self._weak = weak
        if "results" not in reply:
            self._infra = str(reply.get("broken") or reply.get("weak"))
            self.stopped = True
            return
        late = bool(reply.get("late"))
        results: list[dict[str, Any]] = reply["results"] or [{"status": "late" if late else "gone"}]
        for index, result in zip(indices, results, strict=False):
            self._add(index, result, ending, 2 if weak else 1)

    def _add(self, index: int, result: dict[str, Any], ending: Ending, factor: int) -> None:
        given, error = str(result["status"]), str(result.get("error", ""))
        if given == "gone":
            status = ending.status(self._limits, factor)
            error = ending.describe(status, self._limits)
        elif given == "late":
            status, error = TestStatus.TIMEOUT, "comparing what the program returned did not finish in time"
        elif given == "breach":
            status, error = TestStatus.CRASHED, f"protocol breach: {error}"
        else:
            status = TestStatus(given)
            if status is TestStatus.ERROR and result.get("kind") == "MemoryError":
                status, error = TestStatus.MEMORY, _too_much(self._limits)
        self.stopped = self.stopped or given in ("gone", "late", "breach")
        call, expected, got = (str(result.get(key, "")) for key in ("call", "expected", "got"))
        line = int(result.get("line", 0))
        self._put(index, status, call=call, expected=expected, got=got, error=error, line=line)

    def add_case(self, index: int, case: StdioTest, captured: stdio.Captured, ending: Ending) -> None:
        """One run as a script. After a case that ran out of time or memory the rest are not run."""
        self._count(ending)
        got = captured.output.decode("utf-8", "replace")
        error, line, status = captured.error, captured.line, TestStatus.FAILED
        if captured.overflowed:
            error = f"the program printed more than {len(captured.output) >> 20} MB"
        elif ending.why == EXITED and ending.wait_status == 0:
            if stdio.same_output(got, case.stdout):
                status = TestStatus.PASSED
        elif error.startswith("MemoryError"):
            status, error = TestStatus.MEMORY, _too_much(self._limits)
        elif (
            ending.why == EXITED and os.WIFEXITED(ending.wait_status) and ending.cpu_seconds < self._limits.cpu_seconds
        ):
            status = TestStatus.ERROR
            error = error or f"the program ended with exit status {os.WEXITSTATUS(ending.wait_status)}"
        else:
            status = ending.status(self._limits)
            error, line = ending.describe(status, self._limits), 0
        self.stopped = status in (TestStatus.TIMEOUT, TestStatus.MEMORY)
        shown = (_shown(case.stdin), _shown(case.stdout), _shown(got))
        self._put(index, status, call=shown[0], expected=shown[1], got=shown[2], error=error, line=line)

    def _put(self, index: int, status: TestStatus, *, line: int, **texts: str) -> None:
        shown = {name: _writable(text) for name, text in texts.items()}
        self._results[index] = TestResult(index, index < self.problem.n_public, status, line=line, **shown)

    def _count(self, ending: Ending) -> None:
        self._cpu += ending.cpu_seconds
        self._peak = max(self._peak, ending.peak_memory_mb)

    def verdict(self) -> Verdict:
        """All of it, with feedback from the public tests and from all."""
        if self._infra:
            return infra(self.problem, self._infra, self._tier)
        tests = tuple(self._results.get(i) or _not_run(self.problem, i) for i in range(len(self.problem.tests)))
        statuses = {test.status for test in tests}
        status = next((overall for one, overall in _OVERALL if one in statuses), Status.PASSED)
        if not tests:
            status = Status.INFRA
        return Verdict(
            status=status,
            tests=tests,
            weak=self._weak,
            tier=self._tier,
            feedback=feedback(self.problem, [test for test in tests if test.public], self._program),
            feedback_all=feedback(self.problem, tests, self._program),
            cpu_seconds=round(self._cpu, 6),
            peak_memory_mb=round(self._peak, 1),
        )


def _not_run(problem: Problem, index: int, error: str = "") -> TestResult:
    return TestResult(index, index < problem.n_public, TestStatus.NOT_RUN, error=_writable(error))


def _writable(text: str) -> str:
    """The text without lone surrogates: no file and no tokenizer takes one, and programs raise them."""
    return text.encode("utf-8", "replace").decode()


def _shown(text: str) -> str:
    text = text.strip("\n")
    return text if len(text) <= _SHOWN_OUTPUT else text[: _SHOWN_OUTPUT - 3] + "..."


def _without_tests(problem: Problem, status: Status, reason: str, tier: str, shown: str) -> Verdict:
    tests = tuple(_not_run(problem, index, reason if index == 0 else "") for index in range(len(problem.tests)))
    return Verdict(status=status, tests=tests, tier=tier, feedback=shown, feedback_all=shown)


def infra(problem: Problem, reason: str, tier: str) -> Verdict:
    """Our own fault: no feedback, never a reward. The reason stands with the first test."""
    return _without_tests(problem, Status.INFRA, reason, tier, "")


def rejected(problem: Problem, reason: str, tier: str) -> Verdict:
    """A program that was not run at all."""
    return _without_tests(problem, Status.REJECTED, reason, tier, f"The program was rejected: {reason}.")


def crashed(problem: Problem, reason: str, tier: str) -> Verdict:
    """A program whose values, or whose tests, end the referee each time."""
    return _without_tests(problem, Status.CRASHED, reason, tier, "The program returned a value that cannot be judged.")


def timed(verdict: Verdict, wall_seconds: float) -> Verdict:
    return replace(verdict, wall_seconds=round(wall_seconds, 6))
