"""An update as a safetensors file in shared memory, written as a stream, with its checksums beside it.

The newest one stays until the next, so that an engine of this node that was restarted can load it without the learner.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from actors.weight_source import ParamLike
from actors.weight_wire import byte_view

log = logging.getLogger(__name__)

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
_DTYPES = {name: dtype for dtype, name in _SAFETENSORS.items()}


class UpdateWriter:
    """One update as it is written: tensors go into the file in their order, and can be read there at once.

    The file's memory is that of the update before the last where that has the same size: fresh shared memory costs as
    much to get as the bytes cost to write.
    """

    def __init__(self, meta: Sequence[ParamLike], version: int) -> None:
        header = _safetensors_header(meta)
        size = len(header) + sum(_bytes(m) for m in meta)
        shared = SharedFolder.path(size)
        self.folder = shared / f"v{version}"
        shutil.rmtree(self.folder, ignore_errors=True)
        spare = shared / "spare"
        if spare.exists():
            spare.rename(self.folder)
            (self.folder / "checksums.json").unlink(missing_ok=True)
            (self.folder / "model.safetensors").rename(self.file)
        else:
            self.folder.mkdir(parents=True)
            self.file.touch()
        os.truncate(self.file, size)
        self._bytes = _mapped(self.file, size)
        self._bytes[: len(header)] = torch.frombuffer(bytearray(header), dtype=torch.uint8)
        self._at = len(header)

    @property
    def file(self) -> Path:
        """Where the tensors are until the update is complete."""
        return self.folder / "model.partial"

    def write(self, tensor: torch.Tensor) -> None:
        """The next tensor."""
        data = byte_view(tensor)
        self._bytes[self._at : self._at + data.numel()] = data
        self._at += data.numel()

    def finish(self, checksums: Mapping[str, int]) -> Path:
        """The directory that now holds the update as model.safetensors and checksums.json."""
        assert self._at == self._bytes.numel(), (self._at, self._bytes.numel())
        (self.folder / "checksums.json").write_text(json.dumps(dict(checksums)), encoding="utf-8")
        self.file.rename(self.folder / "model.safetensors")
        return self.folder


def _mapped(file: Path, size: int, known: dict[int, torch.Tensor] = {}) -> torch.Tensor:  # noqa: B006  the memory
    """The file's bytes, mapped for writing; the last two files stay mapped, with the pages they touched."""
    inode = file.stat().st_ino
    found = known.pop(inode, None)
    if found is None or found.numel() != size:
        found = torch.from_file(str(file), shared=True, size=size, dtype=torch.uint8)
    while len(known) > 1:
        known.pop(next(iter(known)))
    known[inode] = found
    return found


class UpdateReader:
    """The tensors of an update that is still being written: views into the shared memory."""

    def __init__(self, file: Path) -> None:
        self._bytes = torch.from_file(str(file), shared=False, size=file.stat().st_size, dtype=torch.uint8)
        length = 8 + int(self._bytes[:8].view(torch.int64))
        self._header = json.loads(bytes(self._bytes[8:length].numpy()))
        self._start = length

    def tensors(self, names: Sequence[str]) -> Iterator[tuple[str, torch.Tensor]]:
        """(name, tensor) of those that are there by now."""
        for name in names:
            entry = self._header[name]
            start, end = (self._start + offset for offset in entry["data_offsets"])
            data, dtype = self._bytes[start:end], _DTYPES[entry["dtype"]]
            data = data if start % dtype.itemsize == 0 else data.clone()
            yield name, data.view(dtype).view(entry["shape"])


def retire_older(folder: Path) -> None:
    """Keeps the memory of one update other than that in `folder` for the next one, under a name nobody loads."""
    spare = folder.parent / "spare"
    for older in folder.parent.iterdir():
        if older not in (folder, spare):
            if spare.exists() or not (older / "model.safetensors").exists():
                shutil.rmtree(older, ignore_errors=True)
            else:
                older.rename(spare)


class SharedFolder:
    """One folder a process, in shared memory where that is large enough, gone when the process ends or is about to."""

    _folder: Path | None = None

    @classmethod
    def path(cls, size: int) -> Path:
        if cls._folder is None:
            shared, disk = Path("/dev/shm"), Path(tempfile.gettempdir())
            for parent in (shared, disk):  # first: what a lost gang left may be what takes the room
                for stale in parent.glob("ledex-weights-*"):
                    if not Path(f"/proc/{stale.name.split('-')[2]}").exists():
                        shutil.rmtree(stale, ignore_errors=True)
            roomy = shared.is_dir() and shutil.disk_usage(shared).free > 3 * size
            parent = shared if roomy else disk
            if not roomy:
                log.warning("weights go through %s: /dev/shm has no room for %d MB", parent, 3 * size >> 20)
            cls._folder = Path(tempfile.mkdtemp(prefix=f"ledex-weights-{os.getpid()}-", dir=parent))
            atexit.register(cls.remove)
        return cls._folder

    @classmethod
    def remove(cls) -> None:
        """Removes the folder, if there is one. What engines have mapped stays theirs."""
        if cls._folder is not None:
            shutil.rmtree(cls._folder, ignore_errors=True)
            cls._folder = None


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
