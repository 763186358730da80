"""What a run holds, one light row an answer: enough to filter and to page, read without the answers' texts.

Only narrow columns of each Parquet file are read, once a file; a part that is there is complete and never changes,
so a run that goes on costs its new parts alone. The texts of one answer are read when it is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

SCHEMA = pa.schema(
    [
        ("stage", pa.string()),  # solve, refine, ppo or evaluation
        ("by", pa.string()),  # who wrote it: model, teacher, seeded; a label of the evaluation; policy
        ("mode", pa.string()),  # solve, direct, explain, initial, resample ...
        ("iteration", pa.int64()),  # of PPO, or the round of an evaluation; null elsewhere
        ("problem", pa.string()),
        ("verdict", pa.string()),
        ("reward", pa.float64()),  # null where an answer has none
        ("copied", pa.bool_()),  # null where nothing was to be refined
        ("id", pa.string()),
        ("parent", pa.string()),  # the wrong solution that was to be refined; "" for first solutions
        ("file", pa.string()),  # below the run
        ("row", pa.int64()),
    ]
)
FACETS = ("stage", "by", "mode", "iteration", "verdict")
ORDERS = {"written": None, "reward, highest first": "descending", "reward, lowest first": "ascending"}


@dataclass(frozen=True)
class Filter:
    """What a visitor asked to see; empty fields ask for nothing."""

    stage: str = ""
    by: str = ""
    mode: str = ""
    iteration: str = ""
    verdict: str = ""
    problem: str = ""  # any part of its id
    least: float | None = None  # reward
    most: float | None = None
    order: str = "written"

    def rows(self, table: pa.Table) -> pa.Table:
        """The rows that match, in the order asked for."""
        for name in FACETS:
            wanted = getattr(self, name)
            if wanted:
                table = table.filter(pc.equal(pc.cast(table[name], pa.string()), wanted))
        if self.problem:
            table = table.filter(pc.match_substring(table["problem"], self.problem, ignore_case=True))
        if self.least is not None:
            table = table.filter(pc.greater_equal(table["reward"], self.least))
        if self.most is not None:
            table = table.filter(pc.less_equal(table["reward"], self.most))
        direction = ORDERS.get(self.order)
        if direction:
            table = table.filter(pc.is_valid(table["reward"])).sort_by([("reward", direction), ("id", "ascending")])
        return table


@dataclass(frozen=True)
class _Source:
    """A folder of parts, and how the rows of one become rows of the index."""

    stage: str
    pattern: str
    columns: tuple[str, ...]
    light: Callable[[pa.Table, Path], dict[str, Any]]


class RunIndex:
    """The rows of every answer of a run, kept up to date by `refresh`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.table = SCHEMA.empty_table()
        self.unreadable: dict[str, str] = {}  # file -> why
        self._parts: dict[Path, tuple[tuple[int, int], pa.Table]] = {}

    @property
    def state(self) -> str:
        """Changes whenever the index does."""
        newest = max((stamp[0] for stamp, _ in self._parts.values()), default=0)
        return f"{len(self._parts)}-{self.table.num_rows}-{newest}"

    def refresh(self) -> None:
        """Reads the parts that are new; forgets those that are gone."""
        found: dict[Path, tuple[tuple[int, int], pa.Table]] = {}
        unreadable: dict[str, str] = {}
        for source in SOURCES:
            for path in sorted(self.root.glob(source.pattern)):
                try:  # a run that resumes may take a part away or write it again
                    stat = path.stat()
                    stamp = (stat.st_mtime_ns, stat.st_size)
                    known = self._parts.get(path)
                    found[path] = known if known and known[0] == stamp else (stamp, self._read(path, source))
                except (pa.ArrowInvalid, KeyError, OSError) as error:
                    unreadable[str(path.relative_to(self.root))] = f"{type(error).__name__}: {error}"[:200]
        self.unreadable = unreadable
        if found.keys() != self._parts.keys() or any(found[p] is not self._parts[p] for p in found):
            self._parts = found
            self.table = pa.concat_tables([t for _, t in found.values()]) if found else SCHEMA.empty_table()

    def facets(self) -> dict[str, list[tuple[str, int]]]:
        """For each filter its values with how many answers have them."""
        found = {}
        for name in FACETS:
            counts = self.table[name].drop_null().value_counts().to_pylist()
            found[name] = [(str(c["values"]), c["counts"]) for c in sorted(counts, key=lambda c: c["values"])]
        return found

    def row(self, file: str, row: int) -> dict[str, Any] | None:
        """The light row of an answer; None where the index has none there."""
        known = self._parts.get(self.root / file)
        if known is None or not 0 <= row < known[1].num_rows:
            return None
        return _first(known[1].slice(row, 1))

    def by_id(self, id: str) -> dict[str, Any] | None:
        """The light row of the answer with this id; None where there is none."""
        return _first(self.table.filter(pc.equal(self.table["id"], id)))

    def children(self, id: str, most: int = 50) -> tuple[list[dict[str, Any]], int]:
        """Light rows of what was asked for on top of this answer (refinements, episodes), and how many there are."""
        found = self.table.filter(pc.equal(self.table["parent"], id))
        return found.slice(0, most).to_pylist(), found.num_rows

    def full(self, file: str, row: int) -> dict[str, Any]:
        """Every column of one answer, as plain data. The place must be one that `row` knows."""
        assert self.root / file in self._parts, f"{file} is no part of this run"
        parquet = pq.ParquetFile(self.root / file)
        for group in range(parquet.num_row_groups):
            size = parquet.metadata.row_group(group).num_rows
            if row < size:
                found: dict[str, Any] = parquet.read_row_group(group).slice(row, 1).to_pylist()[0]
                return found
            row -= size
        raise AssertionError(f"{file} has no row {row}")

    def _read(self, path: Path, source: _Source) -> pa.Table:
        parquet = pq.ParquetFile(path)
        there = set(parquet.schema_arrow.names)
        table = parquet.read(columns=[c for c in source.columns if c.split(".")[0] in there])
        count = table.num_rows
        light = {
            **source.light(table, path),
            "stage": [source.stage] * count,
            "file": [str(path.relative_to(self.root))] * count,
            "row": list(range(count)),
        }
        return pa.table([_column(light.get(f.name), f.type, count) for f in SCHEMA], schema=SCHEMA)


