"""What a learner raises to its driver. No torch: the driver unpickles these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ledex_ray.errors import RunFailed


class GangLost(RunFailed):
    """A rank died or stayed silent, `doing` what it was asked for; the whole gang has been ended.

    `LearnerGroup.rebuild`, then replay.
    """

    def __init__(self, why: str, doing: str = "") -> None:
        super().__init__(f"{doing}: {why}" if doing else why)
        self.doing = doing


class NonFiniteSteps(RunFailed):
    """Three steps in a row had a loss or gradient that was not finite; `ids` are what the last was trained on."""

    def __init__(self, ids: Sequence[str]) -> None:
        super().__init__(f"three steps in a row were not finite; last batch: {', '.join(ids)}")
        self.ids = tuple(ids)

    def __reduce__(self) -> tuple[Any, ...]:
        return NonFiniteSteps, (self.ids,)
