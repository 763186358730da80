"""The PPO stage: runs a training to its end, or goes on with one that was interrupted (LeDex, section 3.3)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from launch.console import log, task
from launch.debug_ppo import DebugPPO, DebugPPOConfig, Progress
from launch.fleet import Fleet
from launch.ppo_setup import STAGE, Session
from launch.rundir import RunDirectory
from launch.tracking import Tracker


def ppo(run: RunDirectory, fleet: Fleet, tracker: Tracker) -> None:
    """Runs or resumes the stage."""
    with training(run, fleet, tracker) as algorithm:
        algorithm.resume()
        iterations = run.recipe.ppo.iterations
        with task("ppo", iterations, done=algorithm.progress.iteration) as bar:
            while algorithm.progress.iteration < iterations:
                result = algorithm.train()
                bar.reach(algorithm.progress.iteration, note=_note(result))
        progress = algorithm.progress
    _tell(progress)
    run.finish(STAGE, asdict(progress))


def _tell(progress: Progress) -> None:
    """Which model was kept, beside the one that training started from."""
    if min(progress.best_rate, progress.start_rate) < 0:
        return
    rates = f"{progress.best_rate:.1%} of the validation bugs repaired, {progress.start_rate:.1%} at the start"
    log.info("ppo: the model of iteration %d is kept: %s", progress.best_iteration, rates)
    if progress.best_rate <= progress.start_rate:
        log.warning("ppo: by its validation bugs this training made nothing better")


@contextmanager
def training(run: RunDirectory, fleet: Fleet, tracker: Tracker) -> Iterator[DebugPPO]:
    """The run's training, at its start, on actors that live longer; its own are ended afterwards."""
    for library in ("ray.rllib", "ray.tune"):  # advice on features that are not used here
        logging.getLogger(library).setLevel(logging.ERROR)
    DebugPPO.shared = Session(run, fleet, tracker)
    try:
        algorithm = DebugPPOConfig().recipe(run.recipe.model_dump(mode="json")).build_algo()
        try:
            yield algorithm
        finally:
            algorithm.stop()
    finally:
        DebugPPO.shared = None


def _note(result: Mapping[str, Any]) -> str:
    """How an iteration went, in a few words; one without a usable episode says so."""
    if not result.get("n_used"):
        unscored = f"{result['unscored_episodes']:.0f} of {result['episodes']:.0f} episodes unscored"
        return f"nothing to learn from: {unscored}, {result['unused_groups']:.0f} groups without use"
    tests = f", {result['tests_passed']:.0%} of tests" if "tests_passed" in result else ""  # an arm may execute nothing
    return f"reward {result['reward']:+.2f}{tests}"
