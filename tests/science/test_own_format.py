"""The project's own JSONL: every field and form of test, and what is wrong named by file, line and value."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from ledex_ray.errors import BadInput
from ledex_ray.problems import AssertTest, CallTest, CheckTest, Limits, Problem, StdioTest
from ledex_ray.readers import load_problems, read_problems
from tests.science.rows import GOOD, write


def one(folder: Path, **changes: object) -> Problem:
    (problem,) = read_problems(write(folder, GOOD | changes))
    return problem


def test_every_field_is_read(tmp_path: Path) -> None:
    problem = one(
        tmp_path,
        prompt="def add(a):\n",
        setup="import math",
        limits={"cpu_seconds": 2},
        public=0,
        split="train",
        difficulty=2,
        topic="numbers",
        unknown="ignored",
        topics=["my own"],
    )
    assert (problem.prompt, problem.setup) == ("def add(a):\n", "import math")
    assert (problem.n_public, problem.split) == (0, "train")
    assert problem.limits == Limits(2.0, 1024)
    assert problem.meta == {"difficulty": "2", "topic": "numbers"}
    assert problem.benchmark == "jsonl"


def test_public_defaults_to_one_and_one_canonical_solution_may_stand_alone(tmp_path: Path) -> None:
    row = {k: v for k, v in GOOD.items() if k != "canonical_solutions"} | {"canonical_solution": "def add(a): return 2"}
    (problem,) = read_problems(write(tmp_path, row))
    assert problem.n_public == 1
    assert problem.canonical_solutions == ("def add(a): return 2",)


@pytest.mark.parametrize(
    ("test", "read"),
    [
        ("assert add(1) == 2", AssertTest("assert add(1) == 2")),
        ({"args": "([1],)", "kwargs": "{'b': 3}", "expected": "(1, 2)"}, CallTest("([1],)", "(1, 2)", "{'b': 3}")),
        ({"args": [[1, 2]], "expected": [2]}, CallTest("([1, 2],)", "[2]", compare="json")),
        ({"args": [True, None], "expected": "'x'"}, CallTest("(True, None)", "'x'", compare="json")),
        ({"args": [1], "expected": 2, "compare": "equal"}, CallTest("(1,)", "2")),
        ({"args": "(1,)", "expected": "{3}", "compare": "unordered"}, CallTest("(1,)", "{3}", compare="unordered")),
        ({"args": "(1,)", "expected": "0.5", "atol": 0.1}, CallTest("(1,)", "0.5", "{}", "close", 0.1)),
        (
            {"args": "(1,)", "expected": "1e999", "compare": "close", "rtol": 1},
            CallTest("(1,)", "1e999", "{}", "close", 0.0, 1.0),
        ),
        (
            {"check": "def check(candidate):\n    assert candidate(1)"},
            CheckTest("def check(candidate):\n    assert candidate(1)"),
        ),
    ],
)
def test_each_form_of_test_is_read(tmp_path: Path, test: object, read: object) -> None:
    assert one(tmp_path, tests=[test]).tests == (read,)


def test_programs_with_input_and_output_need_no_entry_point(tmp_path: Path) -> None:
    problem = one(tmp_path, tests=[{"stdin": "1\n", "stdout": "2\n"}], entry_point="")
    assert problem.tests == (StdioTest("1\n", "2\n"),)


def test_entry_point_is_found_in_an_assert(tmp_path: Path) -> None:
    problem = one(tmp_path, tests=["import math\nassert math.isclose(max(area(2), 1), 4)"], entry_point="")
    assert problem.entry_point == "area"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"id": ""}, "'id'"),
        ({"id": 7}, "'id', got 7; expected a string"),
        ({"text": None}, "'text' is missing"),
        ({"tests": []}, "'tests', got []"),
        ({"tests": "assert add(1)"}, "'tests'"),
        ({"tests": ["add(1) == 2"]}, "'tests[0]', got 'add(1) == 2'; expected one assert statement"),
        ({"tests": ["assert add(1)\nassert add(2)"]}, "one assert"),
        ({"tests": ["assert add(1", "assert add(2)"]}, "'tests[0]' is not Python"),
        ({"tests": [GOOD["tests"][0], 5]}, "'tests[1]', got 5; expected an assert statement"),
        ({"tests": [{"args": "(1,)"}]}, "'tests[0]'"),
        ({"tests": [{"args": "1", "expected": "2"}]}, "'tests[0].args', got '1'; expected a tuple"),
        ({"tests": [{"args": "(x,)", "expected": "2"}]}, "'tests[0].args' is not a Python literal, got '(x,)'"),
        ({"tests": [{"args": ["a"], "expected": "abc"}]}, "'tests[0].expected' is not a Python literal, got 'abc'"),
        ({"tests": [{"args": "(1,)", "expected": "2", "kwargs": "[]"}]}, "'tests[0].kwargs'"),
        ({"tests": [{"args": "(1,)", "expected": "2", "compare": "exact"}]}, "equal or close or unordered or json"),
        ({"tests": [{"args": "(1,)", "expected": "2", "atol": -1}]}, "'tests[0].atol', got -1"),
        ({"tests": [{"check": "def test(f): pass"}]}, "'tests[0].check'"),
        ({"tests": [{"stdin": "", "stdout": ""}, "assert add(1)"]}, "mixes"),
        ({"entry_point": "", "tests": [{"args": "(1,)", "expected": "2"}]}, "'entry_point' is missing"),
        ({"canonical_solution": "x = 1"}, "both 'canonical_solution' and"),
        ({"canonical_solutions": "def add(a): pass"}, "'canonical_solutions'"),
        ({"limits": {"cpu_seconds": 0}}, "'limits.cpu_seconds', got 0; expected a positive number"),
        ({"limits": {"memory_mb": 0.5}}, "'limits.memory_mb', got 0.5; expected whole megabytes, from 1"),
        ({"limits": {"seconds": 1}}, "'limits'"),
        ({"public": 2}, "'public', got 2; expected a number of leading tests, 0 to 1"),
        ({"public": True}, "'public', got True"),
        ({"split": "trian"}, "'split', got 'trian'; expected train or validation or test or prompt or heldout"),
        ({"setup": "import"}, "'setup' is not Python"),
        ({"publik": 1}, "unknown field 'publik'; expected 'public', or another name"),
        ({"tests": [{"args": "(1,)", "expected": "2", "a_tol": 1}]}, "'tests[0].a_tol'; expected 'tests[0].atol'"),
        ({"entry_point": "add()"}, "'entry_point', got 'add()'; expected the name of a function"),
        ({"text": "\ud83d, the first half"}, "holds half a character"),
    ],
)
def test_wrong_field_is_named_with_file_line_and_value(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    path = write(tmp_path, GOOD, "", GOOD | {"id": "own/2"} | changes)
    with pytest.raises(BadInput) as caught:
        read_problems(path)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["{'id': 1}"], ":1: is not JSON"),
        (["[1]"], ":1: is not a JSON object"),
        ([GOOD, GOOD], ":2: field 'id' repeats"),
        ([""], "holds no problem"),
        (['{"id": "a"} {"id": "b"}'], ":1: is not JSON"),
    ],
)
def test_wrong_file_is_refused(tmp_path: Path, rows: list[object], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        read_problems(write(tmp_path, *rows))


def test_missing_folder_binary_and_gzipped_files(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file"):
        read_problems(tmp_path / "none.jsonl")
    with pytest.raises(BadInput, match="is a folder"):
        read_problems(tmp_path)
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput, match="not UTF-8"):
        read_problems(tmp_path / "binary.jsonl")
    (tmp_path / "marked.jsonl").write_text("\ufeff" + json.dumps(GOOD | {"text": "\U0001f600"}))
    assert [p.text for p in read_problems(tmp_path / "marked.jsonl")] == ["\U0001f600"]
    (tmp_path / "p.jsonl.gz").write_bytes(gzip.compress(json.dumps(GOOD).encode()))
    assert len(load_problems(f"jsonl:{tmp_path}/p.jsonl.gz")) == 1
    (tmp_path / "half.jsonl.gz").write_bytes(gzip.compress(json.dumps(GOOD).encode())[:-12])
    with pytest.raises(BadInput, match="cannot be read"):
        read_problems(tmp_path / "half.jsonl.gz")
