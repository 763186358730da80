"""The stages of a run: where each leaves its files, which others it goes on from, what it cannot work with."""

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
                    expected=f"`ledex {earlier} RECIPE` first",
                )


def check_settings(recipe: Recipe, stages: Sequence[str]) -> None:
    """Raises BadInput where the recipe leaves one of `stages` nothing to measure, or no room for a prompt."""
    if "evaluate" in stages and not recipe.problems.heldout:
        raise BadInput("recipe key 'problems.heldout'", "names no set for the stage evaluate")
    sampled = {
        "synthesis.solve": ("synthesize", recipe.synthesis.solve),
        "synthesis.refine": ("synthesize", recipe.synthesis.refine),
        "ppo.sampling": ("ppo", recipe.ppo.sampling),
        "evaluation.sampling": ("evaluate", recipe.evaluation.sampling),
    }
    for key, (stage, sampling) in sampled.items():
        if stage in stages and sampling.max_tokens >= recipe.model.max_length:
            raise BadInput(
                f"recipe key '{key}.max_tokens'",
                "leaves no room for a prompt",
                given=sampling.max_tokens,
                expected=f"less than model.max_length={recipe.model.max_length}, which prompt and answer share",
            )


def check_context(recipe: Recipe, key: str, name: str, context: int) -> None:
    """Raises BadInput where the model that this key names takes fewer tokens than a sequence has; 0 is unknown."""
    if context and recipe.model.max_length > context:
        raise BadInput(
            "recipe key 'model.max_length'",
            f"is more than {key}={name} takes",
            given=recipe.model.max_length,
            expected=f"at most {context}",
        )


def check_tensor_parallel(recipe: Recipe, heads: int) -> None:
    """Raises BadInput where the workers of an engine cannot share out the model's attention heads evenly."""
    workers = recipe.rollout.tensor_parallel
    if heads % workers:
        raise BadInput(
            "recipe key 'rollout.tensor_parallel'",
            "does not divide the attention heads of the model",
            given=workers,
            expected=f"a divisor of {heads}",
        )


def _goes_on_from(recipe: Recipe, stage: str) -> list[str]:
    needed = {"sft": ["synthesize"], "ppo": ["synthesize", "sft"], "evaluate": ["sft", "ppo"]}.get(stage, [])
    # A recipe without a training stage starts PPO from the untrained model, and measures what there is.
    return [earlier for earlier in needed if earlier == "synthesize" or earlier in recipe.stages]
