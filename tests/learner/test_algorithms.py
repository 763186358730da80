"""The other ways to update: group estimators against plain PyTorch, warm-up, a critic of its own, saving memory."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ledex_ray.config import PPOConfig
from tests.learner.batches import episodes
from tests.learner.plain import answer_tokens, forward_of
from tests.learner.test_numbers import OPTIMIZER, assert_gradients_equal, load, spec

Run = Callable[..., dict[str, Any]]


def config(**changes: Any) -> PPOConfig:
    settings: dict[str, Any] = {"optimizer": OPTIMIZER, "minibatch_episodes": 16, "critic_warmup": 0, "kl_coef": 0.1}
    return PPOConfig(**settings | changes)


@pytest.mark.parametrize("algorithm", ["rloo", "grpo", "reinforce++"])
def test_one_step_equals_plain_pytorch(algorithm: str, small_llama: Path, other_llama: Path, ranks: Run) -> None:
    batch = episodes(8, seed=5)  # two groups of four, one member unscored
    settings = config(algorithm=algorithm, gamma=0.9)
    seen = ranks(1, spec(small_llama, 1, 1, 100, reference=other_llama, ppo=settings), [("ppo_update", batch, 0)])
    model, scored = load(small_llama), [e for e in batch if e.scored]
    temperatures = [e.temperature for e in scored]
    new, _, _ = answer_tokens(forward_of(model), scored, temperatures)
    with torch.no_grad():
        ref, _, _ = answer_tokens(forward_of(load(other_llama)), scored, temperatures)
    where = [np.flatnonzero(e.loss_mask) for e in scored]
    rewards = [
        torch.from_numpy(e.rewards[w]) - 0.1 * (n.detach() - r)
        for e, w, n, r in zip(scored, where, new, ref, strict=True)
    ]
    advantages = []
    if algorithm == "reinforce++":
        for reward in rewards:
            row, following = torch.zeros(len(reward)), 0.0
            for t in reversed(range(len(reward))):
                row[t] = following = float(reward[t]) + 0.9 * following
            advantages.append(row)
        everything = torch.cat(advantages)
        advantages = [(a - everything.mean()) / everything.std(unbiased=False) for a in advantages]
    else:
        scores, task = [float(r.sum()) for r in rewards], [float(e.rewards.sum()) for e in scored]
        for index, episode in enumerate(scored):
            others = [j for j, e in enumerate(scored) if e.group_id == episode.group_id and j != index]
            value = scores[index] - statistics.mean(scores[j] for j in others)
            if algorithm == "grpo":  # the task's part by its deviation, the KL's as it is
                group = [task[j] for j in (index, *others)]
                kl = value - (task[index] - statistics.mean(task[j] for j in others))
                value = (task[index] - statistics.mean(group)) / (statistics.stdev(group) + 1e-4) + kl
            advantages.append(torch.full((len(rewards[index]),), value))
    mu = [torch.from_numpy(e.behaviour_log_probs[w]) for e, w in zip(scored, where, strict=True)]
    terms = [
        -a * torch.exp(n - n.detach()) * torch.exp(n.detach() - m).clamp(max=2.0)
        for a, n, m in zip(advantages, new, mu, strict=True)
    ]
    torch.cat(terms).mean().backward()
    expected = {f"lm.{name}": p.grad.numpy() for name, p in model.named_parameters()}
    assert_gradients_equal(seen["gradients"], [expected])


@pytest.mark.parametrize("stage", [1, 3])
def test_warm_up_moves_the_value_head_alone(stage: int, small_llama: Path, ranks: Run) -> None:
    batch = episodes(8, seed=6)
    probe = ("log_probs", [batch[0].token_ids], 1.0)
    update = ("ppo_update", batch)
    seen = ranks(
        2 if stage == 3 else 1,
        spec(small_llama, 2 if stage == 3 else 1, stage, 100, ppo=config(critic_warmup=2, epochs=2)),
        [probe, (*update, 0), (*update, 1), probe, (*update, 2), probe],
    )
    start, first, second, warmed, third, end = seen["results"]
    np.testing.assert_array_equal(start[0], warmed[0])
    assert "policy_loss" not in first and second["value_loss"] < first["value_loss"]
    assert np.abs(end[0] - warmed[0]).max() > 1e-4 and third["policy_loss"] != 0.0


def test_a_separate_critic_learns_the_returns(small_llama: Path, ranks: Run) -> None:
    batch = episodes(8, seed=7)
    settings = config(separate_critic=True, value_lr=1e-2, epochs=8, kl_coef=0.0)
    seen = ranks(1, spec(small_llama, 1, 2, 100, ppo=settings), [("ppo_update", batch, i) for i in range(3)])
    losses = [r["value_loss"] for r in seen["results"]]
    assert losses[2] < 0.5 * losses[0]
    assert seen["results"][2]["explained_variance"] > 0.5
    assert not [name for name in seen["weights"] if name.startswith("value_head")], "the policy has no head of its own"


@pytest.mark.parametrize("change", [{"gradient_checkpointing": True}, {"offload": True}, {"zero_stage": 2}])
def test_saving_memory_does_not_change_the_numbers(change: dict[str, Any], small_llama: Path, ranks: Run) -> None:
    batch = episodes(8, seed=8)
    calls = [("ppo_update", batch, i) for i in range(2)]
    plain = spec(small_llama, 1, 1, 64, ppo=config(epochs=2))
    changed = plain | {"learner": plain["learner"].model_copy(update=change)}
    before, after = ranks(1, plain, calls), ranks(1, changed, calls)
    for ours, theirs in zip(after["results"], before["results"], strict=True):
        assert ours["policy_loss"] == pytest.approx(theirs["policy_loss"], abs=1e-6)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)


def test_a_groups_prompt_is_laid_once_in_every_pass_of_an_update(
    small_llama: Path, other_llama: Path, ranks: Run
) -> None:
    batch = [e for e in episodes(8, seed=10, longest=80) if e.scored]
    settings = spec(small_llama, 1, 1, 4096, reference=other_llama, ppo=config(algorithm="grpo"))
    seen = ranks(1, settings, [("ppo_update", batch, 0)])
    prompts = {e.group_id: int(np.argmax(e.loss_mask)) for e in batch}
    once = sum(prompts.values()) + sum(int(e.loss_mask.sum()) for e in batch)
    assert seen["laid"] == [once, once], "one pass that scores, one that learns"


def test_the_behaviour_policy_as_old_one_bounds_the_ratio_to_the_engine(small_llama: Path, ranks: Run) -> None:
    batch = episodes(8, seed=9)
    seen = ranks(1, spec(small_llama, 1, 1, 4096, ppo=config(old_policy="behaviour")), [("ppo_update", batch, 0)])
    metrics = seen["results"][0]
    assert "tis_weight_mean" not in metrics
    assert metrics["kl"] == 0.0, "KL is between learner and reference, never from the engine's log-probabilities"
    assert abs(metrics["ratio_mean"] - 1.0) > 1e-3 and metrics["clip_fraction"] > 0
    assert metrics["behaviour_gap_mean"] > 0.1


def test_nothing_scored_is_no_step(small_llama: Path, ranks: Run) -> None:
    batch = [e for e in episodes(8, seed=9) if not e.scored]
    seen = ranks(1, spec(small_llama, 1, 1, 4096, ppo=config()), [("ppo_update", batch, 0)])
    assert seen["results"][0]["n_used"] == 0.0 and not seen["gradients"]
