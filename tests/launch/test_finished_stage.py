"""What a finished stage keeps on disk: its model, and its checkpoints only where the recipe says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launch.pipeline import report_run, run_recipe
from launch.ppo_setup import open_session
from launch.rundir import RunDirectory
from launch.stages import FOLDERS, check_order, check_settings
from ledex_ray.config import Recipe
from ledex_ray.errors import BadInput
from ledex_ray.recipes import recipe_from_tree


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


@pytest.mark.parametrize(
    ("key", "tree"),
    [
        ("synthesis.teacher", {"synthesis": {"teacher": "./nowhere"}}),
        ("reward.encoder", {"reward": {"encoder": "./nowhere"}}),
        ("evaluation.models.other", {"evaluation": {"models": {"other": "./nowhere"}}}),
    ],
)
def test_of_several_models_the_missing_one_is_told_by_its_key(runs_dir: Path, key: str, tree: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=f"^recipe key '{key}': ./nowhere: no such directory"):
        run_recipe(recipe_from_tree(tree))


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
