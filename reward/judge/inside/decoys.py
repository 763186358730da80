"""Decoys for tests that must run beside the program: only a program that cheats passes both a test and its decoy.

The two are alike in form, so that what reads them does not know which to fail. They differ in the asserts that every
passing run gets to: another literal where there is one, else the contrary condition. A test that has no such assert (it
expects an exception, say) gets a last line that holds, its decoy one that does not. Not covered: an object that says of
itself, always, what the test wants to hear; a program that knows which values are right from the values alone.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator
from typing import Any

# An operator that does not hold where the given one does. Orders need not be total (sets, NaN): no `>=` for `<`.
_CONTRARY: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.Gt, ast.LtE: ast.Gt, ast.Gt: ast.Lt, ast.GtE: ast.Lt,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip


def twins(source: str, check: bool) -> tuple[str, str]:
    """The test as it runs beside the program, and its decoy; `check` if its function of that name is called."""
    test, decoy = ast.parse(source), ast.parse(source)
    certain = _certain(decoy, check)
    changed = [(line, other) for line in certain if (other := _with_other_literal(line.test))]
    for line, other in changed or [(line, _contrary(line.test)) for line in certain]:
        line.test = other
    for line in (*_certain(test, check), *certain):
        line.msg = None  # it may say what is right
    if not certain:
        test.body += ast.parse("assert 1 == 1").body
        decoy.body += ast.parse("assert 1 == 2").body
    return ast.unparse(test), ast.unparse(ast.fix_missing_locations(decoy))


def _certain(tree: ast.Module, check: bool) -> list[ast.Assert]:
    """The asserts that no passing run leaves out: of the test itself and of the functions that it calls there."""
    called = {"check"} if check else set()
    for line in tree.body:
        if isinstance(line, ast.Expr) and isinstance(line.value, ast.Call) and isinstance(line.value.func, ast.Name):
            called.add(line.value.func.id)
    functions = {line.name: line for line in tree.body if isinstance(line, ast.FunctionDef) and line.name in called}
    whole = [line.body for line in functions.values() if not _holds(line, ast.Return, ast.Yield, ast.YieldFrom)]
    return [line for block in (tree.body, *whole) for line in _asserts(block)]


def _asserts(block: list[ast.stmt]) -> Iterator[ast.Assert]:
    """Those of the block itself and of its loops over what is plainly not empty; other blocks may be left out."""
    for line in block:
        if isinstance(line, ast.Assert):
            yield line
        elif isinstance(line, ast.For) and _has_items(line.iter) and not _holds(line, ast.Break, ast.Continue):
            yield from _asserts(line.body)


def _holds(tree: ast.AST, *kinds: type[ast.AST]) -> bool:
    """Whether the code itself does such a thing; what functions in it do is theirs."""
    inner = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    return any(
        isinstance(node, kinds) or (not isinstance(node, inner) and _holds(node, *kinds))
        for node in ast.iter_child_nodes(tree)
    )


def _has_items(node: ast.expr) -> bool:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
        try:
            return bool(range(*map(ast.literal_eval, node.args)))
        except (ValueError, TypeError):
            return False
    return isinstance(node, ast.List | ast.Tuple | ast.Set) and any(not isinstance(n, ast.Starred) for n in node.elts)


def _with_other_literal(test: ast.expr) -> ast.expr | None:
    """An equality with another literal, which an object that is equal to everything passes as well; else None."""
    if not (isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq)):
        return None
    try:
        value = ast.literal_eval(test.comparators[0])
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
    return ast.Compare(test.left, [ast.Eq()], [ast.parse(repr(_perturbed(value)), mode="eval").body])


def _contrary(test: ast.expr) -> ast.expr:
    if isinstance(test, ast.Compare) and len(test.ops) == 1:
        return ast.Compare(test.left, [_CONTRARY[type(test.ops[0])]()], test.comparators)
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return test.operand
    return ast.UnaryOp(ast.Not(), test)


def _perturbed(value: Any) -> Any:
    """A value of the same kind that is not equal to this one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1 if value + 1 != value else 0
    if isinstance(value, str):
        return value + "a"
    if isinstance(value, bytes):
        return value + b"a"
    if isinstance(value, list):
        return [*value[:-1], _perturbed(value[-1])] if value else [0]
    if isinstance(value, tuple):
        return (*value[:-1], _perturbed(value[-1])) if value else (0,)
    if isinstance(value, set):
        return {*value, next(n for n in itertools.count() if n not in value)}
    if isinstance(value, dict):
        return {**value, **{key: _perturbed(value[key]) for key in list(value)[-1:]}} or {"a": 0}
    return 0
