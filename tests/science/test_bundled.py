"""The bundled problems hold what they promise: format, splits, right solutions, tests that notice bugs.

Solutions and mutants run in the real judge. That the texts are good English is not covered.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ledex_ray
from ledex_ray.mutants import mutants
from ledex_ray.problems import CallTest, Limits, Problem
from ledex_ray.records import Status
from reward.judge import Judge

FILES = sorted((Path(ledex_ray.__file__).parent / "bundled").glob("*.jsonl"))
KEYS = {"id", "text", "entry_point", "canonical_solutions", "public", "tests", "difficulty", "topic", "split"}
TEST_KEYS = {"args", "expected", "compare", "atol", "rtol"}
MIN_MUTANTS = 3


def rows() -> list[dict[str, Any]]:
    return [json.loads(line) for path in FILES for line in path.read_text(encoding="utf-8").splitlines()]


ROWS = rows()


def problem(row: dict[str, Any]) -> Problem:
    return Problem(
        id=row["id"],
        text=row["text"],
        tests=tuple(CallTest(**test) for test in row["tests"]),
        entry_point=row["entry_point"],
        canonical_solutions=tuple(row["canonical_solutions"]),
        limits=Limits(cpu_seconds=1.0, memory_mb=512),  # mutants may loop for ever
        n_public=row["public"],
        split=row["split"],
    )


def name(row: dict[str, Any]) -> str:
    return str(row["entry_point"])


def test_both_files_are_there_with_at_least_two_hundred_problems() -> None:
    assert len(FILES) == 2
    assert len(ROWS) >= 200


def test_ids_texts_and_entry_points_are_unique() -> None:
    for field in ("id", "text", "entry_point"):
        repeated = [value for value, times in Counter(row[field] for row in ROWS).items() if times > 1]
        assert not repeated, field


def test_splits_are_large_enough_and_hold_every_difficulty() -> None:
    sizes = Counter(row["split"] for row in ROWS)
    assert set(sizes) == {"train", "validation", "heldout"}
    assert sizes["train"] >= 90 and sizes["validation"] >= 30 and sizes["heldout"] >= 60
    for split in sizes:
        assert {row["difficulty"] for row in ROWS if row["split"] == split} == {1, 2, 3}


@pytest.mark.parametrize(("difficulty", "heldout", "validation"), [(1, 30, 14), (2, 23, 13), (3, 15, 5)])
def test_split_is_drawn_by_the_hash_of_the_id_alone(difficulty: int, heldout: int, validation: int) -> None:
    """Nobody's eyes, and no model's answers, chose what is held out: the first hashes of each difficulty are."""
    alike = [row for row in ROWS if row["difficulty"] == difficulty]
    alike.sort(key=lambda row: hashlib.sha256(row["id"].encode()).hexdigest())
    splits = [row["split"] for row in alike]
    train = len(alike) - heldout - validation
    assert splits == ["heldout"] * heldout + ["validation"] * validation + ["train"] * train


def test_no_split_holds_a_solution_of_another_under_a_new_name() -> None:
    split_of: dict[str, str] = {}
    for row in ROWS:
        for solution in row["canonical_solutions"]:
            key = _without_names(solution)
            assert split_of.setdefault(key, row["split"]) == row["split"], row["id"]


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_row_is_strictly_in_the_format(row: dict[str, Any]) -> None:
    assert set(row) == KEYS
    assert row["id"] == f"bundled/{row['entry_point']}"
    assert row["difficulty"] in (1, 2, 3)
    assert row["topic"]
    assert 6 <= len(row["tests"]) <= 9 and 1 <= row["public"] < len(row["tests"])
    assert len({test["args"] for test in row["tests"]}) == len(row["tests"])
    for test in row["tests"]:
        assert {"args", "expected"} <= set(test) <= TEST_KEYS
        assert isinstance(ast.literal_eval(test["args"]), tuple)
        ast.literal_eval(test["expected"])


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_text_names_the_call_and_solutions_define_it(row: dict[str, Any]) -> None:
    assert row["canonical_solutions"]
    for solution in row["canonical_solutions"]:
        (function,) = ast.parse(solution).body
        assert isinstance(function, ast.FunctionDef) and function.name == row["entry_point"]
        signature = f"`{function.name}({', '.join(arg.arg for arg in function.args.args)})`"
        assert signature in row["text"]


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge() as judge:
        yield judge


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_every_canonical_solution_passes_every_test(row: dict[str, Any], judge: Judge) -> None:
    for solution in row["canonical_solutions"]:
        verdict = judge.judge(problem(row), solution)
        assert verdict.passed and verdict.n_tests == len(row["tests"]) and not verdict.weak, verdict


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_at_least_three_mutants_fail(row: dict[str, Any], judge: Judge) -> None:
    failing = 0
    for mutant in mutants(row["canonical_solutions"][0]):
        verdict = judge.judge(problem(row), mutant.source)
        assert verdict.status is not Status.INFRA, verdict
        failing += not verdict.passed
        if failing == MIN_MUTANTS:
            return
    raise AssertionError(f"only {failing} failing mutants")


def _without_names(source: str) -> str:
    """The source's syntax tree with its own names numbered in order of appearance; builtins keep theirs."""
    tree = ast.parse(source)
    own = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    own |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    numbers: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.name = "f"
        elif isinstance(node, ast.arg):
            node.arg = numbers.setdefault(node.arg, f"v{len(numbers)}")
        elif isinstance(node, ast.Name) and node.id in own:
            node.id = numbers.setdefault(node.id, f"v{len(numbers)}")
    return ast.dump(tree)
