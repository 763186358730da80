"""Checkpoint directories: what makes one complete, which is the newest, which go. Plain files, no torch.

`ROOT/000017/` holds the files of each rank; `MANIFEST.json` (files, sizes, hashes, the driver's state) is written last.
A directory without a manifest, or with a file that differs from it, is never loaded. ROOT is a folder that every rank
sees, or a URL. Not covered: what is inside the ranks' files (learner_rank.py), their way to a URL (node_copies.py).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from actors.places import Place, patiently, remove_tree

log = logging.getLogger(__name__)

T = TypeVar("T")

MANIFEST = "MANIFEST.json"
_RANKS_OWN = re.compile(r"(?:zero_pp_|^)rank_(\d+)")  # DeepSpeed's shards, and rank_NNNNN.pkl


@dataclass(frozen=True)
class FileRecord:
    """One file of a checkpoint, its path relative to the checkpoint."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: every file is there, with the size that the manifest gives."""

    directory: Place
    world_size: int
    driver_state: dict[str, Any]
    files: tuple[FileRecord, ...]


def sha256(path: Path) -> str:
    """The file's hash, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def record(root: Path, path: Path) -> FileRecord:
    """Size and hash of a file that this process wrote, after it has reached the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    return FileRecord(str(path.relative_to(root)), path.stat().st_size, sha256(path))


def needed_by(files: Sequence[FileRecord], rank: int) -> list[FileRecord]:
    """The files that a rank loads: all but what the other ranks alone have use for."""
    owners = [_RANKS_OWN.search(Path(file.path).name) for file in files]
    return [file for file, owner in zip(files, owners, strict=True) if owner is None or int(owner[1]) == rank]


def new_directory(root: Place) -> Place:
    """An empty directory with the next number; torn ones are removed first."""
    if isinstance(root, Path):
        root.mkdir(parents=True, exist_ok=True)
    found = _asked(root, lambda: _numbered(root))
    _asked(root, lambda: _remove_torn(found))
    directory = root / f"{max((int(path.name) for path in found), default=0) + 1:06d}"
    if isinstance(directory, Path):
        directory.mkdir()
    return directory


def commit(
    directory: Place, files: Sequence[FileRecord], driver_state: Mapping[str, Any], *, world_size: int, keep: int
) -> None:
    """Writes the manifest, which makes the checkpoint exist, then removes all but the newest `keep`."""
    seal(directory, files, driver_state, world_size=world_size)
    _asked(directory, lambda: _remove_older(directory.parent, keep))


def seal(directory: Place, files: Sequence[FileRecord], driver_state: Mapping[str, Any], *, world_size: int) -> None:
    """Writes the manifest, after which the directory counts."""
    manifest = {
        "schema": 1,
        "world_size": world_size,
        "driver_state": driver_state,
        "files": [vars(file) for file in sorted(files, key=lambda file: file.path)],
    }
    text = json.dumps(manifest, indent=1)
    if isinstance(directory, Path):
        partial = directory / f"{MANIFEST}.partial"
        with open(partial, "w", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        partial.rename(directory / MANIFEST)
    else:
        manifest_file = directory / MANIFEST
        patiently(lambda: manifest_file.write_text(text))


def remove(directory: Place) -> None:
    """Removes a complete directory, its manifest first: a half-removed one must not look whole."""
    (directory / MANIFEST).unlink()
    remove_tree(directory)


def newest(root: Place, *, verify_hashes: bool = True) -> Checkpoint | None:
    """The newest complete checkpoint under `root`, or None. Torn and damaged ones are logged and passed over.

    At a URL sizes are compared here, and hashes by the ranks, each for what it fetches.
    """
    for directory in _asked(root, lambda: _numbered(root)):
        checkpoint = read(directory)
        if checkpoint is None:
            log.warning("checkpoint passed over, it has no manifest path=%s", directory)
            continue
        damaged = _damaged(checkpoint, verify_hashes)
        if damaged:
            log.warning("checkpoint passed over, damaged path=%s files=%s", directory, ",".join(damaged))
            continue
        return checkpoint
    return None


def read(directory: Place) -> Checkpoint | None:
    """What the manifest says, files unchecked; None where there is no readable manifest."""
    try:
        manifest = json.loads(_asked(directory, lambda: (directory / MANIFEST).read_text(encoding="utf-8")))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    files = tuple(FileRecord(**file) for file in manifest["files"])
    return Checkpoint(directory, manifest["world_size"], manifest["driver_state"], files)


def _damaged(checkpoint: Checkpoint, verify_hashes: bool) -> list[str]:
    directory, files = checkpoint.directory, checkpoint.files
    if isinstance(directory, Path):
        return [file.path for file in files if not _intact(directory, file, verify_hashes)]
    there = patiently(directory.files)
    return [file.path for file in files if there.get(file.path, (-1, 0))[0] != file.size]


def _intact(directory: Path, file: FileRecord, verify_hash: bool) -> bool:
    path = directory / file.path
    if not path.exists() or path.stat().st_size != file.size:
        return False
    return not verify_hash or sha256(path) == file.sha256


def _remove_torn(numbered: Sequence[Place]) -> None:
    for path in numbered:
        if not (path / MANIFEST).exists():
            log.warning("checkpoint removed, it has no manifest path=%s", path)
            remove_tree(path)


def _remove_older(root: Place, keep: int) -> None:
    complete = [path for path in _numbered(root) if (path / MANIFEST).exists()]
    for path in complete[keep:]:
        remove(path)


def _asked(where: Place, call: Callable[[], T]) -> T:
    """What the call returns; a remote storage is given more than one chance."""
    return call() if isinstance(where, Path) else patiently(call)


def _numbered(root: Place) -> list[Place]:
    """Numbered directories, newest first."""
    if isinstance(root, Path) and not root.is_dir():
        return []
    return sorted((path for path in root.iterdir() if path.name.isdigit()), key=lambda p: int(p.name), reverse=True)
