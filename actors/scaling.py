"""How many members a pool should have: a pure function of what has waited lately, with an injected clock.

Growing needs an excess that lasts a moment, shrinking a lack of work that lasts long: a node takes minutes to come.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable


class Scaler:
    """Between `least` and `most` members, each meant to hold `per_member` items."""

    def __init__(
        self,
        *,
        least: int,
        most: int,
        per_member: int,
        grow_seconds: float,
        idle_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self._least, self._most, self._per_member = least, most, per_member
        self._grow_seconds, self._idle_seconds = grow_seconds, idle_seconds
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()  # (when, members needed then)

    def wanted(self, members: int, waiting: int) -> int:
        """Members wanted now, where there are `members` and `waiting` items are unfinished.

        More than there are: the least needed at any moment of the last `grow_seconds`. Fewer: the most needed at any
        moment of the last `idle_seconds`. Neither is said before so much has been seen.
        """
        now = self._clock()
        needed = min(self._most, max(self._least, math.ceil(waiting / self._per_member)))
        self._seen.append((now, needed))
        longest = max(self._grow_seconds, self._idle_seconds)
        while len(self._seen) > 1 and self._seen[1][0] <= now - longest:  # the last one before the span is kept
            self._seen.popleft()
        lasting, peak = self._over(self._grow_seconds, min), self._over(self._idle_seconds, max)
        if lasting is not None and lasting > members:
            return lasting
        if peak is not None and peak < members:
            return peak
        return min(self._most, max(self._least, members))

    def _over(self, seconds: float, which: Callable[[list[int]], int]) -> int | None:
        since = self._clock() - seconds
        # One sample from before the span began says how things stood when it did.
        before = [needed for when, needed in self._seen if when <= since]
        if not before:
            return None
        return which([before[-1], *(needed for when, needed in self._seen if when > since)])
