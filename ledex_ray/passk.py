"""Unbiased pass@k (Chen et al. 2021, equation 1) and bootstrap intervals over problems.

A `Tally` is (n, c) for each problem: answers asked for, and those that count (passed, copied). Intervals are 95 % and
resample *problems*, the unit that another benchmark would change; several seeds' answers are pooled first.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import DegenerateDataWarning, bootstrap

Tally = Mapping[str, tuple[int, int]]
Floats = NDArray[np.float64]
CONFIDENCE = 0.95
RESAMPLES = 2000
LEAST_DIFFERING = 6  # problems; of five that are all on one side a sign test says p = 0.06


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval, and what it was computed from."""

    value: float
    low: float
    high: float
    n_problems: int
    n_samples: int = 0


def tally_of(answers: Iterable[tuple[str, bool]]) -> dict[str, tuple[int, int]]:
    """The tally of (problem, whether it counts) pairs."""
    counts: dict[str, tuple[int, int]] = {}
    for problem_id, counted in answers:
        n, c = counts.get(problem_id, (0, 0))
        counts[problem_id] = (n + 1, c + counted)
    return counts


def pass_at_k(n: int, c: int, k: int) -> float:
    """The probability that k of n samples, c of them right, hold a right one: 1 - C(n-c, k) / C(n, k).

    Raises ValueError unless 0 <= c <= n and 1 <= k <= n (with fewer than k samples there is no unbiased estimate).
    """
    if not 0 <= c <= n or not 1 <= k <= n:
        raise ValueError(f"pass@k needs 0 <= c <= n and 1 <= k <= n, got n={n}, c={c}, k={k}")
    if n - c < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


def mean_pass_at_k(tally: Tally, k: int) -> float:
    """pass@k averaged over problems, each with the same weight; ValueError without problems."""
    if not tally:
        raise ValueError("pass@k of no problem")
    return float(np.mean([pass_at_k(n, c, k) for n, c in tally.values()]))


def pass_at_k_estimate(tally: Tally, k: int, *, seed: int, resamples: int = RESAMPLES) -> Estimate:
    """Mean pass@k with its interval over problems."""
    values = np.array([pass_at_k(n, c, k) for n, c in tally.values()])
    low, high = _share_interval((values,), mean, seed=seed, resamples=resamples)
    return Estimate(float(values.mean()), low, high, len(tally), sum(n for n, _ in tally.values()))


def rate_estimate(tally: Tally, *, seed: int, resamples: int = RESAMPLES) -> Estimate:
    """Share of all answers that count (repair rate, copy rate), with its interval over problems.

    A problem weighs as many answers as were asked for it; problems without any are left out, ValueError if all are.
    """
    asked, counted = _columns({p: t for p, t in tally.items() if t[0]})
    low, high = _share_interval((counted, asked), ratio, seed=seed, resamples=resamples)
    return Estimate(float(counted.sum() / asked.sum()), low, high, len(asked), int(asked.sum()))


def _share_interval(
    columns: tuple[Floats, ...], statistic: Callable[..., Floats], *, seed: int, resamples: int
) -> tuple[float, float]:
    """`interval` of a share, and where all n problems are at 0, or all at 1, the exact bound instead of no width."""
    low, high = interval(columns, statistic, seed=seed, resamples=resamples)
    unseen = _unseen(len(columns[0]))
    if high == 0:
        return 0.0, unseen
    return (1 - unseen, 1.0) if low == 1 else (low, high)


def difference_interval(
    columns: tuple[Floats, ...],
    statistic: Callable[..., Floats],
    by_problem: Floats,
    *,
    seed: int,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """`interval` of a difference of shares; `by_problem` has each problem's own, in [-1, 1].

    Where all agree it has the exact bound (the problems not seen may differ by anything) instead of no width. Where
    fewer than six problems differ at all it holds zero: nothing is shown by them.
    """
    low, high = interval(columns, statistic, seed=seed, resamples=resamples)
    if np.ptp(by_problem) < 1e-12:
        unseen = _unseen(len(by_problem))
        middle = (1 - unseen) * float(by_problem[0])
        low, high = middle - unseen, middle + unseen
    if np.count_nonzero(by_problem) < LEAST_DIFFERING:
        low, high = min(low, 0.0), max(high, 0.0)
    return low, high


def _unseen(n: int) -> float:
    """The share of problems that are otherwise which would go unseen in `n` of them one time in twenty."""
    return float(1 - (1 - CONFIDENCE) ** (1 / n))


def _columns(tally: Tally) -> tuple[Floats, Floats]:
    if not tally:
        raise ValueError("a rate of no answer")
    asked, counted = np.array(list(tally.values()), dtype=np.float64).T
    return asked, counted


def mean(values: Floats, axis: int = -1) -> Floats:
    """The mean along the problems' axis, as `interval` takes it."""
    return np.asarray(np.mean(values, axis=axis))


def ratio(counted: Floats, asked: Floats, axis: int = -1) -> Floats:
    """Sum over sum along the problems' axis, as `interval` takes it."""
    return np.asarray(np.sum(counted, axis=axis) / np.sum(asked, axis=axis))


def interval(
    columns: tuple[Floats, ...], statistic: Callable[..., Floats], *, seed: int, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """95 % bootstrap interval of a statistic over problems, BCa where it exists, else by percentiles.

    `statistic(*columns, axis)` is vectorised. Where all resamples agree (one problem, or every problem the same)
    the interval is the value itself: a bootstrap cannot know more.
    """
    value = float(statistic(*columns, axis=-1))
    if len(columns[0]) < 2 or all(np.ptp(column) == 0 for column in columns):
        return value, value
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore", (DegenerateDataWarning, RuntimeWarning))
            found = bootstrap(
                columns,
                statistic,
                paired=True,
                vectorized=True,
                axis=-1,
                confidence_level=CONFIDENCE,
                method=method,
                n_resamples=resamples,
                rng=np.random.default_rng(seed),
                batch=200,
            ).confidence_interval
        if np.isfinite(found.low) and np.isfinite(found.high):
            return float(min(found.low, value)), float(max(found.high, value))
    return value, value


def pooled(tallies: Sequence[Tally]) -> dict[str, tuple[int, int]]:
    """One tally of several seeds' samples, problem by problem."""
    problems = dict.fromkeys(p for tally in tallies for p in tally)
    return {p: (sum(t[p][0] for t in tallies if p in t), sum(t[p][1] for t in tallies if p in t)) for p in problems}
