"""Paired differences, rates, and the form of evaluation.json and of the article's table."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledex_ray.comparison import (
    Evaluation,
    Key,
    Result,
    article_table,
    compared,
    measured,
    paired_difference,
    seeded_difference,
)

A = {f"p{i}": (10, i % 7) for i in range(40)}
B = {f"p{i}": (10, i % 7 + 2 + i % 2) for i in range(40)}
BASE = Key("prompt", "smollm2", "prompt", "initial", 0, None, "public", 0.8, 0)
KEY_FIELDS = {"label", "model", "stage", "mode", "round", "bugs", "feedback", "temperature", "seed"}
RESULT_FIELDS = KEY_FIELDS | {"benchmark", "metric", "k", "value", "low", "high", "n_problems", "n_samples", "tokens"}
COMPARISON_FIELDS = {"benchmark", "metric", "k", "a", "b", "difference", "low", "high", "n_problems"}


def test_difference_is_b_minus_a_and_excludes_zero_where_every_problem_gains() -> None:
    found = paired_difference(A, B, k=1, seed=0)
    assert found.value == pytest.approx(0.25)
    assert 0.2 <= found.low < found.value < found.high <= 0.3


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=20))
def test_swapping_the_sides_turns_the_sign(pairs: list[tuple[int, int]]) -> None:
    a, b = ({str(i): (5, pair[side]) for i, pair in enumerate(pairs)} for side in (0, 1))
    for k in (1, 3, None):
        one, two = (paired_difference(x, y, k=k, seed=0, resamples=100) for x, y in ((a, b), (b, a)))
        assert one.value == pytest.approx(-two.value)
        assert one.low <= one.value <= one.high


def test_a_model_against_itself_differs_by_nothing() -> None:
    found = paired_difference(A, A, k=1, seed=0)
    assert found.value == 0 and found.high == pytest.approx(1 - 0.05 ** (1 / 40)) == -found.low  # no certainty


@pytest.mark.parametrize("k", [1, None])
def test_few_problems_show_nothing(k: int | None) -> None:
    one = paired_difference({"a": (4, 0)}, {"a": (4, 1)}, k=k, seed=0)
    assert one.low < 0 < one.value == 0.25 < one.high
    for differing, shown in ((5, False), (6, True)):
        better = {p: (n, c + (i < differing)) for i, (p, (n, c)) in enumerate(A.items())}
        found = seeded_difference([A], [better], k=k, seed=0)
        assert found.shown is shown and found.pooled.low <= found.pooled.value < found.pooled.high
    alike = {p: (n, c + 3) for p, (n, c) in A.items()}
    assert 0 < paired_difference(A, alike, k=k, seed=0).low < 0.3


def test_pairing_is_narrower_than_two_intervals_apart() -> None:
    paired = paired_difference(A, B, k=1, seed=0)
    one, two = (measured(BASE, "mbpp", "pass_at_k", t, k=1) for t in (A, B))
    assert paired.high - paired.low < (one.high - one.low) + (two.high - two.low)


def test_only_shared_problems_are_compared() -> None:
    found = paired_difference({"a": (2, 0), "x": (2, 2)}, {"a": (2, 2), "y": (2, 0)}, k=1, seed=0)
    assert (found.value, found.n_problems) == (1.0, 1)
    with pytest.raises(ValueError, match="share no problem"):
        paired_difference({"a": (2, 0)}, {"b": (2, 0)}, k=1, seed=0)


def test_rates_are_compared_by_answers() -> None:
    found = paired_difference({"a": (1, 0), "b": (3, 3)}, {"a": (4, 4), "b": (4, 2)}, k=None, seed=0)
    assert found.value == pytest.approx(6 / 8 - 3 / 4)


def test_a_claim_over_seeds_needs_each_of_them_on_its_side() -> None:
    same = seeded_difference([A, A], [B, B], k=1, seed=0)
    assert same.shown and same.pooled.low > 0 and same.by_seed == pytest.approx((0.25, 0.25))
    mixed = seeded_difference([A, B], [B, A], k=1, seed=0)
    assert not mixed.shown and mixed.pooled.value == pytest.approx(0)
    better, worse = {p: (n, n) for p, (n, _) in B.items()}, {p: (n, max(0, c - 1)) for p, (n, c) in A.items()}
    one_against = seeded_difference([A, A], [better, worse], k=1, seed=0)
    assert one_against.pooled.low > 0 and not one_against.shown


def test_seeds_are_pooled_by_answers_and_rates_weigh_answers() -> None:
    with pytest.raises(ValueError, match="not for pass@10"):
        seeded_difference([A], [B], k=10, seed=0)
    found = seeded_difference([{"a": (1, 0)}, {"a": (3, 0)}], [{"a": (4, 4)}, {"a": (4, 0)}], k=None, seed=0)
    assert found.pooled.value == pytest.approx(4 / 8) and found.by_seed == pytest.approx((1.0, 0.0))


def evaluation() -> Evaluation:
    first = measured(BASE, "mbpp", "pass_at_k", A, k=1, tokens=1000)
    direct = dataclasses.replace(BASE, label="sft", stage="sft", mode="direct", round=1, bugs="own")
    second = measured(direct, "mbpp", "pass_at_k", B, k=1, tokens=2000)
    repair = measured(direct, "mbpp", "repair_rate", B)
    fixed = measured(dataclasses.replace(direct, bugs="fixed"), "mbpp", "repair_rate", A)
    later = measured(dataclasses.replace(direct, round=2), "mbpp", "pass_at_k", {"p0": (10, 10)}, k=1)
    return Evaluation((first, second, repair, fixed, later), (compared(first, second, A, B),))


def test_evaluation_file_has_exactly_the_documented_keys() -> None:
    written = json.loads(json.dumps(evaluation().to_json()))
    assert set(written) == {"schema", "results", "comparisons"} and written["schema"] == 1
    for result in written["results"]:
        assert set(result) == RESULT_FIELDS
        assert (result["k"] is None) == (result["metric"] != "pass_at_k")
    for comparison in written["comparisons"]:
        assert set(comparison) == COMPARISON_FIELDS
        assert set(comparison["a"]) == set(comparison["b"]) == KEY_FIELDS


def test_keys_of_a_comparison_name_one_result_each() -> None:
    written = evaluation().to_json()
    for comparison in written["comparisons"]:
        for side in ("a", "b"):
            wanted = comparison[side] | {field: comparison[field] for field in ("benchmark", "metric", "k")}
            assert len([r for r in written["results"] if wanted.items() <= r.items()]) == 1


def test_metrics_and_k_belong_together() -> None:
    with pytest.raises(AssertionError):
        measured(BASE, "mbpp", "pass_at_k", A)
    with pytest.raises(AssertionError):
        measured(BASE, "mbpp", "repair_rate", A, k=1)


def test_table_has_models_and_modes_down_and_attempts_across() -> None:
    header, rows = article_table(evaluation().to_json())
    assert header == ["model", "mode", "mbpp pass@1", "mbpp repair rate, own bugs", "mbpp repair rate, fixed bugs"]
    assert [row[:2] for row in rows] == [
        ["prompt", "initial"],
        ["sft", "direct revision, first round"],
        ["sft", "direct revision"],
    ]
    assert rows[0][3] == ""
    assert all(len(row) == len(header) for row in rows)


def test_the_first_of_several_rounds_stands_beside_fresh_samples_at_the_cost_of_one() -> None:
    explain = dataclasses.replace(BASE, mode="explain", round=1, bugs="own")
    resample = dataclasses.replace(explain, mode="resample")
    results = [measured(key, "mbpp", "pass_at_k", A, k=1) for key in (explain, resample)]
    results.append(measured(dataclasses.replace(explain, round=2), "mbpp", "pass_at_k", B, k=1))
    results.append(measured(dataclasses.replace(explain, bugs="fixed"), "mbpp", "repair_rate", A))
    _, rows = article_table(Evaluation(tuple(results), ()).to_json())
    first, last, fresh = rows
    assert [row[1].partition(",")[2] for row in rows] == [
        " then revise, first round",
        " then revise",
        " cost of one refinement",
    ]
    assert first[2] == fresh[2] != last[2]
    assert first[3] and not last[3]  # the fixed bugs are refined once


def test_one_round_needs_no_row_of_its_own() -> None:
    once = measured(dataclasses.replace(BASE, mode="explain", round=1, bugs="own"), "mbpp", "pass_at_k", A, k=1)
    _, rows = article_table(Evaluation((once,), ()).to_json())
    assert [row[1] for row in rows] == ["explain, then revise"]


def test_table_of_nothing_is_empty() -> None:
    assert article_table(Evaluation((), ()).to_json()) == (["model", "mode"], [])


def test_result_is_flat() -> None:
    result = Result(BASE, "mbpp", "pass_at_k", 1, 0.5, 0.4, 0.6, 3, 30, 9)
    assert result.to_json()["label"] == "prompt" and "key" not in result.to_json()
