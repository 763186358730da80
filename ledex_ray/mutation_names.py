"""What is known of a scope's variables without running it: which are bound above a line, and what they seem to hold."""

from __future__ import annotations

import ast


def kind(name: str, scope: ast.AST) -> str:
    """What a variable seems to hold by how the scope uses it: "number", "text", "collection" or "" where unclear."""
    for node in ast.walk(scope):
        match node:
            case ast.Assign(targets=[ast.Name(id=n)], value=ast.Constant(value=str()) | ast.JoinedStr()) if n == name:
                return "text"
            case ast.Assign(targets=[ast.Name(id=n)], value=ast.List() | ast.Dict() | ast.Set() | ast.ListComp()) if (
                n == name
            ):
                return "collection"
            case (
                ast.Subscript(value=ast.Name(id=n))
                | ast.For(iter=ast.Name(id=n))
                | ast.comprehension(iter=ast.Name(id=n))
                | ast.Call(func=ast.Attribute(value=ast.Name(id=n)))
                | ast.Call(func=ast.Name(id="len" | "sorted" | "sum" | "set" | "list"), args=[ast.Name(id=n)])
            ) if n == name:
                return "collection"
            case (
                ast.Subscript(slice=ast.Name(id=n))
                | ast.BinOp(left=ast.Name(id=n), op=ast.Sub() | ast.Div() | ast.FloorDiv() | ast.Pow())
                | ast.BinOp(right=ast.Name(id=n), op=ast.Sub() | ast.Div() | ast.FloorDiv() | ast.Pow())
                | ast.For(target=ast.Name(id=n), iter=ast.Call(func=ast.Name(id="range")))
                | ast.Assign(targets=[ast.Name(id=n)], value=ast.Constant(value=int() | float()))
            ) if n == name:
                return "number"
    return ""


def stored(scope: ast.AST) -> list[ast.Name]:
    """Every place where the scope binds a name, in the order of the text."""
    found = [n for n in ast.walk(scope) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    return sorted(found, key=lambda n: (n.lineno, n.col_offset))


def bound_before(scope: ast.AST, stores: list[ast.Name], line: int) -> list[str]:
    """Names that `scope` binds above `line` (parameters first), in order of appearance; `stores` is from `stored`."""
    names: dict[str, None] = {}
    if isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        names.update(dict.fromkeys(a.arg for a in [*scope.args.posonlyargs, *scope.args.args, *scope.args.kwonlyargs]))
    names.update(dict.fromkeys(n.id for n in stores if n.lineno < line))
    return [n for n in names if n not in ("self", "_")]
