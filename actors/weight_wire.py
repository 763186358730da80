"""What both ends of a weight update agree on: checksums, chunks of tensors, the gloo group. No vLLM."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch

c10d: Any = torch.distributed  # its classes are exported in ways that type checkers do not see

CHUNK_BYTES = 64 << 20


def checksum(tensor: torch.Tensor) -> int:
    """A 64-bit sum over the tensor's bytes that depends on their order; the same on CPU and GPU."""
    raw = tensor.detach().contiguous().view(-1).view(torch.uint8)
    if raw.numel() % 8:
        raw = torch.nn.functional.pad(raw, (0, -raw.numel() % 8))
    elif raw.storage_offset() % 8:  # a view into a packed buffer
        raw = raw.clone()
    words = raw.view(torch.int64)
    width = 256
    whole = words[: words.numel() // width * width].view(-1, width)
    rest = words[whole.numel() :]
    columns, rows = whole.sum(0), whole.sum(1)
    # The word of number i weighs 2 i + 1: odd, or its highest bits would be multiplied away.
    column = 2 * torch.arange(width, device=raw.device) + 1
    row = 2 * width * torch.arange(rows.numel() + 1, device=raw.device)
    total = (columns * column).sum() + (rows * row[:-1]).sum() + (rest * (row[-1] + column[: rest.numel()])).sum()
    return int(total)


def byte_view(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor's bytes on the CPU, as [n] of uint8."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)


def stacked(tensors: list[torch.Tensor]) -> torch.Tensor:
    """The tensors one below the other: as a view where they lie so in memory already, else copied."""
    first = tensors[0]
    if len(tensors) == 1:
        return first
    end = first.storage_offset()
    for tensor in tensors:
        same = tensor.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not (same and tensor.is_contiguous() and tensor.storage_offset() == end and tensor.dtype == first.dtype):
            return torch.cat(tensors)
        end += tensor.numel()
    rows = sum(tensor.shape[0] for tensor in tensors)
    return first.as_strided((rows, *first.shape[1:]), first.stride())


def gloo_store(host: str, port: int, world: int, *, is_master: bool, timeout_seconds: float) -> Any:
    """The meeting point of one update's group; port 0 lets the system choose."""
    return c10d.TCPStore(
        host, port, world, is_master, timeout=timedelta(seconds=timeout_seconds), wait_for_workers=False
    )


def gloo_group(store: Any, rank: int, world: int, address: str, timeout_seconds: float) -> Any:
    """A private gloo group: no global state of torch.distributed is touched."""
    gloo = c10d.ProcessGroupGloo
    options = gloo._Options()
    options._timeout = timedelta(seconds=timeout_seconds)
    options._devices = [gloo.create_device(hostname=address)]
    return gloo(c10d.PrefixStore("ledex", store), rank, world, options)


def broadcast(group: Any, buffer: torch.Tensor) -> None:
    """Fills `buffer` on every rank with rank 0's bytes."""
    options = torch.distributed.BroadcastOptions()
    options.rootRank = 0
    group.broadcast([buffer], options).wait()


def chunks(
    meta: Sequence[tuple[str, torch.dtype, tuple[int, ...]]], limit: int = CHUNK_BYTES
) -> Iterator[list[tuple[str, torch.dtype, tuple[int, ...], int]]]:
    """(name, dtype, shape, bytes) in runs of at most `limit` bytes; both ends cut alike."""
    run: list[tuple[str, torch.dtype, tuple[int, ...], int]] = []
    filled = 0
    for name, dtype, shape in meta:
        size = dtype.itemsize * torch.Size(shape).numel()
        if run and filled + size > limit:
            yield run
            run, filled = [], 0
        run.append((name, dtype, shape, size))
        filled += size
    if run:
        yield run
