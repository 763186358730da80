"""HumanEval (Chen et al. 2021): each assert of `check` that stands alone is a test, else `check` is one.

The published file is split so throughout, but for loops. Where a row of another origin has code beside `check`, or
lines in it that cannot be moved (functions, calls, values made by the candidate), the whole of `test` is one test.

Public are the asserts of `check` that the docstring shows as examples, put in front. In 35 problems `check` repeats no
example, so no test is public: running the docstring's own ones as well would change verdicts (some answers that pass
`check` fail an example). Left out are asserts that never call the candidate, since they pass for any program.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable

from ledex_ray.errors import BadInput
from ledex_ray.problems import AssertTest, CheckTest, Problem, Test
from ledex_ray.readers.docstrings import shown_calls
from ledex_ray.readers.files import Row, parse_python, text_field

PREPARATION = (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Import, ast.ImportFrom)
BLOCKS = (ast.For, ast.While, ast.If, ast.With, ast.Try)


def read_humaneval(rows: Iterable[tuple[str, Row]]) -> list[Problem]:
    """HumanEval's problems under their own ids, all of them in split "test". BadInput where a row lacks a field."""
    return [_problem(row, where) for where, row in rows]


def _problem(row: Row, where: str) -> Problem:
    name, prompt = text_field(row, "entry_point", where), text_field(row, "prompt", where)
    tests, n_public = split_check(text_field(row, "test", where), prompt, name, where)
    return Problem(
        id=text_field(row, "task_id", where),
        text=docstring_of(prompt, name, where),
        tests=tests,
        entry_point=name,
        prompt=prompt,
        setup=helpers(prompt, name, where),
        canonical_solutions=(prompt + text_field(row, "canonical_solution", where),),
        n_public=n_public,
        split="test",
        benchmark="humaneval",
    )


def docstring_of(prompt: str, name: str, where: str) -> str:
    """The task in words: the docstring of the function to be completed. BadInput where the prompt is no Python."""
    for node in ast.walk(parse_python(prompt, "prompt", where)):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return ast.get_docstring(node) or prompt
    return prompt


def helpers(prompt: str, name: str, where: str) -> str:
    """What the prompt defines besides the function to be completed, for checks that use it; "" if nothing.

    Three checks call a helper function of the prompt (to encode what the candidate must decode).
    """
    body = parse_python(prompt, "prompt", where).body
    others = [n for n in body if not (isinstance(n, ast.FunctionDef) and n.name == name)]
    if not any(isinstance(n, ast.FunctionDef) for n in others):
        return ""
    return "\n".join(ast.unparse(n) for n in others)


def split_check(test: str, prompt: str, name: str, where: str) -> tuple[tuple[Test, ...], int]:
    """The tests of a `check` function, public ones first, and how many are public."""
    tree = parse_python(test, "test", where)
    check = next((n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "check"), None)
    if check is None or not check.args.args:
        raise BadInput(where, "field 'test'", given=test, expected="code that defines check(candidate)")
    tests: list[Test] = _split_body(check, test, name) if _can_split(tree, check) else [CheckTest(test)]
    calls = [_single_call(t.code, name) if isinstance(t, AssertTest) else None for t in tests]
    shown = shown_calls(docstring_of(prompt, name, where), calls)
    hidden = [i for i in range(len(tests)) if i not in set(shown)]
    return tuple(tests[i] for i in (*shown, *hidden)), len(shown)


def _can_split(tree: ast.Module, check: ast.FunctionDef) -> bool:
    """Whether each assert of `check` needs no more than the assignments and imports before it."""
    parameter = check.args.args[0].arg
    beside = (n for n in tree.body if n is not check)
    if ast.unparse(check.args) != parameter or not all(map(_is_metadata, beside)):
        return False
    prepared: set[str] = set()
    shared: set[str] = set()  # names through which an earlier test could act on a later one
    for statement in check.body:
        names = _names(statement)
        if shared & names:
            return False
        if isinstance(statement, ast.Assert):
            if parameter not in names and prepared & names:
                return False
            shared |= _bound(statement)
        elif isinstance(statement, PREPARATION):
            if parameter in names:
                return False
            prepared |= _bound(statement)
        elif isinstance(statement, BLOCKS) and _holds_assert(statement):
            shared |= names - {parameter}
        elif not _does_nothing(statement):
            return False
    return True


def _is_metadata(statement: ast.stmt) -> bool:
    return _does_nothing(statement) or (
        isinstance(statement, ast.Assign) and [ast.unparse(t) for t in statement.targets] == ["METADATA"]
    )


def _does_nothing(statement: ast.stmt) -> bool:
    """A docstring, `pass`, or a name that stands alone, as HumanEval/129 has one."""
    return isinstance(statement, ast.Pass) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant | ast.Name)
    )


def _holds_assert(statement: ast.stmt) -> bool:
    return any(isinstance(n, ast.Assert) for n in ast.walk(statement))


def _split_body(check: ast.FunctionDef, test: str, name: str) -> list[Test]:
    """Asserts become tests with the lines that prepare them; a loop with asserts stays a check of its own."""
    parameter = check.args.args[0].arg
    tests: list[Test] = []
    prepared: list[ast.stmt] = []
    for statement in check.body:
        if isinstance(statement, ast.Assert):
            if parameter in _names(statement.test):
                code = [*_needed(statement, prepared), ast.Assert(test=_renamed(statement.test, parameter, name))]
                tests.append(AssertTest("\n".join(ast.unparse(n) for n in code)))
        elif _holds_assert(statement):
            alone = ast.FunctionDef(name="check", args=check.args, body=[*prepared, statement], decorator_list=[])
            tests.append(CheckTest(ast.unparse(ast.fix_missing_locations(ast.Module([alone], [])))))
        elif isinstance(statement, PREPARATION):
            prepared.append(statement)
    return tests or [CheckTest(test)]


def _needed(statement: ast.Assert, prepared: list[ast.stmt]) -> list[ast.stmt]:
    """The preparation lines that an assert depends on: all of them where it reads a name that they bind."""
    bound = {name for p in prepared for name in _bound(p)}
    return prepared if bound & _names(statement.test) else []


def _bound(statement: ast.stmt) -> set[str]:
    """The names that a statement binds, imports among them."""
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return {(a.asname or a.name).split(".")[0] for a in statement.names}
    return {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def _names(node: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}


def _renamed(node: ast.expr, old: str, new: str) -> ast.expr:
    for child in ast.walk(node):
        if isinstance(child, ast.Name) and child.id == old:
            child.id = new
    return node


def _single_call(code: str, name: str) -> str | None:
    """The arguments, as text, of the only call of `name` in an assert; None where there are more or none."""
    calls = [
        n
        for n in ast.walk(ast.parse(code))
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == name and not n.keywords
    ]
    return ", ".join(ast.unparse(a) for a in calls[0].args) if len(calls) == 1 else None
