"""What a stage would otherwise find out hours later: problems, judge, reward, models and keys, looked at beforehand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from actors.local_ray import cluster_address
from launch.bug_set import named_bugs
from launch.console import log
from launch.endpoint import endpoint_key
from launch.model_cache import resolve_encoder, resolve_model
from launch.problem_sets import heldout_problems, pin_problem_sets, training_problems, validation_problems
from launch.rundir import RunDirectory
from launch.stages import check_context, check_tensor_parallel
from ledex_ray.config import Recipe
from ledex_ray.errors import BadInput
from ledex_ray.placement import check_weight_transfer
from ledex_ray.planner import read_context
from ledex_ray.problems import Problem
from reward.arms import resolve_arm
from reward.judge import JudgeConfig, TooWeak, check_packages, choose_tier, find_python, ready_problems

SCALES = {"logits_scaling": 1.0, "logit_scale": 1.0, "final_logit_softcapping": None}
"""What a configuration calls a change to the logits after the output layer, and the value that changes nothing."""


def check_inputs(run: RunDirectory, stages: Sequence[str]) -> None:
    """Raises BadInput for what one of the stages cannot work with; warns of what it works with badly."""
    from launch.evaluate import check_labels

    if list(stages) == ["report"]:
        return
    recipe, pins = run.recipe, run.pins
    judge = _judge(recipe, judging=not {"sft", "report"}.issuperset(stages))

    @cache  # held-out problems are compared with those that are trained on: each set is read once
    def load(spec: str) -> list[Problem]:
        return ready_problems(spec, judge)

    pin_problem_sets(recipe, pins)
    train = training_problems(recipe, load)
    if "ppo" in stages:
        check_weight_transfer(recipe)
        _check_reward(recipe, train.values())
        resolve_encoder(recipe.reward.encoder, pins, where="recipe key 'reward.encoder'")
    if "ppo" in stages or "evaluate" in stages:
        validation = validation_problems(recipe, load)
        if "ppo" in stages and not any(p.canonical_solutions for p in validation.values()):
            log.warning(
                "problems.validation=%s has no canonical_solutions to make bugs of: PPO will keep its last model, "
                "not its best",
                recipe.problems.validation,
            )
    if "evaluate" in stages:
        check_labels(recipe)
        held_out = heldout_problems(recipe, load)
        if recipe.evaluation.bug_set is not None:
            named_bugs(recipe.evaluation.bug_set, held_out)
    if "synthesize" in stages and recipe.synthesis.endpoint is not None:
        endpoint_key(recipe.synthesis.endpoint)
    for key, name in models(recipe, stages):
        trusted = recipe.model.trust_remote_code
        folder = resolve_model(name, pins, trust_remote_code=trusted, where=f"recipe key '{key}'")
        _check_model(folder, key, name, recipe, trained=key == "model.name" and not {"sft", "ppo"}.isdisjoint(stages))


def models(recipe: Recipe, stages: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Key and name of each model that engines of these stages serve."""
    if "evaluate" in stages:
        for label, name in recipe.evaluation.models.items():
            yield f"evaluation.models.{label}", name
    if "synthesize" in stages and recipe.synthesis.endpoint is None and recipe.synthesis.teacher is not None:
        yield "synthesis.teacher", recipe.synthesis.teacher
    yield "model.name", recipe.model.name  # the last, as the packaged one takes a minute, once


def warn_of_idle_gpus(recipe: Recipe) -> None:
    """Says so where Ray has GPUs and the recipe, a CPU recipe by its defaults, asks for none of them."""
    import ray

    gpus = ray.cluster_resources().get("GPU", 0)
    if gpus and not recipe.rollout.gpus and not recipe.learner.gpus:
        log.warning(
            "there are %g GPUs, and this recipe uses none: rollout.gpus and learner.gpus are 0 (`ledex plan RECIPE "
            "--gpus N --gpu-memory GB` shows what fits them)",
            gpus,
        )


def _judge(recipe: Recipe, *, judging: bool) -> JudgeConfig:
    """The judge of reference solutions; without a cluster this machine is the sandboxes' too, and has to serve."""
    if cluster_address():  # interpreter and packages are those of its nodes
        return JudgeConfig(floor=recipe.sandbox.floor)
    from actors.sandbox import judge_config

    config = judge_config(recipe.sandbox)
    check_packages(config.packages)
    try:
        if judging:
            choose_tier(config, find_python(config.python))
    except TooWeak as error:
        raise BadInput("recipe key 'sandbox.floor'", str(error)) from error
    return config


def _check_reward(recipe: Recipe, problems: Iterable[Problem]) -> None:
    arm = resolve_arm(recipe.reward.arm)
    if arm.canonical_only and not any(p.canonical_solutions for p in problems):
        raise BadInput(
            "recipe key 'reward.arm'",
            "compares with canonical_solutions, and no training problem has any",
            given=recipe.reward.arm,
            expected="another arm, or problems with canonical_solutions",
        )


def _check_model(folder: Path, key: str, name: str, recipe: Recipe, *, trained: bool) -> None:
    """Raises BadInput where engines or learner could not work with the model, or its tokenizer does not."""
    from transformers import AutoConfig

    from launch.fleet import other_model, renderer_of

    check_context(recipe, key, name, read_context(folder))
    renderer_of(folder, recipe.model if key == "model.name" else other_model(recipe, name))
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=recipe.model.trust_remote_code).get_text_config()
    except (OSError, ValueError) as error:
        raise BadInput(str(folder), f"transformers cannot read its config.json ({_line(error)})") from error
    if heads := getattr(config, "num_attention_heads", 0):
        check_tensor_parallel(recipe, heads)
    if trained:
        _check_logits(config, key, folder)


def _check_logits(config: Any, key: str, folder: Path) -> None:
    """Raises BadInput where the output layer's result is scaled or capped, which the learner's own does not do."""
    for field, neutral in SCALES.items():
        value = getattr(config, field, neutral)
        if value not in (None, neutral):
            raise BadInput(
                f"recipe key '{key}'",
                f"this model's logits are no linear map of its last hidden state (config.json: {field} is {value})",
                given=str(folder),
                expected="a model without scaled or capped logits, such as Llama's, Qwen2's or StarCoder's kinds",
            )


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
