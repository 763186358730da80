"""A problem's tests as plain data for the referee."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ledex_ray.problems import AssertTest, CallTest, CheckTest, OracleTest, Problem, StdioTest, Test


def outputs_suite(problem: Problem, arguments: Sequence[str]) -> dict[str, Any]:
    """A suite that asks for what the program returns, and judges nothing."""
    tests = [{"kind": "output", "args": one, "kwargs": "{}"} for one in arguments]
    return {"entry": problem.entry_point, "setup": "", "tests": tests}


def suite_of(problem: Problem, tests: Sequence[Test]) -> dict[str, Any]:
    """What `inside.suite.Suite` reads."""
    return {"entry": problem.entry_point, "setup": problem.setup, "tests": [_plain(test) for test in tests]}


def _plain(test: Test) -> dict[str, Any]:
    match test:
        case AssertTest(code):
            return {"kind": "code", "code": code}
        case CheckTest(check):
            return {"kind": "check", "code": check}
        case OracleTest(args, oracle, kwargs):
            return {"kind": "oracle", "args": args, "kwargs": kwargs, "oracle": oracle}
        case CallTest():
            return {
                "kind": "call",
                "args": test.args,
                "kwargs": test.kwargs,
                "expected": test.expected,
                "compare": test.compare,
                "atol": test.atol,
                "rtol": test.rtol,
            }
        case StdioTest():
            raise AssertionError("a case of standard input and output is run by the supervisor")
