"""Attention inside each sequence of a packed row, as an attention implementation of transformers.

Exact on every device and in every precision, with no mask: on CPU the work grows with the sum of squared lengths, not
with the square of the row. Models whose attention is not behind transformers' interface cannot use it; policy.py finds
out by trying.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

PACKED_ATTENTION = "ledex_packed"


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    sequence_lengths: Sequence[int] | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention inside each sequence of a packed row [1, H, T, D]; work grows with the sum of squared lengths.

    One kernel call a sequence, so no token can see another sequence, and changing one leaves the others bit-equal.
    """
    del attention_mask  # transformers builds none for this implementation
    lengths = [query.shape[2]] if sequence_lengths is None else list(sequence_lengths)
    groups = query.shape[1] // key.shape[1]
    pieces = []
    for q, k, v in zip(*(x.split(lengths, dim=2) for x in (query, key, value)), strict=True):
        mask = None
        if sliding_window is not None and q.shape[2] > sliding_window:
            steps = torch.arange(q.shape[2], device=q.device)
            distance = steps[:, None] - steps[None, :]
            mask = (distance >= 0) & (distance < sliding_window)
        if groups > 1:
            k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        pieces.append(
            F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling, is_causal=mask is None).transpose(
                1, 2
            )
        )
    return torch.cat(pieces, dim=1), None


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
