"""`Pair`: the fork server and the referee of one worker, and single runs of a program against them.

It starts both, sends programs, watches time, scratch space and output, and ends both when one dies or hangs. What a
fault of its own means for a verdict is decided above it (`reward.judge.worker`).
"""

from __future__ import annotations

import json
import logging
import select
import socket
import subprocess
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ledex_ray.problems import Limits, Problem, StdioTest, Test

from . import stdio
from .config import Interpreter, JudgeConfig
from .inside import wire
from .inside.zygote import JOB, REPORT
from .preludes import PRELUDES
from .process import Child, start_referee, start_zygote
from .slots import over_quota, take_slot, wipe
from .suites import suite_of
from .tiers import Isolation
from .verdicts import Ending

log = logging.getLogger(__name__)

SUITES_HELD = 64  # problems whose tests the referee keeps prepared
SCRATCH_EVERY = 0.05  # seconds between two looks at the scratch directory of a running program
GRACE = 10.0  # seconds for the referee's own work, beyond the program's time


KILLED = (-9, -15, 128 + 9, 128 + 15)  # by somebody else; bubblewrap adds 128


class WorkerFault(Exception):
    """The worker itself failed: a process of ours died, hung or did not start."""


class RefereeDied(WorkerFault):
    """The referee ended by itself, or by a signal that nobody sends: a test or a value did it."""


@dataclass
class Suite:
    """A problem that the referee knows, under a key; `weak` once it said that its tests need weak mode."""

    problem: Problem
    key: str
    weak: bool = False


def wall_seconds(limits: Limits, factor: int = 1) -> float:
    """How long a program may take by the clock; its CPU time is what is limited, this is the backstop."""
    return 3 * limits.cpu_seconds * factor + 5


class _ScratchWatch:
    """Looks at the scratch directory of a running program every so often, however busy the program keeps us."""

    def __init__(self, scratch: Path) -> None:
        self._scratch, self._next = scratch, time.monotonic() + SCRATCH_EVERY
        self.over = False

    def is_full_now(self) -> bool:
        """True once: when the program is found to have put too much there."""
        if self.over or time.monotonic() < self._next:
            return False
        self.over = over_quota(self._scratch)
        self._next = time.monotonic() + SCRATCH_EVERY
        return self.over


