"""Padding-free micro-batches by token budget: the same number on every rank, balanced, and the same for a given input.

Sequences that begin with the same prompt are a family: the prompt is laid once, and computed once, for all of them (the
answers of a group, the examples of a problem). Plain numpy, no torch. `plan_packing` says which item goes to which rank
and micro-batch, `pack` lays the tokens of one micro-batch in a single row. Attention that stays inside a sequence is
the policy's job (ledex_ray/policy.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Items = tuple[int, ...]
"""Indices of the sequences in one micro-batch; empty is a dummy that a short rank runs with weight zero."""

Span = tuple[int, ...]
"""Tokens of a family as it lies in a row: of its prompt (0 where a sequence is alone), then of each sequence's rest."""


@dataclass(frozen=True)
class Family:
    """Sequences that share their prompt: all tokens before the first one in the loss mask."""

    items: Items
    span: Span

    @property
    def size(self) -> int:
        """Tokens laid."""
        return sum(self.span)

    def split(self, budget: int, pieces: int) -> list[Family]:
        """At least `pieces` families where there are so many sequences, each within the budget where it can be."""
        prompt, *rests = self.span
        most = -(-len(rests) // pieces)
        parts: list[Family] = []
        items: list[int] = []
        span = [prompt]
        for item, rest in zip(self.items, rests, strict=True):
            if items and (len(items) == most or sum(span) + rest > budget):
                parts.append(Family(tuple(items), tuple(span)))
                items, span = [], [prompt]
            items.append(item)
            span.append(rest)
        return [*parts, Family(tuple(items), tuple(span))]


@dataclass(frozen=True, eq=False)
class PackedRow:
    """Families laid end to end. T packed tokens, N predictions (positions whose next token is in the loss mask)."""

    token_ids_T: NDArray[np.int64]
    position_ids_T: NDArray[np.int64]  # each token's place in its own sequence
    spans: tuple[Span, ...]  # of each family; all their parts sum to T
    predict_N: NDArray[np.int64]  # index into T of the token that predicts; a prompt's last one does for many
    target_N: NDArray[np.int64]  # id of the token predicted
    counts: tuple[int, ...]  # predictions of each sequence, in the order given; sums to N


def families_of(
    token_ids: Sequence[NDArray[np.int32]], loss_masks: Sequence[NDArray[np.bool_]], share_prompts: bool
) -> list[Family]:
    """The sequences by equal prompts, in the order in which each prompt first appears."""
    alike: dict[bytes | int, list[int]] = {}
    for index, (ids, mask) in enumerate(zip(token_ids, loss_masks, strict=True)):
        prompt = int(np.argmax(mask)) if share_prompts else 0
        alike.setdefault(np.asarray(ids[:prompt], np.int64).tobytes() if prompt else index, []).append(index)
    found = []
    for items in alike.values():
        prompt = int(np.argmax(loss_masks[items[0]])) if len(items) > 1 else 0
        found.append(Family(tuple(items), (prompt, *(len(token_ids[i]) - prompt for i in items))))
    return found


def plan_packing(
    families: Sequence[Family], tokens_per_micro_batch: int, world_size: int = 1, max_families: int | None = None
) -> list[list[Items]]:
    """[rank][micro-batch] -> indices of its sequences; every index once, every rank the same number of micro-batches.

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
    token_ids: Sequence[NDArray[np.int32]], loss_masks: Sequence[NDArray[np.bool_]], *, share_prompts: bool = False
) -> PackedRow:
    """One row of the given sequences. Position t predicts t + 1 where the mask is True there, never across a border."""
    families = families_of(token_ids, loss_masks, share_prompts)
    tokens: list[NDArray[np.int32]] = []
    positions: list[NDArray[np.int64]] = []
    predicts: list[NDArray[np.int64]] = [np.zeros(0, np.int64)] * len(token_ids)
    start = 0
    for family in families:
        prompt, *rests = family.span
        tokens.append(token_ids[family.items[0]][:prompt])
        positions.append(np.arange(prompt, dtype=np.int64))
        own = start + prompt
        for item, rest in zip(family.items, rests, strict=True):
            tokens.append(token_ids[item][prompt:])
            positions.append(np.arange(prompt, prompt + rest, dtype=np.int64))
            where = np.flatnonzero(loss_masks[item][1:])
            predicts[item] = np.where(where < prompt, start + where, own + where - prompt)
            own += rest
        start = own
    targets = [ids[1:][mask[1:]] for ids, mask in zip(token_ids, loss_masks, strict=True)]
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
) -> tuple[int, list[list[Items]]]:
    """(tokens that the slowest ranks compute, one micro-batch after the other; the plan)."""
    sizes = np.array([family.size for family in families], dtype=np.int64)
    order = np.argsort(-sizes, kind="stable")
    fewest = max(-(-int(sizes.sum()) // tokens_per_micro_batch), -(-sizes.size // limit), 1)
    n_bins = -(-fewest // world_size) * world_size
    while (bins := _fill(sizes, order, n_bins, max(tokens_per_micro_batch, int(sizes.max())), limit)) is None:
        n_bins += world_size
    loads = [int(sizes[list(chosen)].sum()) for chosen in bins]
    by_load = sorted(range(n_bins), key=lambda index: (-loads[index], index))
    ranks: list[list[Items]] = [[] for _ in range(world_size)]
    for turn, start in enumerate(range(0, n_bins, world_size)):
        chosen = by_load[start : start + world_size]
        for rank, index in enumerate(chosen if turn % 2 == 0 else reversed(chosen)):
            ranks[rank].append(tuple(sorted(item for family in bins[index] for item in families[family].items)))
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
