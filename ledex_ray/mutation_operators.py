"""The one-edit bugs: each operator reads a syntax node and yields edits of the source text.

What a mutant then means for a reader is in
`ledex_ray.mutant_explanations`. Not covered: class hierarchies, comprehension rewrites, anything in f-strings.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from ledex_ray.mutation_source import Context, Edit

COMPARISONS: dict[type[ast.cmpop], tuple[str, tuple[str, ...]]] = {
    ast.Lt: ("<", ("<=", ">")),
    ast.LtE: ("<=", ("<", ">=")),
    ast.Gt: (">", (">=", "<")),
    ast.GtE: (">=", (">", "<=")),
    ast.Eq: ("==", ("!=",)),
    ast.NotEq: ("!=", ("==",)),
    ast.In: ("in", ("not in",)),
    ast.NotIn: ("not in", ("in",)),
    ast.Is: ("is", ("is not",)),
    ast.IsNot: ("is not", ("is",)),
}
ARITHMETIC: dict[type[ast.operator], tuple[str, tuple[str, ...]]] = {
    ast.Add: ("+", ("-",)),
    ast.Sub: ("-", ("+",)),
    ast.Mult: ("*", ("+",)),
    ast.Div: ("/", ("//",)),
    ast.FloorDiv: ("//", ("/", "%")),
    ast.Mod: ("%", ("//",)),
    ast.Pow: ("**", ("*",)),
    ast.BitAnd: ("&", ("|",)),
    ast.BitOr: ("|", ("&",)),
    ast.BitXor: ("^", ("|",)),
    ast.LShift: ("<<", (">>",)),
    ast.RShift: (">>", ("<<",)),
}
FUNCTIONS = {"min": "max", "max": "min", "any": "all", "all": "any", "sum": "len", "floor": "ceil", "ceil": "floor"}
METHODS = {
    "lower": "upper",
    "upper": "lower",
    "startswith": "endswith",
    "endswith": "startswith",
    "keys": "values",
    "values": "keys",
    "find": "rfind",
    "rfind": "find",
    "lstrip": "rstrip",
    "rstrip": "lstrip",
    "isdigit": "isalpha",
    "isalpha": "isdigit",
    "islower": "isupper",
    "isupper": "islower",
    "union": "intersection",
    "intersection": "union",
}
UNWRAPPED = ("sorted", "abs", "set", "reversed", "str", "int", "round", "list")


def expression_edits(node: ast.AST, c: Context) -> Iterator[Edit]:
    """Every edit of one expression."""
    match node:
        case ast.Compare():
            yield from _comparison(node, c)
        case ast.BinOp():
            yield from _arithmetic(node, c)
        case ast.BoolOp():
            yield from _boolean(node, c)
        case ast.UnaryOp(op=ast.Not()):
            yield c.edit(node, c.text(node.operand), "negated condition")
        case ast.IfExp():
            body, test, other = c.text(node.body), c.text(node.test), c.text(node.orelse)
            yield c.edit(node, f"{other} if {test} else {body}", "swapped branches")
        case ast.Constant():
            yield from _constant(node, c)
        case ast.Call():
            yield from _call(node, c)
        case ast.Subscript():
            yield from _subscript(node, c)
        case ast.Name(ctx=ast.Load()):
            yield from _variable(node, c)


def _comparison(node: ast.Compare, c: Context) -> Iterator[Edit]:
    left: ast.expr = node.left
    for op, right in zip(node.ops, node.comparators, strict=True):
        now, others = COMPARISONS[type(op)]
        gap_start, gap_end = c.span(left)[1], c.span(right)[0]
        at = c.source.find(now.encode(), gap_start, gap_end)
        if at >= 0 and not _main_guard(node):
            for other in others:
                yield c.edit(node, other, "wrong comparison", span=(at, at + len(now)))
        left = right


def _main_guard(node: ast.Compare) -> bool:
    return isinstance(node.left, ast.Name) and node.left.id == "__name__"


def _textual(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr | ast.List | ast.ListComp | ast.Tuple) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def _alike(a: str, b: str) -> bool:
    """Whether one variable could pass for the other: a number never stands where a collection or a text does."""
    return a == b or "number" not in (a, b) or not (a and b)


def adds_text(values: Iterable[ast.expr], node: ast.AST, c: Context) -> bool:
    """Whether an addition joins texts or collections, where no other operator would even run."""
    return any(
        _textual(v) or (isinstance(v, ast.Name) and c.kind(v.id, c.scope(node)) in ("text", "collection"))
        for v in values
    )


def _arithmetic(node: ast.BinOp, c: Context) -> Iterator[Edit]:
    if adds_text((node.left, node.right), node, c) or type(node.op) not in ARITHMETIC:
        return
    now, others = ARITHMETIC[type(node.op)]
    at = c.source.find(now.encode(), c.span(node.left)[1], c.span(node.right)[0])
    if at >= 0:
        for other in others:
            yield c.edit(node, other, "wrong operator", span=(at, at + len(now)))
    if isinstance(node.op, ast.Add | ast.Sub) and isinstance(node.right, ast.Constant) and node.right.value == 1:
        yield c.edit(node, c.text(node.left), "off by one")
    if isinstance(node.op, ast.Sub | ast.Div | ast.FloorDiv | ast.Mod | ast.Pow):
        left, right = _outer(node.left, c), _outer(node.right, c)
        middle = c.source[left[1] : right[0]].decode()
        swapped = c.source[slice(*right)].decode() + middle + c.source[slice(*left)].decode()
        yield c.edit(node, swapped, "swapped operands", span=(left[0], right[1]))


def _outer(node: ast.expr, c: Context) -> tuple[int, int]:
    """The span of an operand with the parentheses around it, which are no part of its node."""
    start, end = c.span(node)
    while c.source[:start].rstrip(b" ").endswith(b"(") and c.source[end:].lstrip(b" ").startswith(b")"):
        grand = c.parents.get(node)
        wide = (c.source.rfind(b"(", 0, start), c.source.find(b")", end) + 1)
        if grand is None or wide[0] < c.span(grand)[0] or wide[1] > c.span(grand)[1]:
            break
        start, end = wide
    return start, end


def _boolean(node: ast.BoolOp, c: Context) -> Iterator[Edit]:
    now, other = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
    for left, right in zip(node.values, node.values[1:], strict=False):
        at = c.source.find(now.encode(), c.span(left)[1], c.span(right)[0])
        if at >= 0:
            yield c.edit(node, other, "wrong boolean", span=(at, at + len(now)))
    for position, value in enumerate(node.values):
        others = [v for i, v in enumerate(node.values) if i != position]
        if len(others) == 1:
            yield c.edit(node, c.text(others[0]), "missing condition")
        elif position == 0:
            yield c.edit(node, "", "missing condition", span=(_outer(value, c)[0], _outer(others[0], c)[0]))
        else:
            before = _outer(node.values[position - 1], c)[1]
            yield c.edit(node, "", "missing condition", span=(before, _outer(value, c)[1]))


def _constant(node: ast.Constant, c: Context) -> Iterator[Edit]:
    value, parent = node.value, c.parents.get(node)
    if isinstance(value, bool):
        operator = "wrong return" if isinstance(parent, ast.Return) else "wrong constant"
        yield c.edit(node, str(not value), operator)
    elif isinstance(value, int) and abs(value) < 10**6 and not _index_of_subscript(node, c):
        operator = "off by one"
        if isinstance(parent, ast.Assign):
            operator = "wrong start value"
        elif isinstance(parent, ast.Call) and isinstance(parent.func, ast.Name) and parent.func.id == "range":
            operator = "wrong range"
        signed = isinstance(parent, ast.UnaryOp) or (
            isinstance(parent, ast.BinOp) and isinstance(parent.op, ast.Add | ast.Sub)
        )
        whole = parent if isinstance(parent, ast.Call) and operator == "wrong range" else node
        for other in (value + 1, value - 1):
            if other == 0 and signed:
                continue
            if other >= 0 or (value == 0 and operator == "wrong start value"):
                yield c.edit(whole, str(other), operator, span=c.span(node))
    elif isinstance(value, str) and isinstance(parent, ast.Attribute) and value in ("", " ", ", ", ","):
        yield c.edit(node, '""' if value else '" "', "wrong separator")


def _index_of_subscript(node: ast.expr, c: Context) -> bool:
    parent = c.parents.get(node)
    if isinstance(parent, ast.UnaryOp):
        parent = c.parents.get(parent)
    return isinstance(parent, ast.Subscript | ast.Slice) and parent is not None


def _bumped(node: ast.expr, step: int, c: Context) -> str | None:
    """The text of `node` plus or minus one, folded where it already is a sum or a number."""
    text, sign = c.text(node), "+" if step > 0 else "-"
    match node:
        case ast.Constant(value=int(value)):
            return str(value + step)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int(value))):
            return str(-value + step)
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() as op, right=ast.Constant(value=1)):
            if isinstance(op, ast.Add) == (step < 0):
                return c.text(left)
            return None  # the edit of the constant says the same
        case ast.Name() | ast.Call() | ast.Attribute() | ast.Subscript() | ast.BinOp():
            return f"{text} {sign} 1"
    return None


def _call(node: ast.Call, c: Context) -> Iterator[Edit]:
    args = node.args
    if isinstance(node.func, ast.Name):
        name = node.func.id
        if name == "range":
            for position, arg in enumerate(args[:2]):
                for step in (1, -1):
                    text = _bumped(arg, step, c)
                    if text is not None and not (position == 0 and len(args) == 2 and text == "-1"):
                        yield c.edit(node, text, "wrong range", span=c.span(arg))
            if len(args) == 1:
                yield c.edit(node, f"1, {c.text(args[0])}", "wrong range", span=c.span(args[0]))
        if name in FUNCTIONS:
            yield c.edit(node, FUNCTIONS[name], "wrong function", span=c.span(node.func))
        if name in UNWRAPPED and len(args) == 1 and not node.keywords and not isinstance(args[0], ast.GeneratorExp):
            yield c.edit(node, c.text(args[0]), "missing call")
    if isinstance(node.func, ast.Attribute):
        end = c.span(node.func)[1]
        name = node.func.attr
        if name in METHODS:
            yield c.edit(node, METHODS[name], "wrong function", span=(end - len(name.encode()), end))
        if name in ("strip", "lower", "upper", "copy", "split") and not args:
            yield c.edit(node, c.text(node.func.value), "missing call")
    if (
        len(args) == 2
        and not node.keywords
        and not any(isinstance(a, ast.Starred) for a in args)
        and not (isinstance(node.func, ast.Name) and node.func.id in ("range", "min", "max"))
    ):
        first, second = c.text(args[0]), c.text(args[1])
        yield c.edit(node, f"{second}, {first}", "swapped arguments", span=(c.span(args[0])[0], c.span(args[1])[1]))


def _subscript(node: ast.Subscript, c: Context) -> Iterator[Edit]:
    index = node.slice
    if isinstance(index, ast.Slice):
        for bound in (index.lower, index.upper):
            for step in (1, -1):
                text = None if bound is None else _bumped(bound, step, c)
                if bound is not None and text is not None:
                    yield c.edit(bound, text, "wrong slice")
            if bound is not None:
                yield c.edit(bound, "", "wrong slice")
    elif not (isinstance(index, ast.Constant) and isinstance(index.value, str)):
        for step in (1, -1):
            text = _bumped(index, step, c)
            if text is not None:
                yield c.edit(index, text, "wrong index")


def _variable(node: ast.Name, c: Context) -> Iterator[Edit]:
    parent = c.parents.get(node)
    if (isinstance(parent, ast.Call) and parent.func is node) or isinstance(parent, ast.Attribute):
        return
    scope = c.scope(node)
    known = c.known(scope, node.lineno)
    if node.id not in known:
        return
    uses = {name: c.kind(name, scope) for name in known}
    others = [name for name in known if name != node.id and _alike(uses[name], uses[node.id])]
    nearest = sorted(others, key=lambda name: abs(known.index(name) - known.index(node.id)))
    operator = "wrong return" if isinstance(parent, ast.Return) else "wrong variable"
    for other in nearest[:2]:
        yield c.edit(node, other, operator)
