"""Tests of a user's own: a .py of top-level asserts, or a .jsonl with one test of docs/files.md a line.

A test of a .py is an assert, or a statement that comes to one: a loop over cases, a call of a helper that asserts. What
stands before it (imports, values, helpers) is run again for each: no test depends on another. Nothing that asserts is
passed over in silence. Not covered: pytest's functions, fixtures and classes.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

from ledex_ray.errors import BadInput
from ledex_ray.problems import AssertTest, StdioTest, Test
from ledex_ray.readers.files import read_text
from ledex_ray.readers.jsonl import parse_test
from ledex_ray.syntax import UNREADABLE


def read_tests(path: Path, program: Path) -> tuple[Test, ...]:
    """The tests in the file, for the code in the file `program`. Raises BadInput with file, line and what is wrong."""
    if path.suffix == ".py":
        return _asserts(path, program.stem)
    if path.suffix == ".jsonl":
        return _lines(path)
    raise BadInput(str(path), "is no file of tests", expected="a .py of top-level asserts, or a .jsonl of tests")


def _asserts(path: Path, module: str) -> tuple[Test, ...]:
    text = read_text(path)
    try:
        tree = ast.parse(text)
    except UNREADABLE as error:
        raise BadInput(str(path), f"is not Python ({error})") from error
    before: list[str] = []
    tests: list[Test] = []
    body = _as_a_program(tree.body)
    helpers = _asserting(body)
    last = {name: place for place, node in enumerate(body) for name in _named(node)}  # where each is named last
    lines = _lines_of_python(text)
    for place, node in enumerate(body):
        if _is_docstring(node) or _imports_the_program(node, module, f"{path}:{node.lineno}"):
            continue
        source = _source(lines, node)
        if not isinstance(node, _DEFINITIONS) and (_asserts_itself(node) or _named(node) & helpers.keys()):
            tests.append(AssertTest("\n".join([*before, source])))
            if all(last[name] <= place for name in _bound(node)):
                continue
        before.append(source)
    for name, helper in helpers.items():
        if not any(name in _named(node) for node in body if node is not helper):
            expected = "its asserts at top level, or a call of it there"
            raise BadInput(
                f"{path}:{helper.lineno}", "asserts in a function that nothing calls", given=name, expected=expected
            )
    if not tests:
        raise BadInput(str(path), "holds no assert at top level", expected="lines such as `assert f(1) == 2`")
    return tuple(tests)


_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def _as_a_program(body: list[ast.stmt]) -> list[ast.stmt]:
    """The statements that run where the file is started: those under `if __name__ == "__main__"` too."""
    found: list[ast.stmt] = []
    for node in body:
        guarded = isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)
        found += node.body if isinstance(node, ast.If) and guarded else [node]
    return found


def _asserting(body: list[ast.stmt]) -> dict[str, Definition]:
    """The definitions that assert, or name one that does."""
    definitions = {node.name: node for node in body if isinstance(node, _DEFINITIONS)}
    found = {name for name, node in definitions.items() if _asserts_itself(node)}
    while more := {name for name, node in definitions.items() if name not in found and _named(node) & found}:
        found |= more
    return {name: node for name, node in definitions.items() if name in found}


def _asserts_itself(node: ast.stmt) -> bool:
    return any(isinstance(inner, ast.Assert) for inner in ast.walk(node))


def _named(node: ast.stmt) -> set[str]:
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}


def _bound(node: ast.stmt) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def _source(lines: list[str], node: ast.stmt) -> str:
    """The statement as it is written, from its first decorator on."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.decorator_list:
        node.lineno, node.col_offset = node.decorator_list[0].lineno, 0  # a definition's own place is behind them
    if node.col_offset:  # from under a guard: its further lines are indented
        return ast.unparse(node)
    assert node.end_lineno is not None, "it was parsed"
    *whole, end = lines[node.lineno - 1 : node.end_lineno]
    return "".join([*whole, end.encode()[: node.end_col_offset].decode()])


def _lines_of_python(text: str) -> list[str]:
    """The lines with their ends as Python's parser counts them: `splitlines` knows more ends than it does."""
    return re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", text)


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _imports_the_program(node: ast.stmt, module: str, where: str) -> bool:
    """Whether this takes names from the program, which are there without it. Raises BadInput where they change."""
    if isinstance(node, ast.Import) and any(alias.name == module for alias in node.names):
        raise BadInput(where, f"imports {module}", expected=f"its functions by their names, `from {module} import f`")
    if not isinstance(node, ast.ImportFrom) or node.module != module:
        return False
    if any(alias.asname for alias in node.names):
        raise BadInput(where, f"renames what {module} defines", expected="the functions' own names")
    return True


def _lines(path: Path) -> tuple[Test, ...]:
    tests: list[Test] = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            where = f"{path}:{number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:  # also a number of too many digits
                raise BadInput(where, f"is not JSON ({error})", given=line, expected="one test a line") from error
            tests.append(parse_test(row, where, "test"))
    if not tests:
        raise BadInput(str(path), "holds no test", expected="one test a line")
    if len({isinstance(test, StdioTest) for test in tests}) > 1:
        raise BadInput(str(path), "mixes stdin/stdout with calls", expected="one kind of program")
    return tuple(tests)
