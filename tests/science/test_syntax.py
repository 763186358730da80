"""Equality of programs by tree: layout and comments do not count, names do unless they are renamed away."""

from __future__ import annotations

from ledex_ray.syntax import canonical_form, normal_form, same_ast

PROGRAM = "def f(a, b):\n    total = a + b\n    return total\n"


def test_layout_and_comments_do_not_count() -> None:
    assert same_ast(PROGRAM, "def f(a,b): # sum\n\n\ttotal = (a + b)\n\treturn total")
    assert normal_form(PROGRAM) == normal_form(PROGRAM + "# end")


def test_names_and_constants_count() -> None:
    assert not same_ast(PROGRAM, PROGRAM.replace("total", "t"))
    assert not same_ast("x = 1", "x = 1.0")


def test_texts_that_do_not_parse_are_compared_by_their_words() -> None:
    assert same_ast("def f(:", " def  f(:\n")
    assert not same_ast("def f(:", "def g(:")


def test_canonical_form_forgets_own_names_docstrings_and_annotations() -> None:
    renamed = 'def f(x: int, y) -> int:\n    """Sum."""\n    t = x + y\n    return t\n'
    assert canonical_form(PROGRAM) == canonical_form(renamed)


def test_canonical_form_keeps_the_function_builtins_and_what_is_done() -> None:
    assert canonical_form(PROGRAM) != canonical_form(PROGRAM.replace("def f", "def g"))
    assert canonical_form(PROGRAM) != canonical_form(PROGRAM.replace("a + b", "a - b"))
    assert canonical_form(PROGRAM) != canonical_form(PROGRAM.replace("a + b", "b + a"))
    assert canonical_form("x = len(y)") != canonical_form("x = sum(y)")
