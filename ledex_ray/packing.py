"""Padding-free micro-batches by token budget: the same number on every rank, balanced, and the same for a given input.

Sequences that begin alike are a family: what they share is laid once, and computed once, for all of them (the prompt of
a group's answers, the wrong solution that is refined under two instructions). Plain numpy, no torch. `plan_packing`
says which family goes to which rank and micro-batch, `pack` lays the tokens of one micro-batch in a single row.
Attention that stays inside a sequence is the policy's job (ledex_ray/policy.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Span = tuple[int, ...]
"""Tokens of a family as it lies in a row: of what all begin with (0 where one is alone), then of each one's rest."""

LEAST_SAVED = 1 / 16
"""Sequences become a family if that saves this share of their tokens: each one costs an attention call of its own."""


@dataclass(frozen=True)
class Family:
    """Sequences that begin alike, before the first token in any one's loss mask."""

    items: tuple[int, ...]
    span: Span

    @property
    def size(self) -> int:
        """Tokens laid."""
        return sum(self.span)

    def split(self, budget: int, pieces: int) -> list[Family]:
        """At least `pieces` families where there are so many sequences, each within the budget where it can be."""
        shared, *rests = self.span
        most = -(-len(rests) // pieces)
        parts: list[Family] = []
        items: list[int] = []
        span = [shared]
        for item, rest in zip(self.items, rests, strict=True):
            if items and (len(items) == most or sum(span) + rest > budget):
                parts.append(Family(tuple(items), tuple(span)))
                items, span = [], [shared]
            items.append(item)
            span.append(rest)
        return [*parts, Family(tuple(items), tuple(span))]


MicroBatchPlan = tuple[Family, ...]
"""What lies in one row; empty is a dummy that a short rank runs with weight zero."""


@dataclass(frozen=True, eq=False)
class PackedRow:
    """Families laid end to end. T packed tokens, N predictions (positions whose next token is in the loss mask)."""

    token_ids_T: NDArray[np.int64]
    position_ids_T: NDArray[np.int64]  # each token's place in its own sequence
    spans: tuple[Span, ...]  # of each family; all their parts sum to T
    predict_N: NDArray[np.int64]  # index into T of the token that predicts; a prompt's last one does for many
    target_N: NDArray[np.int64]  # id of the token predicted
    counts: tuple[int, ...]  # predictions of each sequence, in the order of the families; sums to N


def alone(lengths: Sequence[int]) -> list[Family]:
    """Each sequence by itself."""
    return [Family((index,), (0, length)) for index, length in enumerate(lengths)]


def families_of(token_ids: Sequence[NDArray[np.int32]], loss_masks: Sequence[NDArray[np.bool_]]) -> list[Family]:
    """The sequences by what they begin with: of those that lie side by side in lexical order, the most alike first.

    Two families become one where the merged one lays fewer tokens than both, by `LEAST_SAVED` or more.
    """
    prompts = [ids[: int(np.argmax(mask))] for ids, mask in zip(token_ids, loss_masks, strict=True)]
    order = sorted(range(len(prompts)), key=lambda index: (prompts[index].astype(">i8").tobytes(), index))
    common = [_common(prompts[a], prompts[b]) for a, b in pairwise(order)]

    def family(first: int, last: int) -> Family:
        """Of the places first to last in the order."""
        shared = min(common[first:last], default=0)
        items = tuple(order[first : last + 1])
        return Family(items, (shared, *(len(token_ids[item]) - shared for item in items)))

    joined = [False] * len(common)  # place p with place p + 1
    for place in sorted(range(len(common)), key=lambda place: (-common[place], place)):
        first, last = place, place + 1
        while first and joined[first - 1]:
            first -= 1
        while last < len(common) and joined[last]:
            last += 1
        apart = family(first, place).size + family(place + 1, last).size
        joined[place] = apart - family(first, last).size >= LEAST_SAVED * apart
    ends = [place for place in range(len(order)) if place == len(common) or not joined[place]]
    return [family(first, last) for first, last in zip([0, *(end + 1 for end in ends)], ends, strict=False)]


def _common(a: NDArray[np.int32], b: NDArray[np.int32]) -> int:
    """How many tokens both begin with."""
    length = min(len(a), len(b))
    differs = np.flatnonzero(a[:length] != b[:length])
    return int(differs[0]) if len(differs) else length


def plan_packing(
    families: Sequence[Family], tokens_per_micro_batch: int, world_size: int = 1, max_families: int | None = None
) -> list[list[MicroBatchPlan]]:
    """[rank][micro-batch] -> its families; every sequence once, every rank the same number of micro-batches.

    No micro-batch passes the token budget unless a single sequence does alone. `max_families` bounds the families in
    one micro-batch (1 for a model whose attention cannot be packed). Longest first into the least loaded of the fewest
    bins that fit; ranks then take the sorted bins in turns, so that the n-th micro-batches weigh about the same. Where
    there are several ranks, families are also cut in 2, 4, ... pieces if the slowest ranks then compute fewer tokens.
    """
    if not families:
        return [[()] for _ in range(world_size)]
    largest = max(len(family.items) for family in families)
    tries = [1 << power for power in range(largest.bit_length())] if world_size > 1 else [1]
    plans = []
    for pieces in tries:
        cut = [part for family in families for part in family.split(tokens_per_micro_batch, pieces)]
        plans.append(_plan(cut, tokens_per_micro_batch, world_size, max_families or len(cut)))
    return min(plans, key=lambda plan: plan[0])[1]


def pack(
    token_ids: Sequence[NDArray[np.int32]],
    loss_masks: Sequence[NDArray[np.bool_]],
    families: Sequence[Family] | None = None,
) -> PackedRow:
    """One row of these families of the given sequences (default: each alone), predictions in their items' order.

    Position t predicts t + 1 where the mask is True there, never across a border.
    """
    families = alone([len(ids) for ids in token_ids]) if families is None else families
    tokens: list[NDArray[np.int32]] = []
    positions: list[NDArray[np.int64]] = []
    predicts: list[NDArray[np.int64]] = []
    targets: list[NDArray[np.int32]] = []
    start = 0
    for family in families:
        shared, *rests = family.span
        tokens.append(token_ids[family.items[0]][:shared])
        positions.append(np.arange(shared, dtype=np.int64))
        own = start + shared
        for item, rest in zip(family.items, rests, strict=True):
            ids, mask = token_ids[item], loss_masks[item]
            tokens.append(ids[shared:])
            positions.append(np.arange(shared, shared + rest, dtype=np.int64))
            where = np.flatnonzero(mask[1:])
            predicts.append(np.where(where < shared, start + where, own + where - shared))
            targets.append(ids[1:][mask[1:]])
            own += rest
        start = own
    return PackedRow(
        token_ids_T=np.concatenate(tokens).astype(np.int64),
        position_ids_T=np.concatenate(positions),
        spans=tuple(family.span for family in families),
        predict_N=np.concatenate(predicts).astype(np.int64),
        target_N=np.concatenate(targets).astype(np.int64),
        counts=tuple(len(where) for where in predicts),
    )


def _plan(
    families: Sequence[Family], tokens_per_micro_batch: int, world_size: int, limit: int
) -> tuple[int, list[list[MicroBatchPlan]]]:
    """(tokens that the slowest ranks compute, one micro-batch after the other; the plan)."""
    sizes = np.array([family.size for family in families], dtype=np.int64)
    order = np.argsort(-sizes, kind="stable")
    fewest = max(-(-int(sizes.sum()) // tokens_per_micro_batch), -(-sizes.size // limit), 1)
    n_bins = -(-fewest // world_size) * world_size
    while (bins := _fill(sizes, order, n_bins, max(tokens_per_micro_batch, int(sizes.max())), limit)) is None:
        n_bins += world_size
    loads = [int(sizes[list(chosen)].sum()) for chosen in bins]
    by_load = sorted(range(n_bins), key=lambda index: (-loads[index], index))
    ranks: list[list[MicroBatchPlan]] = [[] for _ in range(world_size)]
    for turn, start in enumerate(range(0, n_bins, world_size)):
        chosen = by_load[start : start + world_size]
        for rank, index in enumerate(chosen if turn % 2 == 0 else reversed(chosen)):
            ranks[rank].append(tuple(families[family] for family in sorted(bins[index])))
    return sum(loads[index] for index in by_load[::world_size]), ranks


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
