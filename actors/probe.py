"""Do engine and learner compute the same policy? Log-probabilities of a fixed probe batch, side by side.

Checksums show that the bytes arrived; only this shows that the engine uses them (a stale prepacked head has the right
bytes and the wrong logits).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from actors.rollout import RolloutGroup
from actors.weights import TransferFailed

log = logging.getLogger(__name__)

Sequences = Sequence[Sequence[int]]


class PolicyMismatch(RuntimeError):
    """An engine differs from the learner after a refit and after a restart."""


@dataclass(frozen=True)
class Gap:
    """|engine - learner| over all tokens of the probe batch."""

    mean: float
    max: float


def measure(
    group: RolloutGroup,
    learner: Sequence[NDArray[np.float32]],
    probe: Sequences,
    only: Sequence[object] | None = None,
) -> dict[str, Gap]:
    """The gap of each engine (of `only` these) that answers.

    `learner` holds [L - 1] log-probabilities for each probe sequence, at temperature 1.
    """
    gaps = {}
    for name, engine in group.log_probs(probe, only).items():
        distances = np.concatenate([np.abs(np.asarray(a) - b) for a, b in zip(engine, learner, strict=True)])
        gaps[name] = Gap(float(distances.mean()), float(distances.max()))
    return gaps


def check_probe(
    group: RolloutGroup,
    learner: Sequence[NDArray[np.float32]],
    probe: Sequences,
    tolerance: float,
    refit: Callable[[Sequence[object]], object],
) -> dict[str, Gap]:
    """The gaps of all engines that answer, each mean within `tolerance`.

    An engine over it is refitted; one still over it is replaced, and refitted before it serves (its gap is left out).
    Where none is left, those that came back are measured once more. Raises PolicyMismatch where none of them is within
    the tolerance either: then it is the learner's side that is wrong; TransferFailed where none answers.
    """

    def measured_anew() -> dict[str, Gap]:
        back = group.wait_until_serving()
        if not back:
            raise TransferFailed("no engine is back")
        refit(back)
        return measure(group, learner, probe, back)

    gaps = measure(group, learner, probe) or measured_anew()  # every engine was lost since the transfer
    if not gaps:
        raise TransferFailed("no engine answers the probe")
    wrong = [name for name, gap in gaps.items() if not gap.mean <= tolerance]
    if wrong:
        log.warning("policy gap %s over %g; refitting", {n: gaps[n] for n in wrong}, tolerance)
        engines = [group.engine(name) for name in wrong]
        refit(engines)
        refitted = measure(group, learner, probe, engines)
        gaps = {n: g for n, g in gaps.items() if n not in wrong} | replace_wrong(group, refitted, tolerance)
    if not gaps:
        gaps = {name: gap for name, gap in measured_anew().items() if gap.mean <= tolerance}
    if not gaps:
        raise PolicyMismatch(f"no engine within {tolerance:g} of the learner")
    return gaps


def replace_wrong(group: RolloutGroup, refitted: Mapping[str, Gap], tolerance: float) -> dict[str, Gap]:
    """The gaps within `tolerance`; engines over it, which have just been refitted, are ended and start anew."""
    for name, gap in refitted.items():
        if not gap.mean <= tolerance:
            log.error("policy gap %s of engine=%s after a refit; replaced", gap, name)
            group.replace(group.engine(name))
    return {name: gap for name, gap in refitted.items() if gap.mean <= tolerance}
