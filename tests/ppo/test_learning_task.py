"""The small task of benchmarks/algorithms.py, and how its results are put together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.algorithms import beside, experiment, parts_of, read_results, recipe_of, risen
from benchmarks.one_line_bugs import KINDS, TRAINING, task, write_task
from ledex_ray.errors import BadInput
from ledex_ray.mutants import mutants
from ledex_ray.readers.jsonl import read_problems
from ledex_ray.records import Status
from reward.judge import JudgeConfig, judge_many


def test_the_task_is_the_same_each_time_and_its_evaluation_problems_are_not_trained_on(tmp_path: Path) -> None:
    assert write_task(tmp_path / "a") == write_task(tmp_path / "b")
    training, evaluation = task()
    assert len(training) == TRAINING * len(KINDS)
    assert not {row["text"] for row in training} & {row["text"] for row in evaluation}


@pytest.mark.slow
def test_every_solution_of_the_task_passes_and_every_evaluation_problem_can_be_got_wrong(tmp_path: Path) -> None:
    write_task(tmp_path)
    training, evaluation = (read_problems(tmp_path / f"{name}.jsonl") for name in ("train", "evaluation"))
    right = [(p, p.canonical_solutions[0]) for p in (*training, *evaluation)]
    wrong = [(p, mutant.source) for p in evaluation for mutant in mutants(p.canonical_solutions[0])]
    verdicts = list(judge_many([*right, *wrong], workers=1, config=JudgeConfig(floor="C")))
    assert {v.status for v in verdicts[: len(right)]} == {Status.PASSED}
    found = {p.id for (p, _), v in zip(wrong, verdicts[len(right) :], strict=True) if v.status is Status.FAILED}
    assert found == {p.id for p in evaluation}


def test_one_experiment_has_one_hash_whatever_the_seed_and_the_folder() -> None:
    first = experiment(recipe_of("grpo", 0, Path("a"), ()), "task")
    assert first == experiment(recipe_of("grpo", 1, Path("b"), ()), "task")
    others: list[tuple[str, tuple[str, ...], str]] = [
        ("rloo", (), "task"),
        ("grpo-async", (), "task"),
        ("grpo-paper", (), "task"),
        ("grpo", ("ppo.iterations=2",), "task"),
        ("grpo", (), "another"),
    ]
    assert first not in {experiment(recipe_of(v, 0, Path("a"), given), digest) for v, given, digest in others}


def write_result(folder: Path, variant: str, seed: int, before: int, after: int, digest: str = "one") -> None:
    tallies: dict[str, Any] = {"before": {}, "after": {}}
    for when, right in (("before", before), ("after", after)):
        tallies[when] = {f"p{i}": [8, right + i % 2] for i in range(20)}
    row = {"variant": variant, "seed": seed, "recipe_hash": digest, **tallies}
    (folder / f"{variant}-s{seed}.json").write_text(json.dumps(row))


def test_rises_are_pooled_over_seeds_and_losses_over_the_seeds_that_both_have(tmp_path: Path) -> None:
    for seed, after in enumerate((3, 4, 5)):
        write_result(tmp_path, "ppo", seed, 1, after)
    write_result(tmp_path, "ppo-async", 1, 1, 3)
    results = read_results(tmp_path)
    assert list(results) == ["ppo", "ppo-async"]
    rise = risen(results["ppo"])
    assert rise.by_seed == pytest.approx((0.25, 0.375, 0.5)) and rise.pooled.value == pytest.approx(0.375)
    unseen = 1 - 0.05 ** (1 / rise.pooled.n_problems)  # every problem gained the same
    assert rise.pooled.low == pytest.approx((1 - unseen) * 0.375 - unseen) and 0.375 < rise.pooled.high <= 0.5
    assert beside(results)["ppo", "ppo-async"].pooled.value == pytest.approx(-0.125)


def test_other_arms_stand_beside_the_papers_of_the_same_algorithm(tmp_path: Path) -> None:
    write_result(tmp_path, "ppo", 0, 1, 5)
    write_result(tmp_path, "ppo-paper", 0, 1, 4)
    write_result(tmp_path, "ppo-codebleu_only", 0, 1, 2)
    found = {pair: difference.pooled.value for pair, difference in beside(read_results(tmp_path)).items()}
    assert found == {("ppo-paper", "ppo-codebleu_only"): pytest.approx(-0.25)}


@pytest.mark.parametrize("variant", ["dpo", "ppo-slow", "ppo-paper-async", "ppo-async-async", "ppo-paper-paper", ""])
def test_unknown_variants_are_named(variant: str) -> None:
    with pytest.raises(BadInput, match="--variant"):
        parts_of(variant)


def test_results_of_two_experiments_are_not_pooled(tmp_path: Path) -> None:
    write_result(tmp_path, "ppo", 0, 1, 3)
    write_result(tmp_path, "ppo", 1, 1, 3, digest="two")
    with pytest.raises(BadInput, match="another experiment"):
        read_results(tmp_path)
