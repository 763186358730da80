"""Batches of episodes collected in the background, so that engines sample while the learner trains.

Knows nothing of policies: whoever takes a batch says how far ahead of it others may be begun. What collects one is in
debug_ppo.py.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from ledex_ray.episodes import Episode

Collect = Callable[[int, Callable[[], None]], list[Episode]]
"""(iteration, what to call when its first answers are all sampled) -> the iteration's episodes."""


class BatchesAhead:
    """One batch has the engines at a time, in the order of iterations, and the next one while it is still scored."""

    def __init__(self, collect: Collect) -> None:
        self._collect = collect
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="collect")  # one is scored, one is sampled
        self._coming: dict[int, Future[list[Episode]]] = {}
        self._off = threading.Event()  # what is being collected is no longer wanted
        self._turn = _over()  # of the batch begun last
        self._next = 0  # the first iteration that nobody collects for yet

    def take(self, iteration: int, last: int) -> list[Episode]:
        """The iteration's batch, when it is there; those up to the iteration `last` are begun before."""
        for number in range(max(self._next, iteration), last + 1):
            before, self._turn = self._turn, threading.Event()
            self._coming[number] = self._threads.submit(self._in_turn, number, before, self._turn)
            self._next = number + 1
        episodes = self._coming[iteration].result()
        del self._coming[iteration]
        return episodes

    def called_off(self) -> bool:
        """Whether a batch that is being collected may end early: nobody will take it."""
        return self._off.is_set()

    def call_off(self) -> None:
        """Returns when nothing is being collected any more; what is taken next is collected anew."""
        self._off.set()
        for future in reversed(self._coming.values()):  # one that begins meanwhile has its turn: those before it run
            future.cancel()
        wait(self._coming.values())
        self._coming.clear()
        self._turn, self._next = _over(), 0
        self._off.clear()

    def shutdown(self) -> None:
        """Calls everything off, for good."""
        self.call_off()
        self._threads.shutdown()

    def _in_turn(self, iteration: int, before: threading.Event, after: threading.Event) -> list[Episode]:
        before.wait()
        try:
            return self._collect(iteration, after.set)
        finally:
            after.set()


def _over() -> threading.Event:
    event = threading.Event()
    event.set()
    return event
