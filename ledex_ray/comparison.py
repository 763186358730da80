"""Models compared: results and paired differences as `evaluation.json` has them (docs/files.md), the article's table.

Every figure carries an interval (method.md, sections 4 and 8). A difference is paired: both models are measured on the
same problems, and it is the problems that are resampled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ledex_ray.passk import (
    RESAMPLES,
    Estimate,
    Floats,
    Tally,
    difference_interval,
    mean,
    pass_at_k,
    pass_at_k_estimate,
    pooled,
    rate_estimate,
    ratio,
)

SCHEMA = 1
Stage = Literal["prompt", "sft", "sft+rl"]
Mode = Literal["initial", "direct", "explain", "resample", "random_feedback", "no_feedback"]
Metric = Literal["pass_at_k", "repair_rate", "copy_rate"]


@dataclass(frozen=True)
class Key:
    """What was measured: one model in one mode; two keys name the sides of a comparison."""

    label: str
    model: str
    stage: Stage
    mode: Mode
    round: int
    bugs: Literal["own", "fixed"] | None
    feedback: Literal["public", "all"]
    temperature: float
    seed: int | None  # None where several seeds are pooled


@dataclass(frozen=True)
class Result:
    """One figure of `evaluation.json`."""

    key: Key
    benchmark: str
    metric: Metric
    k: int | None  # None outside pass_at_k
    value: float
    low: float
    high: float
    n_problems: int
    n_samples: int
    tokens: int  # prompt and generated

    def to_json(self) -> dict[str, Any]:
        """The flat object that the file holds."""
        rest = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "key"}
        return {**dataclasses.asdict(self.key), **rest}


@dataclass(frozen=True)
class Comparison:
    """`difference` is b - a over the problems that both were measured on."""

    benchmark: str
    metric: Metric
    k: int | None
    a: Key
    b: Key
    difference: float
    low: float
    high: float
    n_problems: int

    def to_json(self) -> dict[str, Any]:
        """The object that the file holds, both keys in full."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Evaluation:
    """All of an `evaluation.json`."""

    results: tuple[Result, ...]
    comparisons: tuple[Comparison, ...]

    def to_json(self) -> dict[str, Any]:
        """The whole file as plain data."""
        return {
            "schema": SCHEMA,
            "results": [r.to_json() for r in self.results],
            "comparisons": [c.to_json() for c in self.comparisons],
        }


def measured(
    key: Key,
    benchmark: str,
    metric: Metric,
    tally: Tally,
    *,
    k: int | None = None,
    tokens: int = 0,
    bootstrap_seed: int = 0,
    resamples: int = RESAMPLES,
) -> Result:
    """The result of one tally: pass@k (with `k`), or the share of answers that count."""
    if metric == "pass_at_k":
        assert k is not None, "pass_at_k needs k"
        found = pass_at_k_estimate(tally, k, seed=bootstrap_seed, resamples=resamples)
    else:
        assert k is None, f"{metric} has no k"
        found = rate_estimate(tally, seed=bootstrap_seed, resamples=resamples)
    figures = (found.value, found.low, found.high, found.n_problems, found.n_samples)
    return Result(key, benchmark, metric, k, *figures, tokens)


def compared(
    a: Result, b: Result, tally_a: Tally, tally_b: Tally, *, bootstrap_seed: int = 0, resamples: int = RESAMPLES
) -> Comparison:
    """b - a of the same metric, paired by problem. ValueError where they share no problem."""
    assert (a.benchmark, a.metric, a.k) == (b.benchmark, b.metric, b.k), "two different metrics cannot be compared"
    found = paired_difference(tally_a, tally_b, k=a.k, seed=bootstrap_seed, resamples=resamples)
    return Comparison(a.benchmark, a.metric, a.k, a.key, b.key, found.value, found.low, found.high, found.n_problems)


def paired_difference(a: Tally, b: Tally, *, k: int | None, seed: int, resamples: int = RESAMPLES) -> Estimate:
    """b - a over the problems in both, with its interval: of mean pass@k, or, without `k`, of the pooled rates.

    ValueError where no problem is in both (for rates: with an answer on each side).
    """
    columns, statistic, by_problem = _paired(a, b, k)
    low, high = difference_interval(columns, statistic, by_problem, seed=seed, resamples=resamples)
    return Estimate(float(statistic(*columns)), low, high, len(columns[0]))


def share_problems(a: Tally, b: Tally, k: int | None) -> bool:
    """Whether there is anything that `paired_difference` could compare."""
    return bool(_common(a, b, k))


def _common(a: Tally, b: Tally, k: int | None) -> list[str]:
    return [p for p in a if p in b and (k is not None or (a[p][0] and b[p][0]))]


def _paired(a: Tally, b: Tally, k: int | None) -> tuple[tuple[Floats, ...], Callable[..., Floats], Floats]:
    """What `difference_interval` takes: columns, what makes one figure of them, and the difference by problem."""
    common = _common(a, b, k)
    if not common:
        raise ValueError("the two sides share no problem")
    if k is not None:
        by_problem = np.array([pass_at_k(*b[p], k) - pass_at_k(*a[p], k) for p in common])
        return (by_problem,), mean, by_problem
    counts = tuple(np.array([t[p][i] for p in common], dtype=np.float64) for t in (a, b) for i in (1, 0))
    return counts, _rate_difference, counts[2] / counts[3] - counts[0] / counts[1]


