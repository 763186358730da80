"""Learner -> rollout engines: new weights streamed into running engines, by version, checked by tensor.

Runs inside a learner's ranks (all of them iterate the source: ZeRO-3 gathers), and needs torch alone. On CPUs the
bytes go through a safetensors file in shared memory (`shm`, one node) or a private gloo group (`gloo`); on GPUs
through vLLM's own nccl and ipc engines. The receiving side is actors/weight_engines.py. Not covered: whether engine
and learner then compute the same policy (actors/probe.py).
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import shutil
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import ray
import torch

log = logging.getLogger(__name__)
c10d: Any = torch.distributed  # its classes are exported in ways that type checkers do not see

CHUNK_BYTES = 64 << 20
_SAFETENSORS = {
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class TransferFailed(RuntimeError):
    """An engine did not take the new weights; the engines named have ended and come back with old ones."""


class ParamLike(Protocol):
    """Name, dtype and full shape of one tensor to come."""

    @property
    def name(self) -> str: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def shape(self) -> tuple[int, ...]: ...


class Source(Protocol):
    """A re-iterable stream of full (name, tensor) pairs in the model's Hugging Face names; vLLM's `WeightSource`."""

    def metadata(self) -> Sequence[ParamLike]: ...

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]: ...


@dataclass(frozen=True)
class Parameter:
    """See ParamLike."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


