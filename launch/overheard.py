"""What a worker process of a Ray Data job has to say, carried to the driver with the rows that it returns.

Workers' own output goes to Ray's log files; that an actor was stuck, died or gave an item up is the user's to know.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """One warning or error, as the logger `name` was told it."""

    name: str
    level: int
    text: str

    def repeat(self) -> None:
        """Says it in this process."""
        logging.getLogger(self.name).log(self.level, "%s", self.text)


class _Ear(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[Line] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(Line(record.name, record.levelno, record.getMessage()))


@contextmanager
def overheard() -> Iterator[list[Line]]:
    """What the project's actors' clients say from here to the end of the block."""
    ear, loggers = _Ear(), [logging.getLogger(name) for name in ("actors", "ledex")]
    for logger in loggers:
        logger.addHandler(ear)
    try:
        yield ear.lines
    finally:
        for logger in loggers:
            logger.removeHandler(ear)
