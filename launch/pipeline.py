"""All stages of a recipe in one driver, over one fleet of actors; finished stages are not redone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from actors.places import Place, remove_tree
from launch.console import log
from launch.costs import stage_gpus
from launch.rundir import RunDirectory
from launch.stages import FOLDERS, check_order, check_settings
from launch.tracking import Tracker
from ledex_ray.config import Recipe
from ledex_ray.errors import BadInput

if TYPE_CHECKING:
    from launch.fleet import Fleet


def run_recipe(recipe: Recipe, only: str | None = None, fresh: bool = False) -> RunDirectory:
    """Runs the recipe's stages, or `only` one of them, and returns the run, closed.

    Raises BadInput where a stage needs another one's output first or cannot work; no folder of a new run is left then.
    """
    run = RunDirectory.open(recipe, fresh)
    try:
        stages = [only] if only else list(run.recipe.stages)
        left = [stage for stage in stages if stage != "report" and not run.done(FOLDERS[stage])]
        if "report" in stages and (left or only or not run.done("report")):
            left.append("report")  # cheap, and what it shows may have changed
        for stage in stages:
            if stage not in left:
                log.info("%s: already finished", stage)
                discard_checkpoints(run, stage)
        if left:
            from launch.input_checks import check_inputs  # on call: a report needs neither Ray nor a judge

            try:
                check_order(run, left)
                check_settings(run.recipe, left)
                check_inputs(run, left)
            except BadInput:
                run.remove_unbegun()
                raise
            _run_stages(run, left)
        return run
    finally:
        run.close()


def report_run(where: Place, recipe: Recipe) -> RunDirectory:
    """Writes the report of the run that lies here, from its files alone, and returns the run, closed.

    Raises BadInput where there is none that has begun, or it is of another recipe.
    """
    run = RunDirectory.reopen(where, recipe)
    try:
        if not run.has_begun:
            raise BadInput(str(where), "there is nothing to report: no stage of this run has begun")
        _report(run)
        return run
    finally:
        run.close()


def discard_checkpoints(run: RunDirectory, stage: str) -> None:
    """Removes a finished stage's checkpoints: `model/` is exported, and nothing goes on from them any more.

    Nothing happens under `learner.keep_finished`, or where the stage has not finished.
    """
    folder = run.place(FOLDERS[stage], "checkpoints")
    if run.recipe.learner.keep_finished or not run.done(FOLDERS[stage]) or not folder.exists():
        return
    if isinstance(folder, Path):
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    else:
        size = sum(bytes for bytes, _ in folder.files().values())
    remove_tree(folder)
    log.info("%s: its checkpoints are gone, %.1f GB (learner.keep_finished=true keeps them)", stage, size / 1e9)


def _run_stages(run: RunDirectory, stages: list[str]) -> None:
    if stages == ["report"]:
        _report(run)  # before anything that a server could refuse
        with Tracker(run) as tracker:
            tracker.publish("report")
        return
    from launch.fleet import Fleet
    from launch.input_checks import warn_of_idle_gpus

    with Tracker(run) as tracker, Fleet(run.recipe, stages, run.pins) as fleet:
        warn_of_idle_gpus(run.recipe)
        for stage in stages:
            _stage(run, stage, _function(stage, run, fleet, tracker))
            tracker.publish(stage)


def _stage(run: RunDirectory, stage: str, function: Callable[[], None]) -> None:
    with run.timed(stage, gpus=stage_gpus(run.recipe, stage)):
        function()
    discard_checkpoints(run, stage)


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
