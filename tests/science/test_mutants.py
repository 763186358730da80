"""Seeded bugs: one edit, one place, readable, the same each time; explanations that fit the edit and the feedback.

That most mutants fail their problem's tests is covered with the bundled problems, in the real judge.
"""

from __future__ import annotations

import ast
import difflib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledex_ray.bundled import load_bundled
from ledex_ray.mutant_explanations import Failure, read_failure
from ledex_ray.mutants import Mutant, explain, mutants
from ledex_ray.problems import Problem

PROGRAM = '''def pick(xs, limit):
    """Doc with 1 < 2."""
    best = float("inf")
    total = 0
    out = []
    for i in range(len(xs)):
        if xs[i] > limit and i % 2 == 0:
            total += xs[i]
            out.append(xs[i])
        elif xs[i] == 0:
            continue
        else:
            best = min(best, xs[i - 1])
    return sorted(out)[1:], total
'''
BUNDLED = load_bundled()
by_id = pytest.mark.parametrize("problem", BUNDLED, ids=lambda p: p.entry_point)


def find(operator: str, before: str, after: str, program: str = PROGRAM) -> Mutant:
    return next(m for m in mutants(program) if (m.operator, m.before, m.after) == (operator, before, after))


@pytest.mark.parametrize(
    ("operator", "before", "after"),
    [
        ("wrong comparison", "xs[i] > limit", "xs[i] >= limit"),
        ("wrong comparison", "xs[i] == 0", "xs[i] != 0"),
        ("wrong operator", "i - 1", "i + 1"),
        ("off by one", "i - 1", "i"),
        ("wrong variable", "xs[i] > limit", "xs[i] > best"),
        ("wrong boolean", "xs[i] > limit and i % 2 == 0", "xs[i] > limit or i % 2 == 0"),
        ("missing condition", "xs[i] > limit and i % 2 == 0", "i % 2 == 0"),
        ("negated condition", "xs[i] > limit and i % 2 == 0", "not (xs[i] > limit and i % 2 == 0)"),
        ("wrong range", "range(len(xs))", "range(1, len(xs))"),
        ("wrong range", "range(len(xs))", "range(len(xs) - 1)"),
        ("wrong index", "out.append(xs[i])", "out.append(xs[i + 1])"),
        ("wrong start value", "total = 0", "total = 1"),
        ("wrong start value", 'float("inf")', "0"),
        ("wrong function", "min(best, xs[i - 1])", "max(best, xs[i - 1])"),
        ("wrong update", "total += xs[i]", "total -= xs[i]"),
        ("overwritten value", "total += xs[i]", "total = xs[i]"),
        ("missing statement", "out.append(xs[i])", ""),
        ("missing case", "elif xs[i] == 0", ""),
        ("missing case", "else", ""),
        ("missing call", "sorted(out)", "out"),
    ],
)
def test_operator_yields_its_edit(operator: str, before: str, after: str) -> None:
    mutant = find(operator, before, after)
    assert ast.dump(ast.parse(mutant.source)) != ast.dump(ast.parse(PROGRAM))


def test_return_moves_into_the_loop_before_it() -> None:
    program = "def f(xs):\n    n = 0\n    for x in xs:\n        n += x\n    return n\n"
    moved = program.replace("    return", "        return")
    assert find("early return", "return n", "return n", program).source == moved


def test_dropped_branch_of_one_statement_leaves_a_body() -> None:
    program = "def f(x):\n    if x > 1:\n        x = 1\n    return x\n"
    sources = {m.source for m in mutants(program) if m.operator.startswith("missing")}
    assert "def f(x):\n    return x\n" in sources
    assert "def f(x):\n    if x > 1:\n        pass\n    return x\n" in sources


def test_loop_variable_of_a_while_keeps_its_update() -> None:
    program = "def f(n):\n    i = 0\n    while i < n:\n        i += 1\n    return i\n"
    assert not [m for m in mutants(program) if m.line == 4 and m.operator in ("missing statement", "wrong update")]


def test_docstrings_annotations_imports_and_format_strings_are_left_alone() -> None:
    program = 'import os\n\ndef f(n: int = 0) -> "1 + 1":\n    """1 < 2"""\n    return f"{n + 1}"\n'
    changed = {m.before for m in mutants(program)}
    assert changed <= {"0", 'return f"{n + 1}"'}


@by_id
def test_mutants_differ_by_ast_and_from_each_other(problem: Problem) -> None:
    source = problem.canonical_solutions[0]
    forms = [ast.dump(ast.parse(m.source)) for m in mutants(source)]
    assert len(set(forms)) == len(forms) > 0
    assert ast.dump(ast.parse(source)) not in forms


