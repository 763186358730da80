"""Where weights come from: full tensors under Hugging Face names, and the checksums of what was given out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from actors.weight_wire import checksum


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


class SummedSource:
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
