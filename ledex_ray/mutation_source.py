"""A program's text and tree side by side; edits replace spans of the text, so that a mutant keeps its layout."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field

from ledex_ray.mutation_names import bound_before, kind, stored


@dataclass(frozen=True)
class Edit:
    """Replace bytes [start, end) of the source by `text`; `right` and `wrong` show the change to a reader."""

    start: int
    end: int
    text: str
    operator: str
    line: int
    right: str
    wrong: str
    old: str = ""  # the replaced text itself


@dataclass
class Context:
    """The source as bytes with line starts, and what each operator needs to know of a node's surroundings."""

    source: bytes
    tree: ast.Module
    starts: list[int] = field(init=False)
    parents: dict[ast.AST, ast.AST] = field(init=False)
    kinds: dict[tuple[str, ast.AST], str] = field(default_factory=dict, init=False)
    stores: dict[ast.AST, list[ast.Name]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.starts = [0]
        for line in self.source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.parents = {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}

    def span(self, node: ast.AST) -> tuple[int, int]:
        n: ast.expr = node  # type: ignore[assignment]  # every expression and statement has positions
        assert n.end_lineno is not None and n.end_col_offset is not None
        return self.starts[n.lineno - 1] + n.col_offset, self.starts[n.end_lineno - 1] + n.end_col_offset

    def text(self, node: ast.AST) -> str:
        start, end = self.span(node)
        return self.source[start:end].decode()

    def replaced(self, outer: ast.AST, start: int, end: int, text: str) -> str:
        """The text of `outer` as it stands after an edit inside it."""
        a, b = self.span(outer)
        return (self.source[a:start] + text.encode() + self.source[end:b]).decode()

    def edit(self, node: ast.AST, text: str, operator: str, *, span: tuple[int, int] | None = None) -> Edit:
        """Replace `node`, or a `span` inside it, by `text`."""
        start, end = span or self.span(node)
        shown = self.shown(node)
        line = self.source.count(b"\n", 0, start) + 1
        wrong = self.replaced(shown, start, end, text)
        return Edit(start, end, text, operator, line, self.text(shown), wrong, self.source[start:end].decode())

    def shown(self, node: ast.AST) -> ast.AST:
        """The smallest enclosing expression or simple statement that says enough to a reader."""
        while True:
            parent = self.parents.get(node)
            small = isinstance(node, ast.Constant | ast.Name | ast.UnaryOp | ast.Slice | ast.Attribute | ast.Subscript)
            if not small or not isinstance(parent, ast.expr | ast.Assign | ast.AugAssign | ast.Return):
                return node
            if len(self.text(parent)) > 60 or "\n" in self.text(parent):
                return node
            node = parent

    def scope(self, node: ast.AST) -> ast.AST:
        while not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.Module):
            node = self.parents[node]
        return node

    def kind(self, name: str, scope: ast.AST) -> str:
        """What a variable of the scope seems to hold (`mutation_names.kind`), worked out once."""
        if (name, scope) not in self.kinds:
            self.kinds[name, scope] = kind(name, scope)
        return self.kinds[name, scope]

    def known(self, scope: ast.AST, line: int) -> list[str]:
        """Names that the scope binds above a line."""
        if scope not in self.stores:
            self.stores[scope] = stored(scope)
        return bound_before(scope, self.stores[scope], line)

    def inside(self, node: ast.AST, kinds: type | tuple[type, ...]) -> ast.AST | None:
        """The nearest ancestor of one of `kinds` within the same function."""
        up = self.parents.get(node)
        while up is not None and not isinstance(up, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.Module):
            if isinstance(up, kinds):
                return up
            up = self.parents.get(up)
        return None
