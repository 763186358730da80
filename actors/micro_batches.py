"""A rank's share of a batch as packed rows, and results of all ranks back in the batch's order.

Every rank plans the same packing of the same batch, so nothing is sent but results. Not covered: forward passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from actors.sharded_model import all_gather
from ledex_ray.packing import MicroBatchPlan, alone, families_of, pack, plan_packing
from ledex_ray.policy import RowTensors

_DUMMY = ([np.zeros(2, dtype=np.int32)], [np.array([False, True])])
"""Two tokens, one prediction: what a short rank runs with weight zero, since ZeRO-3 gathers in each forward."""


@dataclass(frozen=True, eq=False)
class Sequences:
    """Token ids, and which of them are predicted (loss mask; position 0 never is)."""

    token_ids: Sequence[NDArray[np.int32]]
    loss_masks: Sequence[NDArray[np.bool_]]

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def counts(self) -> list[int]:
        """Predictions of each sequence."""
        return [int(mask[1:].sum()) for mask in self.loss_masks]

    def subset(self, items: Sequence[int]) -> Sequences:
        return Sequences([self.token_ids[i] for i in items], [self.loss_masks[i] for i in items])


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """One packed row and the sequences in it; none for a dummy."""

    items: tuple[int, ...]
    row: RowTensors

    def gather(self, by_sequence: Sequence[Tensor]) -> Tensor:
        """The per-token tensors of this row's sequences, in the row's order; zeros for a dummy."""
        if not self.items:
            return torch.zeros(len(self.row.target_N), device=self.row.target_N.device)
        return torch.cat([by_sequence[item] for item in self.items]).to(self.row.target_N.device)

    def spread(self, by_sequence: Sequence[float], dummy: float = 0.0) -> Tensor:
        """A number of each sequence, repeated over its tokens."""
        values = np.array([by_sequence[item] for item in self.items] or [dummy], dtype=np.float32)
        return torch.from_numpy(np.repeat(values, self.counts)).to(self.row.target_N.device)

    @property
    def counts(self) -> tuple[int, ...]:
        return self.row.counts


@dataclass(frozen=True)
class Packer:
    """How batches are cut on this rank."""

    tokens_per_micro_batch: int
    max_families: int | None
    device: torch.device
    share_prompts: bool = False

    def share(self, sequences: Sequences) -> list[MicroBatch]:
        """This rank's micro-batches: as many as every other rank's, at least one."""
        if self.share_prompts:
            families = families_of(sequences.token_ids, sequences.loss_masks)
        else:
            families = alone([len(ids) for ids in sequences.token_ids])
        plan = plan_packing(families, self.tokens_per_micro_batch, dist.get_world_size(), self.max_families)
        return [self._micro_batch(families, sequences) for families in plan[dist.get_rank()]]

    def _micro_batch(self, families: MicroBatchPlan, sequences: Sequences) -> MicroBatch:
        row = pack(sequences.token_ids, sequences.loss_masks, families) if families else pack(*_DUMMY)
        items = tuple(item for family in families for item in family.items)
        return MicroBatch(items, RowTensors.of(row, self.device))

    def map(self, sequences: Sequences, visit: Callable[[MicroBatch], Mapping[str, Tensor]]) -> dict[str, list[Tensor]]:
        """What `visit` gives for each token ([N] by name), of all ranks, as CPU tensors by sequence."""
        own: dict[str, dict[int, Tensor]] = {}
        for micro_batch in self.share(sequences):
            for name, values_N in visit(micro_batch).items():
                found = own.setdefault(name, {})
                if micro_batch.items:
                    parts = values_N.detach().float().cpu().split(list(micro_batch.counts))
                    found |= dict(zip(micro_batch.items, (part.clone() for part in parts), strict=True))
        merged: dict[str, dict[int, Tensor]] = {name: {} for name in own}
        for ranks_own in all_gather(own) if dist.get_world_size() > 1 else [own]:
            for name, found in ranks_own.items():
                merged[name] |= found
        return {name: [found[item] for item in range(len(sequences))] for name, found in merged.items()}


def even_chunks(order: Sequence[int], most: int) -> Iterator[list[int]]:
    """As few runs of at most `most` as there can be, equally long: each makes an optimizer step of its own."""
    count = -(-len(order) // most)
    if count:
        yield from (part.tolist() for part in np.array_split(order, count))
