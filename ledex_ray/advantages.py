"""Advantages and returns: plain tensors in, plain tensors out (method.md, section 3).

[B, L] tensors hold the generated tokens of B episodes from position 0 on, padded on the right; `mask_BL` marks the
real ones. Group estimators take one scalar an episode, [B]. Not covered: losses, KL, anything distributed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor


def gae(
    rewards_BL: Tensor,
    values_BL: Tensor,
    mask_BL: Tensor,
    gamma: float,
    lam: float,
    ends_BL: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(advantages, returns = advantages + values), 0 outside the mask (Schulman et al., 2015).

    The last real token is terminal, and so is any in `ends_BL`: with the last token of an explanation there, what the
    refinement earns does not flow into the explanation (the separated form).
    """
    mask = mask_BL.to(rewards_BL.dtype)
    next_mask = torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], dim=1)
    if ends_BL is not None:
        next_mask = next_mask * (~ends_BL).to(mask.dtype)
    next_values = torch.cat([values_BL[:, 1:], torch.zeros_like(values_BL[:, :1])], dim=1)
    deltas = (rewards_BL + gamma * next_values * next_mask - values_BL) * mask
    advantages = torch.zeros_like(deltas)
    running = torch.zeros_like(deltas[:, 0])
    for step in range(deltas.shape[1] - 1, -1, -1):
        running = deltas[:, step] + gamma * lam * next_mask[:, step] * running
        advantages[:, step] = running
    return advantages * mask, (advantages + values_BL) * mask


def rewards_to_go(rewards_BL: Tensor, mask_BL: Tensor, gamma: float, ends_BL: Tensor | None = None) -> Tensor:
    """Discounted sum of what follows, by token: REINFORCE++ whitens it over the global batch."""
    zeros = torch.zeros_like(rewards_BL)
    return gae(rewards_BL, zeros, mask_BL, gamma, 1.0, ends_BL)[0]


def rloo(scores: Sequence[float], groups: Sequence[str]) -> list[float]:
    """Each score less the mean of the others in its group (Ahmadian et al., 2024). Groups need two members."""
    totals, sizes = _sums(scores, groups)
    return [score - (totals[group] - score) / (sizes[group] - 1) for score, group in zip(scores, groups, strict=True)]


def grpo(scores: Sequence[float], groups: Sequence[str], eps: float = 1e-4) -> list[float]:
    """Each score less its group's mean, over the group's sample deviation (Shao et al., 2024)."""
    totals, sizes = _sums(scores, groups)
    squares: dict[str, float] = defaultdict(float)
    for score, group in zip(scores, groups, strict=True):
        squares[group] += (score - totals[group] / sizes[group]) ** 2
    return [
        (score - totals[group] / sizes[group]) / ((squares[group] / (sizes[group] - 1)) ** 0.5 + eps)
        for score, group in zip(scores, groups, strict=True)
    ]


def comparable(groups: Sequence[str], scored: Sequence[bool]) -> list[bool]:
    """Which episodes a group estimator can use: scored ones in a group with at least two scored members."""
    sizes: dict[str, int] = defaultdict(int)
    for group, good in zip(groups, scored, strict=True):
        sizes[group] += good
    return [good and sizes[group] >= 2 for group, good in zip(groups, scored, strict=True)]


def informative(scores: Sequence[float], groups: Sequence[str], scored: Sequence[bool]) -> list[bool]:
    """Group filtering: comparable episodes of groups whose scores vary; the rest teach nothing."""
    seen: dict[str, set[float]] = defaultdict(set)
    for score, group, good in zip(scores, groups, scored, strict=True):
        if good:
            seen[group].add(round(score, 6))
    return [good and len(seen[group]) > 1 for group, good in zip(groups, comparable(groups, scored), strict=True)]


def whiten(values_BL: Tensor, mask_BL: Tensor, rounding: float = 1e-6) -> Tensor:
    """Mean 0 and deviation 1 over the mask (of the *global* batch); 0 outside it.

    All 0 where the values vary by no more than float32 rounds them: nothing but noise would be blown up to 1.
    """
    chosen = values_BL[mask_BL].double()
    if not chosen.numel() or chosen.std(unbiased=False) <= rounding * chosen.abs().max():
        return torch.zeros_like(values_BL)
    white_BL = (values_BL.double() - chosen.mean()) / chosen.std(unbiased=False)
    return torch.where(mask_BL, white_BL, 0.0).to(values_BL.dtype)


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """1 - Var(returns - values) / Var(returns); 0 where the returns do not vary."""
    variance = returns.var(unbiased=False)
    return float(1 - (returns - values).var(unbiased=False) / variance) if float(variance) > 0 else 0.0


def _sums(scores: Sequence[float], groups: Sequence[str]) -> tuple[dict[str, float], dict[str, int]]:
    totals: dict[str, float] = defaultdict(float)
    sizes: dict[str, int] = defaultdict(int)
    for score, group in zip(scores, groups, strict=True):
        totals[group] += score
        sizes[group] += 1
    alone = [group for group, size in sizes.items() if size < 2]
    if alone:
        raise ValueError(f"group {alone[0]} has one member: nothing to compare it with")
    return totals, sizes