def _column(values: Any, kind: pa.DataType, count: int) -> pa.ChunkedArray:
    if values is None:
        return pa.chunked_array([pa.nulls(count, kind)])
    column = values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([pa.array(values)])
    return column.cast(kind)


def _first(table: pa.Table) -> dict[str, Any] | None:
    rows: list[dict[str, Any]] = table.slice(0, 1).to_pylist()
    return rows[0] if rows else None


def _solved(table: pa.Table, path: Path) -> dict[str, Any]:
    return {
        "by": pc.struct_field(table["provenance"], "source"),
        "mode": ["solve"] * table.num_rows,
        "problem": table["problem_id"],
        "verdict": pc.struct_field(table["verdict"], "status"),
        "id": table["id"],
        "parent": [""] * table.num_rows,
    }


def _refined(table: pa.Table, path: Path) -> dict[str, Any]:
    copied = table["copied"] if "copied" in table.column_names else None
    changed = {"mode": table["instruction"], "parent": table["attempt_id"], "copied": copied}
    return {**_solved(table, path), **changed}


def _episodes(table: pa.Table, path: Path) -> dict[str, Any]:
    return {
        "by": ["policy"] * table.num_rows,
        "mode": table["instruction"],
        "iteration": [int(path.stem) + 1] * table.num_rows,
        "problem": table["problem_id"],
        "verdict": table["verdict"],
        "reward": _sums(table["rewards"], table["scored"]),
        "id": table["id"],
        "parent": [attempt_of(group) for group in table["group_id"].to_pylist()],
    }


def _evaluated(table: pa.Table, path: Path) -> dict[str, Any]:
    first = pc.equal(table["mode"], "initial")
    fresh = pc.or_(first, pc.equal(table["mode"], "resample"))
    rootless = pc.or_(fresh, pc.equal(table["bugs"], "fixed")) if _bugs_of_another_run(path) else fresh
    return {
        "by": table["label"],
        "mode": table["mode"],
        "iteration": table["round"],
        "problem": table["problem_id"],
        "verdict": table["status"],
        "copied": pc.if_else(fresh, pa.scalar(None, pa.bool_()), table["copied"]),
        "id": table["id"],
        "parent": pc.if_else(rootless, "", table["parent_id"]),
    }


def _bugs_of_another_run(part: Path) -> bool:
    """Whether the recipe names a bug set: its ids are then other samples' than this run's of the same id."""
    recipe = part.parents[3] / "recipe.yaml"
    tree = yaml.safe_load(recipe.read_text(encoding="utf-8")) if recipe.exists() else {}
    return bool((tree.get("evaluation") or {}).get("bug_set"))


def attempt_of(group_id: str) -> str:
    """The attempt that an episode refines, from its group "POSITION/ATTEMPT/INSTRUCTION"; "" for another form."""
    head, _, rest = group_id.partition("/")
    attempt, _, instruction = rest.rpartition("/")
    return attempt if head.isdigit() and instruction in ("direct", "explain") else ""


def _sums(lists: pa.ChunkedArray, scored: pa.ChunkedArray) -> list[float | None]:
    """The sum of each list, null where the episode has no trustworthy reward."""
    sums: list[float] = []
    for chunk in lists.chunks:
        lengths = pc.list_value_length(chunk).to_numpy(zero_copy_only=False)
        totals = np.concatenate([[0.0], np.cumsum(chunk.flatten().to_numpy(zero_copy_only=False), dtype=np.float64)])
        ends = np.cumsum(lengths).astype(np.int64)
        sums += (totals[ends] - totals[ends - lengths.astype(np.int64)]).tolist()
    return [total if kept else None for total, kept in zip(sums, scored.to_pylist(), strict=True)]


def pages(rows: int, size: int) -> int:
    """How many pages so many rows take; 1 for none."""
    return max(1, -(-rows // size))


def neighbours(rows: pa.Table, file: str, row: int) -> tuple[dict[str, Any] | None, dict[str, Any] | None, int]:
    """(before, after, position) of an answer among these rows; (None, None, -1) where it is none of them."""
    here = pc.and_(pc.equal(rows["file"], file), pc.equal(rows["row"], row))
    position = pc.index(here, True).as_py()
    if position < 0:
        return None, None, -1
    before = _first(rows.slice(position - 1, 1)) if position else None
    return before, _first(rows.slice(position + 1, 1)), position


SOURCES: Sequence[_Source] = (
    _Source(
        "solve",
        "synthesis/solve/part-*.parquet",
        ("id", "problem_id", "verdict.status", "provenance.source"),
        _solved,
    ),
    _Source(
        "refine",
        "synthesis/refine/part-*.parquet",
        ("id", "attempt_id", "problem_id", "instruction", "verdict.status", "provenance.source", "copied"),
        _refined,
    ),
    _Source(
        "ppo",
        "ppo/episodes/[0-9]*.parquet",
        ("id", "group_id", "problem_id", "instruction", "verdict", "rewards", "scored"),
        _episodes,
    ),
    _Source(
        "evaluation",
        "evaluation/*/parts/part-*.parquet",
        ("id", "parent_id", "problem_id", "label", "mode", "round", "bugs", "status", "copied"),
        _evaluated,
    ),
)
