"""A model's answer, parsed into (explanation, code).

Lenient, because small models forget fences and append prose. Linear in the text: what is tried again is bounded.
"""

from __future__ import annotations

import ast
import re
import textwrap
from dataclasses import dataclass
from enum import IntEnum

from ledex_ray.records import Instruction
from ledex_ray.syntax import UNREADABLE

MOST_STARTS = 12  # lines at which unfenced code may begin, that are tried

_FENCE = re.compile(r"^[ \t]*```([^\n`]*)$", re.MULTILINE)
_NEWLINE = re.compile(r"\r\n|\r|\n")
_MAY_START = re.compile(
    r"^(?:async def |def |class |import |from |@|if |for |while |with |try:|[A-Za-z_][\w.]*[ \t]*[\[(=,:+\-*/%&|^])",
    re.MULTILINE,
)
_STARTS_CODE = re.compile(r"^(?:def |async def |class |import |from \S+ import |@\w)", re.MULTILINE)
_CONTINUES_CODE = re.compile(
    r"^(?:[ \t]|$|def |async def |class |import |from |@|#|[)\]}]|if |for |while |[A-Za-z_]\w* *=)"
)

Span = tuple[int, int]


@dataclass(frozen=True)
class Answer:
    """A parsed answer; spans are character offsets [start, end) into its text, (0, 0) where a part is missing.

    The code is what its span holds; an indented block (of a list item) without the indentation.
    """

    explanation: str = ""
    code: str = ""
    explanation_span: Span = (0, 0)
    code_span: Span = (0, 0)


class Kind(IntEnum):
    """How much like a program a text is."""

    TEXT = 0  # no Python, or names and literals alone, as an example of input has
    CALLS = 1  # as an example of use
    PROGRAM = 2  # statements


@dataclass(frozen=True)
class _Block:
    """What stands between two fences; the last one may be unclosed."""

    start: int
    end: int
    is_python: bool  # by the word after its first fence


def parse_answer(text: str, instruction: str, entry_point: str = "") -> Answer:
    """The (explanation, code) of an answer to "solve", "direct" or "explain".

    The code is the last block that defines `entry_point`; where a whole program was asked for, the last block that is
    one, those tagged python first. Where fences are missing, it is the lines that Python can read, up to the first line
    of prose. Only "explain" answers have an explanation: the prose before the code.
    """
    span = _code_span(text, entry_point)
    if span is None:
        start, end = _strip(text, 0, len(text)) if instruction == Instruction.EXPLAIN else (0, 0)
        return Answer(explanation=text[start:end], explanation_span=(start, end) if end > start else (0, 0))
    start, end = span
    code = textwrap.dedent(text[start:end]) if text[start:end].lstrip("\r\n")[:1] in (" ", "\t") else text[start:end]
    if instruction != Instruction.EXPLAIN:
        return Answer(code=code, code_span=span)
    stop = _before_fence(text, start)
    left, right = _strip(text, 0, stop)
    if right <= left:
        return Answer(code=code, code_span=span)
    return Answer(text[left:right], code, (left, right), span)


def _before_fence(text: str, start: int) -> int:
    """Where the prose before the code ends: before the opening fence, where there is one."""
    line = text.rfind("\n", 0, max(start - 1, 0)) + 1
    return line if text[line:start].lstrip().startswith("```") else start


def _code_span(text: str, entry_point: str) -> Span | None:
    wanted = re.compile(rf"\b(?:def|class)[ \t]+{re.escape(entry_point)}\b") if entry_point else None
    blocks = _blocks(text)
    fenced = _fenced_function(text, blocks, wanted) if wanted else _fenced_program(text, blocks, Kind.CALLS)
    if fenced is not None:
        return fenced
    bare = _bare_code(text, wanted)
    if bare and (not blocks or not wanted or wanted.search(text, *bare)):
        return bare
    return _fenced_program(text, blocks, Kind.TEXT) or bare


def _fenced_function(text: str, blocks: list[_Block], wanted: re.Pattern[str]) -> Span | None:
    return next(((b.start, b.end) for b in reversed(blocks) if wanted.search(text, b.start, b.end)), None)


