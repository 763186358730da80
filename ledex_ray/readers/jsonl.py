"""The project's own problem format: one JSON object a line, as docs/files.md has it.

Every refusal names file and line, field, value and what was expected. Keys that the format does not know are the user's
own, and ignored, unless they look like a slip of the pen.
"""

from __future__ import annotations

import ast
import builtins
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from ledex_ray.errors import BadInput
from ledex_ray.literals import check_literal, field_literal, to_literal
from ledex_ray.problems import SPLITS, AssertTest, CallTest, CheckTest, Compare, Limits, Problem, StdioTest, Test
from ledex_ray.readers.files import Row, json_lines, text_field
from ledex_ray.syntax import UNREADABLE

FIELDS = frozenset(
    {"id", "text", "tests", "entry_point", "public", "canonical_solutions", "canonical_solution", "split", "prompt"}
    | {"setup", "limits"}
)
SHOWN = frozenset({"difficulty", "topic"})
CALL_FIELDS = frozenset({"args", "expected", "kwargs", "compare", "atol", "rtol"})
TEST_FORMS = 'an assert statement, {"args", "expected"}, {"stdin", "stdout"} or {"check"}'


def read_problems(path: Path, *, benchmark: str = "jsonl") -> list[Problem]:
    """The problems of a JSONL file (may be gzipped), in its order. BadInput on the first line that is wrong."""
    problems: list[Problem] = []
    seen: dict[str, str] = {}
    for where, row in json_lines(path):
        problem = parse_problem(row, where, benchmark=benchmark)
        if problem.id in seen:
            raise BadInput(where, f"field 'id' repeats {seen[problem.id]}", given=problem.id, expected="unique ids")
        seen[problem.id] = where
        problems.append(problem)
    if not problems:
        raise BadInput(str(path), "holds no problem", expected="one JSON object a line")
    return problems


def parse_problem(row: Row, where: str, *, benchmark: str = "jsonl") -> Problem:
    """One problem from its JSON object; `where` is its file and line."""
    _check_names(row, FIELDS, where)
    tests = _tests(row, where)
    stdio = [isinstance(t, StdioTest) for t in tests]
    if any(stdio) and not all(stdio):
        raise BadInput(where, "field 'tests' mixes stdin/stdout with calls", expected="one kind of program")
    entry_point = text_field(row, "entry_point", where, required=False)
    if not entry_point and not all(stdio):
        entry_point = _called_name(tests)
    if not entry_point and not all(stdio):
        raise BadInput(where, "field 'entry_point' is missing", expected="the name of the function that tests call")
    if entry_point and not entry_point.isidentifier():
        raise BadInput(where, "field 'entry_point'", given=entry_point, expected="the name of a function")
    return Problem(
        id=text_field(row, "id", where),
        text=text_field(row, "text", where),
        tests=tests,
        entry_point=entry_point,
        prompt=text_field(row, "prompt", where, required=False),
        setup=_code(row, "setup", where),
        canonical_solutions=_canonical(row, where),
        limits=_limits(row, where),
        n_public=_public(row, len(tests), where),
        split=_split(row, where),
        benchmark=benchmark,
        meta={key: str(row[key]) for key in sorted(SHOWN) if row.get(key) is not None},
    )


def _check_names(row: Row, known: frozenset[str], where: str, inside: str = "") -> None:
    for key in sorted(row.keys() - known - SHOWN):
        for meant in difflib.get_close_matches(key, known - row.keys(), n=1, cutoff=0.8):
            raise BadInput(
                where,
                f"unknown field '{inside}{key}'",
                expected=f"'{inside}{meant}', or another name for what is your own",
            )


def _code(row: Row, name: str, where: str) -> str:
    code = text_field(row, name, where, required=False)
    _check_python(code, where, name)
    return code


def _check_python(code: str, where: str, field: str) -> ast.Module:
    try:
        return ast.parse(code)
    except UNREADABLE as error:
        raise BadInput(where, f"field '{field}' is not Python ({error})", given=code, expected="Python code") from error


def _canonical(row: Row, where: str) -> tuple[str, ...]:
    one, many = row.get("canonical_solution"), row.get("canonical_solutions")
    if one is not None and many is not None:
        raise BadInput(where, "both 'canonical_solution' and 'canonical_solutions'", expected="one of them")
    name = "canonical_solution" if one is not None else "canonical_solutions"
    listed = [one] if one is not None else (many if many is not None else [])
    if not isinstance(listed, list) or not all(isinstance(s, str) and s.strip() for s in listed):
        raise BadInput(where, f"field '{name}'", given=row[name], expected="a list of programs as strings")
    return tuple(listed)


