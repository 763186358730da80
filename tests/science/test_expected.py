"""Expected values of the plus sets: filled in from the reference solution, once, with EvalPlus' rules.

The reference solutions of these small files run right here; in the judge's tests they run in its sandbox.
"""

from __future__ import annotations

import ast
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ledex_ray.literals import to_literal
from ledex_ray.problems import AssertTest, CallTest, Limits, OracleTest, Problem
from ledex_ray.readers import CanonicalRun, load_problems, needs_expected, resolve_expected
from ledex_ray.readers.expected import MAX_LITERAL


class Runner:
    """Runs reference solutions in this process and counts the calls of it."""

    def __init__(self, cpu_seconds: float = 0.1) -> None:
        self.cpu_seconds, self.runs = cpu_seconds, 0

    def __call__(self, problem: Problem, arguments: Sequence[str]) -> CanonicalRun:
        self.runs += 1
        space: dict[str, Any] = {}
        exec(problem.canonical_solutions[0], space)
        values = [space[problem.entry_point](*ast.literal_eval(text)) for text in arguments]
        return CanonicalRun(tuple(map(self.literal, values)), self.cpu_seconds)

    @staticmethod
    def literal(value: object) -> str | None:
        try:
            return to_literal(value)
        except ValueError:
            return None


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LEDEX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def load(folder: Path, runner: Runner | None, name: str, code: str, *inputs: list[Any], atol: float = 0) -> Problem:
    row = {
        "task_id": "Mbpp/1",
        "prompt": '"""\nDo it.\nassert f(1)\n"""\n',
        "entry_point": name,
        "atol": atol,
        "canonical_solution": code,
        "base_input": list(inputs[:1]),
        "plus_input": list(inputs[1:]),
    }
    path = folder / "plus.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(row).encode()))
    (problem,) = load_problems(f"evalplus:{path}", runner)
    return problem


def test_without_a_runner_values_stay_pending(tmp_path: Path) -> None:
    problem = load(tmp_path, None, "f", "def f(a):\n    return a\n", [1])
    assert needs_expected(problem) and resolve_expected([problem], None) == [problem]
    assert problem.text == "Do it."


def test_values_are_filled_in_and_computed_once(tmp_path: Path, cache: Path) -> None:
    runner = Runner()
    code = "def f(a):\n    return [a, {a: None}]\n"
    problem = load(tmp_path, runner, "f", code, [1], ["x"])
    assert problem.tests == (CallTest("(1,)", "[1, {1: None}]"), CallTest("('x',)", "['x', {'x': None}]"))
    assert not needs_expected(problem)
    assert load(tmp_path, runner, "f", code, [1], ["x"]) == problem
    assert resolve_expected([load(tmp_path, None, "f", code, [1], ["x"])], None) == [problem]
    assert runner.runs == 1
    load(tmp_path, runner, "f", code + "# changed\n", [1], ["x"])
    load(tmp_path, runner, "f", code, [1], ["y"])
    assert runner.runs == 3
    assert {p.suffix for p in (cache / "expected").iterdir()} == {".json"}


def test_tolerance_of_the_task_is_taken(tmp_path: Path) -> None:
    problem = load(tmp_path, Runner(), "f", "def f(a):\n    return a / 3\n", [1], atol=1e-4)
    assert problem.tests[0] == CallTest("(1,)", repr(1 / 3), "{}", "close", 1e-4, 1e-7)


def test_from_the_first_float_on_values_are_close(tmp_path: Path) -> None:
    problem = load(tmp_path, Runner(), "f", "def f(a):\n    return a\n", [1], [[0.5, 1]], [[0.5, 1.5]], [2])
    assert [t.compare for t in problem.tests if isinstance(t, CallTest)] == ["equal", "equal", "close", "close"]
    assert problem.tests[3] == CallTest("(2,)", "2", "{}", "close", 1e-6, 1e-7)


def test_values_too_large_leave_their_test_out(tmp_path: Path) -> None:
    code = "def f(n):\n    return 'x' * n\n"
    problem = load(tmp_path, Runner(cpu_seconds=9.0), "f", code, [MAX_LITERAL], [3], [MAX_LITERAL + 9])
    assert problem.tests == (CallTest("(3,)", "'xxx'"),)
    assert problem.n_public == 0 and problem.limits is None


def test_huge_integers_are_kept(tmp_path: Path) -> None:
    (test,) = load(tmp_path, Runner(), "f", "def f(n):\n    return 10 ** n\n", [9000]).tests
    assert isinstance(test, CallTest) and ast.literal_eval(test.expected) == 10**9000


def test_slow_reference_raises_the_limit(tmp_path: Path) -> None:
    assert load(tmp_path, Runner(5.0), "f", "def f(a):\n    return a\n", [1]).limits == Limits(20.0)
    assert load(tmp_path, Runner(99.0), "f", "def f(a):\n    return  a\n", [1]).limits == Limits(60.0)
    assert load(tmp_path, Runner(2.0), "f", "def f(a):\n    return   a\n", [1]).limits is None


def test_sets_are_compared_as_sets(tmp_path: Path) -> None:
    code = "def Diff(a, b):\n    return list(set(a) - set(b))\n"
    (test,) = load(tmp_path, Runner(), "Diff", code, [[1, 2], [2]]).tests
    assert isinstance(test, OracleTest)
    space: dict[str, Any] = {}
    exec(test.oracle, space)
    assert space["check"]((), (1, 1)) and not space["check"]((), [1, 2])


def test_matches_count_by_being_there(tmp_path: Path) -> None:
    code = "import re\ndef check_str(s):\n    return re.search('^a', s)\n"
    problem = load(tmp_path, Runner(), "check_str", code, ["abc"], ["xyz"])
    for right, test in zip((True, False), problem.tests, strict=True):
        assert isinstance(test, AssertTest)
        for answer in (object() if right else None, right):
            exec(test.code, {"check_str": lambda s, answer=answer: answer})
        with pytest.raises(AssertionError):
            exec(test.code, {"check_str": lambda s, right=right: not right})


def test_failing_reference_is_not_kept(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        load(tmp_path, Runner(), "f", "def f(a):\n    return a / 0\n", [1])
    assert not cache.exists()


def test_other_problems_pass_through() -> None:
    problem = Problem("a", "b", (CallTest("(1,)", "1"),))
    runner = Runner()
    assert resolve_expected([problem], runner) == [problem] and runner.runs == 0
