"""Answers as models really write them."""

from __future__ import annotations

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledex_ray.answers import parse_answer
from ledex_ray.prompts import SHOTS, explained_answer
from ledex_ray.readers import load_problems

CODE = "def f(x):\n    return x + 1\n"
PROGRAM = "import sys\nN, M = 3, 4\n\ndef main():\n    print(int(input()) + N)\n\nmain()\n"


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


@pytest.mark.parametrize(
    "text",
    [
        f"```python\n{PROGRAM}```",
        f"{PROGRAM}```\nThe closing fence alone.",
        f"Here you are:\n\n{PROGRAM}\nThis program adds three.\nOutput: 4",
        f"```python\n{PROGRAM}",
        f"```python\n{PROGRAM}```\nFor example:\n```\nInput:\n3\nOutput:\n6\n```",
        f"```python\n{PROGRAM}```\nWith this input:\n```\n3\n```",
        f"{PROGRAM}\nWith this input:\n```\n3\n```\nit prints 6.",
        f"Yours was\n```python\ndef main():\n    pass\nmain()\n```\nIt must be\n```python\n{PROGRAM}```",
        f"```python\n{PROGRAM}```\nRun it:\n```python\nmain()\n```",
        PROGRAM,
    ],
    ids=[
        *("fenced", "closing-only", "bare", "unclosed", "example-after", "input-after", "bare-input-after"),
        *("two-blocks", "use-after", "only-code"),
    ],
)
def test_a_whole_program_is_found_however_it_is_wrapped(text: str) -> None:
    assert parse_answer(text, "direct").code.strip() == PROGRAM.strip()
    assert parse_answer(text, "direct", "main").code.strip() == PROGRAM.strip()


def test_a_program_that_is_cut_short_stays_what_it_is() -> None:
    cut = PROGRAM[: PROGRAM.index("+ N")]
    assert parse_answer(f"```python\n{cut}", "direct").code == cut
    assert parse_answer(cut, "direct").code.startswith("import sys")


@pytest.mark.parametrize("wrapped", ["{}", "{}\n```\nThis solves it.", "Here it is.\n\n{}\n\nThis solves it, I hope."])
def test_programs_that_people_wrote_come_back_whole(wrapped: str) -> None:
    read = 0
    for problem in load_problems("bundled"):
        code = problem.canonical_solutions[0]
        answer = parse_answer(wrapped.format(code.rstrip()), "direct", problem.entry_point)
        assert ast.dump(ast.parse(answer.code)) == ast.dump(ast.parse(code)), problem.id
        read += 1
    assert read > 100


def test_a_block_in_a_list_loses_its_indentation() -> None:
    text = "1. So:\n   ```python\n   def f(x):\n       return x + 1\n   ```\n"
    answer = parse_answer(text, "explain", "f")
    assert answer.code == CODE and answer.explanation == "1. So:"
    assert text[slice(*answer.code_span)].split() == CODE.split()


def test_what_python_can_read_is_not_therefore_code() -> None:
    for prose in ("Thanks", "Output: 4", "x is not y", "(see below)", "I cannot."):
        assert parse_answer(prose, "direct").code == parse_answer(prose, "direct", "f").code == ""


@given(st.text(alphabet="`pydef f(x):\n retun\u202e#é", max_size=400), st.sampled_from(["solve", "direct", "explain"]))
def test_any_text_gives_spans_of_itself(text: str, instruction: str) -> None:
    answer = parse_answer(text, instruction, "f")
    assert text[slice(*answer.code_span)].split() == answer.code.split()
    assert text[slice(*answer.explanation_span)] == answer.explanation
    assert answer.explanation_span[1] <= answer.code_span[0] or not answer.code


def test_a_huge_answer_is_parsed_in_linear_time() -> None:
    assert parse_answer("```\n" * 50_000, "explain", "f").code == ""
    assert parse_answer("def f(x):\n" + " x = 1\n" * 100_000, "explain", "f").code.count("x = 1") == 100_000
