"""Numbered Parquet parts of one kind of record: written whole, read together, counted once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

from ledex_ray.tables import read_records, write_records

R = TypeVar("R")


class Parts(Generic[R]):
    """A folder of `part-NNNNNN.parquet`; a part that is there is complete. `written` is called after each new one."""

    def __init__(self, folder: Path, kind: type[R], written: Callable[[], None] = lambda: None) -> None:
        self.folder, self.kind, self._written = folder, kind, written
        folder.mkdir(parents=True, exist_ok=True)

    def read(self) -> list[R]:
        """Every record of every part, in order."""
        return [r for part in sorted(self.folder.glob("part-*.parquet")) for r in read_records(part, self.kind)]

    def append(self, records: Iterable[R]) -> None:
        """Adds one part; nothing is written for no records."""
        rows = list(records)
        if rows:
            taken = [int(part.stem[5:]) for part in self.folder.glob("part-*.parquet")]
            write_records(self.folder / f"part-{max(taken, default=-1) + 1:06d}.parquet", rows)
            self._written()


class PartWriter(Generic[R]):
    """Gathers the records of whole items and writes a part every few seconds: what a kill may cost."""

    def __init__(self, parts: Parts[R], every_seconds: float = 10.0) -> None:
        self._parts, self._every = parts, every_seconds
        self._rows: list[R] = []
        self._last = time.monotonic()

    def __enter__(self) -> PartWriter[R]:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def add(self, item: Iterable[R]) -> None:
        """Takes all records of one item: an item is in one part, or in none."""
        self._rows += item
        if time.monotonic() - self._last > self._every:
            self.flush()

    def flush(self) -> None:
        """Writes what has gathered."""
        rows, self._rows, self._last = self._rows, [], time.monotonic()
        self._parts.append(rows)
