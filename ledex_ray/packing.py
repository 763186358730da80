"""Padding-free micro-batches by token budget: the same number on every rank, balanced, and the same for a given input.

Plain numpy, no torch. `plan_packing` says which item goes to which rank and micro-batch, `pack` lays the tokens of one
micro-batch in a single row. Attention that stays inside a sequence is the policy's job (ledex_ray/policy.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Items = tuple[int, ...]
"""Indices of the sequences in one micro-batch; empty is a dummy that a short rank runs with weight zero."""


@dataclass(frozen=True, eq=False)
class PackedRow:
    """Sequences laid end to end. T packed tokens, N predictions (positions whose next token is in the loss mask)."""

    token_ids_T: NDArray[np.int64]
    position_ids_T: NDArray[np.int64]  # restarts at 0 with each sequence
    lengths: tuple[int, ...]  # of each sequence; sums to T
    predict_N: NDArray[np.int64]  # index into T of the token that predicts
    target_N: NDArray[np.int64]  # id of the token predicted
    counts: tuple[int, ...]  # predictions of each sequence; sums to N


def plan_packing(
    lengths: Sequence[int], tokens_per_micro_batch: int, world_size: int = 1, max_sequences: int | None = None
) -> list[list[Items]]:
    """[rank][micro-batch] -> indices of its sequences; every index once, every rank the same number of micro-batches.

    No micro-batch passes the token budget unless a single sequence does alone. `max_sequences` bounds the sequences in
    one micro-batch (1 for a model whose attention cannot be packed). Longest first into the least loaded of the fewest
    bins that fit; ranks then take the sorted bins in turns, so that the n-th micro-batches weigh about the same.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    if sizes.size == 0:
        return [[()] for _ in range(world_size)]
    order = np.argsort(-sizes, kind="stable")
    limit = max_sequences or sizes.size
    fewest = max(-(-int(sizes.sum()) // tokens_per_micro_batch), -(-sizes.size // limit), 1)
    n_bins = -(-fewest // world_size) * world_size
    while (bins := _fill(sizes, order, n_bins, max(tokens_per_micro_batch, int(sizes.max())), limit)) is None:
        n_bins += world_size
    loads = [int(sizes[list(items)].sum()) for items in bins]
    by_load = sorted(range(n_bins), key=lambda index: (-loads[index], index))
    ranks: list[list[Items]] = [[] for _ in range(world_size)]
    for turn, start in enumerate(range(0, n_bins, world_size)):
        chosen = by_load[start : start + world_size]
        for rank, index in enumerate(chosen if turn % 2 == 0 else reversed(chosen)):
            ranks[rank].append(tuple(sorted(bins[index])))
    return ranks


def pack(token_ids: Sequence[NDArray[np.int32]], loss_masks: Sequence[NDArray[np.bool_]]) -> PackedRow:
    """One row of the given sequences. Position t predicts t + 1 where the mask is True there, never across a border."""
    lengths = tuple(len(ids) for ids in token_ids)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    predictors = [np.flatnonzero(mask[1:]) for mask in loss_masks]
    tokens_T = np.concatenate(token_ids).astype(np.int64)
    predict_N = np.concatenate([where + offset for where, offset in zip(predictors, offsets[:-1], strict=True)])
    return PackedRow(
        token_ids_T=tokens_T,
        position_ids_T=np.concatenate([np.arange(length, dtype=np.int64) for length in lengths]),
        lengths=lengths,
        predict_N=predict_N.astype(np.int64),
        target_N=tokens_T[predict_N + 1],
        counts=tuple(len(where) for where in predictors),
    )


def _fill(
    sizes: NDArray[np.int64], order: NDArray[np.int64], n_bins: int, budget: int, limit: int
) -> list[list[int]] | None:
    bins: list[list[int]] = [[] for _ in range(n_bins)]
    loads = np.zeros(n_bins, dtype=np.int64)
    counts = np.zeros(n_bins, dtype=np.int64)
    for index in order:
        free = counts < limit
        target = int(np.argmin(np.where(free, loads, np.iinfo(np.int64).max)))
        if not free[target] or loads[target] + sizes[index] > budget:
            return None
        bins[target].append(int(index))
        loads[target] += sizes[index]
        counts[target] += 1
    return bins
