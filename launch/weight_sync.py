"""Weights from the learner to every rollout engine, versioned and checked.

Version v is the policy after v updates; the label always comes from the learner, in the same turn as the weights. After
a transfer the engines' log-probabilities of a fixed probe batch are held against the learner's; an engine over the
tolerance is refitted, then replaced (docs/how-it-works.md). What is sampled in the background goes on
meanwhile: its tokens carry the engine's own log-probabilities, by which the update weighs them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.failures import GangLost
from actors.generation import WeightsRef
from actors.learner import LearnerGroup
from actors.probe import check_probe, measure, replace_wrong
from actors.rollout import RolloutGroup
from actors.weights import TransferFailed, TransferReceipt


class PolicyGone(RuntimeError):
    """Weights were asked for that the learner no longer has: it went back to a checkpoint."""


class WeightSync:
    """Keeps the engines of a group at the learner's policy."""

    def __init__(
        self, learner: LearnerGroup, group: RolloutGroup, probe: Sequence[Sequence[int]], tolerance: float
    ) -> None:
        self._learner, self._group, self._tolerance = learner, group, tolerance
        self._probe = [list(sequence) for sequence in probe]
        self._version: int | None = None
        self._expected: Sequence[NDArray[np.float32]] = ()  # by the learner, of the probe, at `_version`
        self._measured: dict[str, float] = {}
        group.refit = self.refit

    @property
    def ref(self) -> WeightsRef:
        """What requests ask for."""
        return self._group.weights

    def publish(self) -> None:
        """Sends the learner's weights under their version, unless the engines have them, and checks that they are used.

        Raises TransferFailed or GangLost when an engine or a rank is lost on the way (a failed transfer ends the gang:
        its ranks may be in the midst of a gather), PolicyMismatch when no engine computes the learner's policy.
        """
        with self._learner.turn:
            version = self._learner.version
            if self._version == version:
                return
            engines = self._group.wait_until_serving()  # one that a failed transfer ended is starting anew
            if not engines:
                raise TransferFailed("no engine is back")
            start = time.monotonic()
            receipt = self._send(engines, version)
            self._group.published(WeightsRef(version, receipt.path))
            sent = time.monotonic()
            expected = self._learner.log_probs([np.asarray(s, dtype=np.int32) for s in self._probe], 1.0)
            gaps = check_probe(
                self._group, expected, self._probe, self._tolerance, lambda engines: self.refit(engines, self.ref)
            )
            self._version, self._expected = version, expected
        self._measured = {
            "engine_gap_mean": max(gap.mean for gap in gaps.values()),
            "engine_gap_max": max(gap.max for gap in gaps.values()),
            "transfer_seconds": sent - start,
            "probe_seconds": time.monotonic() - sent,
        }

    def take_metrics(self) -> dict[str, float]:
        """What was measured since the last call: gaps and seconds of the latest publication; empty without one."""
        taken, self._measured = self._measured, {}
        return taken

    def refit(self, engines: Sequence[Any], wanted: WeightsRef) -> bool:
        """Whether the engines were sent the learner's weights, which may be newer than those wanted.

        One that then does not compute the policy that was published last starts anew.
        False while the gang works for another thread: the weights are about to change, and the caller asks again.
        Raises PolicyGone where only a policy older than wanted is left; TransferFailed, GangLost as `publish`.
        """
        if not self._learner.turn.acquire(blocking=False):
            return False
        try:
            version = self._learner.version
            if version < wanted.version:
                raise PolicyGone(f"weights {wanted.version} are gone, the learner is back at {version}")
            self._send(engines, version)
            if version == self._version:
                gaps = measure(self._group, self._expected, self._probe, engines)
                replace_wrong(self._group, gaps, self._tolerance)
        finally:
            self._learner.turn.release()
        return True

    def restart(self, version: int) -> None:
        """The learner went back to a checkpoint of `version`: what the engines hold is no longer its policy."""
        self._learner.version = version
        self._version = None

    def _send(self, engines: Sequence[Any], version: int) -> TransferReceipt:
        deadline_seconds = self._group.config.deadline_seconds
        try:
            return self._learner.send_weights(engines, version, self._group.transfer, deadline_seconds)
        except GangLost as error:
            if error.doing:  # in mid-transfer: the engines would wait for the rest of it until their own deadline
                for engine in engines:
                    self._group.replace(engine)
            raise
