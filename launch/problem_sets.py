"""The problem sets of a recipe, loaded and checked: training never sees a test or held-out problem."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ledex_ray.config import Recipe
from ledex_ray.errors import BadInput
from ledex_ray.problems import Problem
from reward.judge import ready_problems

TRAINABLE = ("train", "prompt", "")


def training_problems(recipe: Recipe) -> dict[str, Problem]:
    """The training sets by id. Raises BadInput where the recipe names test, validation or held-out problems."""
    found: dict[str, Problem] = {}
    for spec in recipe.problems.train_sets:
        problems = _by_id(_trained_on("problems.train", spec, TRAINABLE), recipe.problems.limit)
        twice = next((i for i in problems if i in found), None)
        if twice is not None:
            raise BadInput("recipe key 'problems.train'", f"two of its sets have a problem {twice}", given=spec)
        found |= problems
    return found


def validation_problems(recipe: Recipe) -> dict[str, Problem]:
    """The held-in validation set by id."""
    spec = recipe.problems.validation
    return _by_id(_trained_on("problems.validation", spec, ("validation", *TRAINABLE)), recipe.problems.limit)


def heldout_problems(recipe: Recipe) -> dict[str, Problem]:
    """All held-out sets by id."""
    seen = {p.text for spec in recipe.problems.train_sets for p in ready_problems(spec)}
    held: dict[str, Problem] = {}
    for spec in recipe.problems.heldout:
        for problem in _limited(ready_problems(spec), recipe.problems.limit):
            if problem.split == "train" or problem.text in seen:
                raise BadInput(
                    "recipe key 'problems.heldout'",
                    f"holds problem {problem.id}, which is trained on",
                    given=spec,
                    expected="a set that training does not see, e.g. mbppplus@test",
                )
            # HumanEval and HumanEval+ share their ids.
            held[f"{problem.benchmark}/{problem.id}"] = replace(problem, id=f"{problem.benchmark}/{problem.id}")
    return held


def _trained_on(key: str, spec: str, splits: Sequence[str]) -> list[Problem]:
    problems = ready_problems(spec)
    wrong = next((p for p in problems if p.split not in splits), None)
    if wrong is not None:
        raise BadInput(
            f"recipe key '{key}'",
            f"holds problem {wrong.id} of the {wrong.split} split",
            given=spec,
            expected="a set that is not measured on, e.g. bundled@train or mbpp@train",
        )
    return problems


def _limited(problems: Sequence[Problem], limit: int | None) -> Sequence[Problem]:
    """The first N, taken evenly through the set so that its difficulties stay mixed."""
    if limit is None or limit >= len(problems):
        return problems
    return [problems[i * len(problems) // limit] for i in range(limit)]


def _by_id(problems: Sequence[Problem], limit: int | None) -> dict[str, Problem]:
    return {p.id: p for p in _limited(problems, limit)}
