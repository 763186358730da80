"""Decoys of weak mode: no program passes a test and its decoy, but one that cheats; and their form does not tell."""

from __future__ import annotations

import ast
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from reward.judge.inside import decoys


def passes(code: str, names: dict[str, Any], check: bool = False) -> bool:
    """Whether test code passes, as the child of weak mode runs it."""
    space = dict(names)
    try:
        exec(code, space)
        if check:
            space["check"](space["f"])
    except Exception:
        return False
    return True


@pytest.mark.parametrize(
    "source",
    ["assert f(1) == 2", "assert f(1) == [1, 2]", "assert f(1)", "assert not f(1)", "assert f(1) in (1, 2)",
     "assert abs(f(1) - 2.0) < 1e-6", "assert f(1) == 'x'", "assert f(1) is None", "assert f(1) == {1: 2}",
     "assert f(1) == {1.0}", "assert f(1) != 2", "assert f(1) < 2", "assert f(1) <= 2", "assert f(1) >= {1}",
     "assert f(1) > 1 and f(1) < 3", "assert 1 < f(1) < 3", "assert f(1) == float('inf')", "assert f(1), 'true'",
     "assert f(1) == ()", "assert f(1) == {}", "assert f(1) == 1e400", "assert f(1) == 2 or f(1) == 3"],
)  # fmt: skip
def test_no_value_passes_a_test_and_its_decoy(source: str) -> None:
    test, decoy = decoys.twins(source, check=False)
    plain: tuple[object, ...] = (
        2, 2.0, 0, 1, 1.5, 3, True, False, None, "x", b"x", [1, 2], {1: 2}, (), {}, set(), {1}, {1.0}, {2}, {1, 2},
    )  # fmt: skip
    for value in (*plain, float("nan"), float("inf"), 1e400, Fraction(2), Decimal(2), 2 + 0j):
        names = {"f": lambda x, value=value: value}
        assert passes(test, names) == passes(source, names)
        assert not (passes(test, names) and passes(decoy, names)), value


@pytest.mark.parametrize(
    "source",
    ["assert f(1) == 2", "assert f(1) == 'x', 'not x'", "assert f(1) == [1, 'a']", "assert f(1) == {1: (2, 3)}",
     "assert f(1) == 2.5\nassert f(2) == 3", "for n in range(3):\n    assert f(n) == 1"],
)  # fmt: skip
def test_a_test_and_its_decoy_differ_in_values_alone(source: str) -> None:
    test, decoy = (ast.parse(code) for code in decoys.twins(source, check=False))
    for node in (*ast.walk(test), *ast.walk(decoy)):
        if isinstance(node, ast.Constant):
            node.value = 0
    assert ast.dump(test) == ast.dump(decoy) and "msg" not in ast.dump(test)


CLASSES = """
class Account:
    def __init__(self, held): self.held = held
    def withdraw(self, n):
        if n > self.held: raise ValueError(n)
        self.held -= n
        return self.held
class Version:
    def __init__(self, text): self.key = [*map(int, text.split('.'))]
    def __lt__(self, other): return self.key < other.key
def f(n): return n + 1
"""
TESTS = {
    "an exception": "try:\n    Account(1).withdraw(5)\n    assert False, 'no error'\nexcept ValueError:\n    pass",
    "one, and an assert": "try:\n    Account(1).withdraw(5)\nexcept ValueError as e:\n    x = e\nassert x.args == (5,)",
    "asserts that are caught": "try:\n    assert f(1) == 2\n    done = 1\nexcept Exception:\n    done = 0\nassert done",
    "no assert": "Account(10).withdraw(3)",
    "an if that raises": "if f(1) != 2:\n    raise AssertionError",
    "a class with < alone": "assert Version('1.0') < Version('1.1')",
    "a loop": "for n in [1, 2]:\n    assert Account(n).held == n",
    "a loop that never runs": "for n in []:\n    assert f(n) == 0",
    "a loop that may not run": "cases = []\nfor n in cases:\n    assert f(n) == 0",
    "a range that is empty": "for n in range(2, 2):\n    assert f(n) == 0",
    "a loop that is left": "for n in range(5):\n    if n < 9: continue\n    assert f(n) == 0",
    "a branch": "if f(1) == 3:\n    assert f(1) == 3",
    "a function": "def test():\n    assert f(1) == 2\ntest()",
    "a function that returns": "def test():\n    if f(1) == 2: return\n    assert f(1) == 3\ntest()",
    "a function that nobody calls": "def test():\n    assert f(1) == 3",
    "a context": "import contextlib\nwith contextlib.suppress(AssertionError):\n    assert f(1) == 2",
}
CHECKS = {
    "asserts": "def check(candidate):\n    assert candidate(1) == 2\n    assert candidate(2) == 3",
    "a loop": "def check(candidate):\n    for n in range(3):\n        assert candidate(n) == n + 1",
    "an early end": "def check(candidate):\n    if candidate(1) == 2: return\n    assert candidate(1) == 3",
    "a function of its own": "def check(candidate):\n    def one(): return 1\n    assert candidate(one()) == 2",
    "asserts outside": "assert f(1) == 2\ndef check(candidate):\n    candidate(1)",
}


@pytest.mark.parametrize("name", [*TESTS, *(f"check: {name}" for name in CHECKS)])
def test_a_right_program_passes_the_test_and_not_its_decoy(name: str) -> None:
    check = name.startswith("check: ")
    names: dict[str, Any] = {}
    exec(CLASSES, names)
    source = CHECKS[name.removeprefix("check: ")] if check else TESTS[name]
    test, decoy = decoys.twins(source, check)
    assert passes(test, names, check) and not passes(decoy, names, check)


@pytest.mark.parametrize(
    ("source", "check"),
    [
        ("assert f(1) == 2", False),
        ("assert f(1) < 2", False),
        ("assert abs(f(1) - 2.5) <= 1e-6", False),
        ("for n in range(1, 3):\n    assert f(n) == 5", False),
        ("def test():\n    assert f(1) == 'x'\ntest()", False),
        ("def check(f):\n    for n in (1, 2):\n        assert f(n) == [n]\n    assert f(3) == 3", True),
        ("def check(f):\n    def one(): return 1\n    assert f(one()) == 2\n    assert f(2) == f(3)", True),
        ("try:\n    f(0)\nexcept ValueError:\n    pass\nassert f(1) == None", False),
    ],
)
def test_what_is_equal_to_everything_passes_both(source: str, check: bool) -> None:
    methods = "__eq__ = __lt__ = __gt__ = __le__ = __ge__ = lambda self, other: True\n"
    names: dict[str, Any] = {}
    exec(f"class E:\n    {methods}    __sub__ = __abs__ = lambda self, *a: self\ndef f(n): return E()\n", names)
    assert all(passes(code, names, check) for code in decoys.twins(source, check))
