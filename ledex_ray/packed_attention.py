"""Attention inside each sequence of a packed row, as an attention implementation of transformers.

Exact on every device and in every precision: the work grows with the sum of squared lengths, not with the square of the
row, and a prompt that several answers share is computed once. Models whose attention is not behind transformers'
interface cannot use it; policy.py finds out by trying.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from ledex_ray.packing import Span

PACKED_ATTENTION = "ledex_packed"


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    spans: Sequence[Span] | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention inside each sequence of a packed row [1, H, T, D]: its own tokens and its family's prompt.

    One kernel call for each part of a span, so no token can see another sequence, and changing one leaves the others
    bit-equal.
    """
    del attention_mask  # transformers builds none for this implementation
    spans = [(0, query.shape[2])] if spans is None else spans
    groups = query.shape[1] // key.shape[1]
    parts = [length for span in spans for length in span]
    split = iter(zip(*(x.split(parts, dim=2) for x in (query, key, value)), strict=True))
    pieces = []
    for _prompt, *rests in spans:
        prompt_q, prompt_k, prompt_v = next(split)
        if prompt_q.shape[2]:
            pieces.append(_attend(prompt_q, prompt_k, prompt_v, groups, scaling, sliding_window))
        for _rest in rests:
            q, k, v = next(split)
            if prompt_q.shape[2]:
                k, v = torch.cat([prompt_k, k], dim=2), torch.cat([prompt_v, v], dim=2)
            pieces.append(_attend(q, k, v, groups, scaling, sliding_window))
    return torch.cat(pieces, dim=1), None


def _attend(q: Tensor, k: Tensor, v: Tensor, groups: int, scaling: float | None, window: int | None) -> Tensor:
    """[1, L, H, D]; the L queries are the last L of the keys' positions."""
    length, keys = q.shape[2], k.shape[2]
    mask = None
    if length < keys or (window is not None and keys > window):
        ends = torch.arange(keys - length, keys, device=q.device)
        distance = ends[:, None] - torch.arange(keys, device=q.device)[None, :]
        mask = distance >= 0 if window is None else (distance >= 0) & (distance < window)
    if groups > 1:
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling, is_causal=mask is None)
    return attended.transpose(1, 2)


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
