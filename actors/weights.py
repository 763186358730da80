"""Learner -> rollout engines: new weights streamed into running engines, by version, checked by tensor.

Runs inside a learner's ranks (all of them iterate the source: ZeRO-3 gathers), and needs torch alone. On CPUs the
bytes go through a safetensors file in shared memory (`shm`, one node) or a private gloo group (`gloo`); on GPUs
through vLLM's own nccl and ipc engines. The receiving side is actors/weight_engines.py. Not covered: whether engine
and learner then compute the same policy (actors/probe.py).
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
import torch

from actors import watchdog
from actors.weight_file import UpdateWriter, retire_older
from actors.weight_source import Source, SummedSource
from actors.weight_wire import broadcast, byte_view, chunks, gloo_group, gloo_store

log = logging.getLogger(__name__)

IPC_BYTES = 1 << 30  # of a packed buffer; a tensor has to fit in
SHM_BYTES = 48 << 20  # engines load one such stretch while the next is written
WATCH_SECONDS = 0.1
FREED_SECONDS = 5.0  # that our half of an exchange gets to notice that the far half has ended; gloo does not always


class TransferFailed(RuntimeError):
    """An engine did not take the new weights; the engines named have ended and come back with old ones."""


@dataclass(frozen=True)
class TransferReceipt:
    """What was sent. `path` is where a restarted engine of this node can load the same weights; "" if nowhere."""

    version: int
    checksums: dict[str, int]
    bytes: int
    seconds: float
    path: str = ""


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
    summed = SummedSource(source)
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
    session: str = field(default_factory=lambda: uuid.uuid4().hex)
    number: int = 0  # of the next call of this update
    failure: Exception | None = None  # of a call, whoever has waited for it

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
        self.wait(self.begin())

    def update_weights(self, update_info: Any) -> None:
        self.wait(self.send(update_info))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self.wait(self.end())

    def begin(self) -> list[ray.ObjectRef]:
        """`start_weight_update`, not waited for: an engine goes through the calls of an update in their order."""
        self.number = 1
        return [e.start_weight_update.remote(self.deadline_seconds, self.session) for e in self.engines]

    def send(self, update_info: Any) -> list[ray.ObjectRef]:
        """`update_weights`, not waited for."""
        calls = [e.update_weights.remote(update_info, self.session, self.number) for e in self.engines]
        self.number += 1
        return calls

    def end(self) -> list[ray.ObjectRef]:
        """`finish_weight_update`, not waited for."""
        arguments = self.version, self.path, self.expected, self.session, self.number
        return [e.finish_weight_update.remote(*arguments) for e in self.engines]

    def wait(self, calls: Sequence[ray.ObjectRef]) -> list[Any]:
        """Every call's result, of calls made engine by engine; the first failure, or the deadline, raises at once."""
        deadline = time.monotonic() + self.deadline_seconds
        pending = list(calls)
        try:
            while pending:
                done, pending = ray.wait(pending, timeout=max(0.0, deadline - time.monotonic()))
                if not done:
                    raise TimeoutError(f"silent for {self.deadline_seconds:.0f} s: {self._end_silent(calls, pending)}")
                ray.get(done)
        except (ray.exceptions.RayError, TimeoutError) as error:
            self.failure = error
            raise
        return ray.get(list(calls))

    def until(self, done: threading.Event) -> None:
        """Returns when `done` is set. Raises what a call raises meanwhile, TimeoutError at the deadline."""
        deadline = time.monotonic() + self.deadline_seconds
        while not done.wait(WATCH_SECONDS):
            if self.failure is not None:
                raise self.failure
            if time.monotonic() > deadline:
                raise TimeoutError(f"not done in {self.deadline_seconds:.0f} s")

    def _end_silent(self, calls: Sequence[ray.ObjectRef], pending: Sequence[ray.ObjectRef]) -> str:
        """Ends the engines that have not answered, and says what each was doing."""
        silent = {calls.index(call) % len(self.engines) for call in pending}
        items, seconds = (f"weights {self.version}",), self.deadline_seconds
        found = {i: watchdog.end_stuck(self.engines[i], f"engine {i}", items, seconds) for i in sorted(silent)}
        return "; ".join(f"engine {i}: {stack.splitlines()[0] if stack else 'not up'}" for i, stack in found.items())

    def end_engines(self) -> None:
        """Ends every engine, once: a half-loaded one cannot serve, and one not asked yet only loses seconds."""
        if not self.ended:
            self.ended = True
            for engine in self.engines:
                ray.kill(engine, no_restart=False)


def _send_by_file(source: SummedSource, client: EngineClient) -> str:
    """The directory in shared memory that now holds the weights; the one before it is removed."""
    meta = source.metadata()
    writer, pairs = UpdateWriter(meta, client.version), iter(source)
    calls: list[ray.ObjectRef] = []
    for items in chunks([(m.name, m.dtype, tuple(m.shape)) for m in meta], SHM_BYTES):
        for expected, dtype, *_ in items:
            name, tensor = next(pairs)
            assert name == expected and tensor.dtype == dtype, (name, expected)
            writer.write(tensor)
        # Engines stop when there is something to load, and load it while we write what follows.
        calls = calls or client.begin()
        calls += client.send({"path": str(writer.file), "names": [name for name, *_ in items]})
    assert next(pairs, None) is None
    client.expected, client.path = source.checksums, str(writer.folder)
    client.wait([*calls, *client.end()])
    retire_older(writer.finish(source.checksums))  # not before: engines find the file by its first name
    return client.path


def _send_by_gloo(source: SummedSource, client: EngineClient) -> None:
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
                buffer[offset : offset + size] = byte_view(tensor)
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
    """Runs both halves of an exchange together; when the far half fails, ours is freed by ending the engines.

    Where that does not free it, it is left behind: a failed transfer ends the gang, and this process with it.
    """
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
    except BaseException:  # also a deadline's or an interrupt: engines in mid-transfer must not be left, and it goes on
        client.end_engines()
        thread.join(FREED_SECONDS)
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
    largest = max(tensor.dtype.itemsize * torch.Size(tensor.shape).numel() for tensor in source.metadata())
    info = (
        IPCTrainerInitInfo(rank=rank, packed=True, packed_buffer_size_bytes=max(IPC_BYTES, largest))
        if backend == "ipc"
        else NCCLTrainerInitInfo(
            rank=rank,
            master_address=ray.util.get_node_ip_address(),
            master_port=get_open_port() if is_sender else 0,
            world_size=world,
        )
    )
    done = threading.Event()

    def send() -> None:
        try:
            trainer = WeightTransferTrainerFactory.trainer_init(info, client=client, source=source)
            trainer.send_weights()
            left = [engine.shutdown_weight_transfer_engine.remote() for engine in client.engines] if client else []
            trainer.shutdown()  # meanwhile: the ranks of a group leave it together
            if client:
                client.wait(left)
        finally:
            done.set()

    if client is None:
        send()
    else:  # vLLM's own waits have no deadline, and it tells of a failed call only when its broadcast is through
        _while(send, lambda: client.until(done), client)
