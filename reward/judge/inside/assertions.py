"""Test code of a data set, read once: which names it wants of the program, and asserts that tell what they saw.

`assert f(x) == y` becomes code that keeps both sides, so that feedback can say what came and what was expected.
Tests that hand over functions, classes or objects of the program itself cannot be run against a proxy: they are found
here, from the test alone, so that no program can choose weak mode for itself.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType

CHECK_FAILED = "__ledex_failed__"
SHORT = 200


class AssertionFailed(AssertionError):
    """A rewritten assert that did not hold: its text, and both sides where it was an equality."""

    def __init__(self, text: str, call: str, got: object, expected: object, compared: bool) -> None:
        super().__init__(text)
        self.text, self.call, self.got, self.expected, self.compared = text, call, got, expected, compared


@dataclass(frozen=True)
class TestCode:
    """A test's code, ready to run in the referee."""

    __test__ = False

    source: str
    code: CodeType
    names: tuple[str, ...]  # functions of the program that it calls
    weak: str  # why it must run beside the program; empty when a proxy serves
    observes: bool  # whether it can see what the program does to its arguments
    text: str  # the last assert as written


def failed(text: str, call: str, got: object = None, expected: object = None, compared: bool = False) -> None:
    raise AssertionFailed(text, call, got, expected, compared)


def prepare(source: str, entry: str, given: frozenset[str]) -> TestCode:
    """The test, rewritten and compiled; `given` are names that the set-up defines. Raises SyntaxError."""
    tree = ast.parse(source)
    names, weak = _wanted(tree, entry, given)
    asserts = [node for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    text = ast.unparse(asserts[-1]) if asserts else source.strip()
    observes = any(not _is_display(argument) for argument in _arguments(tree, {entry, "candidate", *names}))
    rewritten = ast.fix_missing_locations(_Rewriter({entry, "candidate", *names}, entry).visit(tree))
    code = compile(rewritten, "<test>", "exec", dont_inherit=True)
    return TestCode(source, code, names, weak, observes, shorten(text))


def defined_names(source: str) -> frozenset[str]:
    """Every name that the code binds anywhere."""
    return frozenset(_bound(ast.parse(source)))


def weak_setup(source: str) -> str:
    """Why the set-up needs the program itself (it makes objects of its classes, say); empty when it does not."""
    names, _ = _wanted(ast.parse(source), "", frozenset())
    return f"the set-up uses the program's {names[0]}" if names else ""


def shorten(text: str, limit: int = SHORT) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


class _Rewriter(ast.NodeTransformer):
    """Turns each assert into an `if not ...: failed(...)` that carries what was seen."""

    def __init__(self, proxied: set[str], entry: str) -> None:
        self._proxied, self._entry = proxied, entry

    def visit_Assert(self, node: ast.Assert) -> list[ast.stmt]:
        test, text = node.test, shorten(ast.unparse(node))
        if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq | ast.Is):
            left, right = test.left, test.comparators[0]
            called = [self._calls(left), self._calls(right)]
            if called.count(True) == 1:
                got, expected = ("__ledex_l__", "__ledex_r__") if called[0] else ("__ledex_r__", "__ledex_l__")
                side = left if called[0] else right
                call = "" if self._is_call(side) else shorten(self._readable(side))
                return [
                    _assign("__ledex_l__", left),
                    _assign("__ledex_r__", right),
                    self._unless(
                        ast.Compare(_load("__ledex_l__"), test.ops, [_load("__ledex_r__")]),
                        [ast.Constant(text), ast.Constant(call), _load(got), _load(expected), ast.Constant(True)],
                    ),
                ]
        return [self._unless(test, [ast.Constant(text), ast.Constant("")])]

    def _is_call(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in self._proxied

    def _calls(self, node: ast.expr) -> bool:
        return any(isinstance(n, ast.Name) and n.id in self._proxied for n in ast.walk(node))

    def _readable(self, node: ast.expr) -> str:
        copy = ast.parse(ast.unparse(node), mode="eval")
        for name in ast.walk(copy):
            if isinstance(name, ast.Name) and name.id == "candidate" and self._entry:
                name.id = self._entry
        return ast.unparse(copy)

    @staticmethod
    def _unless(test: ast.expr, arguments: list[ast.expr]) -> ast.stmt:
        return ast.If(ast.UnaryOp(ast.Not(), test), [ast.Expr(ast.Call(_load(CHECK_FAILED), arguments, []))], [])


def _load(name: str) -> ast.Name:
    return ast.Name(name, ast.Load())


def _assign(name: str, value: ast.expr) -> ast.stmt:
    return ast.Assign([ast.Name(name, ast.Store())], value)


def _wanted(tree: ast.Module, entry: str, given: frozenset[str]) -> tuple[tuple[str, ...], str]:
    """Names of the program that the test calls, and why a proxy would not do (empty when it would)."""
    tested = {entry, "candidate"} - {""}
    own = (_bound(tree) | given | set(dir(builtins)) | {"__name__", "__file__"}) - tested
    theirs = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)} - own
    weak = ""
    for parent, node in _walk(tree):
        if not (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in theirs):
            continue
        if not isinstance(parent, ast.Call):
            weak = weak or f"the test uses {node.id} itself"
        elif parent.func is node:
            if node.id not in tested and node.id[:1].isupper():
                weak = weak or f"the test makes objects of the program's class {node.id}"
        elif not (isinstance(parent.func, ast.Name) and parent.func.id == "check"):
            weak = weak or f"the test hands over {node.id} itself"
    if any(isinstance(n, ast.Lambda) for argument in _arguments(tree, theirs) for n in ast.walk(argument)):
        weak = weak or "the test hands over a function"
    return tuple(sorted(theirs - {"candidate"})), weak


def _walk(tree: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    for parent in ast.walk(tree):
        for child in ast.iter_child_nodes(parent):
            yield parent, child


def _arguments(tree: ast.AST, functions: set[str]) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in functions:
            yield from node.args
            yield from (keyword.value for keyword in node.keywords)


def _bound(tree: ast.AST) -> set[str]:
    bound: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            bound.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).split(".")[0])
            if node.name == "*":
                bound.update(_star(node))
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            bound.add(node.name)
    return bound


def _star(node: ast.alias) -> set[str]:
    """Names of a star import are not known here; `math` is what data sets use."""
    import math

    return set(dir(math))


def _is_display(node: ast.expr) -> bool:
    """Whether the expression makes fresh values, so that nobody else can see what becomes of them."""
    if isinstance(node, ast.Constant):
        return True
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        return all(_is_display(item) for item in node.elts)
    if isinstance(node, ast.Dict):
        return all(key is not None and _is_display(key) for key in node.keys) and all(map(_is_display, node.values))
    if isinstance(node, ast.UnaryOp):
        return _is_display(node.operand)
    if isinstance(node, ast.BinOp):
        return _is_display(node.left) and _is_display(node.right)
    return False
