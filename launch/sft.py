"""Supervised fine-tuning: correct solutions and verified refinements, under both instructions (LeDex, section 3.2).

The order of the examples is fixed by the seed, so a resumed run goes through the same batches as an uninterrupted one.
The model with the lowest validation loss is kept in `sft/model`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from actors.failures import GangLost
from actors.learner import LearnerGroup
from actors.places import Place
from actors.sandbox import SandboxClient
from launch.accidents import Accidents
from launch.best_model import BestModel
from launch.canonical_refinements import passing_canonicals
from launch.console import log, task
from launch.fleet import Fleet
from launch.rundir import RunDirectory
from launch.synthesize import load_attempts, load_trajectories
from launch.tracking import Tracker
from launch.training_set import training_set
from ledex_ray.config import SFTConfig
from ledex_ray.episodes import SupervisedExample
from ledex_ray.errors import BadInput
from ledex_ray.problems import Problem
from ledex_ray.supervised import supervised_examples

STAGE = "sft"
Batch = tuple[SupervisedExample, ...]


@dataclass
class Progress:
    """Where the training stands; it travels with each checkpoint."""

    step: int = 0
    best_loss: float = float("inf")
    best_step: int = 0
    without_improvement: int = 0


def sft(run: RunDirectory, fleet: Fleet, tracker: Tracker) -> None:
    """Runs or resumes the stage."""
    recipe, config = run.recipe, run.recipe.sft
    problems = training_set(run, fleet)
    if config.canonical:
        problems = _with_passing_canonicals(problems, fleet.sandbox.client(), config.max_examples_per_problem)
    examples = supervised_examples(
        problems,
        load_attempts(run),
        load_trajectories(run),
        fleet.renderer,
        config,
        recipe.model.max_length,
    )
    training, validation = split_by_problem(examples, config)
    if not training:
        raise BadInput(
            "sft",
            "there is nothing to train on: no solution passed its tests and no refinement was verified, or none fits",
            expected="more samples (synthesis.solve.n), easier problems, synthesis.seeded_bugs=4, "
            f"or more than model.max_length={recipe.model.max_length}",
        )
    batches = plan_batches(training, config)
    if config.optimizer.warmup_steps >= len(batches):
        log.warning(
            "sft: its %d steps end before sft.optimizer.warmup_steps (%d) do: the rate %g is never reached",
            len(batches),
            config.optimizer.warmup_steps,
            config.optimizer.lr,
        )
    if config.validation_fraction and not validation:
        log.warning(
            "sft: %d problems are too few to hold back sft.validation_fraction=%g of them: no validation loss, nothing "
            "for sft.patience to go by, and the last model is kept",
            len({_problem(e) for e in training}),
            config.validation_fraction,
        )
    learner = LearnerGroup(
        recipe.learner, recipe.model, fleet.model_path, config.optimizer, total_steps=len(batches), seed=config.seed
    )
    try:
        progress = _resume(run, learner, tracker)
        accidents, gone = Accidents(STAGE, progress.step), False
        with task("sft", len(batches), done=progress.step) as bar:
            while progress.step < len(batches) and not _out_of_patience(progress, config):
                try:
                    if gone:
                        learner.rebuild(_checkpoints(run))
                        progress, gone = _resume(run, learner, tracker), False
                        bar.reach(progress.step)
                    metrics = _step(run, learner, tracker, batches, validation, progress)
                except GangLost as error:
                    accidents.lost(error)
                    gone = True
                    continue
                accidents.reached(progress.step)
                bar.reach(progress.step, note=f"loss {metrics['loss']:.3f}")
    finally:
        learner.shutdown()
    counts = {kind: sum(e.kind == kind for e in training) for kind in config.kinds}
    measured = f"best validation loss {progress.best_loss:.4f}" if validation else "nothing held back to validate on"
    log.info("sft: %s examples, %s, the model of step %d is kept", counts, measured, progress.best_step)
    run.finish(
        STAGE,
        {
            **asdict(progress),
            "best_loss": progress.best_loss if validation else None,
            "examples": counts,
            "tokens": sum(len(e.token_ids) for batch in batches[: progress.step] for e in batch),
        },
    )


def _with_passing_canonicals(problems: Mapping[str, Problem], sandbox: SandboxClient, most: int) -> dict[str, Problem]:
    """The problems with as many of their canonical solutions as are used, and those only if they pass here."""
    passing = passing_canonicals(list(problems.values()), sandbox, most)
    left_out = sum(len(p.canonical_solutions[:most]) - len(passing[p.id]) for p in problems.values())
    if left_out:
        log.warning("sft: %d canonical solutions fail their tests here and are left out", left_out)
    return {id: replace(p, canonical_solutions=tuple(passing[id])) for id, p in problems.items()}


def _step(
    run: RunDirectory,
    learner: LearnerGroup,
    tracker: Tracker,
    batches: Sequence[Batch],
    validation: Sequence[SupervisedExample],
    progress: Progress,
) -> dict[str, float]:
    """One optimizer step; every `checkpoint_every` of them a validation and a checkpoint."""
    metrics = learner.sft_step(batches[progress.step])
    progress.step += 1
    due = progress.step % run.recipe.sft.checkpoint_every == 0 or progress.step == len(batches)
    best = BestModel(run.place(STAGE, "model"))
    if due:
        metrics |= _validate(best, learner, validation, progress)
    tracker.log(STAGE, progress.step, metrics)
    if due:
        run.commit()  # first: who goes on from the checkpoint wants the metrics before it
        learner.save_checkpoint(_checkpoints(run), asdict(progress))
        best.settle(progress.best_step)
    return metrics


def split_by_problem(
    examples: Sequence[SupervisedExample], config: SFTConfig
) -> tuple[list[SupervisedExample], list[SupervisedExample]]:
    """(training, validation): whole problems are held back, so that no validation answer was seen in training."""
    problems = sorted({_problem(e) for e in examples})
    random.Random(config.seed).shuffle(problems)
    held = set(problems[: round(len(problems) * config.validation_fraction)])
    return [e for e in examples if _problem(e) not in held], [e for e in examples if _problem(e) in held]


def plan_batches(examples: Sequence[SupervisedExample], config: SFTConfig) -> list[Batch]:
    """Every batch of every epoch in order, cut off where `max_tokens` is reached.

    The two instructions for one refinement lie side by side, so that what they share is computed once (packing.py).
    """
    pairs: dict[str, list[SupervisedExample]] = {}
    for example in examples:
        pairs.setdefault(example.id.partition("/")[2], []).append(example)
    batches: list[Batch] = []
    tokens = 0
    for epoch in range(config.epochs):
        shuffled = list(pairs.values())
        random.Random(f"{config.seed}/{epoch}").shuffle(shuffled)
        order = [example for pair in shuffled for example in pair]
        for start in range(0, len(order), config.batch_size):
            batch = tuple(order[start : start + config.batch_size])
            tokens += sum(len(e.token_ids) for e in batch)
            if batches and config.max_tokens is not None and tokens > config.max_tokens:
                return batches
            batches.append(batch)
    return batches


def _resume(run: RunDirectory, learner: LearnerGroup, tracker: Tracker) -> Progress:
    state = learner.load_checkpoint(_checkpoints(run))
    progress = Progress(**state) if state else Progress()
    tracker.forget_after(STAGE, progress.step)
    BestModel(run.place(STAGE, "model")).settle(progress.best_step)
    if progress.step:
        log.info("sft: resumed after step %d", progress.step)
    return progress


def _validate(
    best: BestModel, learner: LearnerGroup, validation: Sequence[SupervisedExample], progress: Progress
) -> dict[str, float]:
    """Measures the validation loss and keeps the model when it is the lowest so far (or nothing is held back)."""
    loss = learner.sft_loss(validation) if validation else math.inf
    if loss < progress.best_loss or not validation:
        progress.best_loss, progress.best_step, progress.without_improvement = loss, progress.step, 0
        learner.export_model(best.staged(progress.step))
    else:
        progress.without_improvement += 1
    return {"validation_loss": loss} if validation else {}


def _out_of_patience(progress: Progress, config: SFTConfig) -> bool:
    return config.patience is not None and progress.without_improvement >= config.patience


def _checkpoints(run: RunDirectory) -> Place:
    return run.place(STAGE, "checkpoints")


def _problem(example: SupervisedExample) -> str:
    return example.id.split("/", 1)[1].rpartition("/")[0]
