"""How much actors have worked, and what happened to work on the way: counters for metrics. No torch.

An actor counts for itself and answers `usage()`; what its clients see is counted by kind of actor in each process.
Nothing here decides anything.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ray


@dataclass(frozen=True)
class Usage:
    """One actor's work since its process began; `incarnation` tells one process from the next."""

    incarnation: str
    busy_seconds: float
    items: int
    tokens: int = 0


class Busy:
    """Adds up the time in which at least one piece of work was in hand."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._total = 0.0
        self._since = 0.0
        self.in_hand = 0

    def __enter__(self) -> None:
        if self.in_hand == 0:
            self._since = self._clock()
        self.in_hand += 1

    def __exit__(self, *_: object) -> None:
        self.in_hand -= 1
        if self.in_hand == 0:
            self._total += self._clock() - self._since

    @property
    def seconds(self) -> float:
        """So far, what is in hand now included."""
        return self._total + (self._clock() - self._since if self.in_hand else 0.0)


class Counts:
    """What happened to the items of one kind of actor on behalf of this process; may be told by several threads."""

    EVENTS = ("deaths", "stuck", "retries", "dropped")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events = dict.fromkeys(self.EVENTS, 0)
        self._waiting = self._most_waiting = 0

    def add(self, event: str, n: int = 1) -> None:
        """Counts `n` more of one of EVENTS."""
        with self._lock:
            self._events[event] += n

    def waiting(self, change: int) -> None:
        """So many items more are in work or queued, or fewer."""
        with self._lock:
            self._waiting += change
            self._most_waiting = max(self._most_waiting, self._waiting)

    def take(self) -> dict[str, int]:
        """Each event's number, and `queue_peak` (the most items in work or queued), since this was last asked."""
        with self._lock:
            taken = {**self._events, "queue_peak": self._most_waiting}
            self._events = dict.fromkeys(self.EVENTS, 0)
            self._most_waiting = self._waiting
        return taken


def counts_of(kind: str) -> Counts:
    """This process's counts for "rollout", "sandbox" or "embedder"."""
    return _COUNTS.setdefault(kind, Counts())


_COUNTS: dict[str, Counts] = {}


def ask_usage(actors: Mapping[str, Any], seconds: float = 5.0) -> dict[str, Usage]:
    """By name, the usage of each actor that answers within `seconds`; one that is down or hangs is missing."""
    calls = {actor.usage.remote(): name for name, actor in actors.items()}
    done, _ = ray.wait(list(calls), num_returns=len(calls), timeout=seconds) if calls else ([], [])
    found = {}
    for call in done:
        try:
            found[calls[call]] = ray.get(call)
        except ray.exceptions.RayActorError:
            continue  # its loss is counted and logged where it had work
    return found
