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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from actors.weight_source import ParamLike, SummedSource
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


def write_update(source: SummedSource, version: int) -> Path:
    """The directory that now holds the source's weights: model.safetensors and checksums.json."""
    meta = source.metadata()
    folder = SharedFolder.path(sum(_bytes(m) for m in meta)) / f"v{version}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    partial = folder / "model.partial"
    with open(partial, "wb") as out:
        out.write(_safetensors_header(meta))
        for (name, tensor), m in zip(source, meta, strict=True):
            assert name == m.name and tensor.dtype == m.dtype, (name, m)
            out.write(byte_view(tensor).numpy().data)
    (folder / "checksums.json").write_text(json.dumps(source.checksums), encoding="utf-8")
    partial.rename(folder / "model.safetensors")
    return folder


def remove_older(folder: Path) -> None:
    """Removes every update of this process but the one in `folder`."""
    for older in folder.parent.iterdir():
        if older != folder:
            shutil.rmtree(older, ignore_errors=True)


class SharedFolder:
    """One folder a process, in shared memory where that is large enough, gone when the process ends."""

    _folder: Path | None = None

    @classmethod
    def path(cls, size: int) -> Path:
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
