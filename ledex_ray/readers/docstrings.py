"""Which tests a HumanEval docstring already shows, and its own examples as asserts.

Docstrings write examples as doctests, as `f(x) == y`, with several arrows, and as "Input: xs = [1], k = 2". Matching
is by tokens, so spacing and the kind of quotes do not matter.
"""

from __future__ import annotations

import ast
import doctest
import re
from collections.abc import Iterator, Sequence

from ledex_ray.problems import AssertTest

TOKEN = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|\w+(?:\.\w+)?|[^\w\s]")
EXAMPLE = r"\b{name}\s*(\(.*?\))\s*(?:==>|=>|==|->|➞|returns|➡|=|#\s*returns)\s*(.+?)\s*$"


def _pattern(text: str) -> str:
    """A regular expression for the same tokens with any spacing and quotes."""
    parts = []
    for token in TOKEN.findall(text):
        if token[0] in "'\"":
            body = re.escape(ast.literal_eval(token))
            parts.append(f"(?:'{body}'|\"{body}\"|(?<=\\(){body}(?=\\)))")  # one docstring writes f(abc)
        else:
            parts.append(re.escape(token))
    return r"\s*".join(parts)


def shown_calls(docstring: str, calls: Sequence[str | None]) -> list[int]:
    """The positions of those calls (each given by its arguments' text) that stand as examples in the docstring."""
    return [index for index, arguments in enumerate(calls) if arguments and _shown(docstring, arguments)]


def _shown(docstring: str, arguments: str) -> bool:
    split = ast.parse(f"f({arguments})", mode="eval").body
    assert isinstance(split, ast.Call)
    if any(isinstance(n, ast.Name) for a in split.args for n in ast.walk(a)):
        return False
    if re.search(rf"\b\w+\s*\(\s*{_pattern(arguments)}\s*\)", docstring):  # some docstrings misname the function
        return True
    each = [rf"(?:=|(?<!utput):|\b[Ff]or)\s*{_pattern(ast.unparse(a))}(?![\w.])" for a in split.args]
    return bool(re.search(r"(?:(?!utput)[^>]){0,40}?".join(each), docstring))


def docstring_asserts(docstring: str, name: str) -> Iterator[AssertTest]:
    """The docstring's own examples as asserts, where they are written as calls with a literal result."""
    for call, expected in _examples(docstring, name):
        try:
            tree = ast.parse(call, mode="eval")
            value = ast.literal_eval(re.sub(r"\b(true|false)\b", lambda m: m[0].capitalize(), expected))
        except (SyntaxError, ValueError):
            continue
        if not any(isinstance(n, ast.Name) and n.id not in (name, "round") for n in ast.walk(tree)):
            yield AssertTest(f"assert {call} == {value!r}")


def _examples(docstring: str, name: str) -> Iterator[tuple[str, str]]:
    try:
        found = doctest.DocTestParser().get_examples(docstring)
    except ValueError:
        found = []
    if found:
        for example in found:
            yield example.source.partition(" #")[0].strip(), example.want.strip()
        return
    for line in docstring.splitlines():
        if match := re.search(EXAMPLE.format(name=name), line):
            yield f"{name}{match[1]}", match[2].partition(" #")[0]

