"""All stages of a recipe in one driver, over one fleet of actors; finished stages are not redone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from actors.places import Place
from launch.console import log
from launch.rundir import RunDirectory
from launch.tracking import Tracker
from ledex_ray.config import Recipe

if TYPE_CHECKING:
    from launch.fleet import Fleet

FOLDERS = {"synthesize": "synthesis", "sft": "sft", "ppo": "ppo", "evaluate": "evaluation/heldout", "report": "report"}


def run_recipe(recipe: Recipe, only: str | None = None, fresh: bool = False, folder: Place | None = None) -> Path:
    """Runs the recipe's stages, or `only` one of them, and returns the run directory: one in `folder`, if given.

    Raises BadInput where a stage needs another one's output first.
    """
    run = RunDirectory.open(recipe, fresh, folder)
    try:
        stages = [only] if only else list(run.recipe.stages)
        left = [stage for stage in stages if stage != "report" and not run.done(FOLDERS[stage])]
        if "report" in stages and (left or only or not run.done("report")):
            left.append("report")  # cheap, and what it shows may have changed
        for stage in stages:
            if stage not in left:
                log.info("%s: already finished", stage)
        if left:
            _check_inputs(run.recipe, left)
            _run_stages(run, left)
        return run.root
    finally:
        run.close()


def _check_inputs(recipe: Recipe, stages: list[str]) -> None:
    """Raises BadInput now for what a stage would otherwise find out hours later."""
    from launch.endpoint import endpoint_key
    from launch.model_cache import resolve_encoder, resolve_model
    from launch.problem_sets import heldout_problems, training_problems, validation_problems
    from reward.arms import resolve_arm

    training_problems(recipe)
    if "ppo" in stages:
        resolve_arm(recipe.reward.arm)
        resolve_encoder(recipe.reward.encoder)
        validation_problems(recipe)
    if "evaluate" in stages:
        heldout_problems(recipe)
        for name in recipe.evaluation.models.values():
            resolve_model(name)
    if "synthesize" in stages and recipe.synthesis.endpoint is not None:
        endpoint_key(recipe.synthesis.endpoint)
    elif "synthesize" in stages and recipe.synthesis.teacher is not None:
        resolve_model(recipe.synthesis.teacher)


def _run_stages(run: RunDirectory, stages: list[str]) -> None:
    if stages == ["report"]:
        _report(run)
        return
    from launch.fleet import Fleet

    tracker = Tracker(run)
    try:
        with Fleet(run.recipe, stages) as fleet:
            for stage in stages:
                _stage(run, stage, _function(stage, run, fleet, tracker))
                tracker.publish(stage)
    finally:
        tracker.close()


def _stage(run: RunDirectory, stage: str, function: Callable[[], None]) -> None:
    with run.timed(stage):
        function()


def _function(stage: str, run: RunDirectory, fleet: Fleet, tracker: Tracker) -> Callable[[], None]:
    # Imported on call: a stage's libraries (RLlib, matplotlib) cost seconds and memory that other stages need not pay.
    if stage == "synthesize":
        from launch.synthesize import synthesize

        return lambda: synthesize(run, fleet)
    if stage == "sft":
        from launch.sft import sft

        return lambda: sft(run, fleet, tracker)
    if stage == "ppo":
        from launch.ppo import ppo

        return lambda: ppo(run, fleet, tracker)
    if stage == "evaluate":
        from launch.evaluate import evaluate

        return lambda: evaluate(run, fleet)
    return lambda: _report(run)


def _report(run: RunDirectory) -> None:
    from launch.report import report

    report(run)
