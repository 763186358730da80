"""What a model is told."""

from __future__ import annotations

from ledex_ray.problems import AssertTest, CallTest, Problem
from ledex_ray.prompts import (
    SHOTS,
    fenced,
    refine_prompt,
    show_call,
    solve_prompt,
)
from ledex_ray.records import Instruction

CODE = "def f(x):\n    return x + 1\n"
PROBLEM = Problem(
    id="p", text="Add one.", entry_point="f", tests=(CallTest("(1,)", "2"), AssertTest("assert f(5) == 6")), n_public=1
)


def test_only_public_tests_are_shown() -> None:
    shown = solve_prompt(PROBLEM)[-1].content
    assert "assert f(1) == 2" in shown and "f(5)" not in shown


def test_the_wrong_code_is_the_models_own_turn() -> None:
    turns = refine_prompt(PROBLEM, "def f(x): return x", "The call f(1) returned 1.", Instruction.EXPLAIN)
    assert [t.role for t in turns] == ["user", "assistant", "user"]
    assert turns[1].content == fenced("def f(x): return x")
    assert "The call f(1) returned 1." in turns[2].content


def test_shots_come_before_the_task_and_match_the_instruction() -> None:
    direct = refine_prompt(PROBLEM, "x", "y", Instruction.DIRECT, shots=2)
    explain = refine_prompt(PROBLEM, "x", "y", Instruction.EXPLAIN, shots=2)
    assert len(direct) == len(explain) == 11
    assert SHOTS[0].explanation not in direct[3].content and SHOTS[0].explanation in explain[3].content


def test_calls_are_shown_as_code() -> None:
    assert show_call("f", "([1, 2], 'a')", "{'key': 3}") == "f([1, 2], 'a', key=3)"
