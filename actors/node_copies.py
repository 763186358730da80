"""What lies at a URL, on this node: models fetched once, shards sent and fetched by the ranks that hold them.

Nodes share no disk here; processes of one node do, and share what they fetch. A copy is checked against the manifest's
hashes before it is used. It lies under LEDEX_WORK (default ~/.cache/ledex/work), and may be deleted when nothing runs.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from actors import checkpoint
from actors.checkpoint import Checkpoint, FileRecord
from actors.places import Place, RemotePath, patiently, place
from ledex_ray.errors import BadInput

THREADS = 4  # files at a time; within each, pyarrow has threads of its own


def copy_of(remote: RemotePath, kind: str) -> Path:
    """The path on this node for a copy of what lies at a URL; `kind` parts those who keep copies."""
    folder = Path(os.environ.get("LEDEX_WORK") or "~/.cache/ledex/work").expanduser().absolute()
    options = f"-{hashlib.sha256(remote.options.encode()).hexdigest()[:8]}" if remote.options else ""
    return folder / kind / f"{remote.scheme}{options}" / remote.path.strip("/")


def send(folder: Path, remote: RemotePath, files: Sequence[FileRecord]) -> None:
    """Uploads these files of a folder."""
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda file: patiently(lambda: (remote / file.path).put(folder / file.path)), files))


def fetch(remote: RemotePath, folder: Path, files: Sequence[FileRecord]) -> None:
    """Downloads those of the files that the folder lacks. Processes that fetch into one folder share the work."""
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda file: _fetch(remote / file.path, folder / file.path, file), files))


def model_folder(name: str | Path) -> Path:
    """The directory on this node of a model given by path or URL; a URL's files are fetched where they are missing.

    A run's `model` folder at a URL holds a numbered one: the lowest that is complete is the one that counts (a newer
    one still waits for its checkpoint, see launch/best_model.py). BadInput where there is none.
    """
    where = place(name)
    if isinstance(where, Path):
        return where
    found = _complete_model(where)
    assert isinstance(found.directory, RemotePath)
    folder = copy_of(found.directory, "models")
    with locked(folder):
        held = checkpoint.read(folder)
        if held is None or held.files != found.files:
            older = [path for path in folder.parent.iterdir() if path.name.isdigit()]
            for stale in {folder, *(older if folder.name.isdigit() else [])}:
                shutil.rmtree(stale, ignore_errors=True)
            fetch(found.directory, folder, found.files)
            checkpoint.seal(folder, found.files, {}, world_size=1)
    return folder


@contextmanager
def outgoing_model(where: Place) -> Iterator[Path]:
    """Where to write a model that is to lie at a path or URL; at a URL it exists when the manifest has followed it."""
    if isinstance(where, Path):
        yield where
        return
    folder = copy_of(where, "outgoing")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield folder
        patiently((where / checkpoint.MANIFEST).unlink)  # of one that was here before
        files = [checkpoint.record(folder, path) for path in sorted(folder.rglob("*")) if path.is_file()]
        send(folder, where, files)
        checkpoint.seal(where, files, {}, world_size=1)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lets one process of this node, and one thread of it, at the path; the lock goes with its holder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _fetch(remote: RemotePath, target: Path, file: FileRecord) -> None:
    partial = target.with_name(f".{target.name}.unchecked")

    def checked() -> None:
        remote.get(partial)
        if partial.stat().st_size != file.size or checkpoint.sha256(partial) != file.sha256:
            raise OSError(f"{remote}: differs from its manifest")
        partial.rename(target)

    with locked(target):
        if not target.exists():  # what is there has been checked
            patiently(checked)


def _complete_model(where: RemotePath) -> Checkpoint:
    numbered = [directory for directory in patiently(where.iterdir) if directory.name.isdigit()]
    for directory in (where, *sorted(numbered, key=lambda d: int(d.name))):
        found = checkpoint.read(directory)
        if found is not None:
            return found
    raise BadInput(str(where), "holds no complete model", expected="the model/ folder of a run whose stage is finished")
