"""How often a gang may be lost: again and again over days, but not again and again at one place."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from ray.exceptions import OutOfMemoryError

from launch.console import log

MOST = 5  # losses at one place without getting further than ever before: after that it is not an accident
FIRST_PAUSE = 15.0  # seconds, doubled each time: what takes a machine's memory beside us often passes


class Accidents:
    """Counts the losses of a gang since training last reached a step that it had never reached before.

    By what the gang was doing: a fault that comes again meets it at the same work, machines that go meet it anywhere.
    A rebuilt gang repeats the steps since its checkpoint. Those do not count as getting further, or a batch that ends
    every gang would be tried for ever.
    """

    def __init__(self, stage: str, step: int, sleep: Callable[[float], None] = time.sleep) -> None:
        self._stage, self._furthest, self._sleep = stage, step, sleep
        self._losses: Counter[str] = Counter()

    def lost(self, error: Exception) -> None:
        """Takes note of a loss; where memory ran out, waits a while. Raises it where there have been too many."""
        place = getattr(error, "doing", "") or type(error).__name__
        self._losses[place] += 1
        losses = self._losses[place]
        if losses == MOST:
            raise error
        log.warning("%s: %s; rebuilding the gang, %d of %d times", self._stage, error, losses, MOST - 1)
        if isinstance(error.__cause__, OutOfMemoryError):
            pause = FIRST_PAUSE * 2 ** (losses - 1)
            log.warning("%s: the node is short of memory; waiting %.0f s", self._stage, pause)
            self._sleep(pause)

    def reached(self, step: int) -> None:
        """Training stands at `step`."""
        if step > self._furthest:
            self._furthest = step
            self._losses.clear()
