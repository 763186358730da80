"""Processes of this session's actors killed and stopped at random, and what was logged meanwhile."""

from __future__ import annotations

import logging
import os
import random
import signal
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Attack:
    """One signal sent to one actor's process."""

    kind: str
    signal: signal.Signals
    pid: int
    at: float


class Chaos(threading.Thread):
    """Until `end`, each kind of actor loses a process now and then: at least `gap` seconds apart, kind by kind.

    A moment at which none of the kind runs passes by: else each process that is started anew would be met as it starts.
    """

    def __init__(self, gaps: Mapping[str, float], seed: int) -> None:
        super().__init__(daemon=True)
        self.attacks: list[Attack] = []
        self._gaps, self._random, self._done = gaps, random.Random(seed), threading.Event()

    def end(self) -> None:
        self._done.set()
        self.join()

    def run(self) -> None:
        due = {kind: time.monotonic() + self._random.uniform(0.2, 1.0) * gap for kind, gap in self._gaps.items()}
        while not self._done.wait(0.2):
            for kind, at in due.items():
                if time.monotonic() >= at:
                    self._attack(kind)
                    due[kind] = time.monotonic() + self._gaps[kind] * self._random.uniform(1.0, 1.5)

    def _attack(self, kind: str) -> None:
        victims = []
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                running = process.status() != psutil.STATUS_STOPPED
                if running and " ".join(process.cmdline()).startswith(f"ray::{kind}"):
                    victims.append(process.pid)
        if not victims:
            return
        pid, how = self._random.choice(sorted(victims)), self._random.choice([signal.SIGKILL, signal.SIGSTOP])
        with suppress(ProcessLookupError):
            os.kill(pid, how)
            self.attacks.append(Attack(kind, how, pid, time.monotonic()))


class Log(logging.Handler):
    """Every message of the project with its time."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[tuple[float, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append((time.monotonic(), record.getMessage()))
