"""Losses and gradients of the distributed learner against plain PyTorch (plain.py): the whole path, step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ledex_ray.config import LearnerConfig, LoraConfig, ModelConfig, OptimizerConfig, PPOConfig
from tests.learner.batches import episodes, examples
from tests.learner.plain import forward_of, plain_ppo, plain_sft

OPTIMIZER = OptimizerConfig(lr=1e-3, eps=1e-3, clip_grad_norm=0.5, weight_decay=0.01)
Run = Callable[..., dict[str, Any]]

FEW = [(1, 1, 4096), (2, 3, 64)]  # ranks, ZeRO stage, tokens a micro-batch
ALL = [(n, stage, budget) for n in (1, 2) for stage in (1, 2, 3) for budget in (64, 100, 4096)]
LAYOUTS = [pytest.param(*layout, id="ranks{}-zero{}-tokens{}".format(*layout)) for layout in FEW] + [
    pytest.param(*layout, id="ranks{}-zero{}-tokens{}".format(*layout), marks=pytest.mark.acceptance)
    for layout in ALL
    if layout not in FEW
]


def spec(path: Path, ranks: int, stage: int, budget: int, **changes: Any) -> dict[str, Any]:
    learner = LearnerConfig(
        ranks=ranks, zero_stage=stage, tokens_per_micro_batch=budget, threads=1, lora=changes.pop("lora", None)
    )
    return {
        "learner": learner,
        "model": ModelConfig(),
        "precision": "float32",
        "model_path": str(path),
        "reference_path": str(changes.pop("reference", path)),
        "optimizer": OPTIMIZER,
        "total_steps": 10,
        "seed": 0,
        **changes,
    }


def load(path: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


def assert_gradients_equal(
    got: Sequence[dict[str, np.ndarray | None]], expected: Sequence[dict[str, np.ndarray]]
) -> None:
    assert len(got) == len(expected)
    for step, (ours, plain) in enumerate(zip(got, expected, strict=True)):
        assert set(ours) == set(plain)
        size = max(float(np.abs(g).max()) for g in plain.values())
        for name, gradient in plain.items():
            mine = ours[name]
            mine = np.zeros_like(gradient) if mine is None else mine
            gap = float(np.abs(mine - gradient).max())
            assert gap <= 1e-5 * max(size, 1.0), (step, name, gap, size)


@pytest.mark.parametrize(("n", "stage", "budget"), LAYOUTS)
def test_sft_equals_plain_pytorch(n: int, stage: int, budget: int, small_llama: Path, ranks: Run) -> None:
    batches = [examples(7, seed=1), examples(5, seed=2), examples(1, seed=3)]
    seen = ranks(n, spec(small_llama, n, stage, budget), [("sft_step", batch) for batch in batches])
    model = load(small_llama)
    parameters = {f"lm.{name}": p for name, p in model.named_parameters()}
    losses, gradients = plain_sft(forward_of(model), parameters, batches, OPTIMIZER)
    assert [r["loss"] for r in seen["results"]] == pytest.approx(losses, abs=1e-5)
    assert_gradients_equal(seen["gradients"], gradients)


PPO_VARIANTS = {
    "token": PPOConfig(loss_aggregation="token", kl_estimator="k1", gamma=0.99, lam=0.95),
    "sequence": PPOConfig(
        loss_aggregation="sequence", kl_placement="loss", kl_estimator="k3", entropy_coef=0.01, clip_range_high=0.28
    ),
}


@pytest.mark.parametrize("variant", PPO_VARIANTS)
@pytest.mark.parametrize(("n", "stage", "budget"), LAYOUTS)
def test_ppo_equals_plain_pytorch(
    n: int, stage: int, budget: int, variant: str, small_llama: Path, other_llama: Path, ranks: Run
) -> None:
    config = PPO_VARIANTS[variant].model_copy(
        update={"optimizer": OPTIMIZER, "minibatch_episodes": 5, "epochs": 2, "critic_warmup": 0, "kl_coef": 0.1}
    )
    batches = [episodes(9, seed=1), episodes(8, seed=2)]
    seen = ranks(
        n,
        spec(small_llama, n, stage, budget, reference=other_llama, ppo=config),
        [("ppo_update", batch, iteration) for iteration, batch in enumerate(batches)],
    )
    model = load(small_llama)
    parameters = {f"lm.{name}": p for name, p in model.named_parameters()}
    hidden = model.config.hidden_size
    parameters["value_head.weight"] = torch.zeros(1, hidden, requires_grad=True)
    parameters["value_head.bias"] = torch.zeros(1, requires_grad=True)
    metrics, gradients = plain_ppo(forward_of(model), forward_of(load(other_llama)), parameters, batches, config)
    for ours, plain in zip(seen["results"], metrics, strict=True):
        assert ours["policy_loss"] == pytest.approx(plain["policy_loss"], abs=1e-5)
        assert ours["value_loss"] == pytest.approx(plain["value_loss"], abs=1e-5)
    assert_gradients_equal(seen["gradients"], gradients)


@pytest.mark.parametrize(("n", "stage", "budget"), LAYOUTS[1:])
def test_lora_equals_plain_pytorch_and_starts_at_its_reference(
    n: int, stage: int, budget: int, small_llama: Path, ranks: Run
) -> None:
    config = PPOConfig(
        optimizer=OPTIMIZER, minibatch_episodes=16, critic_warmup=0, kl_coef=0.1, old_policy="recomputed"
    )
    lora = LoraConfig(rank=4, alpha=8)
    batch = episodes(8, seed=3)
    seen = ranks(
        n,
        spec(small_llama, n, stage, budget, ppo=config, lora=lora),
        [("ppo_update", batch, 0), ("ppo_update", batch, 1)],
    )
    first, second = seen["results"]
    assert first["kl"] == 0.0
    assert second["kl"] != 0.0

    model = load(small_llama)
    base = {name: p.detach() for name, p in model.named_parameters()}
    parameters = {name: torch.tensor(value, requires_grad=True) for name, value in seen["weights"].items()}

    def forward(ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        merged = dict(base)
        for name, a in parameters.items():
            if ".lora_A." in name:
                b = parameters[name.replace(".lora_A.", ".lora_B.")]
                target = name.removeprefix("lm.").split(".lora_A.")[0] + ".weight"
                merged[target] = base[target] + lora.alpha / lora.rank * b @ a
        return forward_of(model, merged)(ids, mask)

    metrics, gradients = plain_ppo(forward, forward_of(load(small_llama)), parameters, [batch, batch], config)
    for ours, plain in zip(seen["results"], metrics, strict=True):
        assert ours["policy_loss"] == pytest.approx(plain["policy_loss"], abs=1e-5)
    assert_gradients_equal(seen["gradients"], gradients)
