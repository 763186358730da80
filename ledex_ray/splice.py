"""An answer put into the file it repairs: what the answer defines replaces what the file defines under that name.

By lines, not by parsing: the text is a model's (SANDBOX, threat 7). Where a string or a comment at the left margin
misleads it, the result is a wrong program, which the judge will say. Not covered: statements of the answer other than
imports and definitions (examples of use, mostly); they are left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_DEFINES = re.compile(r"(?:async\s+def|def|class)\s+(\w+)")
_IMPORTS = re.compile(r"(?:import|from)\s")
_GOES_ON = re.compile(r"[\s)\]}#]|$")  # indented, closing a bracket, a comment, empty


@dataclass(frozen=True)
class Block:
    """Whole lines: a definition with its decorators (`name`), or what lies between definitions ("")."""

    name: str
    lines: tuple[str, ...]


def splice(file: str, answer: str) -> str:
    """The file with the answer's definitions and imports in it; the answer behind it where they share no name."""
    old, new = blocks(file), {block.name: block for block in blocks(answer) if block.name}
    shared = [block.name for block in old if block.name in new]
    if not shared:
        return "\n\n\n".join(part for part in (file.strip("\n"), answer.strip("\n")) if part) + "\n"
    lines: list[str] = []
    place = None  # of new imports: before the file's first one, else before the first definition that is replaced
    for block in old:
        for index, line in enumerate(block.lines if not block.name else ()):
            if place is None and _IMPORTS.match(line) and not line.startswith("from __future__"):
                place = len(lines) + index
        if block.name not in new:
            lines += block.lines
            continue
        if place is None:
            place = len(lines)
        if block.name == shared[0]:
            for helper in (helper for name, helper in new.items() if name not in shared):
                lines += [*_trimmed(helper), "", ""]
        lines += [*_trimmed(new[block.name]), *block.lines[len(_trimmed(block)) :]]
    imports = [line for block in blocks(answer) if not block.name for line in block.lines if _IMPORTS.match(line)]
    lines[place:place] = [line for line in imports if line not in lines and not line.startswith("from __future__")]
    return "\n".join(lines).strip("\n") + "\n"


def shares(file: str, answer: str) -> bool:
    """Whether the answer defines anything that the file defines."""
    return not {block.name for block in blocks(file)}.isdisjoint({block.name for block in blocks(answer)} - {""})


def keeps(file: str, code: str) -> bool:
    """Whether the code defines every name that the file defines."""
    return {block.name for block in blocks(file)} - {""} <= {block.name for block in blocks(code)}


def blocks(code: str) -> list[Block]:
    """The code's lines in order, parted before each definition and after it."""
    found: list[Block] = []
    name: str | None = ""  # None: decorators wait for their definition
    lines: list[str] = []
    for line in code.split("\n"):  # a form feed or a Unicode separator, perhaps in a string, ends no line of Python
        defines, decorates = _DEFINES.match(line), line.startswith("@")
        if name is None:
            name = defines[1] if defines else None
        elif defines or decorates or (name and not _GOES_ON.match(line)):
            if lines:
                found.append(Block(name, tuple(lines)))
            name, lines = (defines[1] if defines else None if decorates else ""), []
        lines.append(line)
    return [*found, Block(name or "", tuple(lines))] if lines else found


def _trimmed(block: Block) -> list[str]:
    """The block's lines without the empty ones and the comments at its end, which belong to what follows."""
    lines = list(block.lines)
    while lines and (not lines[-1].strip() or lines[-1].startswith("#")):
        lines.pop()
    return lines
