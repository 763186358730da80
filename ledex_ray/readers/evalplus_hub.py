"""EvalPlus' rows as the hub has them: the inputs stand in the code of `test`, as Python literals.

They are brought into the form of EvalPlus' own files. The results that `test` lists as well are not read: expected
values come from the reference solution either way, so that both sources give the same problems.
"""

from __future__ import annotations

import ast
from typing import Any

from ledex_ray.errors import BadInput
from ledex_ray.readers.files import Row, parse_python, text_field

BASE_ASSERTS = 3  # MBPP+ keeps MBPP's inputs first


def file_row(row: Row, where: str) -> Row:
    """A hub row in the layout of `HumanEvalPlus.jsonl` and `MbppPlus.jsonl`; file rows are returned as they are."""
    if "base_input" in row:
        return row
    tree = parse_python(text_field(row, "test", where), "test", where)
    assigned = {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    call = next(
        (
            n
            for n in ast.walk(tree)
            if isinstance(n, ast.Call)
            and isinstance(n.func, ast.Name)
            and n.func.id == "assertion"
            and len(n.args) == 3
        ),
        None,
    )
    if "inputs" not in assigned or call is None:
        raise BadInput(where, "field 'test' lists no inputs", given=row["test"], expected="EvalPlus' layout")
    inputs = _literal(assigned["inputs"], where)
    if not isinstance(inputs, list):
        raise BadInput(where, "field 'test' lists no inputs", given=inputs, expected="a list of argument lists")
    if "entry_point" in row:  # HumanEval+
        return {**row, "base_input": inputs, "plus_input": [], "atol": _literal(call.args[2], where)}
    tested = call.args[0]
    if not isinstance(tested, ast.Call) or not isinstance(tested.func, ast.Name):
        raise BadInput(where, "field 'test' calls no function", given=row["test"], expected="EvalPlus' layout")
    return {
        "task_id": f"Mbpp/{row.get('task_id')}",
        "prompt": row.get("prompt"),
        "canonical_solution": text_field(row, "code", where),
        "entry_point": tested.func.id,
        "base_input": inputs[:BASE_ASSERTS],
        "plus_input": inputs[BASE_ASSERTS:],
        "atol": _literal(call.args[2], where),
        "restored": True,
    }


def _literal(node: ast.expr, where: str) -> Any:
    """The value of a literal in which `inf` may stand for infinity."""

    class Infinity(ast.NodeTransformer):
        def visit_Name(self, name: ast.Name) -> ast.AST:
            return ast.Constant(float("inf")) if name.id == "inf" else name

    try:
        return ast.literal_eval(ast.fix_missing_locations(Infinity().visit(node)))
    except (ValueError, TypeError) as error:
        raise BadInput(where, f"field 'test' holds inputs that are no literals ({error})") from error
