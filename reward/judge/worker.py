"""`Judge`: one worker, that is one fork server and one referee, and the supervision of both.

The caller's thread supervises: it sends programs, watches time, scratch space and output, and replaces what died or
hangs. `judge` never raises for what a program does. Not thread-safe: one Judge serves one thread at a time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from ledex_ray.errors import BadInput
from ledex_ray.problems import Limits, Problem, StdioTest, Test
from ledex_ray.records import Verdict

from . import verdicts
from .canaries import CANARIES, escape_canary
from .config import MAX_PROGRAM_BYTES, JudgeConfig, Tier, check_packages, find_python
from .inside.values import from_text
from .pair import Pair, RefereeDied, Suite, WorkerFault, wall_seconds
from .preludes import PRELUDES
from .process import StartFailed
from .slots import base_directory
from .suites import outputs_suite
from .tiers import choose_tier

log = logging.getLogger(__name__)


class Judge:
    """One worker of the judge. Raises BadInput for an interpreter that cannot serve, `tiers.TooWeak` where the machine
    cannot reach the floor of isolation, and StartFailed where the sandbox does not start or misjudges.

    `on_step` is called before each run of a program with the seconds that it may take by the clock: a verdict on a
    hundred inputs takes as long as a hundred runs, and only who knows that can tell slow from stuck.
    """

    def __init__(
        self, config: JudgeConfig | None = None, on_step: Callable[[float], None] = lambda seconds: None
    ) -> None:
        self.config = config or JudgeConfig()
        self._on_step = on_step
        python = find_python(self.config.python)
        check_packages(self.config.packages)
        isolation = choose_tier(self.config, python)
        self.tier: Tier = isolation.tier  # the isolation that programs get
        self._pair = Pair(self.config, python, isolation)
        self._since_canaries = 0
        self.sound = True
        try:
            bad = self.canaries()
        except (StartFailed, WorkerFault) as error:
            self.close()
            raise StartFailed(str(error)) from error
        if bad:
            self.close()
            raise StartFailed(f"the sandbox misjudges: {', '.join(bad)}")

    def pids(self) -> list[int]:
        """Process ids of the fork server and of the referee."""
        return self._pair.pids()

    def judge(self, problem: Problem, program: str) -> Verdict:
        """The verdict on a whole program. INFRA means that this worker failed twice, whatever the program did."""
        started = time.monotonic()
        refusal = refuse(program)
        if refusal:
            return verdicts.rejected(problem, refusal, self.tier)
        problems: list[str] = []
        for _ in range(2):
            try:
                if self._since_canaries >= self.config.canary_every:
                    self.canaries()
                if not self.sound:
                    return verdicts.infra(problem, "the worker misjudges its canaries", self.tier)
                self._since_canaries += 1
                verdict = self._judge(problem, program)
                return verdicts.timed(verdict, time.monotonic() - started)
            except (WorkerFault, StartFailed, OSError) as fault:
                log.warning("sandbox worker fault: problem=%s fault=%s", problem.id, fault)
                problems.append(str(fault))
                self._pair.stop()
                if isinstance(fault, RefereeDied) and len(problems) == 2:
                    return verdicts.crashed(problem, str(fault), self.tier)
        return verdicts.infra(problem, "; ".join(problems), self.tier)

    def outputs(
        self, problem: Problem, program: str, arguments: Sequence[str], limits: Limits
    ) -> tuple[list[Any], float]:
        """What the problem's function returns for each tuple of arguments, and the CPU seconds of all calls.

        NotImplemented stands for a value that cannot be carried. Raises BadInput where a call fails: the program is
        the problem's own.
        """
        news = {"suite": outputs_suite(problem, arguments), "forget": []}
        try:
            self._pair.ensure()
            reply, ending = self._pair.exchange(Suite(problem, "outputs"), news, program, limits)
        except (WorkerFault, OSError):
            self._pair.stop()
            raise
        values: list[Any] = []
        for result in reply.get("results", ()):
            if result["status"] == "passed":
                values.append(from_text(result["value"]))
            elif result["status"] == "opaque" or result.get("kind") == "MemoryError":
                values.append(NotImplemented)
            else:
                at = f" for {result['call']}" if result.get("call") else ""
                raise BadInput(f"problem {problem.id}", f"its reference solution fails ({result.get('error')}{at})")
        if len(values) != len(arguments):
            why = reply.get("broken") or ending.describe(ending.status(limits), limits)
            call = f"call {len(values)} of {len(arguments)}"
            raise BadInput(f"problem {problem.id}", f"its reference solution gives no value for {call} ({why})")
        return values, ending.cpu_seconds

    def canaries(self) -> list[str]:
        """Names of the canaries that were misjudged: empty for a sound worker. An unsound one judges no more.

        Raises WorkerFault where a process of ours fails meanwhile.
        """
        self._since_canaries = 0
        bad = []
        witness = base_directory() / "witness"  # readable for all, so that only the isolation stands before it
        witness.touch(mode=0o644)
        for canary in (*CANARIES, escape_canary(str(witness), files=self.tier != "none")):
            verdict = self._judge(canary.problem, canary.program)
            if verdict.status is not canary.status:
                log.error("canary %s: %s instead of %s", canary.name, verdict.status, canary.status)
                bad.append(canary.name)
        self.sound = not bad
        return bad

    def close(self) -> None:
        """Ends both processes and gives the slot back."""
        self._pair.close()

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _judge(self, problem: Problem, program: str) -> Verdict:
        self._pair.ensure()
        limits = self.config.limits or problem.limits or Limits()
        by_call = [(i, test) for i, test in enumerate(problem.tests) if not isinstance(test, StdioTest)]
        by_case = [(i, test) for i, test in enumerate(problem.tests) if isinstance(test, StdioTest)]
        report = verdicts.Report(problem, limits, self.tier, program)
        if by_call:
            self._run_calls(report, [test for _, test in by_call], [i for i, _ in by_call], program, limits)
        for index, case in by_case:
            if report.stopped:
                break
            self._on_step(wall_seconds(limits))
            captured, ending = self._pair.run_case(case, [program, False, PRELUDES.get(problem.benchmark, "")], limits)
            report.add_case(index, case, captured, ending)
        return report.verdict()

    def _run_calls(
        self, report: verdicts.Report, tests: Sequence[Test], indices: Sequence[int], program: str, limits: Limits
    ) -> None:
        suite, news = self._pair.suite(report.problem, tests)
        self._on_step(wall_seconds(limits, 1 + suite.weak))
        reply, ending = self._pair.exchange(suite, news, program, limits)
        if "weak" in reply and not suite.weak:
            suite.weak = True
            self._on_step(wall_seconds(limits, 2))
            reply, ending = self._pair.exchange(suite, {}, program, limits)
        report.add_calls(indices, reply, ending, suite.weak)


def refuse(program: str) -> str:
    """Why a program is not even run; empty when it is. Such programs get the verdict REJECTED."""
    if len(program) > MAX_PROGRAM_BYTES:
        return f"the program is longer than {MAX_PROGRAM_BYTES // 1024} KB"
    if "\0" in program:
        return "the program contains a NUL character"
    try:
        size = len(program.encode("utf-8"))
    except UnicodeEncodeError:
        return "the program contains a lone surrogate"
    return f"the program is longer than {MAX_PROGRAM_BYTES // 1024} KB" if size > MAX_PROGRAM_BYTES else ""
