"""The planner's arithmetic: exact parameter counts, monotone budgets, a refusal with advice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ledex_ray.config import (
    LearnerConfig,
    LoraConfig,
    ModelConfig,
    PPOConfig,
    Recipe,
    RolloutConfig,
    SandboxConfig,
    Stage,
)
from ledex_ray.errors import BadInput
from ledex_ray.planner import GIB, largest_token_budget, learner_plan, plan, read_context, read_shape, shape_of

QWEN_7B = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "intermediate_size": 18944,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
}
STARCODER = {"model_type": "gpt_bigcode", "n_embd": 6144, "n_layer": 40, "n_head": 48, "n_inner": 24576}
STARCODER |= {"vocab_size": 49152, "multi_query": True}


def recipe(**learner: Any) -> Recipe:
    return Recipe(
        learner=LearnerConfig(**{"gpus": 1, **learner}),
        rollout=RolloutConfig(gpus=1, actors=2),
        model=ModelConfig(max_length=2048),
    )


def test_parameters_are_counted_from_the_weights(smollm2: Path) -> None:
    assert read_shape(smollm2).parameters == 134_515_008


@pytest.mark.parametrize(("config", "billions"), [(QWEN_7B, 7.615), (STARCODER, 15.5)])
def test_parameters_by_formula(config: dict[str, Any], billions: float) -> None:
    assert shape_of(config).parameters / 1e9 == pytest.approx(billions, rel=0.01)


def test_the_shape_of_a_model_that_sees_is_its_decoders() -> None:
    nested = {"model_type": "mistral3", "text_config": QWEN_7B, "vision_config": {"hidden_size": 1024}}
    assert shape_of(nested) == shape_of(QWEN_7B)


@pytest.mark.parametrize(
    ("said", "context"),
    [
        ({"n_positions": 1024}, 1024),
        ({"text_config": {"max_position_embeddings": 512}}, 512),
        ({"max_position_embeddings": 512, "rope_scaling": {"type": "linear", "factor": 4.0}}, 2048),
        ({"max_position_embeddings": 512, "rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, 512),
        ({"max_position_embeddings": 512, "rope_scaling": None, "model_max_length": 1024}, 1024),
        ({}, 0),
    ],
)
def test_the_context_is_what_the_engine_takes(tmp_path: Path, said: dict[str, Any], context: int) -> None:
    (tmp_path / "config.json").write_text(json.dumps(said))
    assert read_context(tmp_path) == context


def test_seven_billion_need_sharding_on_eight_gpus() -> None:
    shape = shape_of(QWEN_7B)
    alone = plan(recipe(ranks=1, zero_stage=1), shape, precision="bfloat16", gpus=8, gpu_memory_gb=80)
    assert not alone.fits
    assert "learner.zero_stage=3" in " ".join(alone.advice)
    sharded = recipe(ranks=6, zero_stage=3, gradient_checkpointing=True)
    assert plan(sharded, shape, precision="bfloat16", gpus=8, gpu_memory_gb=80).fits


def test_too_few_gpus_are_named() -> None:
    made = plan(recipe(ranks=6, zero_stage=3), shape_of(QWEN_7B), precision="bfloat16", gpus=4, gpu_memory_gb=80)
    assert any("needs 8 GPUs, there are 4" in line for line in made.advice)


def test_engines_alone_need_no_place_for_a_learner() -> None:
    sampling = recipe(ranks=6).model_copy(update={"stages": ("synthesize",)})
    made = plan(sampling, shape_of(QWEN_7B), precision="bfloat16", gpus=2, gpu_memory_gb=80)
    assert made.fits and made.gpus_needed == 2 and made.token_budget is None


@pytest.mark.parametrize(
    ("stages", "backend", "gpus", "held"),
    [
        (("ppo",), "auto", 0, True),
        (("ppo",), "auto", 8, False),
        (("ppo",), "shm", 8, True),
        (("ppo",), "gloo", 0, False),
        (("sft",), "auto", 0, False),
    ],
)
def test_weights_published_by_file_take_memory(stages: tuple[Stage, ...], backend: Any, gpus: int, held: bool) -> None:
    rollout = RolloutConfig(weight_transfer=backend)
    changed = recipe().model_copy(update={"stages": stages, "rollout": rollout})
    made = plan(changed, shape_of(QWEN_7B), precision="bfloat16", gpus=gpus, gpu_memory_gb=80)
    (files,) = [a.bytes for a in made.actors if a.kind == "published weights"] or [0]
    assert files == (pytest.approx(2 * 2 * 7.615e9, rel=0.01) if held else 0)


@pytest.mark.parametrize(
    ("sandbox", "count"), [({}, 4), ({"actors": 2}, 2), ({"actors": 2, "max_actors": 8}, 8), ({"max_actors": 3}, 3)]
)
def test_a_learner_on_a_cpu_has_what_every_sandbox_leaves(sandbox: dict[str, int], count: int) -> None:
    """A core holds one where the recipe says no number."""
    common: dict[str, Any] = {"precision": "bfloat16", "gpus": 0, "gpu_memory_gb": 256}
    one = plan(recipe().model_copy(update={"sandbox": SandboxConfig(actors=1)}), shape_of(QWEN_7B), **common)
    changed = recipe().model_copy(update={"sandbox": SandboxConfig(**sandbox)})
    made = plan(changed, shape_of(QWEN_7B), cores=4, **common)
    (actors,) = [actor for actor in made.actors if actor.kind == "sandbox"]
    assert actors.count == count
    assert made.token_budget is not None and one.token_budget is not None and made.token_budget < one.token_budget


@pytest.mark.parametrize(("utilization", "fits"), [(0.3, True), (0.85, False)])
def test_a_learner_has_what_an_engine_on_the_same_gpu_leaves(utilization: float, fits: bool) -> None:
    rollout = RolloutConfig(gpus=0.5, gpu_memory_utilization=utilization)
    learner = LearnerConfig(gpus=0.5, gradient_checkpointing=True, lora=LoraConfig())
    shared = recipe().model_copy(update={"learner": learner, "rollout": rollout})
    made = plan(shared, shape_of(QWEN_7B), precision="bfloat16", gpus=1, gpu_memory_gb=80)
    assert made.gpus_needed == 1 and made.fits == fits, made.advice
    assert fits or "rollout.gpu_memory_utilization" in " ".join(made.advice)


def test_the_largest_budget_fits_and_the_next_does_not() -> None:
    shape, wanted = shape_of(QWEN_7B), recipe(ranks=8, zero_stage=3)
    memory = 60 * GIB
    common: dict[str, Any] = {"stage": "ppo", "precision": "bfloat16", "device": "gpu"}
    budget = largest_token_budget(wanted, shape, memory=memory, **common)

    def needed(tokens: int) -> int:
        learner = wanted.learner.model_copy(update={"tokens_per_micro_batch": tokens})
        return learner_plan(wanted.model_copy(update={"learner": learner}), shape, **common).bytes

    assert needed(budget) <= memory < needed(budget + 64)


@pytest.mark.parametrize(
    "change",
    [{"zero_stage": 3}, {"gradient_checkpointing": True}, {"lora": LoraConfig()}, {"offload": True}, {"ranks": 8}],
)
def test_each_measure_saves_memory(change: dict[str, Any]) -> None:
    base = {"ranks": 4, "zero_stage": 1}
    common: dict[str, Any] = {"stage": "sft", "precision": "bfloat16", "device": "gpu"}
    shape = shape_of(QWEN_7B)
    before = learner_plan(recipe(**base), shape, **common).bytes
    assert learner_plan(recipe(**base | change), shape, **common).bytes < before


def test_a_reference_and_a_critic_cost_what_they_hold() -> None:
    shape = shape_of(QWEN_7B)

    def parts(**ppo: Any) -> set[str]:
        changed = recipe(ranks=4).model_copy(update={"ppo": PPOConfig(**ppo)})
        return {p.name for p in learner_plan(changed, shape, stage="ppo", precision="bfloat16", device="gpu").parts}

    assert {"reference", "critic"} <= parts(separate_critic=True)
    assert "reference" not in parts(kl_coef=0.0)
    assert "critic" not in parts(algorithm="grpo", separate_critic=True)


def test_a_directory_without_a_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no readable model configuration"):
        read_shape(tmp_path)


@pytest.mark.parametrize(
    "experts",
    [
        {"num_experts": 128},
        {"num_local_experts": 8},
        {"n_routed_experts": 64},
        {"text_config": {"num_local_experts": 16}},
        {"ffn_config": {"moe_num_experts": 16}},
    ],
)
def test_a_mixture_of_experts_is_refused_and_a_model_of_one_expert_is_dense(
    tmp_path: Path, experts: dict[str, Any]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(QWEN_7B | experts))
    with pytest.raises(BadInput, match=r"config\.json: field '\w+': a mixture of experts, got \d+; expected a dense"):
        read_shape(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(QWEN_7B | {"num_experts": 1, "num_local_experts": 0}))
    assert read_shape(tmp_path) == shape_of(QWEN_7B)


@pytest.mark.parametrize(
    ("memory", "code", "said"), [("80", 0, "largest learner.tokens_per"), ("2", 1, "does not fit")]
)
def test_the_command_says_what_fits_and_refuses_what_does_not(
    memory: str, code: int, said: str, smollm2: Path, tmp_path: Path
) -> None:
    from typer.testing import CliRunner

    from launch.cli import app

    path = tmp_path / "mine.yaml"
    path.write_text(f"model: {{name: {smollm2}}}\n")
    done = CliRunner().invoke(app, ["plan", str(path), "--gpus", "2", "--gpu-memory", memory])
    assert done.exit_code == code, done.output
    assert said in done.output