def _limits(row: Row, where: str) -> Limits | None:
    given = row.get("limits")
    if given is None:
        return None
    if not isinstance(given, dict) or not set(given) <= {"cpu_seconds", "memory_mb"}:
        raise BadInput(where, "field 'limits'", given=given, expected='{"cpu_seconds", "memory_mb"}')
    default = Limits()
    cpu, memory = given.get("cpu_seconds", default.cpu_seconds), given.get("memory_mb", default.memory_mb)
    for name, value in (("cpu_seconds", cpu), ("memory_mb", memory)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise BadInput(where, f"field 'limits.{name}'", given=value, expected="a positive number")
    if memory < 1:
        raise BadInput(where, "field 'limits.memory_mb'", given=memory, expected="whole megabytes, from 1")
    return Limits(cpu_seconds=float(cpu), memory_mb=int(memory))


def _split(row: Row, where: str) -> str:
    split = text_field(row, "split", where, required=False)
    if split and split not in SPLITS:
        raise BadInput(where, "field 'split'", given=split, expected=" or ".join(SPLITS))
    return split


def _public(row: Row, n_tests: int, where: str) -> int:
    public = row.get("public", 1)
    if isinstance(public, bool) or not isinstance(public, int) or not 0 <= public <= n_tests:
        raise BadInput(where, "field 'public'", given=public, expected=f"a number of leading tests, 0 to {n_tests}")
    return public


def _tests(row: Row, where: str) -> tuple[Test, ...]:
    if "tests" not in row:
        raise BadInput(where, "field 'tests' is missing", expected=f"a list of tests, each {TEST_FORMS}")
    listed = row["tests"]
    if not isinstance(listed, list) or not listed:
        raise BadInput(where, "field 'tests'", given=listed, expected="a list with at least one test")
    return tuple(parse_test(test, where, f"tests[{index}]") for index, test in enumerate(listed))


def parse_test(test: object, where: str, field: str) -> Test:
    """One test in any of its forms; BadInput names `where` and `field`."""
    match test:
        case str():
            tree = _check_python(test, where, field)
            if sum(isinstance(n, ast.Assert) for n in ast.walk(tree)) != 1:
                raise BadInput(where, f"field '{field}'", given=test, expected="one assert statement")
            return AssertTest(test)
        case {"check": str(check)}:
            defined = [
                n.name for n in _check_python(check, where, f"{field}.check").body if isinstance(n, ast.FunctionDef)
            ]
            if "check" not in defined:
                raise BadInput(where, f"field '{field}.check'", given=check, expected="def check(candidate)")
            return CheckTest(check)
        case {"stdin": str(stdin), "stdout": str(stdout)}:
            return StdioTest(stdin, stdout)
        case {"args": _, "expected": _}:
            assert isinstance(test, dict)
            return _call(test, where, field)
    raise BadInput(where, f"field '{field}'", given=test, expected=TEST_FORMS)


def _call(test: Row, where: str, field: str) -> CallTest:
    _check_names(test, CALL_FIELDS, where, f"{field}.")
    args: Any = _literal(test["args"], where, f"{field}.args", (tuple, list), "a tuple such as '([1, 2],)' or a list")
    kwargs: Any = _literal(test.get("kwargs", "{}"), where, f"{field}.kwargs", (dict,), "a dict such as '{}'")
    if not all(isinstance(key, str) for key in kwargs):
        raise BadInput(where, f"field '{field}.kwargs'", given=test["kwargs"], expected="names as keys")
    expected = _literal(test["expected"], where, f"{field}.expected", (object,), "a literal such as \"'ab'\" or '(1,)'")
    atol, rtol = (_tolerance(test, name, where, field) for name in ("atol", "rtol"))
    plain_json = isinstance(test["args"], list) or isinstance(test["expected"], list | dict)
    compare = test.get("compare", "json" if plain_json else "close" if atol or rtol else "equal")
    if compare not in get_args(Compare):
        raise BadInput(where, f"field '{field}.compare'", given=compare, expected=" or ".join(get_args(Compare)))
    return CallTest(to_literal(tuple(args)), to_literal(expected), to_literal(kwargs), compare, atol, rtol)


def _literal(value: object, where: str, field: str, kinds: tuple[type, ...], expected: str) -> object:
    read = check_literal(value, where, field, expected) if isinstance(value, str) else value
    if not isinstance(read, kinds):
        raise BadInput(where, f"field '{field}'", given=value, expected=expected)
    field_literal(read, where, field, expected)
    return read


def _tolerance(test: Row, name: str, where: str, field: str) -> float:
    value = test.get(name, 0.0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise BadInput(where, f"field '{field}.{name}'", given=value, expected="a number that is not negative")
    return float(value)


def _called_name(tests: Sequence[Test]) -> str:
    """The function that the first assert calls, where no entry point is given; empty where it shows none."""
    for test in tests:
        if isinstance(test, AssertTest) and (name := called_name(test.code)):
            return name
    return ""


def called_name(code: str) -> str:
    """The outermost function that is neither builtin, imported nor assigned in an assert's code; "" if none."""
    tree = ast.parse(code)
    own = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    own |= {
        (a.asname or a.name).split(".")[0]
        for n in ast.walk(tree)
        if isinstance(n, ast.Import | ast.ImportFrom)
        for a in n.names
    }
    for node in ast.walk(tree):  # breadth first: the outermost call comes first
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            name = node.func.id
            if name not in own and not hasattr(builtins, name):
                return name
    return ""
