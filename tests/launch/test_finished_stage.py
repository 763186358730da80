"""What a finished stage keeps on disk: its model, and its checkpoints only where the recipe says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launch.pipeline import _models, report_run, run_recipe
from launch.ppo_setup import open_session
from launch.rundir import RunDirectory
from launch.stages import FOLDERS, check_order, check_settings
from ledex_ray.config import Recipe
from ledex_ray.errors import BadInput
from ledex_ray.problems import Problem
from ledex_ray.recipes import recipe_from_tree
from reward.judge import JudgeConfig, ready_problems


def trained(recipe: Recipe, *finished: str) -> Path:
    """A run whose two trainings have left a model and checkpoints, and whose `finished` stages are."""
    run = RunDirectory.open(recipe)
    for stage in ("sft", "ppo"):
        run.path(stage, "model", "config.json").write_text("{}")
        for number in ("000001", "000002"):
            run.path(stage, "checkpoints", number, "MANIFEST.json").write_text("{}")
    for stage in finished:
        run.finish(FOLDERS[stage], {})
    run.close()
    return run.root


def test_the_checkpoints_of_finished_stages_go_and_their_models_stay(runs_dir: Path) -> None:
    recipe = Recipe()
    root = trained(recipe, *recipe.stages)
    assert run_recipe(recipe).root == root
    assert [(root / stage / "checkpoints").exists() for stage in ("sft", "ppo")] == [False, False]
    assert (root / "sft/model/config.json").exists() and (root / "ppo/model/config.json").exists()


def test_the_checkpoints_of_a_stage_that_has_not_finished_stay(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_from_tree({"stages": ["sft", "ppo"], "reward": {"encoder": "/nowhere"}})
    root = trained(recipe, "synthesize", "sft")
    with pytest.raises(BadInput, match="no such directory"):  # PPO's inputs are looked at, and it does not begin
        run_recipe(recipe)
    assert [(root / stage / "checkpoints").exists() for stage in ("sft", "ppo")] == [False, True]


def test_a_recipe_may_keep_them(runs_dir: Path) -> None:
    recipe = recipe_from_tree({"learner": {"keep_finished": True}})
    root = trained(recipe, *recipe.stages)
    run_recipe(recipe)
    assert len(list(root.glob("*/checkpoints/*/MANIFEST.json"))) == 4


def test_each_problem_set_is_read_once_before_the_stages_begin(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counted(spec: str, config: JudgeConfig) -> list[Problem]:
        read.append(spec)
        return ready_problems(spec, config)

    monkeypatch.setattr("reward.judge.ready_problems", counted)
    recipe = recipe_from_tree({"stages": ["ppo", "evaluate"], "evaluation": {"models": {"none": "/nowhere"}}})
    trained(recipe, "synthesize")
    with pytest.raises(BadInput, match="/nowhere"):  # found after the problem sets
        run_recipe(recipe)
    assert sorted(read) == ["bundled@heldout", "bundled@train", "bundled@validation"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"evaluation": {"models": {"sft": "owner/name"}}}, "uses a run's own label"),
        ({"evaluation": {"models": {"a b": "owner/one", "a_b": "owner/two"}}}, "has 'a b' as well"),
        ({"problems": {"validation": "bundled@heldout"}}, "holds problem .* of the heldout split"),
        ({"sandbox": {"python": "/nowhere/python"}}, "sandbox.python: not an executable file, got '/nowhere/python'"),
    ],
)
def test_what_the_evaluation_would_refuse_is_refused_before_anything_is_trained(
    runs_dir: Path, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(BadInput, match=told):
        run_recipe(recipe_from_tree({"stages": ["synthesize", "sft", "evaluate"], **changes}))


@pytest.mark.parametrize(
    ("key", "stages"),
    [
        ("model.name", ["sft"]),
        ("synthesis.teacher", ["synthesize"]),
        ("evaluation.models.short", ["evaluate"]),
    ],
)
def test_prompts_longer_than_a_model_that_is_asked_takes_are_refused(
    runs_dir: Path, tmp_path: Path, key: str, stages: list[str]
) -> None:
    for name, context in {"short": 512, "long": 4096}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"n_positions": context}))
    short, long = str(tmp_path / "short"), str(tmp_path / "long")
    models = {"model.name": long, "synthesis.teacher": long, "evaluation.models.short": long, key: short}
    tree: dict[str, Any] = {"model": {"name": models["model.name"], "max_length": 1024}, "stages": stages}
    tree |= {"synthesis": {"teacher": models["synthesis.teacher"]}}
    tree |= {"evaluation": {"models": {"short": models["evaluation.models.short"]}}}
    recipe = recipe_from_tree(tree)
    if stages == ["sft"]:
        trained(recipe, "synthesize")
    with pytest.raises(BadInput, match=f"model.max_length': is more than {key}={short} takes, got 1024; .* 512"):
        run_recipe(recipe)
    unasked = [s for s in ("synthesize", "evaluate") if s not in stages]
    assert dict(_models(recipe, unasked)).get(key) == (short if key == "model.name" else None)


@pytest.mark.parametrize(
    ("floor", "told"),
    [("none", "no such directory"), ("B", "sandbox.floor': this machine reaches isolation tier none, the floor is B")],
)
def test_reference_solutions_are_judged_under_the_floor_of_the_recipe(
    runs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, floor: str, told: str
) -> None:
    monkeypatch.setenv("LEDEX_CACHE", str(tmp_path / "cache"))
    without = {"A": "no bubblewrap", "B": "no Landlock", "C": "no root", "none": ""}
    monkeypatch.setattr("reward.judge.tiers.available_tiers", lambda: without)
    row = {"task_id": "Mbpp/1", "prompt": '"""\nDo it.\nassert f(1)\n"""\n', "entry_point": "f", "atol": 0}
    row |= {"canonical_solution": "def f(a):\n    return a\n", "base_input": [[1]], "plus_input": []}
    (tmp_path / "plus.jsonl").write_text(json.dumps(row) + "\n")
    recipe = recipe_from_tree(
        {
            "model": {"name": "./nowhere"},  # found after the problem sets
            "problems": {"train": f"evalplus:{tmp_path / 'plus.jsonl'}"},
            "sandbox": {"floor": floor},
            "stages": ["synthesize"],
        }
    )
    with pytest.raises(BadInput, match=told):
        run_recipe(recipe)


def test_more_iterations_are_another_recipe_so_that_nothing_goes_on_from_a_finished_stage(runs_dir: Path) -> None:
    trained(Recipe(), *Recipe().stages)
    with pytest.raises(BadInput, match=r"ppo\.iterations: 100 -> 200"):
        run_recipe(recipe_from_tree({"ppo": {"iterations": 200}}))


@pytest.mark.parametrize(
    ("stages", "finished", "missing"),
    [
        (["sft", "ppo"], [], "stage synthesize for sft"),
        (["synthesize", "sft", "ppo"], [], ""),
        (["ppo"], ["synthesize"], ""),  # from the untrained model
        (["sft", "ppo"], ["sft"], "stage synthesize for ppo"),
        (["sft", "evaluate"], ["synthesize"], ""),
        (["evaluate"], [], ""),
    ],
)
def test_a_stage_that_another_goes_on_from_must_come_before_it(
    runs_dir: Path, stages: list[str], finished: list[str], missing: str
) -> None:
    recipe = recipe_from_tree({"stages": stages})
    run = RunDirectory.open(recipe)
    for stage in finished:
        run.finish(FOLDERS[stage], {})
    left = [stage for stage in stages if stage not in finished]
    if missing:
        with pytest.raises(BadInput, match=missing):
            check_order(run, left)
    else:
        check_order(run, left)
    run.close()


def test_one_stage_alone_needs_what_the_recipe_has_before_it(runs_dir: Path) -> None:
    trained(Recipe(), "synthesize")
    with pytest.raises(BadInput, match="no finished stage sft for ppo"):
        run_recipe(Recipe(), only="ppo")
    assert (runs_dir / "run" / "recipe.yaml").exists()


def test_a_refused_run_leaves_nothing_and_has_no_report(runs_dir: Path) -> None:
    refused = recipe_from_tree({"stages": ["ppo"]})
    with pytest.raises(BadInput, match="synthesize"):
        run_recipe(refused)
    assert list(runs_dir.iterdir()) == []
    RunDirectory.open(refused).close()
    with pytest.raises(BadInput, match="no stage of this run has begun"):
        report_run(runs_dir / "run", refused)
    with pytest.raises(BadInput, match="synthesize"):
        run_recipe(refused)
    assert (runs_dir / "run" / "recipe.yaml").exists()  # it lay there before


def test_a_mistyped_model_leaves_no_run(runs_dir: Path) -> None:
    with pytest.raises(BadInput, match="no such directory"):
        run_recipe(recipe_from_tree({"model": {"name": "./nowhere"}, "stages": ["synthesize", "report"]}))
    assert list(runs_dir.iterdir()) == []


def test_a_training_under_tune_is_refused_and_leaves_the_run_to_others(runs_dir: Path) -> None:
    with pytest.raises(BadInput, match="no finished stage synthesize for ppo"):
        open_session(Recipe())
    RunDirectory.open(Recipe()).close()


@pytest.mark.parametrize(
    ("changes", "stage", "told"),
    [
        ({"problems": {"heldout": []}}, "evaluate", "problems.heldout"),
        ({"ppo": {"sampling": {"max_tokens": 1024}}}, "ppo", "ppo.sampling.max_tokens.* got 1024; expected less than"),
        ({"model": {"max_length": 256}}, "synthesize", r"synthesis\.solve\.max_tokens"),
        ({"model": {"max_length": 256}}, "evaluate", r"evaluation\.sampling\.max_tokens"),
    ],
)
def test_settings_are_checked_for_the_stages_that_use_them(changes: dict[str, Any], stage: str, told: str) -> None:
    recipe = recipe_from_tree(changes)
    check_settings(recipe, ["sft", "report"])
    with pytest.raises(BadInput, match=told):
        check_settings(recipe, ["sft", stage])
