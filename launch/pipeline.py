"""All stages of a recipe in one driver, over one fleet of actors; finished stages are not redone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cache
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
    from ledex_ray.problems import Problem


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
            try:
                check_order(run, left)
                check_settings(run.recipe, left)
                _check_inputs(run, left)
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


def _check_inputs(run: RunDirectory, stages: list[str]) -> None:
    """Raises BadInput now for what a stage would otherwise find out hours later."""
    from actors.local_ray import cluster_address
    from launch.bug_set import named_bugs
    from launch.endpoint import endpoint_key
    from launch.evaluate import check_labels
    from launch.model_cache import resolve_encoder, resolve_model
    from launch.problem_sets import heldout_problems, pin_problem_sets, training_problems, validation_problems
    from ledex_ray.placement import check_weight_transfer
    from ledex_ray.planner import read_context
    from reward.arms import resolve_arm
    from reward.judge import JudgeConfig, TooWeak, find_python, ready_problems

    if stages == ["report"]:
        return
    recipe, pins = run.recipe, run.pins
    python = "" if cluster_address() else recipe.sandbox.python or ""  # a cluster's sandboxes may be on other machines
    if python:
        find_python(python)
    judge = JudgeConfig(python=python, floor=recipe.sandbox.floor)  # of reference solutions

    @cache  # held-out problems are compared with those that are trained on: each set is read once
    def load(spec: str) -> list[Problem]:
        try:
            return ready_problems(spec, judge)
        except TooWeak as error:
            raise BadInput("recipe key 'sandbox.floor'", str(error)) from error

    pin_problem_sets(recipe, pins)
    training_problems(recipe, load)
    if "ppo" in stages:
        check_weight_transfer(recipe)
        resolve_arm(recipe.reward.arm)
        resolve_encoder(recipe.reward.encoder, pins)
    if "ppo" in stages or "evaluate" in stages:
        validation_problems(recipe, load)
    if "evaluate" in stages:
        check_labels(recipe)
        held_out = heldout_problems(recipe, load)
        if recipe.evaluation.bug_set is not None:
            named_bugs(recipe.evaluation.bug_set, held_out)
    if "synthesize" in stages and recipe.synthesis.endpoint is not None:
        endpoint_key(recipe.synthesis.endpoint)
    for key, name in _models(recipe, stages):
        folder = resolve_model(name, pins, trust_remote_code=recipe.model.trust_remote_code)
        context = read_context(folder)
        if context and recipe.model.max_length > context:
            raise BadInput(
                "recipe key 'model.max_length'",
                f"is more than {key}={name} takes",
                given=recipe.model.max_length,
                expected=f"at most {context}",
            )


def _models(recipe: Recipe, stages: list[str]) -> Iterator[tuple[str, str]]:
    """Key and name of each model that engines of these stages serve."""
    if "evaluate" in stages:
        for label, name in recipe.evaluation.models.items():
            yield f"evaluation.models.{label}", name
    if "synthesize" in stages and recipe.synthesis.endpoint is None and recipe.synthesis.teacher is not None:
        yield "synthesis.teacher", recipe.synthesis.teacher
    yield "model.name", recipe.model.name  # the last, as the packaged one takes a minute, once


def _run_stages(run: RunDirectory, stages: list[str]) -> None:
    if stages == ["report"]:
        _report(run)  # before anything that a server could refuse
        with closing(Tracker(run)) as tracker:
            tracker.publish("report")
        return
    from launch.fleet import Fleet

    with closing(Tracker(run)) as tracker, Fleet(run.recipe, stages, run.pins) as fleet:
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
