"""Episodes on disk: one Parquet file an iteration, written whole, so that an update can be replayed exactly."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ledex_ray.episodes import Episode
from ledex_ray.records import TestResult, TestStatus

VERSION = b"1"
_ARRAYS = {
    "token_ids": (pa.int32(), np.int32),
    "loss_mask": (pa.bool_(), np.bool_),
    "behaviour_log_probs": (pa.float32(), np.float32),
    "weight_versions": (pa.int32(), np.int32),
    "rewards": (pa.float32(), np.float32),
}
_SCALARS = {
    "id": pa.string(),
    "group_id": pa.string(),
    "problem_id": pa.string(),
    "instruction": pa.string(),
    "explanation_end": pa.int32(),
    "temperature": pa.float64(),
    "scored": pa.bool_(),
    "truncated": pa.bool_(),
    "unscored": pa.list_(pa.string()),
    "text": pa.string(),
    "verdict": pa.string(),
    "answer": pa.string(),
    "feedback": pa.string(),
    "n_tests": pa.int32(),
}
_SCHEMA = pa.schema(
    [(name, pa.list_(kind)) for name, (kind, _) in _ARRAYS.items()]
    + list(_SCALARS.items())
    + [("terms", pa.string()), ("failed_tests", pa.string())],  # JSON: the names of the curves differ by arm
    metadata={b"ledex.episodes": VERSION},
)


class EpisodeStore:
    """A folder of `NNNNNN.parquet`, one an iteration; a file that is there is complete."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, iteration: int, episodes: Sequence[Episode]) -> None:
        """Stores the episodes of an iteration."""
        rows = [_row(e) for e in episodes]
        path = self._path(iteration)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), temporary)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())  # the name must not outlive the data where a node goes down
        temporary.replace(path)

    def read(self, iteration: int) -> list[Episode] | None:
        """The episodes of an iteration in the order they were written; None where there are none."""
        path = self._path(iteration)
        return [_episode(row) for row in pq.read_table(path).to_pylist()] if path.exists() else None

    def _path(self, iteration: int) -> Path:
        return self.folder / f"{iteration:06d}.parquet"


def _row(episode: Episode) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(episode, name).tolist() for name in _ARRAYS}
    row |= {name: getattr(episode, name) for name in _SCALARS}
    failed = [asdict(test) for test in episode.failed_tests]
    return row | {"terms": json.dumps(dict(episode.terms)), "failed_tests": json.dumps(failed)}


def _episode(row: dict[str, Any]) -> Episode:
    arrays: dict[str, Any] = {name: np.asarray(row.pop(name), dtype=kind) for name, (_, kind) in _ARRAYS.items()}
    terms = json.loads(row.pop("terms"))
    unscored = tuple(row.pop("unscored"))
    failed = json.loads(row.pop("failed_tests", "[]"))  # an older run's episodes have none
    tests = tuple(TestResult(**test | {"status": TestStatus(test["status"])}) for test in failed)
    return Episode(**arrays, **row, terms=terms, unscored=unscored, failed_tests=tests)
