"""What the command line tells in one line: what a user got wrong (exit code 2), and what ended a run (exit code 1)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath


class BadInput(ValueError):
    """Input refused at the door: the message names where, which field, what was given and what is allowed.

    `where` is a file (with a line, as "problems.jsonl:17"), a flag or a recipe key.
    """

    def __init__(self, where: str, problem: str, *, given: object = None, expected: str = "") -> None:
        message = f"{where}: {problem}"
        if given is not None:
            message += f", got {_shorten(repr(str(given) if isinstance(given, PurePath) else given))}"
        if expected:
            message += f"; expected {expected}"
        super().__init__(message)
        self.where = where

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuilt, (str(self), self.where)  # it may be raised in an actor and travel to the driver


class RunFailed(RuntimeError):
    """A run cannot go on, by no fault of its code: actors that do not come up, a model whose loss is not finite.

    What is finished is kept, and the same command goes on.
    """


def _rebuilt(message: str, where: str) -> BadInput:
    error = BadInput(where, "")
    error.args = (message,)
    return error


def _shorten(text: str, limit: int = 120) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


@contextmanager
def named(where: str) -> Iterator[None]:
    """What is refused inside is told with the flag or recipe key that led there; "" leaves it as it is."""
    try:
        yield
    except BadInput as error:
        if not where:
            raise
        raise BadInput(where, str(error)) from error
