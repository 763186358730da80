"""How often a gang may be lost: again and again over days, but not again and again at one place."""

from __future__ import annotations

from launch.console import log

MOST = 5  # losses without getting further than ever before: after that it is not an accident


class Accidents:
    """Counts the losses of a gang since training last reached a step that it had never reached before.

    A rebuilt gang repeats the steps since its checkpoint. Those do not count as getting further, or a batch that ends
    every gang would be tried for ever.
    """

    def __init__(self, stage: str, step: int) -> None:
        self._stage, self._furthest, self._losses = stage, step, 0

    def lost(self, error: Exception) -> None:
        """Takes note of a loss. Raises it where there have been too many."""
        self._losses += 1
        if self._losses == MOST:
            raise error
        log.warning("%s: %s; rebuilding the gang, %d of %d times", self._stage, error, self._losses, MOST - 1)

    def reached(self, step: int) -> None:
        """Training stands at `step`."""
        if step > self._furthest:
            self._furthest, self._losses = step, 0
