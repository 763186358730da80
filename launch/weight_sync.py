"""Weights from the learner to every rollout engine, versioned and checked before they serve.

Version v is the policy after v updates. After a transfer the engines' log-probabilities of a fixed probe batch are held
against the learner's; an engine over the tolerance is refitted, then replaced (DESIGN, what must never happen, 5).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from actors.generation import WeightsRef
from actors.learner import LearnerGroup
from actors.probe import check_probe
from actors.rollout import RolloutGroup

POLL_SECONDS = 2.0


class WeightSync:
    """Keeps the engines of a group at the learner's policy."""

    def __init__(
        self, learner: LearnerGroup, group: RolloutGroup, probe: Sequence[Sequence[int]], tolerance: float
    ) -> None:
        self._learner, self._group, self._tolerance = learner, group, tolerance
        self._probe = [list(sequence) for sequence in probe]
        self._version: int | None = None
        self.gap = {"engine_gap_mean": 0.0, "engine_gap_max": 0.0, "transfer_seconds": 0.0}
        group.refit = self._refit

    @property
    def ref(self) -> WeightsRef:
        """What requests ask for."""
        return self._group.weights

    def publish(self, version: int) -> None:
        """Sends the learner's weights as `version`, unless the engines have them, and checks that they are used.

        Raises TransferFailed or GangLost when an engine or a rank is lost on the way (a failed transfer ends the gang:
        its ranks may be in the midst of a gather), PolicyMismatch when no engine computes the learner's policy.
        """
        if self._version == version:
            return
        start = time.monotonic()
        path = self._send(version)
        self._group.published(WeightsRef(version, path))
        learner = self._learner.log_probs([np.asarray(s, dtype=np.int32) for s in self._probe], 1.0)
        gaps = check_probe(
            self._group, learner, self._probe, 1.0, self._tolerance, lambda engines: self._refit(engines, self.ref)
        )
        self._version = version
        self.gap = {
            "engine_gap_mean": max(gap.mean for gap in gaps.values()),
            "engine_gap_max": max(gap.max for gap in gaps.values()),
            "transfer_seconds": time.monotonic() - start,
        }

    def forget(self) -> None:
        """The learner went back to a checkpoint: what the engines hold is no longer its policy."""
        self._version = None

    def _send(self, version: int) -> str:
        self._wait_for_engines()  # one that a failed transfer ended is starting anew
        return self._learner.send_weights(self._group.engines, version, self._group.transfer).path

    def _wait_for_engines(self) -> None:
        deadline = time.monotonic() + self._group.config.ready_seconds
        while len(self._group.infos()) < len(self._group.engines) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)

    def _refit(self, engines: Sequence[Any], weights: WeightsRef) -> None:
        self._learner.send_weights(engines, weights.version, self._group.transfer)