class ModuleSource:
    """A whole module of this process as a source."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module

    def metadata(self) -> list[Parameter]:
        return [Parameter(name, p.dtype, tuple(p.shape)) for name, p in self._module.named_parameters()]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        yield from self._module.named_parameters()


@dataclass(frozen=True)
class TransferReceipt:
    """What was sent. `path` is where a restarted engine of this node can load the same weights; "" if nowhere."""

    version: int
    checksums: dict[str, int]
    bytes: int
    seconds: float
    path: str = ""


def checksum(tensor: torch.Tensor) -> int:
    """A 64-bit sum over the tensor's bytes that depends on their order; the same on CPU and GPU."""
    raw = tensor.detach().contiguous().view(-1).view(torch.uint8)
    if raw.numel() % 8:
        raw = torch.nn.functional.pad(raw, (0, -raw.numel() % 8))
    words = raw.view(torch.int64)
    width = 256
    whole = words[: words.numel() // width * width].view(-1, width)
    rest = words[whole.numel() :]
    columns, rows = whole.sum(0), whole.sum(1)
    odd = 2 * torch.arange(max(width, rows.numel()) + 1, device=raw.device) + 1
    total = (
        (columns * odd[:width]).sum() + (rows * odd[1 : rows.numel() + 1]).sum() + (rest * odd[: rest.numel()]).sum()
    )
    return int(total)


def send_weights(
    source: Source,
    engines: Sequence[Any],
    version: int,
    *,
    backend: str,
    is_sender: bool = True,
    deadline_seconds: float = 300.0,
) -> TransferReceipt:
    """The receipt of one update of all `engines` (rollout actors' handles) to `version`.

    Called on every learner rank; only the sender talks to engines, the others join the source's gathers. Every wait
    ends by the deadline. Raises TransferFailed: by then each engine that may hold half an update has been ended.
    """
    started = time.monotonic()
    if not is_sender:
        if backend in ("nccl", "ipc"):
            _send_by_vllm(source, None, backend, 1, is_sender=False)
        else:
            for _ in source:
                pass
        return TransferReceipt(version, {}, 0, time.monotonic() - started)
    client = EngineClient(engines, version, deadline_seconds)
    summed = _Summed(source)
    try:
        if backend == "shm":
            client.path = _send_by_file(summed, client)
        elif backend == "gloo":
            _send_by_gloo(summed, client)
        elif backend in ("nccl", "ipc"):
            client.expected = summed.checksums
            _send_by_vllm(summed, client, backend, client.world_size(), is_sender=True)
        else:
            raise ValueError(f"weight transfer {backend!r}; expected shm, gloo, nccl or ipc")
    except (ray.exceptions.RayError, TimeoutError, RuntimeError) as error:
        client.end_engines()
        raise TransferFailed(f"weights {version} over {backend}: {error}") from error
    seconds = time.monotonic() - started
    log.info(
        "weights sent version=%d backend=%s engines=%d bytes=%d seconds=%.2f",
        version, backend, len(engines), summed.bytes, seconds,
    )  # fmt: skip
    return TransferReceipt(version, dict(summed.checksums), summed.bytes, seconds, client.path)


@dataclass
class EngineClient:
    """vLLM's `VLLMWeightSyncClient` over rollout actors: a rank of its own for each, a deadline on every wait."""

    engines: Sequence[Any]
    version: int
    deadline_seconds: float
    path: str = ""
    expected: dict[str, int] = field(default_factory=dict)
    ended: bool = False

    def world_size(self) -> int:
        """The sender and every worker of every engine."""
        return 1 + sum(self.workers())

    def workers(self) -> list[int]:
        """How many workers each engine has; they take consecutive ranks."""
        return [info.workers for info in self.wait([e.info.remote() for e in self.engines])]

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        infos = [dict(init_info) for _ in self.engines]
        if "rank_offset" in init_info:
            first = 1
            for info, workers in zip(infos, self.workers(), strict=True):
                info["rank_offset"] = first
                first += workers
        self.wait([e.init_weight_transfer_engine.remote(i) for e, i in zip(self.engines, infos, strict=True)])

    def start_weight_update(self) -> None:
        self.wait([e.start_weight_update.remote(self.deadline_seconds) for e in self.engines])

    def update_weights(self, update_info: Any) -> None:
        self.wait([e.update_weights.remote(update_info) for e in self.engines])

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        calls = [e.finish_weight_update.remote(self.version, self.path, self.expected) for e in self.engines]
        self.wait(calls)

    def wait(self, calls: Sequence[ray.ObjectRef]) -> list[Any]:
        """Every call's result; the first failure, or the deadline, raises at once."""
        deadline = time.monotonic() + self.deadline_seconds
        pending = list(calls)
        while pending:
            done, pending = ray.wait(pending, timeout=max(0.0, deadline - time.monotonic()))
            if not done:
                raise TimeoutError(f"{len(pending)} of {len(calls)} engines silent for {self.deadline_seconds:.0f} s")
            ray.get(done)
        return ray.get(list(calls))

    def end_engines(self) -> None:
        """Ends every engine, once: a half-loaded one cannot serve, and one not asked yet only loses seconds."""
        if not self.ended:
            self.ended = True
            for engine in self.engines:
                ray.kill(engine, no_restart=False)


class _Summed:
    """A source that remembers the checksums of what it gave out."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.checksums: dict[str, int] = {}
        self.bytes = 0

    def metadata(self) -> Sequence[ParamLike]:
        return self._source.metadata()

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in self._source:
            self.checksums[name] = checksum(tensor)
            self.bytes += tensor.numel() * tensor.element_size()
            yield name, tensor


def _send_by_file(source: _Summed, client: EngineClient) -> str:
    """The directory in shared memory that now holds the weights; the one before it is removed."""
    meta = source.metadata()
    size = sum(_bytes(m) for m in meta)
    base = _SharedFiles.base(size)
    folder = base / f"v{client.version}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    partial = folder / "model.partial"
    with open(partial, "wb") as out:
        out.write(_safetensors_header(meta))
        for (name, tensor), m in zip(source, meta, strict=True):
            assert name == m.name and tensor.dtype == m.dtype, (name, m)
            out.write(_byte_view(tensor).numpy().data)
    (folder / "checksums.json").write_text(json.dumps(source.checksums), encoding="utf-8")
    partial.rename(folder / "model.safetensors")
    client.expected, client.path = source.checksums, str(folder)
    client.start_weight_update()
    client.update_weights({"path": str(folder)})
    client.finish_weight_update()
    for older in base.iterdir():
        if older != folder:
            shutil.rmtree(older, ignore_errors=True)
    return str(folder)


class _SharedFiles:
    """One folder a process, in shared memory where that is large enough, gone when the process ends."""

    _folder: Path | None = None

    @classmethod
    def base(cls, size: int) -> Path:
        if cls._folder is None:
            shared = Path("/dev/shm")
            roomy = shared.is_dir() and shutil.disk_usage(shared).free > 3 * size
            parent = shared if roomy else Path(tempfile.gettempdir())
            if not roomy:
                log.warning("weights go through %s: /dev/shm has no room for %d MB", parent, 3 * size >> 20)
            for stale in parent.glob("ledex-weights-*"):
                if not Path(f"/proc/{stale.name.split('-')[2]}").exists():
                    shutil.rmtree(stale, ignore_errors=True)
            cls._folder = Path(tempfile.mkdtemp(prefix=f"ledex-weights-{os.getpid()}-", dir=parent))
            atexit.register(shutil.rmtree, cls._folder, ignore_errors=True)
        return cls._folder


def _send_by_gloo(source: _Summed, client: EngineClient) -> None:
    world = client.world_size()
    address = ray.util.get_node_ip_address()
    store = gloo_store(address, 0, world, is_master=True, timeout_seconds=client.deadline_seconds)
    group: list[Any] = []

    def rendezvous() -> None:
        group.append(gloo_group(store, 0, world, address, client.deadline_seconds))

    init = {"address": address, "port": store.port, "rank_offset": 1, "world_size": world}
    init["timeout_seconds"] = client.deadline_seconds
    _while(rendezvous, lambda: client.init_weight_transfer_engine(init), client)
    meta = source.metadata()
    client.expected = source.checksums
    client.start_weight_update()
    info = {
        "names": [m.name for m in meta],
        "dtypes": [str(m.dtype).removeprefix("torch.") for m in meta],
        "shapes": [list(m.shape) for m in meta],
    }

    def stream() -> None:
        pairs = iter(source)
        failure: RuntimeError | None = None
        for items in chunks([(m.name, m.dtype, tuple(m.shape)) for m in meta]):
            buffer = torch.empty(sum(size for *_, size in items), dtype=torch.uint8)
            offset = 0
            for expected, dtype, _shape, size in items:
                name, tensor = next(pairs)
                assert name == expected and tensor.dtype == dtype, (name, expected)
                buffer[offset : offset + size] = _byte_view(tensor)
                offset += size
            if failure is None:
                try:
                    broadcast(group[0], buffer)
                except RuntimeError as error:
                    failure = error  # and go on reading: the other ranks are in the source's gathers with us
        if failure is not None:
            raise failure

    _while(stream, lambda: client.update_weights(info), client)
    client.finish_weight_update()
    for engine in client.engines:
        engine.shutdown_weight_transfer_engine.remote()


def _while(local: Callable[[], None], remote: Callable[[], None], client: EngineClient) -> None:
    """Runs both halves of an exchange together; when the far half fails, ours is freed by ending the engines."""
    failure: list[BaseException] = []

    def run() -> None:
        try:
            local()
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        remote()
    except BaseException:
        client.end_engines()
        thread.join(client.deadline_seconds)
        raise
    thread.join(client.deadline_seconds)
    if failure:
        raise failure[0]
    if thread.is_alive():
        raise TimeoutError(f"our half of the exchange did not end in {client.deadline_seconds:.0f} s")


def _send_by_vllm(source: Any, client: EngineClient | None, backend: str, world: int, *, is_sender: bool) -> None:
    """vLLM's own engines, on GPUs. A group for each update: an engine that came back in between is in it."""
    from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
    from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo
    from vllm.utils.network_utils import get_open_port

    rank = 0 if is_sender else 1
    info = (
        IPCTrainerInitInfo(rank=rank, packed=True)
        if backend == "ipc"
        else NCCLTrainerInitInfo(
            rank=rank,
            master_address=ray.util.get_node_ip_address(),
            master_port=get_open_port() if is_sender else 0,
            world_size=world,
        )
    )
    trainer = WeightTransferTrainerFactory.trainer_init(info, client=client, source=source)
    trainer.send_weights()
    trainer.shutdown()
    if client is not None:
        client.wait([engine.shutdown_weight_transfer_engine.remote() for engine in client.engines])


# What both ends of the gloo transfer agree on.


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


def _byte_view(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)


def _bytes(meta: ParamLike) -> int:
    return meta.dtype.itemsize * torch.Size(meta.shape).numel()


def _safetensors_header(meta: Sequence[ParamLike]) -> bytes:
    """The head of a safetensors file whose tensors follow in this order, so that it can be written as a stream."""
    offset = 0
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for m in meta:
        end = offset + _bytes(m)
        header[m.name] = {"dtype": _SAFETENSORS[m.dtype], "shape": list(m.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
