"""Do engine and learner compute the same policy? Log-probabilities of a fixed probe batch, side by side.

Checksums show that the bytes arrived; only this shows that the engine uses them (a stale prepacked head has the right
bytes and the wrong logits).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
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
    group: RolloutGroup, learner: Sequence[NDArray[np.float32]], probe: Sequences, temperature: float
) -> dict[str, Gap]:
    """The gap of each engine that answers. `learner` holds [L - 1] log-probabilities for each probe sequence."""
    gaps = {}
    for name, engine in group.log_probs(probe, temperature).items():
        distances = np.concatenate([np.abs(np.asarray(a) - b) for a, b in zip(engine, learner, strict=True)])
        gaps[name] = Gap(float(distances.mean()), float(distances.max()))
    return gaps


def check_probe(
    group: RolloutGroup,
    learner: Sequence[NDArray[np.float32]],
    probe: Sequences,
    temperature: float,
    tolerance: float,
    refit: Callable[[Sequence[object]], object],
) -> dict[str, Gap]:
    """The gaps of all engines that answer, each mean within `tolerance`.

    An engine over it is refitted; one still over it is replaced, and refitted before it serves (its gap is left out).
    Raises PolicyMismatch where no engine is left within the tolerance: then it is the learner's side that is wrong;
    TransferFailed where none answers.
    """
    gaps = measure(group, learner, probe, temperature)
    if not gaps:  # every engine was lost since the transfer
        group.wait_until_serving()
        refit(group.engines)
        gaps = measure(group, learner, probe, temperature)
        if not gaps:
            raise TransferFailed("no engine answers the probe")
    wrong = [name for name, gap in gaps.items() if not gap.mean <= tolerance]
    if wrong:
        log.warning("policy gap %s over %g; refitting", {n: gaps[n] for n in wrong}, tolerance)
        refit([group.engine(name) for name in wrong])
        gaps |= {n: g for n, g in measure(group, learner, probe, temperature).items() if n in wrong}
    for name in wrong:
        if not gaps[name].mean <= tolerance:
            log.error("policy gap %s of engine=%s after a refit; replaced", gaps[name], name)
            group.replace(group.engine(name))
            del gaps[name]
    if not gaps:
        raise PolicyMismatch(f"no engine within {tolerance:g} of the learner")
    return gaps
