"""Which figures and which comparisons an evaluation makes of its controls, feedback kinds, rounds and models."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launch.bug_set import bug_set_hash, named_bugs
from launch.evaluate import write_contamination
from launch.evaluator import Candidate, Evaluator, another_feedback, feedback_kinds, shown_to
from launch.figures import verdict_bars
from launch.measures import measure
from launch.problem_sets import CONTAMINATED, FILES, heldout_hashes, heldout_problems
from launch.rundir import RunDirectory
from ledex_ray.comparison import Comparison, Evaluation, article_table
from ledex_ray.config import EvaluationConfig, Recipe, SamplingConfig
from ledex_ray.errors import BadInput
from ledex_ray.evaluation import Bug, Sample, error_type, failed_tests
from ledex_ray.problems import CallTest, Problem
from ledex_ray.recipes import recipe_from_tree
from ledex_ray.records import Status, TestResult, TestStatus, Verdict
from ledex_ray.tables import write_records
from tests.evaluation.sample_run import RIGHT, WRONG, sample

PROBLEMS = {f"p{n}": Problem(id=f"p{n}", text="", tests=(CallTest("()", "1"),), benchmark="own") for n in range(4)}
CONFIG = EvaluationConfig(
    sampling=SamplingConfig(n=1), k=(1,), rounds=2, feedback=("public", "all"), modes=("explain",), bootstrap=100
)


def answers(label: str, stage: str, repaired: dict[tuple[str, str], int]) -> list[Sample]:
    """A wrong first sample of each problem, and under each (mode, kind) refinements of which so many are right."""
    found = []
    for n, problem in enumerate(PROBLEMS):
        common = {"problem_id": problem, "label": label, "stage": stage}
        first = sample(n, "initial", WRONG, "", id=f"{label}/{problem}", **common)
        found.append(first)
        for (mode, kind), right in repaired.items():
            code = RIGHT if n < right else WRONG
            id = f"{label}/{problem}/{mode}/{kind}"
            found.append(sample(n, mode, code, "", first.id, id=id, feedback_from=kind, **common))
    return found


def measured(*samples: list[Sample], models: tuple[str, ...] = ("prompt",)) -> Evaluation:
    return measure([s for some in samples for s in some], PROBLEMS, CONFIG, dict.fromkeys(models, "m"), "public")


def differences(evaluation: Evaluation) -> dict[tuple[str, str, str, str], Comparison]:
    """Comparisons of pass@1 by (mode a, feedback a, mode b, feedback b)."""
    chosen = [c for c in evaluation.comparisons if c.k == 1]
    return {(c.a.mode, c.a.feedback, c.b.mode, c.b.feedback): c for c in chosen}


def test_feedback_is_held_against_none_and_against_another_problems() -> None:
    repaired = {("explain", "public"): 3, ("random_feedback", "public"): 1, ("no_feedback", "public"): 2}
    found = differences(measured(answers("prompt", "prompt", repaired)))
    assert found["random_feedback", "public", "explain", "public"].difference == pytest.approx(0.5)
    assert found["no_feedback", "public", "explain", "public"].difference == pytest.approx(0.25)


def test_feedback_of_all_tests_is_a_row_of_its_own_and_held_against_that_of_public_ones() -> None:
    evaluation = measured(answers("prompt", "prompt", {("explain", "public"): 1, ("explain", "all"): 3}))
    found = differences(evaluation)
    assert found["explain", "public", "explain", "all"].difference == pytest.approx(0.5)
    _, rows = article_table(evaluation.to_json())
    assert [row[1] for row in rows] == [
        "initial",
        "explain, then revise, feedback of public tests",
        "explain, then revise, feedback of all tests",
    ]
    assert "25.0" in rows[1][2] and "75.0" in rows[2][2]


def test_each_round_adds_what_it_repaired() -> None:
    samples = answers("prompt", "prompt", {("explain", "public"): 1})
    again = sample(
        9, "explain", RIGHT, "", "prompt/p3/explain/public", problem_id="p3", round=2, feedback_from="public"
    )
    results = [r for r in measured([*samples, again]).results if r.key.mode == "explain" and r.metric == "pass_at_k"]
    assert [(r.key.round, r.value) for r in results] == [(1, 0.25), (2, 0.5)]
    rates = [r for r in measured([*samples, again]).results if r.metric == "repair_rate" and r.key.mode == "explain"]
    assert [(r.key.round, r.value, r.n_samples) for r in rates] == [
        (1, 0.25, 4),
        (2, 0.5, 4),
    ]  # of the first wrong samples


def test_other_models_are_held_against_the_recipes_own() -> None:
    models = ("prompt", "other", "third")
    samples = [answers(label, "prompt", {("explain", "public"): n}) for n, label in enumerate(models)]
    pairs = {(c.a.label, c.b.label) for c in measured(*samples, models=models).comparisons if c.a.label != c.b.label}
    assert pairs == {("prompt", "other"), ("prompt", "third")}


def test_random_feedback_is_another_problems_and_always_the_same() -> None:
    feedbacks = {f"p{n}": f"said of p{n}" for n in range(4)}
    for n in range(4):
        bug = Bug(f"bug{n}", f"p{n}", "", feedbacks[f"p{n}"])
        drawn = {another_feedback(bug, feedbacks) for _ in range(3)}
        assert len(drawn) == 1 and drawn <= set(feedbacks.values()) - {bug.feedback}
    assert another_feedback(Bug("b", "p0", "", ""), {"p0": "alone"}) == ""


def test_refinements_see_the_recipes_feedback_unless_the_evaluation_names_kinds() -> None:
    assert feedback_kinds(recipe_from_tree({"problems": {"feedback": "all"}})) == ("all",)
    assert feedback_kinds(recipe_from_tree({"evaluation": {"feedback": ["all", "public"]}})) == ("all", "public")


def test_a_named_bug_set_is_taken_whole_and_for_held_out_problems_alone(runs_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "bugs.parquet"
    bugs = [Bug("b0", "p0", WRONG, "said", "said of all"), Bug("b1", "p1", WRONG, "said")]
    write_records(path, bugs, Bug)
    run = RunDirectory.open(recipe_from_tree({"evaluation": {"bug_set": str(path)}}))
    nothing_is_sampled: Any = SimpleNamespace(renderer=None)
    evaluator = Evaluator(run, nothing_is_sampled, PROBLEMS)
    assert evaluator._bug_set(Candidate("other", "prompt", tmp_path, 0, other="x"), []) == bugs
    path.unlink()
    assert bug_set_hash(evaluator._bug_set(Candidate("prompt", "prompt", tmp_path, 0), [])) == bug_set_hash(bugs)
    run.close()


def test_a_bug_set_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "bugs.parquet")
    with pytest.raises(BadInput, match=r"^recipe key 'evaluation\.bug_set': .*no such file"):
        named_bugs(path, PROBLEMS)
    write_records(path, [], Bug)
    with pytest.raises(BadInput, match="holds no bug"):
        named_bugs(path, PROBLEMS)
    write_records(path, [Bug("b", "another/problem", WRONG, "")], Bug)
    with pytest.raises(BadInput, match=r"evaluation\.bug_set.*another/problem.*not held out here"):
        named_bugs(path, PROBLEMS)


def test_other_models_have_labels_that_can_name_files() -> None:
    assert recipe_from_tree({"evaluation": {"models": {"qwen 0.5b": "Qwen/x"}}}).evaluation.models == {
        "qwen 0.5b": "Qwen/x"
    }
    for label in ("", "../up", "a/b"):
        with pytest.raises(BadInput, match=r"evaluation\.models"):
            recipe_from_tree({"evaluation": {"models": {label: "Qwen/x"}}})


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (Status.PASSED, "", ""),
        (Status.FAILED, "", "wrong value"),
        (Status.ERROR, "NameError: name 'x' is not defined", "NameError"),
        (Status.ERROR, "re.error: bad pattern", "error"),
        (Status.ERROR, "<b>Error</b>: own words", "error"),
        (Status.TIMEOUT, "", "timeout"),
    ],
)
def test_wrong_programs_are_told_apart_by_their_error(status: Status, error: str, kind: str) -> None:
    outcome = {Status.PASSED: TestStatus.PASSED, Status.ERROR: TestStatus.ERROR}.get(status, TestStatus.FAILED)
    tests = tuple(TestResult(n, True, outcome, error=error) for n in range(9))
    verdict = Verdict(status, (*tests, TestResult(9, True, TestStatus.NOT_RUN)))
    assert error_type(verdict) == kind
    assert len(failed_tests(verdict)) == (0 if status is Status.PASSED else 5)


def recipe(**problems: object) -> Recipe:
    return recipe_from_tree({"problems": {"train": "mbpp@train", **problems}})


def test_the_papers_own_setting_is_taken(data_dir: Path) -> None:
    assert len(heldout_problems(recipe(heldout=["mbpp@test"]))) == 500  # some of its texts repeat training ones


def test_what_is_trained_on_is_refused_or_measured_under_a_name_that_says_so() -> None:
    trained = {"train": "bundled@train", "heldout": ["bundled@train"]}
    with pytest.raises(BadInput, match=r"which is trained or validated on.*problems\.allow_contaminated=true"):
        heldout_problems(recipe(**trained))
    found = heldout_problems(recipe(**trained, allow_contaminated=True))
    assert {p.benchmark for p in found.values()} == {"bundled" + CONTAMINATED}


def test_what_the_best_checkpoint_is_chosen_by_is_refused_as_held_out() -> None:
    chosen_by = {"train": "bundled@train", "validation": "bundled@validation", "heldout": ["bundled@validation"]}
    with pytest.raises(BadInput, match="trained or validated on"):
        heldout_problems(recipe(**chosen_by))


def test_two_held_out_sets_that_share_an_id_are_refused(tmp_path: Path) -> None:
    for name in "ab":
        row = {"id": "0", "text": f"Task {name}.", "tests": ["assert f(1) == 2"]}
        (tmp_path / name).write_text(json.dumps(row))
    sets = [f"jsonl:{tmp_path}/{name}" for name in "ab"]
    with pytest.raises(BadInput, match=r"problems\.heldout': two of its sets have a problem jsonl/0, got .*/b"):
        heldout_problems(recipe(train="bundled@train", heldout=sets))


def test_the_contamination_check_looks_at_the_validation_set_too(runs_dir: Path) -> None:
    run = RunDirectory.open(recipe(train="bundled@train", heldout=["bundled@validation"], allow_contaminated=True))
    held = heldout_problems(run.recipe)
    assert write_contamination(run, held) == len(held)
    run.close()


def test_where_a_bug_has_no_feedback_its_controls_have_none_either() -> None:
    others = {"p1": "It is wrong.", "p2": "It is late."}
    told, silent = Bug("b0", "p0", WRONG, "Its own.", ""), Bug("b3", "p3", WRONG, "", "")
    assert shown_to(told, "explain", "public", others) == "Its own."
    assert shown_to(told, "random_feedback", "public", others) in others.values()
    assert shown_to(told, "no_feedback", "public", others) == ""
    assert {shown_to(silent, mode, "public", others) for mode in ("explain", "random_feedback", "no_feedback")} == {""}


def test_verdict_bars_show_first_refinements_under_one_kind_of_feedback() -> None:
    samples = answers("prompt", "prompt", {("explain", "public"): 1, ("explain", "all"): 4})
    wrong = [s for s in samples if s.mode == "explain" and s.feedback_from == "public" and not s.passed]
    samples += [
        sample(9, "explain", WRONG, "", s.id, id=f"{s.id}/2", round=2, feedback_from="public", label="prompt")
        for s in wrong
    ]
    (axes,) = verdict_bars(samples).axes
    (passed,) = [bars for bars in axes.containers if bars.get_label() == "PASSED"]
    shares = {tick.get_text(): bar.get_width() for tick, bar in zip(axes.get_yticklabels(), passed, strict=True)}
    assert shares["prompt, explain"] == pytest.approx(1 / 4)


def test_evalplus_files_are_told_apart_under_the_names_of_their_problems() -> None:
    recipe = recipe_from_tree({"problems": {"heldout": ["evalplus:a.jsonl", "jsonl:b.jsonl"]}})
    found = heldout_hashes(recipe, {FILES + "evalplus:a.jsonl": "aa", FILES + "jsonl:b.jsonl": "bb"})
    assert found["mbppplus"] == found["humanevalplus"] == {"aa"} and found["jsonl"] == {"bb"}
