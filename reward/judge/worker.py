"""`Judge`: one worker, that is one fork server and one referee, and the supervision of both.

The caller's thread supervises: it sends programs, watches time, scratch space and output, and replaces what died or
hangs. `judge` never raises for what a program does. Not thread-safe: one Judge serves one thread at a time.
"""

from __future__ import annotations

import json
import logging
import select
import socket
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from ledex_ray.problems import Limits, Problem, StdioTest, Test
from ledex_ray.records import Verdict

from . import stdio, verdicts
from .canaries import CANARIES, escape_canary
from .config import MAX_PROGRAM_BYTES, JudgeConfig, Tier, find_python
from .inside import wire
from .inside.zygote import JOB, REPORT
from .preludes import PRELUDES
from .process import Child, StartFailed, start_referee, start_zygote
from .slots import base_directory, over_quota, take_slot, wipe
from .suites import outputs_suite, suite_of
from .tiers import Isolation, choose_tier
from .verdicts import Ending

log = logging.getLogger(__name__)

SUITES_HELD = 64  # problems whose tests the referee keeps prepared
SCRATCH_EVERY = 0.05  # seconds between two looks at the scratch directory of a running program
GRACE = 10.0  # seconds for the referee's own work, beyond the program's time


class WorkerFault(Exception):
    """The worker itself failed: a process of ours died, hung or did not start."""


class RefereeDied(WorkerFault):
    """The referee ended by itself, or by a signal that nobody sends: a test or a value did it."""


@dataclass
class _Suite:
    """A problem that the referee knows, under a key; `weak` once it said that its tests need weak mode."""

    problem: Problem
    key: str
    weak: bool = False


