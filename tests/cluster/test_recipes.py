"""Recipes for real sizes, dry: every config and placement is built, no weight is loaded.

`models/*.json` are the models' own configurations, cut down to what decides their size.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from actors.precision import resolve_precision
from actors.rollout import engine_environment
from actors.sharded_model import deepspeed_config, schedule
from launch.recipe_names import packaged_recipes, read_recipe
from ledex_ray.config import Recipe
from ledex_ray.placement import phases, unmet
from ledex_ray.planner import plan, read_shape
from ledex_ray.policy import Policy

MODELS = Path(__file__).parent / "models"


@dataclass(frozen=True)
class Machine:
    """What a recipe says that it runs on."""

    nodes: int
    gpu_gib: float
    parameters: float  # of its model, in 10^9, as published

    @property
    def gpu_nodes(self) -> list[dict[str, float]]:
        return [{"GPU": 8.0, "CPU": 64.0}] * self.nodes


MACHINES = {
    "codellama_7b": Machine(1, 45, 6.74),
    "qwen_coder_7b": Machine(1, 45, 7.62),
    "codellama_13b": Machine(2, 80, 13.02),
    "starcoder_15b": Machine(2, 80, 15.5),
}
SANDBOX_NODE = {"sandbox": 16.0}


@pytest.fixture(params=MACHINES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model_folder(name: str, tmp_path: Path) -> Path:
    shutil.copy(MODELS / f"{name}.json", tmp_path / "config.json")
    return tmp_path


@pytest.fixture
def recipe(name: str, model_folder: Path) -> Recipe:
    return read_recipe(name, [f"model={model_folder}"])


def test_it_fits_on_what_it_says_it_runs_on_and_not_on_small_gpus(name: str, recipe: Recipe) -> None:
    machine = MACHINES[name]
    shape, precision = read_shape(Path(recipe.model.name)), resolve_precision(recipe.model.dtype, 1)
    made = plan(recipe, shape, precision=precision, gpus=8 * machine.nodes, gpu_memory_gb=machine.gpu_gib)
    assert made.fits, made.advice
    assert not plan(recipe, shape, precision=precision, gpus=8 * machine.nodes, gpu_memory_gb=16).fits
    assert f"--gpu-memory {machine.gpu_gib:g}" in packaged_recipes()[name].read_text().replace("\n# ", " ")


def test_every_stage_has_its_places_and_with_one_node_less_says_what_lacks_one(name: str, recipe: Recipe) -> None:
    nodes = MACHINES[name].gpu_nodes
    for demands in phases(recipe).values():
        assert unmet(demands, [*nodes, SANDBOX_NODE]) == []
    lacking = unmet(phases(recipe)["ppo"], [*nodes[1:], SANDBOX_NODE])
    assert {demand.name for demand in lacking} & {"learner", "rollout"}


def test_the_model_is_built_with_its_value_head_and_has_the_size_that_the_plan_counts(
    name: str, recipe: Recipe
) -> None:
    config = AutoConfig.from_pretrained(recipe.model.name)
    with torch.device("meta"):
        policy = Policy(AutoModelForCausalLM.from_config(config), value_head=True)
    n_parameters = sum({id(p): p.numel() for p in policy.lm.parameters()}.values())
    assert n_parameters == pytest.approx(MACHINES[name].parameters * 1e9, rel=0.01)
    assert read_shape(Path(recipe.model.name)).parameters == pytest.approx(n_parameters, rel=0.01)
    assert config.max_position_embeddings >= recipe.model.max_length


def test_deepspeed_takes_the_learners_configuration(recipe: Recipe) -> None:
    from deepspeed.runtime.config import DeepSpeedConfig

    built = deepspeed_config(recipe.learner, recipe.sft.optimizer, bf16=True)
    parsed = DeepSpeedConfig(built)
    assert parsed.zero_optimization_stage == 3 and parsed.bfloat16_config.enabled
    assert parsed.gradient_clipping == recipe.sft.optimizer.clip_grad_norm


def test_the_hyperparameters_are_the_papers(recipe: Recipe) -> None:
    share: Callable[[int], float] = schedule(recipe.sft.optimizer, 2000)
    assert share(499) == 1.0 and share(249) == 0.5 and share(1250) == pytest.approx(0.5)
    assert (recipe.sft.optimizer.lr, recipe.sft.epochs, recipe.sft.batch_size) == (2e-5, 2, 128)
    assert (recipe.synthesis.solve.n, recipe.synthesis.solve.temperature) == (20, 1.0)
    assert (recipe.synthesis.refine.n, recipe.synthesis.refine.temperature) == (10, 0.8)
    assert (recipe.ppo.optimizer.lr, recipe.ppo.minibatch_episodes) == (2e-6, 64)
    assert (recipe.ppo.gamma, recipe.ppo.lam, recipe.reward.arm) == (0.99, 1.0, "paper")
    assert (recipe.evaluation.sampling.n, recipe.evaluation.sampling.temperature) == (100, 0.8)
    assert recipe.problems.train_sets == ("mbpp@train", "apps@train", "codecontests@train")


def test_engines_on_gpus_get_no_settings_of_the_cpu_engine(recipe: Recipe) -> None:
    assert "OMP_NUM_THREADS" not in engine_environment(recipe.rollout)


def test_sandboxes_can_grow_beyond_the_first_node(recipe: Recipe) -> None:
    assert recipe.sandbox.max_actors is not None and recipe.sandbox.max_actors > SANDBOX_NODE["sandbox"]
