"""Do engine and learner compute the same policy? Log-probabilities of a fixed probe batch, side by side.

Checksums show that the bytes arrived; only this shows that the engine uses them (a stale prepacked head has the right
bytes and the wrong logits). An engine fails it by its distance from the learner, or by being an update behind.
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
BEHIND = 0.5  # share of the last update that an engine may seem to lack
CERTAIN = 6.0  # standard deviations by which it has to seem so


class PolicyMismatch(RuntimeError):
    """An engine differs from the learner after a refit and after a restart."""


@dataclass(frozen=True)
class Wanted:
    """The learner's log-probabilities, [L - 1] for each probe sequence, at temperature 1.

    `before` is what the engines were last held against; empty at the first time.
    """

    now: Sequence[NDArray[np.float32]]
    before: Sequence[NDArray[np.float32]] = ()


@dataclass(frozen=True)
class Gap:
    """|engine - learner| over all tokens of the probe batch, and what share of the last update the engine lacks."""

    mean: float
    max: float
    behind: float = 0.0

    def fits(self, tolerance: float) -> bool:
        """Whether the engine computes the learner's policy; not where anything is NaN."""
        return self.mean <= tolerance and self.behind <= BEHIND


def measure(
    group: RolloutGroup, wanted: Wanted, probe: Sequences, only: Sequence[object] | None = None
) -> dict[str, Gap]:
    """The gap of each engine (of `only` these) that answers."""
    now = np.concatenate(wanted.now)
    before = np.concatenate(wanted.before) if wanted.before else now
    gaps = {}
    for name, rows in group.log_probs(probe, only).items():
        engine = np.concatenate([np.asarray(row) for row in rows])
        distances = np.abs(engine - now)
        gaps[name] = Gap(float(distances.mean()), float(distances.max()), lacking(engine, now, before))
    return gaps


def lacking(engine: NDArray[np.floating], now: NDArray[np.floating], before: NDArray[np.floating]) -> float:
    """The share of the way from `before` to `now` that an engine has not gone: 0 at `now`, 1 with its old weights.

    By least squares over the tokens. In bf16 one update changes less than engine and learner differ anyway, so that no
    tolerance could tell; many tokens together can. 0 where the update is too small to be told from the engine's noise.
    """
    change, off = (before - now).astype(np.float64), (engine - now).astype(np.float64)
    size = float(np.linalg.norm(change))
    if size == 0:
        return 0.0
    share = float(off @ change) / size**2
    deviation = float(np.sqrt(np.mean((off - share * change) ** 2))) / size  # of the share, by chance
    return share if CERTAIN * deviation <= BEHIND else 0.0


def check_probe(
    group: RolloutGroup,
    wanted: Wanted,
    probe: Sequences,
    tolerance: float,
    refit: Callable[[Sequence[object]], object],
) -> dict[str, Gap]:
    """The gaps of all engines that answer, each mean within `tolerance` and none behind by an update.

    An engine over it is refitted; one still over it is replaced, and refitted before it serves (its gap is left out).
    Raises PolicyMismatch where no engine is left within the tolerance: then it is the learner's side that is wrong;
    TransferFailed where none answers.
    """
    gaps = measure(group, wanted, probe)
    if not gaps:  # every engine was lost since the transfer
        group.wait_until_serving()
        refit(group.engines)
        gaps = measure(group, wanted, probe)
        if not gaps:
            raise TransferFailed("no engine answers the probe")
    wrong = [name for name, gap in gaps.items() if not gap.fits(tolerance)]
    if wrong:
        log.warning("policy gap %s over %g; refitting", {n: gaps[n] for n in wrong}, tolerance)
        engines = [group.engine(name) for name in wrong]
        refit(engines)
        refitted = measure(group, wanted, probe, engines)
        gaps = {n: g for n, g in gaps.items() if n not in wrong} | replace_wrong(group, refitted, tolerance)
    if not gaps:
        raise PolicyMismatch(f"no engine within {tolerance:g} of the learner")
    return gaps


def replace_wrong(group: RolloutGroup, refitted: Mapping[str, Gap], tolerance: float) -> dict[str, Gap]:
    """The gaps that fit; the other engines, which have just been refitted, are ended and start anew."""
    for name, gap in refitted.items():
        if not gap.fits(tolerance):
            log.error("policy gap %s of engine=%s after a refit; replaced", gap, name)
            group.replace(group.engine(name))
    return {name: gap for name, gap in refitted.items() if gap.fits(tolerance)}
