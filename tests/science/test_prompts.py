"""What a model is told."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from ledex_ray.problems import AssertTest, CallTest, Problem
from ledex_ray.prompts import (
    SHOTS,
    fenced,
    refine_prompt,
    show_call,
    solve_prompt,
)
from ledex_ray.readers import load_problems
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


@pytest.mark.parametrize("spec", ["bundled", "humaneval", "mbpp", "humanevalplus", "mbppplus", "apps"])
def test_every_prompt_names_what_its_tests_call(spec: str, data_dir: Path) -> None:
    problems = load_problems(spec)
    assert problems
    for problem in problems:
        asked = solve_prompt(problem)[-1].content
        assert re.search(rf"\b{re.escape(problem.entry_point)}\b", asked), problem.id
        assert asked == refine_prompt(problem, "x", "y", Instruction.DIRECT)[0].content


def test_a_task_that_names_nothing_is_given_the_name() -> None:
    hidden = replace(PROBLEM, n_public=0)
    assert "Name it `f`." in solve_prompt(hidden)[-1].content
    assert "Name it" not in solve_prompt(PROBLEM)[-1].content


def test_a_function_to_complete_is_shown_with_what_it_may_call() -> None:
    begun = 'def half(x):\n    return x / 2\n\n\ndef f(x: int) -> int:\n    """Add one."""\n'
    asked = solve_prompt(replace(PROBLEM, prompt=begun))[-1].content
    assert asked.count("Add one.") == 1 and fenced(begun) in asked
    asked = solve_prompt(replace(PROBLEM, text="Add one, slowly.", prompt=begun))[-1].content
    assert asked.startswith("Add one, slowly.") and fenced(begun) in asked
    assert "begins" not in solve_prompt(replace(PROBLEM, prompt="# no function\n"))[-1].content
