"""Runs a hostile program in a worker and says what it reached; the list is empty when it was contained."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time
from pathlib import Path

from ledex_ray.problems import AssertTest, CallTest, Limits, Problem, StdioTest
from ledex_ray.records import Status, TestStatus, Verdict
from reward.judge import Judge
from tests.judge.hostile import Hostile
from tests.judge.hostile_exhaust import EXHAUST
from tests.judge.hostile_forge import FORGE
from tests.judge.hostile_judge import CORRUPT, JUDGE
from tests.judge.hostile_reach import OUTLIVE, READ, WRITE

ALL = [*EXHAUST, *OUTLIVE, *READ, *WRITE, *FORGE, *CORRUPT, *JUDGE]
LIMITS = Limits(cpu_seconds=1.0, memory_mb=256)
SHARED = ("/tmp", "/dev/shm", "/var/tmp")
GOOD = "import math, random, json\ndef add(a, b):\n    return int(math.sqrt((a + b) ** 2)) * len([1]) + sum([0])\n"
ADD = Problem(
    "good", "", (AssertTest("assert add(1, 2) == 3"), AssertTest("assert add(5, 8) == 13")), "add", limits=LIMITS
)


class Witness:
    """A secret and a folder that no program may reach, and what they looked like before."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.secret = folder / "secret.txt"
        folder.chmod(0o755)
        self.secret.write_text("the secret")
        self.secret.chmod(0o644)
        self._log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)  # as /dev/log is
        self._log.bind(str(folder / "log"))
        (folder / "log").chmod(0o666)
        self._before = self._state()

    def changed(self) -> bool:
        return self._state() != self._before

    def told(self) -> bool:
        """Whether anything was written to the socket."""
        with contextlib.suppress(BlockingIOError):
            return bool(self._log.recv(1 << 10))
        return False

    def _state(self) -> list[object]:
        found: list[object] = [sorted(os.listdir(self.folder)), self.secret.read_text()]
        for path in (self.folder, self.secret):
            stat = path.stat()
            found.append((stat.st_mode, stat.st_uid, stat.st_mtime_ns, stat.st_ino))
        return found


def run(judge: Judge, hostile: Hostile, witness: Witness) -> Verdict:
    return judge.judge(_problem(hostile, witness), hostile.program)


def reached(judge: Judge, hostile: Hostile, witness: Witness) -> list[str]:
    """Everything the program reached, in words; empty when it was contained."""
    files, processes = _shared_files(judge), _processes(judge)
    verdict = run(judge, hostile, witness)
    found = []
    if verdict.status is Status.INFRA:
        found.append(f"INFRA: {verdict.tests[0].error}")
    if hostile.forges and verdict.passed:
        found.append("a forged verdict")
    if hostile.reports:
        found += [
            f"it says: {t.got}" for t in verdict.tests if t.status is TestStatus.FAILED and t.got not in ("''", "")
        ]
    if witness.changed():
        found.append("the witness changed")
    if witness.told():
        found.append("the witness was written to")
    if left := os.listdir(judge._pair.slot.scratch):
        found.append(f"left in its scratch directory: {left[:3]}")
    after = judge.judge(ADD, GOOD)
    if not after.passed:
        found.append(f"the next program: {after.status} {after.feedback_all} {after.tests}")
    deadline = time.monotonic() + 5  # one that was killed may take a moment to be gone
    while (left_over := _processes(judge) - processes - _own(judge)) and time.monotonic() < deadline:
        time.sleep(0.05)
    if left_over:
        found.append(f"processes left: {sorted(left_over)}")
    if left := sorted(_shared_files(judge) - files):
        found.append(f"files left: {left}")
    return found


def _problem(hostile: Hostile, witness: Witness) -> Problem:
    if hostile.script:
        numbers = [(secrets.randbelow(1000), secrets.randbelow(1000)) for _ in range(2)]
        cases = tuple(StdioTest(f"{a} {b}\n", f"{a + b}\n") for a, b in numbers)
        return Problem(f"script/{hostile.name}", "", cases, limits=LIMITS)
    if hostile.forges:
        answers = [(n, secrets.randbelow(10**9) + 1000) for n in range(3)]
        tests = (
            AssertTest(f"assert solve({answers[0][0]}) == {answers[0][1]}"),
            CallTest(f"({answers[1][0]},)", f"[{answers[1][1]}]"),
            AssertTest(f"assert abs(solve({answers[2][0]}) - {answers[2][1]}) < 1e-6"),
        )
        return Problem(f"forge/{hostile.name}", "", tests, "solve", limits=LIMITS)
    arguments = repr((str(witness.secret), str(witness.folder), os.getpid()))
    return Problem(f"attack/{hostile.name}", "", (CallTest(arguments, "''"),), "attack", limits=LIMITS)


def _owner(judge: Judge) -> int:
    return judge._pair.slot.uid or os.getuid()


def _processes(judge: Judge) -> set[int]:
    """Processes of the user that programs run as; of an ordinary user, those that run the sandbox's interpreter."""
    found = set()
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            if entry.stat().st_uid == _owner(judge) or _in_group(int(entry.name), judge):
                found.add(int(entry.name))
        except OSError:  # it ended meanwhile
            continue
    return found


def _own(judge: Judge) -> set[int]:
    """The worker's processes as they are now, with bubblewrap's where that wraps them."""
    found, pending = set(), list(judge.pids())
    while pending:
        pid = pending.pop()
        found.add(pid)
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            pending += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return found


def _in_group(pid: int, judge: Judge) -> bool:
    try:
        return os.getsid(pid) in judge.pids()
    except ProcessLookupError:
        return False


def _shared_files(judge: Judge) -> set[str]:
    """Files at the top of shared directories that belong to the user that programs run as."""
    found = set()
    for folder in SHARED:
        for entry in os.scandir(folder):
            try:
                if entry.stat(follow_symlinks=False).st_uid == _owner(judge) and judge._pair.slot.uid:
                    found.add(entry.path)
            except OSError:
                continue
    return found
