"""Problems that training gives away are found; others are not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledex_ray.contamination import jaccard, overlaps, shingles
from ledex_ray.problems import AssertTest, Problem
from ledex_ray.readers import load_problems

TEXT = "Write a function that returns the two smallest numbers of a list in the order in which they stand in it."
CODE = "def {name}({a}):\n    {b} = sorted({a})[:2]\n    return [x for x in {a} if x in {b}]\n"


def problem(id: str, text: str, code: str = "") -> Problem:
    solutions = (code,) if code else ()
    return Problem(id, text, (AssertTest("assert f() == 1"),), id.split("/")[-1], canonical_solutions=solutions)


def kinds(trained: Problem, evaluated: Problem) -> list[str]:
    return [o.kind for o in overlaps([trained], [evaluated])]


def test_the_same_text_in_another_layout_is_exact() -> None:
    assert kinds(problem("t/f", TEXT), problem("e/f", TEXT.upper().replace(" ", "\n  "))) == ["exact"]


def test_one_word_changed_is_near_and_its_similarity_is_exact() -> None:
    other = TEXT.replace("numbers", "values")
    (found,) = overlaps([problem("t/f", TEXT)], [problem("e/f", other)])
    assert found.kind == "near" and found.similarity == jaccard(shingles(TEXT), shingles(other))


def test_another_task_is_no_overlap() -> None:
    assert kinds(problem("t/f", TEXT), problem("e/g", "Write a function that turns a text round word by word.")) == []


def test_the_same_solution_under_other_names_is_found() -> None:
    trained = problem("t/two_smallest", "A.", CODE.format(name="two_smallest", a="items", b="low"))
    evaluated = problem("e/least_pair", "B.", CODE.format(name="least_pair", a="xs", b="small"))
    assert kinds(trained, evaluated) == ["solution"]
    assert kinds(trained, replace(evaluated, canonical_solutions=("def least_pair(xs): return xs\n",))) == []


def test_one_liners_that_any_task_could_have_are_no_overlap() -> None:
    code = "def {}(a, b):\n    return a + b\n"
    assert kinds(problem("t/add", "A.", code.format("add")), problem("e/total", "B.", code.format("total"))) == []


def test_solutions_of_another_python_are_passed_over() -> None:
    assert kinds(problem("t/f", "A.", "print 'x'"), problem("e/f", "B.", "print 'x'")) == []


@given(st.lists(st.sampled_from("abcdefghij"), min_size=12, max_size=30), st.integers(0, 11), st.integers(0, 200))
def test_no_pair_over_the_threshold_is_missed(letters: list[str], change: int, filler: int) -> None:
    text = " ".join(letters)
    other = " ".join(["zz" if i == change and filler % 2 else w for i, w in enumerate(letters)])
    close = jaccard(shingles(text), shingles(other)) >= 0.7 and text != other
    noise = [problem(f"n/{i}", f"task {i} is about {i * 7} and {i * 13} things") for i in range(3)]
    found = [o for o in overlaps([*noise, problem("t/f", text)], [problem("e/f", other)]) if o.kind == "near"]
    assert bool(found) == close


def test_the_bundled_heldout_problems_are_not_in_training() -> None:
    found = overlaps(load_problems("bundled@train"), load_problems("bundled@heldout"))
    assert [o for o in found if o.kind != "solution"] == []


def test_mbpp_plus_outside_the_test_split_is_what_mbpp_trains_on(data_dir: Path) -> None:
    plus = load_problems("mbppplus")
    found = overlaps(load_problems("mbpp@train"), plus)
    trained = {p.id for p in plus if p.split == "train"}
    assert len(trained) == 108 and {o.evaluated for o in found if o.kind == "task"} == trained
    others = {o.evaluated for o in found} - trained
    assert "Mbpp/427" in others  # its text is that of task 928, which is trained on
    assert len(others) < 10


@pytest.mark.parametrize("name", ["humaneval", "mbpp@test"])
def test_the_bundled_problems_are_told_apart_from_benchmarks(name: str, data_dir: Path) -> None:
    found = overlaps(load_problems("bundled@train"), load_problems(name))
    assert [o for o in found if o.kind == "exact"] == []
