"""MBPP (Austin et al. 2021): each assert one test, the first public; splits by number.

Covers the full file and the hub's rows, and the sanitized set (whose text is in `prompt`). Not the challenge tests,
which the benchmark's own figures leave out.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable

from ledex_ray.errors import BadInput
from ledex_ray.problems import AssertTest, Limits, Problem
from ledex_ray.readers.files import Row, parse_python, text_field
from ledex_ray.readers.jsonl import called_name

SLOW = {123: Limits(cpu_seconds=40.0)}  # the set's own solution needs about 9 s of CPU


def split_of(number: int) -> str:
    """The split that MBPP's numbering fixes: prompt 1-10, test 11-510, validation 511-600, train 601-974."""
    for last, name in ((10, "prompt"), (510, "test"), (600, "validation"), (974, "train")):
        if 1 <= number <= last:
            return name
    return ""


def read_mbpp(rows: Iterable[tuple[str, Row]]) -> list[Problem]:
    """MBPP's problems, ids "MBPP/<number>". BadInput where a row lacks a field."""
    return [_problem(row, where) for where, row in rows]


def _problem(row: Row, where: str) -> Problem:
    number = row.get("task_id")
    if isinstance(number, bool) or not isinstance(number, int):
        raise BadInput(where, "field 'task_id'", given=number, expected="MBPP's number of the task")
    tests = row.get("test_list")
    if not isinstance(tests, list) or not tests or not all(isinstance(t, str) for t in tests):
        raise BadInput(where, "field 'test_list'", given=tests, expected="a list of assert statements")
    code = _unix(text_field(row, "code", where))
    imports = row.get("test_imports") or []
    if not isinstance(imports, list) or not all(isinstance(line, str) for line in imports):
        raise BadInput(where, "field 'test_imports'", given=imports, expected="a list of import statements")
    setup = [text_field(row, "test_setup_code", where, required=False), *imports]
    return Problem(
        id=f"MBPP/{number}",
        text=text_field(row, "text" if "text" in row else "prompt", where),
        tests=tuple(AssertTest(_unix(test.strip())) for test in tests),
        entry_point=_entry_point(code, tests, where),
        setup="\n".join(_unix(line) for line in setup if line.strip()),
        canonical_solutions=(code,),
        limits=SLOW.get(number),
        n_public=1,
        split=split_of(number),
        benchmark="mbpp",
    )


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _entry_point(code: str, tests: list[str], where: str) -> str:
    """The function of the solution that the first assert calls."""
    body = parse_python(code, "code", where).body
    defined = {n.name for n in body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    first, *_ = [parse_python(test.strip(), "test_list", where) for test in tests]
    called = [n.func.id for n in ast.walk(first) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    for name in called:
        if name in defined:
            return name
    name = called_name(tests[0].strip())
    if not name:
        raise BadInput(where, "field 'test_list' calls no function of the solution", given=tests[0])
    return name