def _fenced_program(text: str, blocks: list[_Block], least: Kind) -> Span | None:
    """The last of the blocks that are most like a program, at least `least`; one tagged python may be cut short."""
    best: tuple[Kind, bool] = (least, False)
    found = None
    for block in blocks:
        code = text[block.start : block.end]
        if not code.strip():
            continue
        tree = _tree(textwrap.dedent(code))
        kind = Kind.PROGRAM if tree is None and block.is_python else _kind(tree)
        if (kind, block.is_python) >= best:
            best, found = (kind, block.is_python), (block.start, block.end)
    return found


def _blocks(text: str) -> list[_Block]:
    """What lies between fences, in order; an unclosed block runs to the end of the text.

    A fence alone behind bare code closes it: what follows is prose.
    """
    fences = list(_FENCE.finditer(text))
    blocks: list[_Block] = []
    for opening, closing in zip(fences[::2], [*fences[1::2], None], strict=False):
        start = min(opening.end() + 1, len(text))
        tag = opening[1].strip().lower()
        if closing is None:
            before = text[blocks[-1].end if blocks else 0 : opening.start()]
            if not text[start:].strip() or (not tag and _runs(before)):
                break
        end = closing.start() if closing else text.rfind("```") if text.rstrip().endswith("```") else len(text)
        blocks.append(_Block(start, max(start, end), tag.startswith("py")))
    return blocks


def _bare_code(text: str, wanted: re.Pattern[str] | None) -> Span | None:
    """The longest unfenced code before the first fence, the function that is wanted before all."""
    fence = _FENCE.search(text)
    runs = _runs(text[: fence.start()] if fence else text)
    by_lines = _by_lines(text)
    for span in [*runs, by_lines]:
        if wanted and span and wanted.search(text, *span):
            return span
    return max(runs, key=lambda span: span[1] - span[0]) if runs else by_lines


def _runs(text: str) -> list[Span]:
    """The stretches of whole lines that are programs, one behind the other; empty if code is cut short or has none."""
    runs: list[Span] = []
    tried = 0
    for line in _MAY_START.finditer(text):
        if runs and line.start() < runs[-1][1]:
            continue
        tried += 1
        if tried > MOST_STARTS:
            break
        program = _program(text[line.start() :])
        if program:
            runs.append((line.start(), line.start() + len(program)))
    return runs


def _program(source: str) -> str:
    """The program that a text begins with, up to the first line of prose; "" if it has none, or is broken inside."""
    try:
        tree: ast.Module | None = ast.parse(source)
    except SyntaxError as error:
        prose = _offset(source, error.lineno or 1)
        if not source[prose : prose + 1].strip():
            return ""  # an indented line: code
        source = source[:prose]
        tree = _tree(source)
    except UNREADABLE:
        return ""
    words = [node for node in tree.body if _kind_of(node) is Kind.TEXT and not _is_string(node)] if tree else []
    if words:
        source = source[: _offset(source, words[0].lineno)]
        tree = _tree(source)
    return source.rstrip() if _kind(tree) is not Kind.TEXT else ""


def _offset(source: str, line: int) -> int:
    """Where a line begins, counted from 1 as Python counts lines."""
    starts = [0, *(m.end() for m in _NEWLINE.finditer(source))]
    return starts[line - 1] if 0 < line <= len(starts) else len(source)


def _tree(code: str) -> ast.Module | None:
    try:
        return ast.parse(code)
    except UNREADABLE:
        return None


def _kind(tree: ast.Module | None) -> Kind:
    return max((_kind_of(node) for node in tree.body), default=Kind.TEXT) if tree else Kind.TEXT


def _kind_of(node: ast.stmt) -> Kind:
    """`Output: 4` and `Thanks` can be read as Python too."""
    if isinstance(node, ast.Assert) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        return Kind.CALLS
    if isinstance(node, ast.Expr):
        return Kind.TEXT
    return Kind.TEXT if isinstance(node, ast.AnnAssign) and node.value is None else Kind.PROGRAM


def _is_string(node: ast.stmt) -> bool:
    """A docstring, or a comment written as a string."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _by_lines(text: str) -> Span | None:
    """Code that Python cannot read: from its first definition or import, while the lines look like code."""
    first = _STARTS_CODE.search(text)
    if not first:
        return None
    start = position = end = first.start()
    for line in text[start:].splitlines(keepends=True):
        if line.lstrip().startswith("```") or not _CONTINUES_CODE.match(line):
            break
        position += len(line)
        if line.strip():
            end = position
    return start, end


def _strip(text: str, start: int, end: int) -> Span:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end
