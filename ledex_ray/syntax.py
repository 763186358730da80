"""Equality of programs by syntax tree: `same_ast` (the copy rate) and `canonical_form` (variables renamed away).

These parse their input in this process. Text that a model wrote goes through the scorer's killable child, which
calls these there; call them directly for our own sources alone.
"""

from __future__ import annotations

import ast

UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)
"""What `ast.parse` raises for a text that is no Python, or more than the parser holds."""


def normal_form(source: str) -> str:
    """The program's syntax tree as text: equal for programs that differ in layout and comments alone.

    Raises one of UNREADABLE where `source` does not parse.
    """
    return ast.dump(ast.parse(source))


def same_ast(a: str, b: str) -> bool:
    """Whether two programs have equal syntax trees; texts that do not parse are compared stripped of white space."""
    try:
        return normal_form(a) == normal_form(b)
    except UNREADABLE:
        return a.split() == b.split()


def canonical_form(source: str) -> str:
    """The syntax tree as text with local names, parameters and docstrings renamed away, in order of appearance.

    A name is renamed where the program itself binds it (parameter, assignment, loop, `as`, inner function); names
    that it only reads (builtins, modules) and the names of top-level functions and classes stay.
    """
    tree = ast.parse(source)
    kept = {n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    kept |= {
        (a.asname or a.name).split(".")[0]
        for n in ast.walk(tree)
        if isinstance(n, ast.Import | ast.ImportFrom)
        for a in n.names
    }
    bound = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store | ast.Del)}
    bound |= {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}
    bound |= {n.name for n in ast.walk(tree) if isinstance(n, ast.ExceptHandler) and n.name}
    bound |= {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}
    return ast.dump(_Renamer(bound - kept).visit(tree))


class _Renamer(ast.NodeTransformer):
    def __init__(self, bound: set[str]) -> None:
        self.bound = bound
        self.names: dict[str, str] = {}

    def _new(self, name: str) -> str:
        return self.names.setdefault(name, f"v{len(self.names)}") if name in self.bound else name

    def visit_Name(self, node: ast.Name) -> ast.AST:
        node.id = self._new(node.id)
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.arg = self._new(node.arg)
        node.annotation = None
        return node

    def visit_keyword(self, node: ast.keyword) -> ast.AST:
        if node.arg and node.arg in self.names:
            node.arg = self.names[node.arg]
        return self.generic_visit(node)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.AST:
        if node.name:
            node.name = self._new(node.name)
        return self.generic_visit(node)

    def visit_Global(self, node: ast.Global) -> ast.AST:
        node.names = [self._new(n) for n in node.names]
        return node

    visit_Nonlocal = visit_Global  # type: ignore[assignment]

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.name = self._new(node.name)
        node.returns = None
        first = node.body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            node.body = node.body[1:] or [ast.Pass()]
        return self.generic_visit(node)

    visit_AsyncFunctionDef = visit_FunctionDef  # type: ignore[assignment]
