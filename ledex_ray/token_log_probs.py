"""Log-probabilities of chosen tokens from hidden states, with exact gradients and without fp32 logits of all rows.

Covered: the product with the output embedding, temperature, log-softmax, entropy, forward and backward, a chunk of rows
at a time. Not covered: output layers that are not one linear map (policy.py refuses them).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_CHUNK_ELEMENTS = {True: 1 << 20, False: 1 << 25}  # fp32 logits at a time, by `is CPU`: within its cache; 128 MB


class _TokenLogProbs(torch.autograd.Function):
    """log softmax(x W^T / temperature)[target] and the entropy, never holding fp32 logits of all rows at once.

    The logits stay in the model's precision for the backward pass (vocabulary x 2 bytes a row in bf16).
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        target_N: Tensor,
        temperature_N: Tensor,
        with_entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        logits_NV = F.linear(hidden_NH, weight_VH, bias_V)
        chosen_N = torch.empty(len(target_N), dtype=torch.float32, device=hidden_NH.device)
        entropy_N = torch.zeros_like(chosen_N)
        log_z_N = torch.empty_like(chosen_N)
        for part in _chunks(logits_NV):
            scaled = _copy(logits_NV[part]).div_(temperature_N[part, None])
            at_target = scaled.gather(1, target_N[part, None]).squeeze(1)
            log_probs = torch.log_softmax(scaled, dim=-1)
            chosen_N[part] = log_probs.gather(1, target_N[part, None]).squeeze(1)
            log_z_N[part] = at_target - chosen_N[part]
            if with_entropy:
                entropy_N[part] = -torch.exp(log_probs).mul_(log_probs).sum(-1)
        ctx.save_for_backward(hidden_NH, weight_VH, bias_V, target_N, temperature_N, logits_NV, log_z_N, entropy_N)
        ctx.set_materialize_grads(False)
        if not with_entropy:
            ctx.mark_non_differentiable(entropy_N)
        return chosen_N, entropy_N

    @staticmethod
    def backward(ctx: Any, grad_N: Tensor | None, grad_entropy_N: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden_NH, weight_VH, bias_V, target_N, temperature_N, logits_NV, log_z_N, entropy_N = ctx.saved_tensors
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_logits_NV = torch.empty_like(logits_NV)
        grad_N = torch.zeros_like(log_z_N) if grad_N is None else grad_N
        for part in _chunks(logits_NV):
            scale = grad_N[part] / temperature_N[part]
            log_probs = _copy(logits_NV[part]).div_(temperature_N[part, None]).sub_(log_z_N[part, None])
            probs = torch.exp(log_probs)
            grad = probs * -scale[:, None]
            grad.scatter_add_(1, target_N[part, None], scale[:, None])
            if grad_entropy_N is not None:  # dH/dx = -p (log p + H) / temperature
                weight = grad_entropy_N[part] / temperature_N[part]
                grad.sub_(probs.mul_(log_probs.add_(entropy_N[part, None])).mul_(weight[:, None]))
            grad_logits_NV[part] = grad.to(logits_NV.dtype)
        return (
            grad_logits_NV @ weight_VH if needs_hidden else None,
            grad_logits_NV.t() @ hidden_NH if needs_weight else None,
            grad_logits_NV.sum(0) if bias_V is not None and needs_bias else None,
            None,
            None,
            None,
        )


def _copy(logits: Tensor) -> Tensor:
    """fp32 that may be worked on in place, whatever the precision: the logits themselves are kept for the backward."""
    return logits.to(torch.float32, copy=True)


def _chunks(logits_NV: Tensor) -> list[slice]:
    rows = max(1, _CHUNK_ELEMENTS[logits_NV.device.type == "cpu"] // logits_NV.shape[1])
    return [slice(start, start + rows) for start in range(0, len(logits_NV), rows)]


class TokenLogProbHead(nn.Linear):
    """The model's own output embedding, which answers with log-probabilities of given targets when it gets any.

    A module of its own, so that ZeRO-3 gathers the weight around exactly this computation.
    """

    @classmethod
    def over(cls, linear: nn.Linear) -> TokenLogProbHead:
        """The same parameters (ties kept) under this class."""
        head = cls(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        head.weight, head.bias = linear.weight, linear.bias
        return head

    def forward(
        self,
        hidden_NH: Tensor,
        target_N: Tensor | None = None,
        temperature_N: Tensor | None = None,
        with_entropy: bool = False,
    ) -> Any:
        """Logits [N, V] without targets; (log-probabilities [N], entropy [N]) with them."""
        if target_N is None:
            return super().forward(hidden_NH)
        return _TokenLogProbs.apply(hidden_NH, self.weight, self.bias, target_N, temperature_N, with_entropy)
