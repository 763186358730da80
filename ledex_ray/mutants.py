"""Seeded bugs: every distinct one-edit mutant of a correct program, and the explanation that teaches its repair.

method.md, 7: a second, free source of trajectories. The wrong code is a mutant that fails a test, the refinement
is the program it came from, the explanation is written from the edit and the failing test
(`ledex_ray.mutant_explanations`). Whether a mutant fails is for the judge to say; equivalent mutants are common.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from ledex_ray.mutant_explanations import explain_edit, hint
from ledex_ray.mutation_operators import expression_edits
from ledex_ray.mutation_source import Context
from ledex_ray.mutation_statements import statement_edits


@dataclass(frozen=True)
class Mutant:
    """A program with one seeded bug; `before` is the right text, `after` the wrong one (empty where it is missing)."""

    source: str
    operator: str  # "wrong comparison", "off by one", "missing case", ...
    line: int  # of the edit; where something is missing, the line that it had
    before: str
    after: str
    explanation_hint: str  # one clause: what the code does and what it should do


def mutants(source: str) -> list[Mutant]:
    """All distinct one-edit mutants of a program, in the order of the source; each parses and differs by AST.

    The same source always gives the same list. Raises SyntaxError where `source` does not parse.
    """
    source = source.replace("\r\n", "\n").replace("\r", "\n").replace("\f", " ")
    if not source.endswith("\n"):
        source += "\n"
    tree = ast.parse(source)
    context = Context(source.encode(), tree)
    edits = [e for node in _mutable(tree) for e in (*statement_edits(node, context), *expression_edits(node, context))]
    edits.sort(key=lambda e: (e.start, e.end, e.operator, e.text))
    seen, found = {ast.dump(tree)}, []
    for edit in edits:
        mutated = context.source[: edit.start] + edit.text.encode() + context.source[edit.end :]
        try:
            form = ast.dump(ast.parse(mutated))
        except SyntaxError:  # an edit that does not fit its surroundings is no mutant
            continue
        if form not in seen:
            seen.add(form)
            found.append(Mutant(mutated.decode(), edit.operator, edit.line, edit.right, edit.wrong, hint(edit)))
    return found


def explain(mutant: Mutant, original: str, feedback: str) -> str:
    """One to three sentences: where the bug is, what it does, what it should do, and how the failing test shows it.

    The phrasing is chosen by a hash of both programs, so that it varies over a data set and never between runs.
    """
    return explain_edit(mutant.line, mutant.explanation_hint, feedback, key=mutant.source + original)


def _mutable(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that may be edited: not docstrings, annotations, decorators, imports, f-strings."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_comment"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr | ast.Import | ast.ImportFrom):
                if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
                    continue
                yield child
                yield from _mutable(child)