class Judge:
    """One worker of the judge. Raises BadInput for an interpreter that cannot serve, and `tiers.TooWeak` where the
    machine cannot reach the floor of isolation."""

    def __init__(self, config: JudgeConfig | None = None) -> None:
        self.config = config or JudgeConfig()
        self._python = find_python(self.config.python)
        self._isolation: Isolation = choose_tier(self.config, self._python)
        self._slot = take_slot(self._isolation.scratch_root)
        self._zygote: Child | None = None
        self._referee: Child | None = None
        self._suites: OrderedDict[str, _Suite] = OrderedDict()  # by the problem's id, the oldest first
        self._n_suites = 0
        self._since_start = 0
        self._since_canaries = 0
        self.sound = True
        try:
            self._ensure()
            bad = self.canaries()
        except (StartFailed, WorkerFault) as error:
            self.close()
            raise StartFailed(str(error)) from error
        if bad:
            self.close()
            raise StartFailed(f"the sandbox misjudges: {', '.join(bad)}")

    # ---- what others use ------------------------------------------------------------------------------------

    @property
    def tier(self) -> Tier:
        """The isolation that programs get: A, B, C or none."""
        return self._isolation.tier

    def pids(self) -> list[int]:
        """Process ids of the fork server and of the referee."""
        return [child.process.pid for child in (self._zygote, self._referee) if child is not None]

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
                self._stop()
                if isinstance(fault, RefereeDied) and len(problems) == 2:
                    return verdicts.crashed(problem, str(fault), self.tier)
        return verdicts.infra(problem, "; ".join(problems), self.tier)

    def outputs(
        self, problem: Problem, program: str, arguments: Sequence[str], limits: Limits
    ) -> tuple[list[Any], float]:
        """What the problem's function returns for each tuple of arguments, and the CPU seconds of all calls.

        NotImplemented stands for a value that cannot be carried. Raises ValueError where a call fails.
        """
        self._ensure()
        self._n_suites += 1
        key = str(self._n_suites)
        news = {"suite": outputs_suite(problem, arguments), "forget": []}
        reply, ending = self._exchange(_Suite(problem, key), news, program, limits)
        values: list[Any] = []
        for result in reply.get("results", ()):
            if result["status"] == "passed":
                values.append(wire.from_text(result["value"]))
            elif result["status"] == "opaque" or result.get("kind") == "MemoryError":
                values.append(NotImplemented)
            else:
                raise ValueError(f"{problem.id}: {result.get('error')} for {result.get('call')}")
        if len(values) != len(arguments):
            why = reply.get("broken") or ending.describe(ending.status(limits), limits)
            raise ValueError(f"{problem.id}: call {len(values)} of {len(arguments)} has no value ({why})")
        return values, ending.cpu_seconds

    def canaries(self) -> list[str]:
        """Names of the canaries that were misjudged: empty for a sound worker. An unsound one judges no more."""
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
        self._stop()
        wipe(self._slot.scratch)
        self._slot.release()

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # ---- one program ----------------------------------------------------------------------------------------

    def _judge(self, problem: Problem, program: str) -> Verdict:
        self._ensure()
        self._since_start += 1
        limits = self.config.limits or problem.limits or Limits()
        by_call = [(i, test) for i, test in enumerate(problem.tests) if not isinstance(test, StdioTest)]
        by_case = [(i, test) for i, test in enumerate(problem.tests) if isinstance(test, StdioTest)]
        report = verdicts.Report(problem, limits, self.tier, program)
        if by_call:
            self._run_calls(report, [test for _, test in by_call], [i for i, _ in by_call], program, limits)
        for index, case in by_case:
            if report.stopped:
                break
            captured, ending = self._run_case(case, [program, False, PRELUDES.get(problem.benchmark, "")], limits)
            report.add_case(index, case, captured, ending)
        return report.verdict()

    def _run_calls(
        self, report: verdicts.Report, tests: Sequence[Test], indices: Sequence[int], program: str, limits: Limits
    ) -> None:
        suite, news = self._suite(report.problem, tests)
        reply, ending = self._exchange(suite, news, program, limits)
        if "weak" in reply and not suite.weak:
            suite.weak = True
            reply, ending = self._exchange(suite, {}, program, limits)
        report.add_calls(indices, reply, ending, suite.weak)

    def _exchange(
        self, suite: _Suite, news: dict[str, Any], program: str, limits: Limits
    ) -> tuple[dict[str, Any], Ending]:
        """Runs one child against the referee; the referee's reply and how the child ended."""
        assert self._referee is not None
        weak = suite.weak
        factor = 2 if weak else 1  # each test and its decoy
        wall = self._fork(limits, factor, (), script=False)
        connection = self._connection
        with connection:
            _send_program(connection, [program, weak, PRELUDES.get(suite.problem.benchmark, "")])
            connection.setblocking(True)  # the mode is the open file's, and the referee's end is the same open file
            deadline = time.monotonic() + wall + GRACE
            message = {"key": suite.key, "weak": weak, "deadline": wall + 2 * GRACE, **news}
            data = json.dumps(message).encode("ascii")
            try:
                head = len(data).to_bytes(4, "little")
                socket.send_fds(self._referee.control, [head + data[: 1 << 15]], [connection.fileno()])
                self._referee.control.sendall(data[1 << 15 :])
            except OSError:
                raise self._referee_fault() from None
        return self._await(deadline)

    def _await(self, deadline: float) -> tuple[dict[str, Any], Ending]:
        assert self._referee is not None and self._zygote is not None
        poll = select.poll()
        poll.register(self._referee.control, select.POLLIN)
        poll.register(self._zygote.control, select.POLLIN)
        ending: Ending | None = None
        over_disk = False
        while True:
            wait = SCRATCH_EVERY if ending is None else 1.0
            ready = {descriptor for descriptor, _ in poll.poll(wait * 1000)}
            if self._zygote.control.fileno() in ready:
                ending = self._ending(over_disk)  # the referee sees the end of its socket and replies
                deadline = min(deadline, time.monotonic() + GRACE)
                poll.unregister(self._zygote.control)
            if self._referee.control.fileno() in ready:
                reply = self._reply()
                if ending is None:
                    self._cancel()
                    ending = self._ending(over_disk)
                self._after_program()
                return reply, ending
            if ending is None and not ready and not over_disk and over_quota(self._slot.scratch):
                over_disk = True
                self._cancel()
            if time.monotonic() > deadline:
                if ending is None:
                    raise WorkerFault("the fork server did not end a program in time")
                # What the program returned, or the test itself, keeps the referee busy for ever.
                self._stop()
                return {"results": [], "late": True}, ending

    def _run_case(self, case: StdioTest, program: list[Any], limits: Limits) -> tuple[stdio.Captured, Ending]:
        """One run of the program as a script on one input."""
        assert self._zygote is not None
        with stdio.Pipes(case.stdin) as pipes:
            wall = self._fork(limits, 1, pipes.child_ends, script=True)
            pipes.close_child_ends()
            with self._connection as connection:
                _send_program(connection, program)
                poll = select.poll()
                poll.register(pipes.output, select.POLLIN)
                poll.register(self._zygote.control, select.POLLIN)
                deadline = time.monotonic() + wall + GRACE
                cancelled = over_disk = False
                while True:
                    ready = {descriptor for descriptor, _ in poll.poll(SCRATCH_EVERY * 1000)}
                    if pipes.output in ready and not pipes.read():
                        poll.unregister(pipes.output)
                    if self._zygote.control.fileno() in ready:
                        ending = self._ending(over_disk)
                        break
                    if not ready and not over_disk:
                        over_disk = over_quota(self._slot.scratch)
                    if (pipes.overflowed or over_disk) and not cancelled:
                        cancelled = True
                        self._cancel()
                    if time.monotonic() > deadline:
                        raise WorkerFault("the fork server did not end a program in time")
                while pipes.read():
                    pass
                captured = pipes.captured(connection)
        self._after_program()
        return captured, ending

    def _fork(self, limits: Limits, factor: int, descriptors: Sequence[int], *, script: bool) -> float:
        """Asks for a child; keeps our end of its socket. Returns the wall time it has."""
        assert self._zygote is not None
        cpu = limits.cpu_seconds * factor
        wall = 3 * cpu + 5
        ours, theirs = socket.socketpair()
        with theirs:
            job = JOB.pack(cpu, wall, limits.memory_mb << 20, script)
            try:
                socket.send_fds(self._zygote.control, [job], [theirs.fileno(), *descriptors])
            except OSError as error:
                ours.close()
                raise WorkerFault(f"the fork server is gone: {error}") from None
        ours.settimeout(wall)
        self._connection = ours
        return wall

    def _ending(self, over_disk: bool) -> Ending:
        assert self._zygote is not None
        self._zygote.control.settimeout(GRACE)
        try:
            data = self._zygote.control.recv(REPORT.size)
        except TimeoutError:
            raise WorkerFault("the fork server does not answer") from None
        if len(data) != REPORT.size:
            raise WorkerFault("the fork server died")
        why, status, cpu, wall, peak = REPORT.unpack(data)
        return Ending(why, status, cpu, wall, peak / 1024, over_disk)

    def _cancel(self) -> None:
        assert self._zygote is not None
        try:
            self._zygote.control.send(b"K")
        except OSError as error:
            raise WorkerFault(f"the fork server is gone: {error}") from None

    def _reply(self) -> dict[str, Any]:
        assert self._referee is not None
        self._referee.control.settimeout(GRACE)
        try:
            reply = wire.parse(wire.receive_text(self._referee.control, 1 << 28))
        except (EOFError, OSError):
            raise self._referee_fault() from None
        assert isinstance(reply, dict)
        return reply

    def _referee_fault(self) -> WorkerFault:
        assert self._referee is not None
        code = self._referee.process.wait(GRACE)
        kind = WorkerFault if code in (-9, -15) else RefereeDied
        return kind(f"the referee died with status {code}")

    def _suite(self, problem: Problem, tests: Sequence[Test]) -> tuple[_Suite, dict[str, Any]]:
        """The problem's tests as the referee knows them, and what it must be told first."""
        known = self._suites.get(problem.id)
        if known is not None and (known.problem is problem or known.problem == problem):
            self._suites.move_to_end(problem.id)
            return known, {}
        self._n_suites += 1
        suite = _Suite(problem, str(self._n_suites))
        news: dict[str, Any] = {"suite": suite_of(problem, tests), "forget": []}
        if known is not None:
            news["forget"].append(self._suites.pop(problem.id).key)
        if len(self._suites) >= SUITES_HELD:
            news["forget"].append(self._suites.popitem(last=False)[1].key)
        self._suites[problem.id] = suite
        return suite, news

    # ---- the two processes ----------------------------------------------------------------------------------

    def _ensure(self) -> None:
        if self._since_start >= self.config.recycle_every:
            self._stop()
        if self._zygote is None or self._referee is None:
            self._stop()
            wipe(self._slot.scratch)
            chroot = self._isolation.chroot
            self._zygote = start_zygote(self._python, self.config, self.tier, self._slot, chroot)
            self._referee = start_referee(self._python, self.config, self.tier, self._slot, chroot)

    def _after_program(self) -> None:
        wipe(self._slot.scratch)

    def _stop(self) -> None:
        for child in (self._zygote, self._referee):
            if child is not None:
                child.stop()
        self._zygote = self._referee = None
        self._suites.clear()
        self._since_start = 0


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


def _send_program(connection: socket.socket, message: list[Any]) -> None:
    """Sends the program; a child that is gone already shows in how it ended."""
    try:
        wire.send(connection, message)
    except OSError:
        log.debug("the program's process ended before it read the program")
