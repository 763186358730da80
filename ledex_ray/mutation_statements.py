"""The one-edit bugs of whole statements: dropped lines and branches, negated tests, wrong returns and updates.

Sister of `ledex_ray.mutation_operators`, which has the edits inside expressions.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ledex_ray.mutation_operators import adds_text
from ledex_ray.mutation_source import Context, Edit

UPDATES: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+=", "-="),
    ast.Sub: ("-=", "+="),
    ast.Mult: ("*=", "+="),
    ast.FloorDiv: ("//=", "-="),
    ast.BitOr: ("|=", "&="),
    ast.BitAnd: ("&=", "|="),
    ast.BitXor: ("^=", "|="),
}


def statement_edits(node: ast.AST, c: Context) -> Iterator[Edit]:
    """Every edit of one statement."""
    match node:
        case ast.If():
            yield from _negated(node, c)
            yield from _missing_case(node, c)
        case ast.Return(value=value) if value is not None:
            yield from _return(node, value, c)
        case ast.AugAssign():
            yield from _update(node, c)
        case ast.Assign():
            yield from _start_value(node, c)
            if _assigned_before(node, c) and not _drives_while(node, c):
                yield from _dropped(node, c)
        case ast.Expr(value=ast.Call()):
            yield from _dropped(node, c)
        case ast.Break() | ast.Continue() if _safe_to_go_on(node, c):
            yield from _dropped(node, c)
        case ast.Break():
            yield c.edit(node, "continue", "wrong jump")


def _safe_to_go_on(node: ast.AST, c: Context) -> bool:
    """Without the jump a `for` still ends; a `while` might not."""
    return isinstance(c.inside(node, (ast.For, ast.While)), ast.For)


def _negated(node: ast.If, c: Context) -> Iterator[Edit]:
    if isinstance(node.test, ast.Compare) and len(node.test.ops) == 1:
        return  # the comparison's own flip says the same
    if isinstance(node.test, ast.UnaryOp):
        return
    text = c.text(node.test)
    plain = isinstance(node.test, ast.Name | ast.Call | ast.Attribute | ast.Subscript)
    yield c.edit(node.test, f"not {text}" if plain else f"not ({text})", "negated condition")


def _missing_case(node: ast.If, c: Context) -> Iterator[Edit]:
    start, end = _lines(node, c)
    is_elif = c.source.startswith(b"elif", c.span(node)[0])
    header = c.source[c.span(node)[0] : c.span(node.test)[1]].decode()
    if not node.orelse:
        if is_elif or _alone_on_lines(node, c):
            text = "" if is_elif or len(_siblings(node, c)) > 1 else _indent(node, c) + "pass\n"
            yield Edit(start, end, text, "missing case", node.lineno, header, "")
        return
    chained = c.source.startswith(b"elif", c.span(node.orelse[0])[0])
    keyword = c.span(node.orelse[0])[0] if chained else c.source.find(b"else", c.span(node.body[-1])[1])
    if keyword < 0 or "\n" not in c.source[c.span(node.body[-1])[1] : keyword].decode():
        return
    orelse_start = c.starts[c.source.count(b"\n", 0, keyword)]
    if is_elif:
        yield Edit(start, orelse_start, "", "missing case", node.lineno, header, "")
    if not chained:
        yield Edit(orelse_start, end, "", "missing case", c.source.count(b"\n", 0, keyword) + 1, "else", "")


def _return(node: ast.Return, value: ast.expr, c: Context) -> Iterator[Edit]:
    text = c.text(value)
    if isinstance(value, ast.Compare | ast.BoolOp) and not (isinstance(value, ast.Compare) and len(value.ops) == 1):
        yield c.edit(value, f"not ({text})", "wrong return")
    elif isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in ("any", "all", "bool"):
        yield c.edit(value, f"not {text}", "wrong return")
    siblings = _siblings(node, c)
    position = siblings.index(node)
    before = siblings[position - 1] if position else None
    if isinstance(before, ast.For | ast.While) and not before.orelse and "\n" not in c.text(node):
        start = _lines(node, c)[0]
        inner = _indent(before.body[0], c)
        if _indent(node, c) != inner and _alone_on_lines(node, c):
            yield Edit(start, c.span(node)[0], inner, "early return", node.lineno, c.text(node), c.text(node))
    if not isinstance(value, ast.Constant) and "\n" not in text:
        yield c.edit(node, text, "missing return")


def _update(node: ast.AugAssign, c: Context) -> Iterator[Edit]:
    if type(node.op) not in UPDATES or _drives_while(node, c):
        return
    now, other = UPDATES[type(node.op)]
    at = c.source.find(now.encode(), c.span(node.target)[1], c.span(node.value)[0])
    if not adds_text((node.target, node.value), node, c):
        yield c.edit(node, other, "wrong update", span=(at, at + len(now)))
    yield c.edit(node, "=", "overwritten value", span=(at, at + len(now)))
    yield from _dropped(node, c)


def _start_value(node: ast.Assign, c: Context) -> Iterator[Edit]:
    text = c.text(node.value)
    if "inf" in text and "float" in text:
        yield c.edit(node.value, "0", "wrong start value")
        yield c.edit(node.value, text[1:] if text.startswith("-") else f"-{text}", "wrong start value")
    elif isinstance(node.value, ast.Subscript) and isinstance(node.targets[0], ast.Name) and _before_loop(node, c):
        yield c.edit(node.value, "0", "wrong start value")


def _before_loop(node: ast.stmt, c: Context) -> bool:
    siblings = _siblings(node, c)
    return any(isinstance(s, ast.For | ast.While) for s in siblings[siblings.index(node) + 1 :])


def _dropped(node: ast.stmt, c: Context) -> Iterator[Edit]:
    if not _alone_on_lines(node, c) or "\n" in c.text(node):
        return
    start, end = _lines(node, c)
    text = "" if len(_siblings(node, c)) > 1 else _indent(node, c) + "pass\n"
    yield Edit(start, end, text, "missing statement", node.lineno, c.text(node), "")


def _drives_while(node: ast.Assign | ast.AugAssign, c: Context) -> bool:
    """Whether a surrounding `while` tests what this statement changes: without it the loop would not end."""
    loop = c.inside(node, ast.While)
    if not isinstance(loop, ast.While):
        return False
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    changed = {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
    return bool(changed & {n.id for n in ast.walk(loop.test) if isinstance(n, ast.Name)}) or isinstance(
        loop.test, ast.Constant
    )


def _assigned_before(node: ast.Assign, c: Context) -> bool:
    """Whether every target already has a value above, so that dropping this is wrong and not a NameError."""
    targets = {n.id for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name)}
    scope = c.scope(node)
    known = {
        n.id
        for n in ast.walk(scope)
        if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store) and n.lineno < node.lineno
    }
    if isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef):
        known |= {a.arg for a in scope.args.args}
    return targets <= known


def _siblings(node: ast.stmt, c: Context) -> list[ast.stmt]:
    parent = c.parents[node]
    for name in ("body", "orelse", "finalbody"):
        block = getattr(parent, name, None)
        if isinstance(block, list) and node in block:
            return block
    return [node]


def _lines(node: ast.stmt, c: Context) -> tuple[int, int]:
    """The span of the whole lines that a statement stands on."""
    assert node.end_lineno is not None
    return c.starts[node.lineno - 1], c.starts[node.end_lineno]


def _alone_on_lines(node: ast.stmt, c: Context) -> bool:
    start, end = _lines(node, c)
    before, after = c.source[start : c.span(node)[0]], c.source[c.span(node)[1] : end].strip()
    return not before.strip() and (not after or after.startswith(b"#"))


def _indent(node: ast.stmt, c: Context) -> str:
    return c.source[c.starts[node.lineno - 1] : c.span(node)[0]].decode()
