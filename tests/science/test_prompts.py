"""Answers as models really write them, and the prompts they answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledex_ray.problems import AssertTest, CallTest, Problem
from ledex_ray.prompts import (
    SHOTS,
    explained_answer,
    fenced,
    parse_answer,
    refine_prompt,
    show_call,
    solve_prompt,
)
from ledex_ray.records import Instruction

CODE = "def f(x):\n    return x + 1\n"
PROBLEM = Problem(
    id="p", text="Add one.", entry_point="f", tests=(CallTest("(1,)", "2"), AssertTest("assert f(5) == 6")), n_public=1
)


@pytest.mark.parametrize(
    "text",
    [
        f"```python\n{CODE}```",
        f"```\n{CODE}```\nThis adds one.",
        f"{CODE}```\nThe closing fence alone.",
        f"Here you are:\n\n{CODE}\nThis function adds one to x.",
        f"```python\n{CODE}",
        f"```python\n{CODE}```\nUse it so:\n```python\nprint(f(1))\n```",
        f"First try:\n```python\ndef g(x):\n    pass\n```\nBetter:\n```python\n{CODE}```",
        CODE,
    ],
    ids=["fenced", "prose-after", "closing-only", "bare", "unclosed", "example-after", "two-blocks", "only-code"],
)
def test_code_is_found_however_it_is_wrapped(text: str) -> None:
    assert parse_answer(text, "direct", "f").code.strip() == CODE.strip()


def test_the_explanation_is_the_prose_before_the_code() -> None:
    text = f"  The sum is off by one.\nAdd 1.\n\n```python\n{CODE}```\nDone."
    answer = parse_answer(text, "explain", "f")
    assert answer.explanation == "The sum is off by one.\nAdd 1."
    assert text[slice(*answer.explanation_span)] == answer.explanation
    assert text[slice(*answer.code_span)] == answer.code


def test_a_direct_answer_has_no_explanation() -> None:
    assert parse_answer(f"Sorry.\n```python\n{CODE}```", "direct", "f").explanation == ""


def test_prose_without_code_is_counted_as_no_code() -> None:
    answer = parse_answer("I cannot do that.", "explain", "f")
    assert answer.code == "" and answer.code_span == (0, 0)


def test_what_training_shows_is_parsed_back() -> None:
    for shot in SHOTS:
        answer = parse_answer(explained_answer(shot.explanation, shot.code), "explain")
        assert (answer.explanation, answer.code.strip()) == (shot.explanation, shot.code.strip())


@given(st.text(alphabet="`pydef f(x):\n retun\u202e#é", max_size=400), st.sampled_from(["solve", "direct", "explain"]))
def test_any_text_gives_spans_of_itself(text: str, instruction: str) -> None:
    answer = parse_answer(text, instruction, "f")
    assert text[slice(*answer.code_span)] == answer.code
    assert text[slice(*answer.explanation_span)] == answer.explanation
    assert answer.explanation_span[1] <= answer.code_span[0] or not answer.code


def test_a_huge_answer_is_parsed_in_linear_time() -> None:
    assert parse_answer("```\n" * 50_000, "explain", "f").code == ""
    assert parse_answer("def f(x):\n" + " x = 1\n" * 100_000, "explain", "f").code.count("x = 1") == 100_000


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
