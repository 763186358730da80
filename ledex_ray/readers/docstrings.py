"""Which tests a HumanEval docstring already shows.

Docstrings write examples as doctests, as `f(x) == y`, with several arrows, and as "Input: xs = [1], k = 2". Matching
is by tokens, so spacing and the kind of quotes do not matter. Examples that no test repeats are not covered.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence

TOKEN = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|\w+(?:\.\w+)?|[^\w\s]")


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
