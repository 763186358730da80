"""The figures of an evaluation, on samples small enough to count by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from launch.measures import measure, resample_outcomes
from ledex_ray.comparison import Result, article_table
from ledex_ray.config import EvaluationConfig, SamplingConfig
from ledex_ray.evaluation import Sample
from ledex_ray.problems import CallTest, Problem

PROBLEMS = {id: Problem(id=id, text="", tests=(CallTest("()", "1"),), benchmark="bundled") for id in ("p", "q")}
CONFIG = EvaluationConfig(sampling=SamplingConfig(n=2, temperature=0.8), k=(1, 2), bootstrap=100)


def sample(id: str, parent: str, passed: bool, mode: str = "initial", **changes: object) -> Sample:
    fields: dict[str, object] = {
        "id": id, "parent_id": parent, "problem_id": "p", "index": 0, "label": "m", "stage": "prompt", "mode": mode,
        "round": 0 if mode == "initial" else 1, "bugs": "null" if mode == "initial" else "own", "passed": passed,
        "weak": False, "status": "PASSED" if passed else "FAILED", "copied": False, "n_prompt_tokens": 50,
        "n_tokens": 50, "normal_hash": id, "wrong_code": "", "feedback": "", "explanation": "", "code": id, "text": id,
    }  # fmt: skip
    return Sample(**(fields | changes))  # type: ignore[arg-type]


SAMPLES = [
    sample("p0", "p", True),
    sample("p1", "p", False),
    sample("q0", "q", False, problem_id="q"),
    sample("q1", "q", False, problem_id="q"),
    sample("p1e", "p1", True, "explain"),
    sample("q0e", "q0", False, "explain", problem_id="q", copied=True),
    sample("q1e", "q1", True, "explain", problem_id="q"),
    sample("f0", "bug", False, "explain", bugs="fixed", copied=True),
    sample("r0", "p", False, "resample"),
    sample("r1", "q", True, "resample", problem_id="q"),
]


def figure(mode: str, metric: str, k: int | None = None, bugs: str | None = "own") -> Result:
    found = measure(SAMPLES, PROBLEMS, CONFIG, {"m": "model"}, "public").results
    matching = [r for r in found if (r.key.mode, r.metric, r.k, r.key.bugs) == (mode, metric, k, bugs)]
    assert len(matching) == 1
    return matching[0]


def test_pass_at_k_before_and_after_refinement() -> None:
    assert figure("initial", "pass_at_k", 1, None).value == pytest.approx(0.25)
    assert figure("initial", "pass_at_k", 2, None).value == pytest.approx(0.5)
    assert figure("explain", "pass_at_k", 1).value == pytest.approx((1 + 0.5) / 2)
    assert figure("explain", "pass_at_k", 2).value == pytest.approx(1.0)


def test_repair_and_copy_rates_are_shares_of_what_was_asked() -> None:
    assert figure("explain", "repair_rate").value == pytest.approx(2 / 3)
    assert figure("explain", "copy_rate").value == pytest.approx(1 / 3)
    assert figure("explain", "repair_rate", None, "fixed").value == 0.0


def test_an_infrastructure_fault_is_in_no_figure() -> None:
    broken = sample("p2", "p", False, status="INFRA")
    assert measure([*SAMPLES, broken], PROBLEMS, CONFIG, {"m": "model"}, "public") == measure(
        SAMPLES, PROBLEMS, CONFIG, {"m": "model"}, "public"
    )


def test_a_first_sample_whose_repair_was_lost_to_a_fault_stays_wrong_in_pass_at_k_and_is_in_no_rate() -> None:
    lost = replace(next(s for s in SAMPLES if s.id == "q0e"), passed=False, status="INFRA")
    samples = [lost if s.id == "q0e" else s for s in SAMPLES]
    found = measure(samples, PROBLEMS, CONFIG, {"m": "model"}, "public").results
    explained = {(r.metric, r.k): r for r in found if r.key.mode == "explain" and r.key.bugs == "own"}
    assert explained["pass_at_k", 1].value == pytest.approx(
        0.75
    )  # p: 2 of 2; q: 1 of 2, and one that was wrong at first
    assert explained["pass_at_k", 2].n_problems == 2  # or failing problems alone would leave it
    assert explained["repair_rate", None].value == pytest.approx(1.0)
    initial = next(r for r in found if r.key.mode == "initial" and r.k == 1)
    assert initial.value == pytest.approx(0.25)


def test_a_lost_repair_is_no_gain_of_resampling() -> None:
    """Of three wrong samples nothing is repaired, and fresh ones are wrong as well: both sides stand alike."""
    firsts = [sample("p0", "p", True), sample("p1", "p", False), sample("p2", "p", False)]
    refined = [sample("p1e", "p1", False, "explain", status="INFRA"), sample("p2e", "p2", False, "explain")]
    fresh = [sample(f"r{i}", "p", False, "resample") for i in range(3)]
    found = measure([*firsts, *refined, *fresh], PROBLEMS, CONFIG, {"m": "model"}, "public")
    values = {r.key.mode: r.value for r in found.results if r.k == 1}
    assert values["initial"] == values["explain"] == values["resample"] == pytest.approx(1 / 3)


def test_fresh_samples_that_wrong_ones_share_make_no_pass_at_more_than_one() -> None:
    found = measure(SAMPLES, PROBLEMS, CONFIG, {"m": "model"}, "public").results
    assert {(r.metric, r.k) for r in found if r.key.mode == "resample"} == {("pass_at_k", 1), ("repair_rate", None)}


def test_fresh_samples_count_up_to_the_cost_of_the_refinement() -> None:
    refined = [sample("w", "w0", False, "explain", n_prompt_tokens=150, n_tokens=50)]
    fresh = [sample(f"f{i}", "p", i == 3, "resample") for i in range(4)]
    hits = [resample_outcomes(refined, fresh, seed)["w0"] for seed in range(400)]
    assert 0.4 < sum(hits) / len(hits) < 0.6  # two of four fresh samples fit: half of all walks meet the right one


def test_a_fresh_sample_over_the_budget_counts_by_the_share_left() -> None:
    refined = [sample("w", "w0", False, "explain", n_prompt_tokens=20, n_tokens=5)]
    fresh = [sample("f", "p", True, "resample")]
    hits = [resample_outcomes(refined, fresh, seed)["w0"] for seed in range(400)]
    assert 0.18 < sum(hits) / len(hits) < 0.32  # 25 tokens of 100


def test_a_refinement_that_too_few_fresh_samples_could_pay_for_is_no_failure_of_resampling() -> None:
    refined = [sample(f"w{i}", f"w{i}0", False, "explain", n_prompt_tokens=200, n_tokens=50) for i in range(2)]
    assert resample_outcomes(refined, [], 0) == {}
    assert resample_outcomes(refined, [sample("f", "p", True, "resample")], 0) == {}  # 100 tokens of 250
    enough = [sample(f"f{i}", "p", False, "resample") for i in range(3)]
    assert resample_outcomes(refined, enough, 0) == {"w00": False, "w10": False}
    unanswered = [s for s in SAMPLES if s.mode != "resample"]
    results = measure(unanswered, PROBLEMS, CONFIG, {"m": "model"}, "public").results
    assert not [r for r in results if r.key.mode == "resample"]


def test_resampling_is_charged_what_the_refinements_cost_that_it_stands_for() -> None:
    dear = [replace(s, n_prompt_tokens=350) if s.mode == "resample" else s for s in SAMPLES]  # 400 tokens, not 100
    for samples, refinements in ((dear, 3), ([s for s in dear if s.id != "r1"], 1)):
        results = measure(samples, PROBLEMS, CONFIG, {"m": "model"}, "public").results
        (rate,) = [r for r in results if (r.key.mode, r.metric) == ("resample", "repair_rate")]
        assert rate.tokens == refinements * 100


def test_models_are_compared_by_stage_and_with_resampling() -> None:
    trained = [
        replace(
            s,
            id=s.id + "t",
            parent_id=s.parent_id + ("" if s.parent_id in ("p", "q", "bug") else "t"),
            passed=s.passed or s.id == "q0",
            label="t",
            stage="sft",
        )
        for s in SAMPLES
    ]
    evaluation = measure([*SAMPLES, *trained], PROBLEMS, CONFIG, {"m": "model", "t": "model+sft"}, "public")
    pairs = {(c.a.label, c.a.mode, c.b.label, c.b.mode, c.metric, c.k) for c in evaluation.comparisons}
    assert ("m", "initial", "t", "initial", "pass_at_k", 1) in pairs
    assert ("m", "resample", "m", "explain", "pass_at_k", 1) in pairs
    first = next(c for c in evaluation.comparisons if c.b.label == "t" and c.b.mode == "initial" and c.k == 1)
    assert first.difference == pytest.approx(0.25)
    header, rows = article_table(evaluation.to_json())
    assert len(rows) == 6 and all(len(row) == len(header) for row in rows)


def test_models_that_fail_different_problems_are_not_compared_where_nothing_can_be_paired() -> None:
    failing = {"a": ("p", "q"), "b": ("q", "p")}  # the model's wrong problem, its right one
    samples = [
        answer
        for label, (wrong, right) in failing.items()
        for answer in (
            sample(f"{label}w", wrong, False, problem_id=wrong, label=label),
            sample(f"{label}r", right, True, problem_id=right, label=label),
            sample(f"{label}e", f"{label}w", True, "explain", problem_id=wrong, label=label),
        )
    ]
    samples = [replace(s, stage="sft") if s.label == "b" else s for s in samples]
    found = measure(samples, PROBLEMS, CONFIG, {"a": "one", "b": "two"}, "public").comparisons
    assert {c.metric for c in found if c.a.label != c.b.label} == {"pass_at_k"}
