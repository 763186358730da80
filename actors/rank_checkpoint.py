"""One rank's part in a checkpoint: DeepSpeed's shards and a file of its own, written, fetched and loaded.

A checkpoint lies in a folder that all ranks see, or at a URL: then each rank writes to its node, uploads what it has
written, and later fetches what it needs, so that a node may be lost with its disk. `save` and `load` are called on all
ranks at once. Not covered: which checkpoint counts (checkpoint.py).
"""

from __future__ import annotations

import pickle
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from actors import checkpoint, node_copies
from actors.checkpoint import FileRecord
from actors.places import Place, RemotePath
from actors.sharded_model import ShardedModel


def save(
    target: Place, rank: int, models: Mapping[str, ShardedModel], state: Mapping[str, Any], *, frozen: bool
) -> list[FileRecord]:
    """The files this rank answers for, written, hashed and, for a URL, uploaded. `frozen` weights may be left out."""
    root = target if isinstance(target, Path) else _empty(node_copies.copy_of(target, f"rank-{rank}"))
    for name, model in models.items():
        model.engine.save_checkpoint(str(root), tag=name, save_latest=False, exclude_frozen_parameters=frozen)
    random_states = {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": np.random.get_state(),
        "python": random.getstate(),
    }
    _own(root, rank).write_bytes(pickle.dumps(random_states | dict(state)))
    dist.barrier()
    files = sorted(path for path in root.rglob("*") if path.is_file())
    if isinstance(target, Path):  # one folder for all ranks: each hashes its share
        return [checkpoint.record(root, path) for path in files[rank :: dist.get_world_size()]]
    records = [checkpoint.record(root, path) for path in files]
    node_copies.send(root, target, records)
    shutil.rmtree(root)
    return records


def load(
    source: Place,
    rank: int,
    models: Mapping[str, ShardedModel],
    saved_world_size: int,
    call: str,
    *,
    strict: bool,
    deadline_seconds: float,
) -> dict[str, Any]:
    """Loads all that `save` wrote, and returns its `state`; from another number of ranks all but the random states.

    `call` is a name that no other call of the gang has. `strict`: the models' files hold frozen weights too.
    """
    same_size = saved_world_size == dist.get_world_size()
    root = source if isinstance(source, Path) else _fetched(source, rank, same_size, call)
    for name, model in models.items():
        universal = _universal(source, root, rank, name, model, deadline_seconds)
        with nullcontext(root) if same_size else universal as folder:
            loaded, _ = model.engine.load_checkpoint(str(folder), tag=name, load_module_strict=strict)
        if loaded is None:
            raise RuntimeError(f"checkpoint {source}: DeepSpeed found nothing to load for {name}")
    state: dict[str, Any] = pickle.loads(_own(root, rank if same_size else 0).read_bytes())
    if same_size:
        torch.set_rng_state(state["torch"])
        if state.get("cuda") is not None:
            torch.cuda.set_rng_state(state["cuda"])
        np.random.set_state(state["numpy"])
        random.setstate(state["python"])
    dist.barrier()
    if root is not source:
        shutil.rmtree(root, ignore_errors=True)  # by every rank: those of one node share it
    return state


def _own(root: Path, rank: int) -> Path:
    return root / f"rank_{rank:05d}.pkl"


def _empty(folder: Path) -> Path:
    """The folder, without what an interrupted save has left in it and beside it."""
    shutil.rmtree(folder.parent, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _fetched(source: RemotePath, rank: int, same_size: bool, call: str) -> Path:
    """A folder of this node with what this rank needs of a checkpoint; the node's other ranks fetch into it too."""
    found = checkpoint.read(source)
    if found is None:
        raise RuntimeError(f"checkpoint {source} is gone")
    shards = node_copies.copy_of(source, "shards")
    for left in shards.parent.glob("*/*"):  # by an interrupted load
        if left.name != call:
            shutil.rmtree(left, ignore_errors=True)
    files = checkpoint.needed_by(found.files, rank) if same_size else list(found.files)
    turn = rank % len(files)  # ranks that need the same begin at different files
    node_copies.fetch(source, shards / call, files[turn:] + files[:turn])
    return shards / call


@contextmanager
def _universal(
    source: Place, root: Path, rank: int, name: str, model: ShardedModel, deadline_seconds: float
) -> Iterator[Path]:
    """A conversion of one model's shards that any number of ranks can load; gone afterwards."""
    if isinstance(source, Path):
        target = root.parent / f".universal-{root.name}"
        if rank == 0:
            _convert(root / name, target / name, deadline_seconds)
    else:
        target = root / "universal"
        with node_copies.locked(target / name):
            if not (target / name).exists():  # one rank of each node
                _convert(root / name, target / name, deadline_seconds)
    dist.barrier()
    model.engine._config.load_universal_checkpoint = True  # decided at load, not at initialisation
    try:
        yield target
    finally:
        model.engine._config.load_universal_checkpoint = False
        dist.barrier()
        if rank == 0 and isinstance(source, Path):  # a copy goes as a whole, and other ranks may convert the next model
            shutil.rmtree(target, ignore_errors=True)


def _convert(source: Path, target: Path, deadline_seconds: float) -> None:
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
    command += ["--input_folder", str(source), "--output_folder", str(target)]
    command += ["--num_extract_workers", "1", "--num_merge_workers", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=deadline_seconds)
    if done.returncode:
        raise RuntimeError(f"checkpoint {source} cannot be converted: {done.stderr[-2000:]}")
