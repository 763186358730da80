"""Standard input and output of one case: how they are given and captured, and the rule by which output is compared.

The rule is APPS' own, less its last resort of comparing lines as sets: lines equal but for white space at their ends
and blank lines; or the same tokens; or the same numbers within a relative 1e-5.
"""

from __future__ import annotations

import errno
import fcntl
import math
import os
import socket
from dataclasses import dataclass
from types import TracebackType

from ledex_ray.problems import StdioTest

from .inside import wire

MIN_OUTPUT = 4 << 20  # bytes that any program may print; four times the expected output where that is more
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


@dataclass(frozen=True)
class Captured:
    """What a script printed, whether it was cut off for length, and the exception it ended with."""

    output: bytes
    overflowed: bool
    error: str = ""
    line: int = 0


class Pipes:
    """The descriptors of one case: a sealed file as standard input, a pipe as standard output."""

    def __init__(self, case: StdioTest) -> None:
        self._limit = max(MIN_OUTPUT, 4 * len(case.stdout.encode("utf-8", "surrogatepass")))
        self._parts: list[bytes] = []
        self._size = 0
        self.overflowed = False
        self._input = os.memfd_create("stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self.output, self._child_output = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.output, False)
        with open(self._input, "wb", closefd=False) as file:
            file.write(case.stdin.encode("utf-8", "surrogatepass"))
        os.lseek(self._input, 0, os.SEEK_SET)
        fcntl.fcntl(self._input, fcntl.F_ADD_SEALS, _SEALS)

    @property
    def child_ends(self) -> tuple[int, int]:
        return self._input, self._child_output

    def close_child_ends(self) -> None:
        for name in ("_input", "_child_output"):
            if getattr(self, name) >= 0:
                os.close(getattr(self, name))
                setattr(self, name, -1)

    def read(self) -> bool:
        """Takes what is there; False when nothing was."""
        try:
            data = os.read(self.output, 1 << 16)
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise
            return False
        if self._size < self._limit:
            self._parts.append(data)
        self._size += len(data)
        self.overflowed = self.overflowed or self._size > self._limit
        return bool(data)

    def captured(self, connection: socket.socket) -> Captured:
        """All of it, with the exception that the runner reported (which decides nothing)."""
        error, line = _reported(connection)
        return Captured(b"".join(self._parts)[: self._limit], self.overflowed, error, line)

    def __enter__(self) -> Pipes:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close_child_ends()
        os.close(self.output)


def _reported(connection: socket.socket) -> tuple[str, int]:
    connection.settimeout(0.0)
    try:
        name, message, line, _ = wire.parse(wire.receive_text(connection, 1 << 14))
        if type(line) is int and 0 <= line < 10_000_000 and type(name) is str and type(message) is str:
            return (f"{name}: {message}" if message else name)[:600], line
    except (OSError, EOFError, wire.Breach, TypeError, ValueError):
        pass  # it reported nothing, or nonsense: the exit status says that it failed
    return "", 0


def same_output(got: str, expected: str) -> bool:
    """Whether the output is right by the data set's rule. Linear in its length."""
    ours, theirs = _lines(got), _lines(expected)
    if ours == theirs:
        return True
    ours_tokens, theirs_tokens = got.split(), expected.split()
    if len(ours_tokens) != len(theirs_tokens):
        return False
    if ours_tokens == theirs_tokens:
        return True
    return len(ours) == len(theirs) and all(map(_same_token, ours_tokens, theirs_tokens))


def _lines(text: str) -> list[str]:
    return [line for line in map(str.strip, text.splitlines()) if line]


def _same_token(got: str, expected: str) -> bool:
    if got == expected:
        return True
    if len(got) > 100 or len(expected) > 100 or not any(mark in expected + got for mark in ".eE"):
        return False
    try:
        left, right = float(got), float(expected)
    except ValueError:
        return False
    return math.isfinite(left) and abs(left - right) <= 1e-8 + 1e-5 * abs(right)