def _rate_difference(*columns: Floats, axis: int = -1) -> Floats:
    count_a, n_a, count_b, n_b = columns
    return ratio(count_b, n_b, axis) - ratio(count_a, n_a, axis)


@dataclass(frozen=True)
class SeededDifference:
    """A difference over several seeds: pooled, with its interval, and each seed's own estimate."""

    pooled: Estimate
    by_seed: tuple[float, ...]

    @property
    def shown(self) -> bool:
        """Whether it may be claimed: the interval excludes zero, and every seed is on the same side of it."""
        estimate = self.pooled
        return (estimate.low > 0 and min(self.by_seed) > 0) or (estimate.high < 0 and max(self.by_seed) < 0)


def seeded_difference(
    a: Sequence[Tally], b: Sequence[Tally], *, k: int | None, seed: int, resamples: int = RESAMPLES
) -> SeededDifference:
    """b - a over several seeds, a tally a seed on each side: samples pooled, problems resampled (method.md, section 8).

    How much trainings differ is not in the interval: two or three say little of that, and each one's own estimate
    stands beside it. Raises as `paired_difference` does, and ValueError for k > 1: the answers of several trainings
    together have the pass@k of their mixture, which is more than the mean of theirs.
    """
    if k is not None and k > 1:
        raise ValueError(f"seeds are pooled for pass@1 and rates, not for pass@{k}")
    by_seed = []
    for one, other in zip(a, b, strict=True):
        columns, statistic, _ = _paired(one, other, k)
        by_seed.append(float(statistic(*columns)))
    found = paired_difference(pooled(a), pooled(b), k=k, seed=seed, resamples=resamples)
    return SeededDifference(found, tuple(by_seed))


STAGES = ("prompt", "sft", "sft+rl")
MODES = {
    "initial": "initial",
    "direct": "direct revision",
    "explain": "explain, then revise",
    "resample": "fresh samples, cost of one refinement",
    "random_feedback": "random feedback",
    "no_feedback": "no feedback",
}


def article_table(evaluation: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """(header, rows) of the article's table: models x modes down, benchmark x attempts across, percent with interval.

    `evaluation` is the content of an `evaluation.json`. The refining modes show their last round, and where that is not
    the only one also their first, which fresh samples are to be held against. Beside pass@k stand the repair rates on
    each model's own bugs and on the fixed set, and the copy rate: pass@k alone can rise without any debugging learned
    (method.md, section 8). Empty cells were not measured.
    """
    results: Sequence[Mapping[str, Any]] = evaluation["results"]
    last: dict[tuple[Any, ...], int] = {}
    for r in results:
        for place in (_row(r), (_row(r), _column(r))):
            last[place] = max(r["round"], last.get(place, 0))
    cells: dict[tuple[Any, ...], dict[str, str]] = {}
    columns: dict[str, None] = dict.fromkeys(
        c for metric in ("pass_at_k", "repair_rate", "copy_rate") for c in _sorted_columns(results, metric)
    )
    for r in results:
        row, text = _row(r), percent(r)
        first = last[row] > 1 and r["round"] == 1
        if first:
            cells.setdefault((*row, "first round"), {})[_column(r)] = text
        if r["round"] == last[row, _column(r)] and not (first and r["bugs"] == "fixed"):  # fixed bugs have one round
            cells.setdefault((*row, "last round"), {})[_column(r)] = text
    labels = list(dict.fromkeys(r["label"] for r in results))  # in the order in which they were measured
    order = sorted(
        cells,
        key=lambda row: (
            STAGES.index(row[0]),
            labels.index(row[1]),
            list(MODES).index(row[2]),
            *map(str, row[3:5]),
            row[5] != "public",
            row[6],
        ),
    )
    several, kinds = len({row[3:5] for row in cells}) > 1, len({row[5] for row in cells}) > 1
    rows = []
    for row in order:
        seed = f" (seed {row[3]}, T={row[4]})" if several else ""
        told = f", feedback of {row[5]} tests" if kinds and row[2] in ("direct", "explain", "random_feedback") else ""
        told += ", first round" if row[6] == "first round" else ""
        rows.append([row[1] + seed, MODES[row[2]] + told, *(cells[row].get(column, "") for column in columns)])
    return ["model", "mode", *columns], rows


def percent(r: Mapping[str, Any]) -> str:
    """A figure of `evaluation.json` with its interval, in percent."""
    return f"{100 * r['value']:.1f} [{100 * r['low']:.1f}, {100 * r['high']:.1f}]"


def _row(r: Mapping[str, Any]) -> tuple[Any, ...]:
    return r["stage"], r["label"], r["mode"], r["seed"], r["temperature"], r["feedback"]


def _column(r: Mapping[str, Any]) -> str:
    if r["metric"] == "pass_at_k":
        return f"{r['benchmark']} pass@{r['k']}"
    bugs = {"own": ", own bugs", "fixed": ", fixed bugs"}.get(r["bugs"] or "", "")
    return f"{r['benchmark']} {r['metric'].replace('_', ' ')}{bugs}"


def _sorted_columns(results: Sequence[Mapping[str, Any]], metric: str) -> list[str]:
    chosen = sorted(
        (r for r in results if r["metric"] == metric), key=lambda r: (r["benchmark"], r["k"] or 0, r["bugs"] != "own")
    )
    return list(dict.fromkeys(map(_column, chosen)))