class Pair:
    """The two processes of a worker. Its methods raise WorkerFault or StartFailed for faults of ours."""

    def __init__(self, config: JudgeConfig, python: Interpreter, isolation: Isolation) -> None:
        self._config, self._python, self._isolation = config, python, isolation
        self.slot = take_slot(isolation.scratch_root)
        self._zygote: Child | None = None
        self._referee: Child | None = None
        self._suites: OrderedDict[str, Suite] = OrderedDict()  # by the problem's id, the oldest first
        self._n_suites = 0
        self._since_start = 0

    def pids(self) -> list[int]:
        """Process ids of the fork server and of the referee."""
        return [child.process.pid for child in (self._zygote, self._referee) if child is not None]

    def exchange(
        self, suite: Suite, news: dict[str, Any], program: str, limits: Limits
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
        reply, ending = self._await(deadline)
        if ending.from_outside(limits, factor):
            raise WorkerFault("a program's process was killed from outside")
        return reply, ending

    def _await(self, deadline: float) -> tuple[dict[str, Any], Ending]:
        assert self._referee is not None and self._zygote is not None
        poll = select.poll()
        poll.register(self._referee.control, select.POLLIN)
        poll.register(self._zygote.control, select.POLLIN)
        ending: Ending | None = None
        watch = _ScratchWatch(self.slot.scratch)
        while True:
            wait = SCRATCH_EVERY if ending is None else 1.0
            ready = {descriptor for descriptor, _ in poll.poll(wait * 1000)}
            if self._zygote.control.fileno() in ready:
                ending = self._ending(watch.over)  # the referee sees the end of its socket and replies
                deadline = min(deadline, time.monotonic() + GRACE)
                poll.unregister(self._zygote.control)
            if self._referee.control.fileno() in ready:
                reply = self._reply()
                if ending is None:
                    self._cancel()
                    ending = self._ending(watch.over)
                wipe(self.slot.scratch)
                return reply, ending
            if ending is None and watch.is_full_now():
                self._cancel()
            if time.monotonic() > deadline:
                if ending is None:
                    raise WorkerFault("the fork server did not end a program in time")
                # What the program returned, or the test itself, keeps the referee busy for ever.
                self.stop()
                return {"results": [], "late": True}, ending

    def run_case(self, case: StdioTest, program: list[Any], limits: Limits) -> tuple[stdio.Captured, Ending]:
        """One run of the program as a script on one input."""
        assert self._zygote is not None
        with stdio.Pipes(case) as pipes:
            wall = self._fork(limits, 1, pipes.child_ends, script=True)
            pipes.close_child_ends()
            with self._connection as connection:
                _send_program(connection, program)
                poll = select.poll()
                poll.register(pipes.output, select.POLLIN)
                poll.register(self._zygote.control, select.POLLIN)
                deadline = time.monotonic() + wall + GRACE
                watch, cancelled = _ScratchWatch(self.slot.scratch), False
                while True:
                    ready = {descriptor for descriptor, _ in poll.poll(SCRATCH_EVERY * 1000)}
                    if pipes.output in ready and not pipes.read():
                        poll.unregister(pipes.output)
                    if self._zygote.control.fileno() in ready:
                        ending = self._ending(watch.over)
                        break
                    if (watch.is_full_now() or pipes.overflowed) and not cancelled:
                        cancelled = True
                        self._cancel()
                    if time.monotonic() > deadline:
                        raise WorkerFault("the fork server did not end a program in time")
                while pipes.read():
                    pass
                captured = pipes.captured(connection)
        wipe(self.slot.scratch)
        if ending.from_outside(limits):
            raise WorkerFault("a program's process was killed from outside")
        return captured, ending

    def _fork(self, limits: Limits, factor: int, descriptors: Sequence[int], *, script: bool) -> float:
        """Asks for a child; keeps our end of its socket. Returns the wall time it has."""
        assert self._zygote is not None
        cpu, wall = limits.cpu_seconds * factor, wall_seconds(limits, factor)
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
        try:
            code = self._referee.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            return WorkerFault("the referee has closed its socket")
        kind = WorkerFault if code in KILLED else RefereeDied
        return kind(f"the referee died with status {code}")

    def suite(self, problem: Problem, tests: Sequence[Test]) -> tuple[Suite, dict[str, Any]]:
        """The problem's tests as the referee knows them, and what it must be told first."""
        known = self._suites.get(problem.id)
        if known is not None and (known.problem is problem or known.problem == problem):
            self._suites.move_to_end(problem.id)
            return known, {}
        self._n_suites += 1
        suite = Suite(problem, str(self._n_suites))
        news: dict[str, Any] = {"suite": suite_of(problem, tests), "forget": []}
        if known is not None:
            news["forget"].append(self._suites.pop(problem.id).key)
        if len(self._suites) >= SUITES_HELD:
            news["forget"].append(self._suites.popitem(last=False)[1].key)
        self._suites[problem.id] = suite
        return suite, news

    def stop(self) -> None:
        """Ends both processes; the next run starts new ones."""
        for child in (self._zygote, self._referee):
            if child is not None:
                child.stop()
        self._zygote = self._referee = None
        self._suites.clear()
        self._since_start = 0

    def close(self) -> None:
        """Ends both processes and gives the slot back."""
        self.stop()
        wipe(self.slot.scratch)
        self.slot.release()

    def ensure(self) -> None:
        """Starts the two processes if they are not running; replaces them if they have served long enough.

        To be called before each program, ahead of `suite`: new processes know no tests.
        """
        if self._since_start >= self._config.recycle_every:
            self.stop()
        if self._zygote is None or self._referee is None:
            self.stop()
            wipe(self.slot.scratch)
            tier, chroot = self._isolation.tier, self._isolation.chroot
            self._zygote = start_zygote(self._python, self._config, tier, self.slot, chroot)
            self._referee = start_referee(self._python, self._config, tier, self.slot, chroot)
        self._since_start += 1


def _send_program(connection: socket.socket, message: list[Any]) -> None:
    """Sends the program; a child that is gone already shows in how it ended."""
    try:
        wire.send(connection, message)
    except OSError:
        log.debug("the program's process ended before it read the program")