@by_id
def test_the_text_outside_the_edit_is_kept(problem: Problem) -> None:
    original = problem.canonical_solutions[0].splitlines()
    for mutant in mutants(problem.canonical_solutions[0]):
        blocks = [
            op
            for op in difflib.SequenceMatcher(None, original, mutant.source.splitlines(), False).get_opcodes()
            if op[0] != "equal"
        ]
        assert len(blocks) == 1, mutant
        assert blocks[0][1] + 1 <= mutant.line <= blocks[0][2] + 1, mutant


def test_the_list_is_the_same_each_time() -> None:
    assert mutants(PROGRAM) == mutants(PROGRAM)


def test_carriage_returns_and_tabs_are_read() -> None:
    found = mutants("def f(a):\r\n\tif a > 0:\r\n\t\treturn a\r\n\treturn 0\r\n")
    assert "def f(a):\n\tif a >= 0:\n\t\treturn a\n\treturn 0\n" in {m.source for m in found}


def test_names_beyond_ascii_keep_their_columns() -> None:
    found = {m.source for m in mutants('def f(größe):\n    return "ä" + größe[größe > 1]\n')}
    assert 'def f(größe):\n    return "ä" + größe[größe >= 1]\n' in found


def test_source_that_does_not_parse_is_a_syntax_error() -> None:
    with pytest.raises(SyntaxError):
        mutants("def f(:\n")


@given(
    st.lists(
        st.sampled_from(["a", "b", "1", "+", "-", "<", "==", "and", "or", "not", "(", ")", "[", "]", "%"]), max_size=9
    )
)
def test_every_expression_that_parses_yields_programs_that_parse(tokens: list[str]) -> None:
    source = f"def f(a, b):\n    return {' '.join(tokens)}\n"
    try:
        ast.parse(source)
    except SyntaxError:
        return
    for mutant in mutants(source):
        ast.parse(mutant.source)


@pytest.mark.parametrize(
    ("feedback", "failure"),
    [
        ("The call f([1, 2]) returned 3, but 4 was expected.", Failure("f([1, 2])", "4", "3")),
        ("The expression len(f('a, but b')) returned 3, but 4 was expected.", Failure("len(f('a, but b'))", "4", "3")),
        (
            "IndexError: list index out of range (line 4: x = xs[i]) for the call f([], 2).",
            Failure(call="f([], 2)", error="IndexError: list index out of range"),
        ),
        ("NameError: name 'g' is not defined (line 2: g()).", Failure(error="NameError: name 'g' is not defined")),
        (
            "The program needed more than 1024 MB of memory for the call f(1).",
            Failure(call="f(1)", limit="The program needed more than 1024 MB of memory"),
        ),
        (
            "For the input\n1 2\n3\nthe program printed\n4\nbut this was expected\n6",
            Failure(stdin="1 2\n3", got="4", expected="6"),
        ),
        ("ValueError: no int (line 2: int(x)) for the input\na\n", Failure(error="ValueError: no int", stdin="a")),
        (
            "The program needed more than 2 s of CPU time for the input\n7",
            Failure(limit="The program needed more than 2 s of CPU time", stdin="7"),
        ),
        ("assert f(1) == 2\nGot: 3", Failure("f(1)", "2", "3")),
        ("Nothing of use", Failure()),
    ],
)
def test_feedback_is_read(feedback: str, failure: Failure) -> None:
    assert read_failure(feedback) == failure


def test_explanation_names_the_line_both_texts_and_the_failing_call() -> None:
    mutant = find("wrong comparison", "xs[i] > limit", "xs[i] >= limit")
    text = explain(mutant, PROGRAM, "The call pick([1], 1) returned 3, but 4 was expected.")
    for part in ("line 7", "`xs[i] >= limit`", "`xs[i] > limit`", "`pick([1], 1)`", "`3`", "`4`"):
        assert part.lower() in text.lower()


def test_explanation_of_a_script_names_its_input() -> None:
    mutant = mutants("n = int(input())\nprint(n + 1)\n")[0]
    text = explain(mutant, "", "For the input\n3\nthe program printed\n2\nbut this was expected\n4")
    assert "input `3`" in text and "`2`" in text and "`4`" in text


def test_explanations_are_short_fixed_and_vary_in_wording() -> None:
    feedback = "The call pick([1], 1) returned 3, but 4 was expected."
    texts = [explain(m, PROGRAM, feedback) for m in mutants(PROGRAM)]
    assert texts == [explain(m, PROGRAM, feedback) for m in mutants(PROGRAM)]
    assert len({text.split()[0] for text in texts}) >= 4
    assert all(40 < len(text) < 400 and "\n" not in text for text in texts)


@given(st.text())
def test_any_feedback_is_survived(feedback: str) -> None:
    assert "line 2" in explain(mutants("def f(a):\n    return a + 1\n")[0], "", feedback).lower()
