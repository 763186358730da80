"""What is said of a wrong solution beside a right one written apart from it."""

from __future__ import annotations

import pytest

from ledex_ray.rewrite_explanations import explain_rewrite, nearest

RIGHT = "def f(n):\n    total = 0\n    for i in range(n):\n        total += i\n    return total"
FEEDBACK = "The call f(3) returned 6, but 3 was expected."


@pytest.mark.parametrize(
    ("wrong", "line", "said"),
    [
        (RIGHT.replace("range(n)", "range(n + 1)"), "3", "`for i in range(n + 1):` should be `for i in range(n):`"),
        (RIGHT.replace("\n    return total", ""), "4", "`return total` is missing"),
        ("def f(n):\n    return n * n - n", "2", "from `return n * n - n` on the code does not do what is asked"),
        (RIGHT, "1", "the code does not do what is asked"),
        (
            "\n" + RIGHT.replace("\n", "\n\n").replace("range(n)", "range(n + 1)"),
            "5",
            "`for i in range(n + 1):` should be",
        ),
    ],
)
def test_it_names_the_line_and_the_failing_call(wrong: str, line: str, said: str) -> None:
    text = explain_rewrite(wrong, RIGHT, FEEDBACK)
    assert said.lower() in text.lower() and f"ine {line}" in text
    assert "f(3)" in text and "3" in text


def test_the_nearest_right_program_is_taken() -> None:
    other = "def f(n):\n    return n * (n - 1) // 2"
    assert nearest("def f(n):\n    return n * n", [RIGHT, other]) in (RIGHT, other)
    assert nearest(RIGHT.replace("+=", "-="), [other, RIGHT]) == RIGHT
    assert nearest("", [other]) == other


def test_any_text_is_explained() -> None:
    for wrong in ("", "def f(:", "x" * 5000, "print('`')\n" * 3):
        assert explain_rewrite(wrong, RIGHT, "")
