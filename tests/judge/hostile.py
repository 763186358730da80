"""What a hostile program is here, and how one that only tries to escape is written down.

`attack(secret, folder, supervisor)` gets a file that must not be read, a folder that must not be changed and the pid of
the supervising process; it returns "" when it reached nothing, else what it reached. Our own programs say so honestly:
what is tested is the isolation, not their honesty. Forging programs are judged by their verdict instead.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass


@dataclass(frozen=True)
class Hostile:
    """One program of the suite. `forges`: it wants the verdict PASSED on tests that it cannot know."""

    name: str
    program: str
    forges: bool = False
    script: bool = False  # run on standard input and output
    slow: bool = False  # it uses up its time
    reports: bool = False  # a result other than "" says what it reached


def escape(name: str, body: str, *, before: str = "", slow: bool = False) -> Hostile:
    """A program whose attack is `body` (a function body); an exception means that it was stopped."""
    program = f"{before}\ndef attack(secret, folder, supervisor):\n    try:\n{textwrap.indent(body.strip(), ' ' * 8)}\n"
    return Hostile(name, program + "    except Exception:\n        return ''\n    return ''\n", slow=slow, reports=True)


def forgery(name: str, program: str, *, slow: bool = False) -> Hostile:
    return Hostile(name, textwrap.dedent(program), forges=True, slow=slow)
