"""Checkpoint directories: what makes one complete, which is the newest, which go. Plain files, no torch.

`ROOT/000017/` holds the files of each rank; `MANIFEST.json` (files, sizes, hashes, the driver's state) is written last.
A directory without a manifest, or with a file that differs from it, is never loaded. Not covered: what is inside the
ranks' files (learner_rank.py).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

MANIFEST = "MANIFEST.json"


@dataclass(frozen=True)
class FileRecord:
    """One file of a checkpoint, its path relative to the checkpoint."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: every file is there, with the size that the manifest gives."""

    directory: Path
    world_size: int
    driver_state: dict[str, Any]
    files: tuple[FileRecord, ...]


def record(root: Path, path: Path) -> FileRecord:
    """Size and hash of a file that this process wrote, after it has reached the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileRecord(str(path.relative_to(root)), path.stat().st_size, digest)


def new_directory(root: Path) -> Path:
    """An empty directory with the next number; torn ones are removed first."""
    root.mkdir(parents=True, exist_ok=True)
    numbers = [int(path.name) for path in root.iterdir() if path.name.isdigit()]
    for path in root.iterdir():
        if path.name.isdigit() and not (path / MANIFEST).exists():
            log.warning("checkpoint removed, it has no manifest path=%s", path)
            shutil.rmtree(path)
    directory = root / f"{max(numbers, default=0) + 1:06d}"
    directory.mkdir()
    return directory


def commit(
    directory: Path, files: list[FileRecord], driver_state: Mapping[str, Any], *, world_size: int, keep: int
) -> None:
    """Writes the manifest, which makes the checkpoint exist, then removes all but the newest `keep`."""
    manifest = {
        "schema": 1,
        "world_size": world_size,
        "driver_state": driver_state,
        "files": [vars(file) for file in sorted(files, key=lambda file: file.path)],
    }
    partial = directory / f"{MANIFEST}.partial"
    with open(partial, "w", encoding="utf-8") as out:
        json.dump(manifest, out, indent=1)
        out.flush()
        os.fsync(out.fileno())
    partial.rename(directory / MANIFEST)
    complete = [path for path in _numbered(directory.parent) if (path / MANIFEST).exists()]
    for path in complete[keep:]:
        (path / MANIFEST).unlink()  # first: a half-removed checkpoint must not look whole
        shutil.rmtree(path)


def newest(root: Path, *, verify_hashes: bool = True) -> Checkpoint | None:
    """The newest complete checkpoint under `root`, or None. Torn and damaged ones are logged and passed over."""
    for directory in _numbered(root):
        checkpoint = read(directory)
        if checkpoint is None:
            log.warning("checkpoint passed over, it has no manifest path=%s", directory)
            continue
        damaged = [file.path for file in checkpoint.files if not _intact(directory, file, verify_hashes)]
        if damaged:
            log.warning("checkpoint passed over, damaged path=%s files=%s", directory, ",".join(damaged))
            continue
        return checkpoint
    return None


def read(directory: Path) -> Checkpoint | None:
    """What the manifest says, files unchecked; None where there is no readable manifest."""
    try:
        manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    files = tuple(FileRecord(**file) for file in manifest["files"])
    return Checkpoint(directory, manifest["world_size"], manifest["driver_state"], files)


def _intact(directory: Path, file: FileRecord, verify_hash: bool) -> bool:
    path = directory / file.path
    if not path.exists() or path.stat().st_size != file.size:
        return False
    if not verify_hash:
        return True
    with open(path, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest() == file.sha256


def _numbered(root: Path) -> list[Path]:
    """Numbered directories, newest first."""
    if not root.is_dir():
        return []
    return sorted((path for path in root.iterdir() if path.name.isdigit()), key=lambda p: int(p.name), reverse=True)
