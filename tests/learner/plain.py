"""SFT and PPO in one process of plain PyTorch, from method.md's formulas: padded, no packing, no DeepSpeed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ledex_ray.config import OptimizerConfig, PPOConfig
from ledex_ray.episodes import Episode, SupervisedExample

Forward = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(ids [B, L], mask [B, L]) -> (logits [B, L, V], last hidden states [B, L, H])."""


def forward_of(model: Any, weights: dict[str, Tensor] | None = None) -> Forward:
    """transformers' own eager forward on a padded batch; with `weights`, those instead of the model's."""
    model.set_attn_implementation("eager")

    def forward(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        kwargs = {"input_ids": ids, "attention_mask": mask, "output_hidden_states": True, "use_cache": False}
        out = model(**kwargs) if weights is None else torch.func.functional_call(model, weights, kwargs=kwargs)
        return out.logits, out.hidden_states[-1]

    return forward


def padded(token_ids: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    longest = max(len(ids) for ids in token_ids)
    ids = torch.zeros(len(token_ids), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(token_ids):
        ids[row, : len(tokens)] = torch.from_numpy(tokens).long()
        mask[row, : len(tokens)] = 1
    return ids, mask


def answer_tokens(
    forward: Forward, items: Sequence[Any], temperatures: Sequence[float]
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """By sequence, over its answer tokens: log-probability, entropy, hidden state that predicted it."""
    logits_BLV, hidden_BLH = forward(*padded([item.token_ids for item in items]))
    chosen, entropies, states = [], [], []
    for row, (item, temperature) in enumerate(zip(items, temperatures, strict=True)):
        where = [t for t in range(1, len(item.token_ids)) if item.loss_mask[t]]
        log_probs = torch.log_softmax(logits_BLV[row, [t - 1 for t in where]] / temperature, dim=-1)
        chosen.append(torch.stack([log_probs[i, int(item.token_ids[t])] for i, t in enumerate(where)]))
        entropies.append(-(log_probs.exp() * log_probs).sum(-1))
        states.append(hidden_BLH[row, [t - 1 for t in where]])
    return chosen, entropies, states


def adamw(parameters: dict[str, Tensor], config: OptimizerConfig) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        parameters.values(), lr=config.lr, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay
    )


def finish_step(
    loss: Tensor, parameters: dict[str, Tensor], optimizer: torch.optim.AdamW, clip: float
) -> dict[str, np.ndarray]:
    """Backward, clip, update; the gradients before clipping."""
    optimizer.zero_grad()
    loss.backward()
    gradients = {
        name: (torch.zeros_like(p) if p.grad is None else p.grad).clone().numpy() for name, p in parameters.items()
    }
    torch.nn.utils.clip_grad_norm_(list(parameters.values()), clip)
    optimizer.step()
    return gradients


def plain_sft(
    forward: Forward, parameters: dict[str, Tensor], batches: Sequence[Sequence[SupervisedExample]], config: Any
) -> tuple[list[float], list[dict[str, np.ndarray]]]:
    """(losses, gradients) by step."""
    optimizer, losses, gradients = adamw(parameters, config), [], []
    for examples in batches:
        log_probs, _, _ = answer_tokens(forward, examples, [1.0] * len(examples))
        loss = -torch.cat(log_probs).mean()
        losses.append(loss.item())
        gradients.append(finish_step(loss, parameters, optimizer, config.clip_grad_norm))
    return losses, gradients


def plain_ppo(
    forward: Forward,
    reference: Forward,
    parameters: dict[str, Tensor],
    batches: Sequence[Sequence[Episode]],
    config: PPOConfig,
) -> tuple[list[dict[str, float]], list[dict[str, np.ndarray]]]:
    """(mean policy and value loss of each iteration, gradients of each step); `value_head.*` is in `parameters`."""
    optimizer = adamw(parameters, config.optimizer)
    seen: list[Tensor] = []  # all returns so far: values are predicted in units of their deviation
    metrics, gradients = [], []
    for iteration, batch in enumerate(batches):
        episodes = [e for e in batch if e.scored]
        temperatures = [e.temperature for e in episodes]
        unit = float(torch.cat(seen).double().std(unbiased=False)) if seen else 1.0
        with torch.no_grad():
            old, _, states = answer_tokens(forward, episodes, temperatures)
            ref, _, _ = answer_tokens(reference, episodes, temperatures)
            values = [unit * predicted(s, parameters) for s in states]
        where = [[t for t in range(1, len(e.token_ids)) if e.loss_mask[t]] for e in episodes]
        mu = [torch.tensor([float(e.behaviour_log_probs[t]) for t in w]) for e, w in zip(episodes, where, strict=True)]
        advantages, returns = textbook_gae(episodes, where, old, ref, values, config)
        seen += returns
        unit = float(torch.cat(seen).double().std(unbiased=False))
        everything = torch.cat(advantages)
        advantages = [(a - everything.mean()) / (everything.std(unbiased=False) + 1e-8) for a in advantages]
        policy_losses, value_losses = [], []
        for epoch in range(config.epochs):
            groups = list(dict.fromkeys(e.group_id for e in episodes))
            drawn = np.random.default_rng([config.seed, iteration, epoch]).permutation(len(groups))
            order = [i for g in drawn for i, e in enumerate(episodes) if e.group_id == groups[g]]
            for items in np.array_split(order, math.ceil(len(order) / config.minibatch_episodes)):
                new, entropies, states = answer_tokens(
                    forward, [episodes[i] for i in items], [temperatures[i] for i in items]
                )
                terms: dict[str, list[Tensor]] = {"policy": [], "value": [], "other": []}
                for position, i in enumerate(items):
                    ratio = torch.exp(new[position] - old[i])
                    clipped = ratio.clamp(1 - config.clip_range, 1 + (config.clip_range_high or config.clip_range))
                    surrogate = torch.minimum(ratio * advantages[i], clipped * advantages[i])
                    terms["policy"].append(-surrogate * torch.exp(old[i] - mu[i]).clamp(max=config.tis_cap))
                    terms["value"].append(0.5 * (predicted(states[position], parameters) - returns[i] / unit) ** 2)
                    other = -config.entropy_coef * entropies[position]
                    if config.kl_placement == "loss":
                        gap = new[position] - ref[i]
                        k2, k3 = 0.5 * gap**2, torch.exp(-gap) - 1 + gap
                        other = other + config.kl_coef * (k2 if config.kl_estimator == "k2" else k3)
                    terms["other"].append(other)
                policy, value, other = (mean(parts, config) for parts in terms.values())
                policy_losses.append(policy.item())
                value_losses.append(value.item())
                loss = policy + config.value_coef * value + other
                gradients.append(finish_step(loss, parameters, optimizer, config.optimizer.clip_grad_norm))
        metrics.append({"policy_loss": float(np.mean(policy_losses)), "value_loss": float(np.mean(value_losses))})
    return metrics, gradients


def predicted(states: Tensor, parameters: dict[str, Tensor]) -> Tensor:
    return states @ parameters["value_head.weight"][0] + parameters["value_head.bias"][0]


def mean(terms: list[Tensor], config: PPOConfig) -> Tensor:
    if config.loss_aggregation == "token":
        return torch.cat(terms).mean()
    return torch.stack([term.mean() for term in terms]).mean()


def textbook_gae(
    episodes: Sequence[Episode],
    where: list[list[int]],
    old: list[Tensor],
    ref: list[Tensor],
    values: list[Tensor],
    config: PPOConfig,
) -> tuple[list[Tensor], list[Tensor]]:
    advantages, returns = [], []
    for index, episode in enumerate(episodes):
        reward = torch.tensor([float(episode.rewards[t]) for t in where[index]])
        if config.kl_placement == "reward":
            difference = old[index] - ref[index]
            k3 = torch.exp(-difference) - 1 + difference
            reward = reward - config.kl_coef * (difference if config.kl_estimator == "k1" else k3)
        advantage = torch.zeros(len(reward))
        following = 0.0
        for t in reversed(range(len(reward))):
            next_value = float(values[index][t + 1]) if t + 1 < len(reward) else 0.0
            delta = float(reward[t]) + config.gamma * next_value - float(values[index][t])
            following = delta + config.gamma * config.lam * following
            advantage[t] = following
        advantages.append(advantage)
        returns.append(advantage + values[index])
    return advantages, returns
