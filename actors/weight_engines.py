"""The receiving side of a weight update, inside each vLLM worker: CPU transfer engines and what an update needs.

Named by `worker_extension_cls`, so that importing it in a worker registers the CPU engine with vLLM's factory, and ties
the worker's process to the one that started it.
Every path into the model goes through vLLM's layerwise reload, or from the second update on by what that did
(actors/update_plan.py), and afterwards re-packs a tied `lm_head`: on CPU its prepacked copy is not rebuilt by a reload,
and logits would silently come from the old head. The sending side is actors/weights.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from vllm.config import set_current_vllm_config
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from actors.lifeline import end_with_parent
from actors.node_copies import model_folder
from actors.update_plan import UpdatePlan, Watch, watching
from actors.weight_file import UpdateReader
from actors.weight_wire import broadcast, checksum, chunks, gloo_group, gloo_store

RECEIVED = "_ledex_received"  # what the model's dictionary keeps the sums of an update under


@dataclass
class CpuInit(WeightTransferInitInfo):
    """Where the group of one gloo update meets, and which rank this engine's first worker takes."""

    address: str
    port: int
    rank_offset: int
    world_size: int
    timeout_seconds: float


@dataclass
class CpuUpdate(WeightTransferUpdateInfo):
    """Tensors that lie in a safetensors file on this node by now, or that are about to be broadcast, in order."""

    path: str = ""
    names: list[str] = field(default_factory=list)
    dtypes: list[str] = field(default_factory=list)
    shapes: list[list[int]] = field(default_factory=list)


class CpuEngine(WeightTransferEngine[CpuInit, CpuUpdate]):
    """Takes each update the way its sender chose: from a file in shared memory, or by broadcast over a gloo group."""

    init_info_cls = CpuInit
    update_info_cls = CpuUpdate
    group: Any = None
    plan: UpdatePlan | None = None
    _plannable = True  # until an update was watched and there is none
    _watch: Watch | None = None
    _file: UpdateReader | None = None

    def start_weight_update(self) -> None:
        if self.plan is not None:
            self.plan.begin()
        else:
            self._watch = Watch(known=self._plannable)
            initialize_layerwise_reload(self.model)

    def finish_weight_update(self) -> None:
        self._file = None
        if self.plan is not None:
            self.plan.end()
            return
        assert self._watch is not None
        with watching(self._watch):
            finalize_layerwise_reload(self.model, self.model_config)
        self.plan, self._watch = self._watch.plan(self.model), None
        self._plannable = self.plan is not None

    def _load(self, pairs: Iterable[tuple[str, torch.Tensor]]) -> None:
        """The tensors, summed, into the model."""
        pairs = summed(self.model, pairs)
        if self.plan is not None:
            self.plan.take(pairs)
            return
        assert self._watch is not None
        with watching(self._watch):
            type(self.model).load_weights(self.model, self._watch.seen(pairs))

    def init_transfer_engine(self, init_info: CpuInit) -> None:
        parallel = self.parallel_config
        rank = init_info.rank_offset + parallel.data_parallel_index * parallel.world_size + parallel.rank
        i = init_info
        store = gloo_store(i.address, i.port, i.world_size, is_master=False, timeout_seconds=i.timeout_seconds)
        self.group = gloo_group(store, rank, i.world_size, _own_address(i.address), i.timeout_seconds)

    def receive_weights(self, update_info: CpuUpdate) -> None:
        if update_info.path:
            if self._file is None:
                self._file = UpdateReader(Path(update_info.path))
            self._load(self._file.tensors(update_info.names))
            return
        meta = [
            (name, getattr(torch, dtype), tuple(shape))
            for name, dtype, shape in zip(update_info.names, update_info.dtypes, update_info.shapes, strict=True)
        ]
        for items in chunks(meta):
            buffer = torch.empty(sum(size for *_, size in items), dtype=torch.uint8)
            broadcast(self.group, buffer)
            pairs, offset = [], 0
            for name, dtype, shape, size in items:
                pairs.append((name, buffer[offset : offset + size].view(dtype).view(shape)))
                offset += size
            self._load(pairs)

    def shutdown(self) -> None:
        self.group = None


for _name in ("shm", "gloo"):
    if _name not in WeightTransferEngineFactory._registry:  # a second import under another name is no error
        WeightTransferEngineFactory.register_engine(_name, CpuEngine)

end_with_parent()


class WorkerExtension:
    """Methods that each vLLM worker gains; called by name through `collective_rpc`."""

    model_runner: Any
    vllm_config: Any
    weight_transfer_engine: Any

    def begin_checksums(self) -> None:
        """From here every tensor that any transfer engine hands to the model is summed."""
        model = self.model_runner.get_model()
        model.__dict__[RECEIVED] = {}
        model.load_weights = lambda weights: type(model).load_weights(model, summed(model, weights))

    def end_update(self) -> dict[str, int]:
        """The sums since `begin_checksums`, by tensor; tied heads are packed from the new weights."""
        model = self.model_runner.get_model()
        del model.load_weights  # the instance attribute that hid the method
        self.repack_tied_heads()
        received: dict[str, int] = model.__dict__.pop(RECEIVED)
        return received

    def has_plan(self) -> bool:
        """Whether the next update goes to its places directly."""
        return getattr(self.weight_transfer_engine, "plan", None) is not None

    def load_directory(self, path: str) -> None:
        """Replaces the weights by those of a directory or URL; where it holds checksums they must agree."""
        folder = model_folder(path)
        recorded = folder / "checksums.json"
        model = self.model_runner.get_model()
        received: dict[str, int] = {}
        model.__dict__[RECEIVED] = received
        with set_current_vllm_config(self.vllm_config):
            pairs = _tensors(folder)
            initialize_layerwise_reload(model)
            model.load_weights(summed(model, pairs) if recorded.exists() else pairs)
            finalize_layerwise_reload(model, self.vllm_config.model_config)
        self.model_runner.reset_lora_state()
        self.repack_tied_heads()
        if recorded.exists() and json.loads(recorded.read_text(encoding="utf-8")) != received:
            raise RuntimeError(f"{path}: weights differ from their checksums")

    def repack_tied_heads(self) -> int:
        """How many prepacked heads on CPU were packed anew from the weight they share."""
        heads = [
            m
            for m in self.model_runner.get_model().modules()
            if isinstance(m, ParallelLMHead) and m.weight.device.type == "cpu"
        ]
        for head in heads:
            head.quant_method.process_weights_after_loading(head)
        return len(heads)

    def threads(self) -> int:
        """How many OpenMP threads this worker computes with."""
        return torch.get_num_threads()


def summed(model: torch.nn.Module, pairs: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    """The pairs; their sums are kept with the model."""
    received = model.__dict__[RECEIVED]
    for name, tensor in pairs:
        received[name] = checksum(tensor)
        yield name, tensor


def _tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor) of every safetensors file in a directory, mapped, not read."""
    from safetensors import safe_open

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder}: no *.safetensors")
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  not a mapping
                yield name, tensors.get_tensor(name)


def _own_address(peer: str) -> str:
    """This machine's address on the network that leads to `peer`."""
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((peer, 9))
        return str(probe.getsockname()[0])
