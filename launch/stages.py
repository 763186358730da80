"""The stages of a run: where each leaves its files, and which others it goes on from."""

from __future__ import annotations

from collections.abc import Sequence

from launch.rundir import RunDirectory
from ledex_ray.config import Recipe
from ledex_ray.errors import BadInput

FOLDERS = {"synthesize": "synthesis", "sft": "sft", "ppo": "ppo", "evaluate": "evaluation/heldout", "report": "report"}


def check_order(run: RunDirectory, stages: Sequence[str]) -> None:
    """Raises BadInput where one of `stages` goes on from another that has neither finished nor comes before it."""
    for position, stage in enumerate(stages):
        for earlier in _goes_on_from(run.recipe, stage):
            if earlier not in stages[:position] and not run.done(FOLDERS[earlier]):
                raise BadInput(
                    f"run {run.recipe.run}",
                    f"has no finished stage {earlier} for {stage} to go on from",
                    expected=f"`ledex {earlier} RECIPE` first, or `ledex run RECIPE` with all of them in its stages",
                )


def _goes_on_from(recipe: Recipe, stage: str) -> list[str]:
    needed = {"sft": ["synthesize"], "ppo": ["synthesize", "sft"], "evaluate": ["sft", "ppo"]}.get(stage, [])
    # A recipe without a training stage starts PPO from the untrained model, and measures what there is.
    return [earlier for earlier in needed if earlier == "synthesize" or earlier in recipe.stages]
