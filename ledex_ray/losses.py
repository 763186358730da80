"""The policy update's terms by token: plain tensors in, plain tensors out (method.md, section 3; LeDex, section 3.3).

Log-probabilities are fp32, of the tokens that were sampled, with all logits divided by the sampling temperature. N runs
over the tokens in the loss. Not covered: advantages (advantages.py), packing, anything distributed.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Estimator = Literal["k1", "k2", "k3"]
Aggregation = Literal["token", "sequence"]


def kl_estimate(log_probs_N: Tensor, reference_N: Tensor, estimator: Estimator) -> Tensor:
    """KL(policy || reference) by token, from tokens that the policy sampled (Schulman, "Approximating KL")."""
    difference = log_probs_N - reference_N
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return 0.5 * difference.square()
    return torch.expm1(-difference) + difference


def importance_weights(old_N: Tensor, behaviour_N: Tensor, cap: float) -> Tensor:
    """min(exp(old - mu), cap), no gradient: what corrects for the engine's own numerics (TIS)."""
    return torch.exp(old_N - behaviour_N).clamp(max=cap).detach()


def policy_loss(
    log_probs_N: Tensor,
    old_N: Tensor,
    advantages_N: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> tuple[Tensor, Tensor]:
    """(clipped surrogate with its sign turned, whether the clip is active), by token.

    Dual clip bounds the loss of a negative advantage at `dual_clip` times it (Ye et al., 2020).
    """
    ratio_N = torch.exp(log_probs_N - old_N)
    unclipped_N = -advantages_N * ratio_N
    clipped_N = -advantages_N * ratio_N.clamp(1 - clip_low, 1 + clip_high)
    loss_N = torch.maximum(unclipped_N, clipped_N)
    active_N = clipped_N > unclipped_N
    if dual_clip is not None:
        bound_N = -advantages_N * dual_clip
        active_N = active_N | ((advantages_N < 0) & (loss_N > bound_N))
        loss_N = torch.where(advantages_N < 0, torch.minimum(loss_N, bound_N), loss_N)
    return loss_N, active_N


def value_loss(values_N: Tensor, returns_N: Tensor, old_values_N: Tensor, clip: float | None = None) -> Tensor:
    """Half the squared error by token; with `clip`, the larger of it and that of values held near the old ones."""
    error_N = (values_N - returns_N).square()
    if clip is not None:
        near_N = old_values_N + (values_N - old_values_N).clamp(-clip, clip)
        error_N = torch.maximum(error_N, (near_N - returns_N).square())
    return 0.5 * error_N


def token_weights(counts: list[int], aggregation: Aggregation) -> list[float]:
    """What one token of each sequence weighs, given the token counts of *all* sequences of the global minibatch.

    `token`: 1 / tokens; `sequence`: 1 / (sequences x its own tokens). The weights of all tokens sum to 1, so neither
    packing, micro-batch size nor world size changes the gradient.
    """
    if aggregation == "token":
        return [1.0 / sum(counts)] * len(counts)
    return [1.0 / (len(counts) * count) for count in counts]


def adapted_kl_coef(kl_coef: float, kl: float, target: float) -> float:
    """The coefficient for the next iteration: up to 2 % toward the target (Ziegler et al., 2019, K = 0.1)."""
    error = min(max(kl / target - 1.0, -0.2), 0.2)
    return kl_coef * (1.0 + 0.1 * error)
