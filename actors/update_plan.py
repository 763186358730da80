"""Where each streamed tensor ends up inside vLLM's model on a CPU: learned from one update, then gone to directly.

vLLM's layerwise reload buffers, materialises, loads and copies before it packs a layer's weight for the CPU; of that,
only the packing is needed once it is known which tensors, one below the other, make which parameter. The first update
goes through the reload and is watched; each parameter is then held, bit by bit, against the tensors it is said to be
made of. Where one differs (tensor parallel slices, transposed or fused weights, quantised ones) there is no plan, and
every update takes the reload. Packed weights are made straight from the memory that the tensors arrived in.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import layerwise
from vllm.model_executor.model_loader.reload.meta import SKIP_TENSORS, materialize_meta_tensor

from actors.weight_wire import stacked

_PROCESSED = "_already_called_process_weights_after_loading"


@dataclass(frozen=True, eq=False)
class Entry:
    """One parameter of one layer, and the tensors that make its rows, from the first on."""

    layer: nn.Module
    parameter: str
    sources: tuple[str, ...]


class UpdatePlan:
    """Puts whole updates into a model, tensor by tensor as they come."""

    def __init__(self, model: nn.Module, entries: Iterable[Entry]) -> None:
        self._entries = tuple(entries)
        self._by_source = {name: entry for entry in self._entries for name in entry.sources}
        self._has_head = any(isinstance(module, ParallelLMHead) for module in model.modules())
        self._waiting: dict[str, Tensor] = {}
        self._done: set[Entry] = set()

    def begin(self) -> None:
        """A new update."""
        self._waiting, self._done = {}, set()

    @torch.no_grad()
    def take(self, pairs: Iterable[tuple[str, Tensor]]) -> None:
        """Puts in place what is complete with these tensors. The others' memory has to stay until the next call."""
        for name, tensor in pairs:
            entry = self._by_source[name]
            self._waiting[name] = tensor
            if all(source in self._waiting for source in entry.sources):
                self._put(entry, stacked([self._waiting.pop(source) for source in entry.sources]))
                self._done.add(entry)

    def end(self) -> None:
        """Raises RuntimeError where a parameter did not get all of its tensors."""
        missing = [entry for entry in self._entries if entry not in self._done]
        if missing:
            raise RuntimeError(f"{len(missing)} parameters not updated, first of {missing[0].sources}")

    def _put(self, entry: Entry, rows: Tensor) -> None:
        layer, name = entry.layer, entry.parameter
        own = layer._parameters[name]
        assert own is not None
        if own.numel() == 0 and rows.numel():  # packed: the layer keeps no weight of its own
            layer.__dict__.pop(_PROCESSED, None)
            layer._parameters[name] = nn.Parameter(rows, requires_grad=False)
            layer.quant_method.process_weights_after_loading(layer)  # type: ignore[union-attr, operator]
            layer._parameters[name] = own
            return
        own.data[: rows.shape[0]].copy_(rows)
        also_head = name == "weight" and hasattr(layer, "cpu_linear") and not self._has_head
        if also_head:  # the embedding of a model whose head is the same module
            layer.quant_method.process_weights_after_loading(layer)  # type: ignore[union-attr, operator]


@dataclass
class Watch:
    """What one layerwise reload did."""

    names: dict[tuple[int, tuple[int, ...]], str] = field(default_factory=dict)  # by where a tensor lies, and its shape
    entries: list[Entry] = field(default_factory=list)
    known: bool = True  # every parameter so far is its tensors, one below the other

    def seen(self, pairs: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """The pairs, remembered."""
        for name, tensor in pairs:
            self.names[tensor.data_ptr(), tuple(tensor.shape)] = name
            yield name, tensor

    def plan(self, model: nn.Module) -> UpdatePlan | None:
        """The plan for the next update; None where the reload did anything that a plan cannot."""
        used = [name for entry in self.entries for name in entry.sources]
        whole = self.known and sorted(used) == sorted(self.names.values())
        return UpdatePlan(model, self.entries) if whole else None

    def layer(self, layer: nn.Module, loaded: Iterable[tuple[str, inspect.BoundArguments]]) -> None:
        """Takes down of which tensors a layer's parameters are made; called before they are loaded."""
        if not self.known:
            return
        calls: dict[str, list[inspect.BoundArguments]] = {}
        for name, bound in loaded:
            calls.setdefault(name, []).append(bound)
        for name, bounds in calls.items():
            tensors = [_given(bound.arguments) for bound in bounds]
            sources = [self.names.get((t.data_ptr(), tuple(t.shape))) if t is not None else None for t in tensors]
            if None in sources or not _is_stack(layer, name, bounds, [t for t in tensors if t is not None]):
                self.known = False
                return
            self.entries.append(Entry(layer, name, tuple(source for source in sources if source is not None)))


@contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """Shows the watch each layer that vLLM's reload puts in place meanwhile."""
    process = layerwise._layerwise_process

    def watched(layer: nn.Module, info: Any) -> None:
        watch.layer(layer, info.loaded_weights)
        process(layer, info)

    layerwise._layerwise_process = watched
    try:
        yield
    finally:
        layerwise._layerwise_process = process


def _given(arguments: Mapping[str, Any]) -> Tensor | None:
    return next((v for k, v in arguments.items() if k != "param" and isinstance(v, Tensor)), None)


def _is_stack(layer: nn.Module, name: str, bounds: list[inspect.BoundArguments], tensors: list[Tensor]) -> bool:
    """Whether loading these tensors makes their rows, in this order, the parameter's first ones, bit by bit."""
    parameter: Tensor = getattr(layer, name)
    if not parameter.is_meta and name not in SKIP_TENSORS:
        return False
    loaded = materialize_meta_tensor(parameter)
    loader = layerwise._get_original_loader(parameter)
    for bound in bounds:
        again = inspect.BoundArguments(bound.signature, OrderedDict(bound.arguments))
        again.arguments["param"] = loaded
        loader(*again.args, **again.kwargs)
    rows = torch.cat(tensors)
    whole = loaded.shape[1:] == rows.shape[1:] and loaded.dtype == rows.dtype and loaded.shape[0] >= rows.shape[0]
    return whole and torch.equal(loaded[: rows.shape[0]], rows)
