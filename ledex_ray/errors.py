"""The one exception for what a user got wrong; the command line turns it into exit code 2."""

from __future__ import annotations


class BadInput(ValueError):
    """Input refused at the door: the message names where, which field, what was given and what is allowed.

    `where` is a file (with a line, as "problems.jsonl:17"), a flag or a recipe key.
    """

    def __init__(self, where: str, problem: str, *, given: object = None, expected: str = "") -> None:
        message = f"{where}: {problem}"
        if given is not None:
            message += f", got {_shorten(repr(given))}"
        if expected:
            message += f"; expected {expected}"
        super().__init__(message)
        self.where = where

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuilt, (str(self), self.where)  # it may be raised in an actor and travel to the driver


def _rebuilt(message: str, where: str) -> BadInput:
    error = BadInput(where, "")
    error.args = (message,)
    return error


def _shorten(text: str, limit: int = 120) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
