"""Evaluation on held-out problems: which models are measured, on what, and what is left on disk.

How a model is sampled is in `launch.evaluator`, what is made of the samples in `launch.measures`.

    evaluation/heldout/  parts/  samples.parquet  bugs.parquet  evaluation.json  contamination.json  samples/*.jsonl
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence

from launch.bug_set import bug_set_hash
from launch.evaluator import STAGE, Candidate, Evaluator
from launch.fleet import Fleet
from launch.measures import measure
from launch.problem_sets import heldout_problems, training_problems, validation_problems
from launch.rundir import RunDirectory, read_json, write_atomically
from launch.sample_files import file_name, write_sample_files
from ledex_ray.config import Recipe
from ledex_ray.contamination import overlaps
from ledex_ray.errors import BadInput
from ledex_ray.evaluation import Bug
from ledex_ray.problems import Problem
from ledex_ray.records import Status
from ledex_ray.tables import read_records, write_records

__all__ = ["STAGE", "Candidate", "candidates", "evaluate", "evaluate_models"]

TRAINED = {"sft": "sft", "ppo": "sft+rl"}  # stage -> label of what it leaves


def evaluate(run: RunDirectory, fleet: Fleet) -> None:
    """Runs or resumes the stage over every model that the run has trained or its recipe names."""
    models = candidates(run, fleet)
    evaluate_models(run, fleet, models)


def candidates(run: RunDirectory, fleet: Fleet) -> list[Candidate]:
    """The untrained model, what each training stage of the recipe left, and the other models of `evaluation.models`."""
    found = [Candidate("prompt", "prompt", fleet.model_path, 0)]
    for version, (stage, label) in enumerate(TRAINED.items(), start=1):
        if stage in run.recipe.stages:
            found.append(Candidate(label, label, run.place(stage, "model"), 1_000_000 + version))
    others = run.recipe.evaluation.models.items()
    return found + [Candidate(label, "prompt", fleet.model_path, 0, other=name) for label, name in others]


def check_labels(recipe: Recipe) -> None:
    """Raises BadInput where `evaluation.models` has a label that a model of the run itself goes by, or two labels whose
    files would have one name.
    """
    own = {"prompt", *TRAINED.values()}
    names: dict[str, str] = {}
    for label in recipe.evaluation.models:
        if label in own:
            expected = f"another label than {', '.join(sorted(own))}"
            raise BadInput("recipe key 'evaluation.models'", "uses a run's own label", given=label, expected=expected)
        other = names.setdefault(file_name(label), label)
        if other != label:
            expected = f"labels that differ in more than '{set(label) ^ set(other)}'"
            raise BadInput("recipe key 'evaluation.models'", f"has {other!r} as well", given=label, expected=expected)


def evaluate_models(run: RunDirectory, fleet: Fleet, models: Sequence[Candidate]) -> None:
    """Samples, judges and measures these models on the recipe's held-out problems."""
    recipe = run.recipe
    problems = heldout_problems(recipe)
    seen = write_contamination(run, problems)
    evaluator = Evaluator(run, fleet, problems)
    for model in models:
        evaluator.sample(model)
    samples = evaluator.parts.read()
    write_records(run.path(STAGE, "samples.parquet"), samples)
    names = {m.label: model_name(m, recipe) for m in models}
    evaluation = measure(samples, problems, recipe.evaluation, names, recipe.problems.feedback)
    write_atomically(run.path(STAGE, "evaluation.json"), json.dumps(evaluation.to_json(), indent=1))
    write_sample_files(run.path(STAGE, "samples", "x").parent, samples, problems)
    evaluator.warn()
    bugs = run.path(STAGE, "bugs.parquet")
    run.finish(
        STAGE,
        {
            "samples": len(samples),
            "models": [m.label for m in models],
            "weak_verdicts": sum(s.weak for s in samples),
            "infra": sum(s.status == Status.INFRA for s in samples),
            "too_long": evaluator.too_long,
            "contaminated": seen,
            "bug_set": bug_set_hash(read_records(bugs, Bug)),
        },
    )


def write_contamination(run: RunDirectory, problems: Mapping[str, Problem]) -> int:
    """Writes which held-out problems the training and validation sets give away, and returns how many."""
    path = run.path(STAGE, "contamination.json")
    if path.exists():  # the run's problems are pinned: a resumed evaluation would find the same
        return len({row["evaluated"] for row in read_json(path)})
    seen = [*training_problems(run.recipe).values(), *validation_problems(run.recipe).values()]
    found = overlaps(seen, list(problems.values()))
    rows = [dataclasses.asdict(overlap) for overlap in found]
    write_atomically(path, json.dumps(rows, indent=1))
    return len({overlap.evaluated for overlap in found})


def model_name(model: Candidate, recipe: Recipe) -> str:
    """What the files call a model: the base model's name, and what this run made of it."""
    if model.other:
        return model.other
    return recipe.model.name if model.stage == "prompt" else f"{recipe.model.name}+{recipe.run}/{model.label}"
