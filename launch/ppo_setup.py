"""What one PPO training is set up with: its surroundings, the model it starts from, what it is asked, its probe.

Not covered: the training itself (debug_ppo.py), the stage that runs it (ppo.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from actors.places import Place, place
from launch.collect import Assignments, Collector
from launch.console import log
from launch.dialogue import Assignment
from launch.fleet import Fleet
from launch.problem_sets import pin_problem_sets, validation_problems
from launch.rundir import RunDirectory, write_atomically
from launch.seeding import seeded_trajectories
from launch.stages import check_order, check_settings
from launch.synthesize import load_trajectories
from launch.tracking import Tracker
from launch.training_set import training_set
from ledex_ray.config import Recipe
from ledex_ray.errors import BadInput
from ledex_ray.prompts import fenced
from ledex_ray.records import Trajectory

STAGE = "ppo"
PROBE_SEQUENCES = 4


@dataclass(frozen=True)
class Session:
    """The live surroundings of one training: a run directory, its actors, its metrics."""

    run: RunDirectory
    fleet: Fleet
    tracker: Tracker


def open_session(recipe: Recipe, runs: str = "") -> Session:
    """A session of its own for a training under Tune. Raises BadInput where the run lacks what PPO goes on from."""
    run = RunDirectory.open(recipe, folder=place(runs) if runs else None)
    try:
        check_order(run, [STAGE])
        check_settings(recipe, [STAGE])
        pin_problem_sets(run.recipe, run.pins)
    except BadInput:
        run.close()
        raise
    return Session(run, Fleet(recipe, stages=(), pins=run.pins), Tracker(run))  # the trial holds its places already


def start_model(run: RunDirectory, fleet: Fleet) -> Place:
    """The model that PPO starts from, which is also the reference: the SFT stage's, or the untrained one."""
    return run.place("sft", "model") if "sft" in run.recipe.stages else fleet.model_path


def keep_tokenizer(run: RunDirectory, fleet: Fleet) -> None:
    """Puts the tokenizer beside the episodes: without it nobody can read what their ids say."""
    rust = getattr(fleet.renderer.tokenizer, "backend_tokenizer", None)
    if rust is not None:
        write_atomically(run.path(STAGE, "tokenizer.json"), rust.to_str())


def training_assignments(run: RunDirectory, fleet: Fleet, collector: Collector) -> Assignments:
    """The run's wrong solutions under each instruction. Raises BadInput where there are none."""
    trajectories = load_trajectories(run)
    recipe = run.recipe
    assignments = Assignments(
        trajectories, training_set(run, fleet), fleet.renderer, recipe, collector.arm, recipe.ppo.max_prompts
    )
    if not len(assignments):
        where, problem = f"run {run.recipe.run}", "has no trajectories to train on"
        if assignments.too_long:
            given = f"{assignments.too_long} prompts, all too long"
            raise BadInput(where, problem, given=given, expected="a smaller ppo.sampling.max_tokens")
        expected = "a finished synthesis stage with wrong solutions, or synthesis.seeded_bugs=4"
        raise BadInput(where, problem, expected=expected)
    return assignments


def validation_assignments(run: RunDirectory, fleet: Fleet, collector: Collector) -> list[Assignment]:
    """One seeded bug a validation problem under each instruction: the same for every iteration and run."""
    problems = validation_problems(run.recipe)
    found = seeded_trajectories(
        list(problems.values()), fleet.sandbox.client(), 1, run.recipe.synthesis.seed, run.recipe.problems.feedback
    )
    trajectories: list[Trajectory] = [t for some in found for t in some]
    assignments = Assignments(trajectories, problems, fleet.renderer, run.recipe, collector.arm)
    if not len(assignments):
        log.warning("ppo: no validation bug could be made: the model that is kept is the last, not the best")
    return assignments.take(0, len(assignments))


def probe_sequences(assignments: Assignments, fleet: Fleet) -> list[list[int]]:
    """A few prompts with right answers: the fixed batch on which engine and learner must agree."""
    chosen = assignments.take(0, min(PROBE_SEQUENCES, len(assignments)))
    longest = fleet.recipe.model.max_length - 1
    answers = [fenced(a.references[0] if a.references else a.wrong_code) for a in chosen]
    ids = [[*a.prompt_ids, *fleet.renderer.answer_ids(answer)] for a, answer in zip(chosen, answers, strict=True)]
    return [sequence[:longest] for sequence in ids]


def optimizer_steps(recipe: Recipe) -> int:
    """How many updates a whole training has: the length of its learning-rate schedule."""
    episodes = recipe.ppo.prompts_per_iteration * recipe.ppo.sampling.n
    return recipe.ppo.iterations * recipe.ppo.epochs * max(1, math.ceil(episodes / recipe.ppo.minibatch_episodes))
