"""How busy each kind of actor was, how fast each engine wrote, what was retried: since the last time this was asked."""

from __future__ import annotations

import time
from collections.abc import Callable

from actors.learner import LearnerGroup
from actors.usage import Usage, ask_usage, counts_of
from launch.fleet import Fleet


class Utilisation:
    """Figures of the stretch of time between two calls of `measure`."""

    def __init__(self, fleet: Fleet, learner: LearnerGroup, clock: Callable[[], float] = time.monotonic) -> None:
        self._fleet, self._learner, self._clock = fleet, learner, clock
        self._before: dict[str, Usage] = {}
        self._learner_before, self._since = 0.0, clock()
        self.measure()

    def measure(self) -> dict[str, float]:
        """Busy shares (the mean over a kind's actors, in [0, 1]), tokens a second by engine, queues, retries, losses.

        An actor that does not answer now is left out; of one that was started anew only its present process counts.
        """
        now = self._clock()
        seconds, self._since = max(now - self._since, 1e-9), now
        rollout, sandbox = self._fleet.rollout, self._fleet.sandbox
        found: dict[str, float] = {"busy_learner": (self._learner.busy.seconds - self._learner_before) / seconds}
        self._learner_before = self._learner.busy.seconds
        for kind, actors in (("rollout", rollout.by_name), ("sandbox", sandbox.actors)):
            work = {name: self._since_before(name, usage) for name, usage in ask_usage(actors).items()}
            if work:
                found[f"busy_{kind}"] = sum(busy for busy, _ in work.values()) / len(work) / seconds
            if kind == "rollout":
                for index, name in enumerate(actors):
                    if name in work:
                        found[f"tokens_per_second/rollout-{index}"] = work[name][1] / seconds
        for kind in ("rollout", "sandbox", "embedder"):
            found |= {f"{event}_{kind}": float(n) for event, n in counts_of(kind).take().items()}
        return found

    def _since_before(self, name: str, usage: Usage) -> tuple[float, int]:
        before = self._before.get(name)
        self._before[name] = usage
        if before is None or before.incarnation != usage.incarnation:
            return usage.busy_seconds, usage.tokens
        return usage.busy_seconds - before.busy_seconds, usage.tokens - before.tokens
