"""Three programs with known verdicts: right, wrong, cheating. A worker that misjudges one of them is unsound."""

from __future__ import annotations

from dataclasses import dataclass

from ledex_ray.problems import AssertTest, CallTest, Limits, Problem
from ledex_ray.records import Status


@dataclass(frozen=True)
class Canary:
    name: str
    program: str
    status: Status
    problem: Problem


_ADD = Problem(
    id="canary/add",
    text="",
    tests=(AssertTest("assert add(1, 2) == 3"), CallTest("([1], [2])", "[1, 2]"), AssertTest("assert add(-1, 1) == 0")),
    entry_point="add",
    limits=Limits(cpu_seconds=5.0, memory_mb=512),
)
_CHEAT = """
import builtins
class Equal(int):
    __eq__ = __req__ = lambda self, other: True
    __ne__ = lambda self, other: False
    __hash__ = int.__hash__
builtins.AssertionError = builtins.Exception
def add(a, b):
    return Equal(7)
"""

_ESCAPE = """
import os, _socket
def escape(witness, files):
    reached = []
    def attempt(name, action):
        try:
            action()
        except (OSError, PermissionError):
            return
        reached.append(name)
    if files:
        attempt("read", lambda: open(witness).close())
        attempt("write", lambda: open(os.path.join(os.path.dirname(witness), "escaped"), "x").close())
        attempt("list", lambda: os.listdir(os.path.dirname(witness)))
    attempt("socket", lambda: _socket.socket(2, 1))
    attempt("signal", lambda: os.kill(os.getppid(), 0))
    attempt("fork", lambda: os.fork() or os._exit(0))
    return reached
"""


def escape_canary(witness: str, *, files: bool) -> Canary:
    """A program that tries what the isolation forbids; with `files`, also to read and to write outside."""
    problem = Problem(
        id="canary/escape",
        text="",
        tests=(CallTest(f"({witness!r}, {files})", "[]"),),
        entry_point="escape",
        limits=Limits(cpu_seconds=5.0, memory_mb=512),
    )
    return Canary("escaping", _ESCAPE, Status.PASSED, problem)


CANARIES = (
    Canary("right", "def add(a, b):\n    return a + b\n", Status.PASSED, _ADD),
    Canary("wrong", "def add(a, b):\n    return a if a == [1] else a - b\n", Status.FAILED, _ADD),
    Canary("cheating", _CHEAT, Status.FAILED, _ADD),
)
