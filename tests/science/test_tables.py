"""Records come back from Parquet as they went in; files are whole or absent; other files are refused."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledex_ray import tables
from ledex_ray.episodes import Episode
from ledex_ray.errors import BadInput
from ledex_ray.records import (
    MOST_TOLD,
    Attempt,
    Instruction,
    Provenance,
    Refinement,
    Status,
    TestResult,
    TestStatus,
    Trajectory,
    Verdict,
)
from ledex_ray.tables import from_row, from_table, read_records, schema_of, to_row, to_table, write_records

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
numbers = st.integers(0, 2**40)
floats = st.floats(allow_nan=False)
results = st.builds(
    TestResult, numbers, st.booleans(), st.sampled_from(TestStatus), texts, texts, texts, texts, numbers
)
verdicts = st.builds(
    Verdict,
    st.sampled_from(Status),
    st.lists(results, max_size=3).map(tuple),
    st.booleans(),
    texts,
    texts,
    texts,
    floats,
    floats,
    floats,
)
provenances = st.builds(Provenance, texts, texts, texts, floats, numbers, numbers, numbers)
attempts = st.builds(Attempt, texts, texts, numbers, texts, texts, verdicts, provenances)
refinements = st.builds(
    Refinement,
    texts,
    texts,
    texts,
    numbers,
    st.sampled_from(Instruction),
    texts,
    texts,
    texts,
    verdicts,
    provenances,
    st.booleans(),
)
trajectories = st.builds(Trajectory, attempts, texts, st.lists(refinements, max_size=2).map(tuple))


@dataclass(frozen=True)
class Note:
    """A record with every kind of field that the real ones do not use yet."""

    id: str
    weights: dict[str, float]
    pair: tuple[int, ...] = ()
    maybe: int | None = None
    meta: dict[str, str] = dataclasses.field(default_factory=dict)


NOTE = Note("a", {"x": 1.0, "y": float("inf")}, (1, 2), None, {"k": "v"})


@settings(max_examples=30)
@given(st.lists(trajectories, max_size=3))
def test_trajectories_survive_a_table(records: list[Trajectory]) -> None:
    assert from_table(to_table(records, Trajectory), Trajectory) == records


@settings(max_examples=30)
@given(trajectories)
def test_trajectories_survive_a_row(record: Trajectory) -> None:
    assert from_row(Trajectory, to_row(record)) == record


def test_maps_options_and_tuples_survive(tmp_path: Path) -> None:
    records = [NOTE, dataclasses.replace(NOTE, maybe=3, weights={}, pair=())]
    write_records(tmp_path / "notes.parquet", records)
    assert read_records(tmp_path / "notes.parquet", Note) == records


def test_rows_of_ray_data_are_read() -> None:
    row = to_row(NOTE) | {"pair": np.array([1, 2]), "weights": [("x", np.float64(1.0)), ("y", float("inf"))]}
    assert from_row(Note, row | {"added": 1}) == NOTE


def test_episodes_keep_their_arrays_and_types(tmp_path: Path) -> None:
    episode = Episode(
        "e",
        "g",
        "p",
        "direct",
        np.arange(3, dtype=np.int32),
        np.array([False, True, True]),
        np.array([0, -0.5, -1.25], dtype=np.float32),
        np.array([-1, 2, 2], dtype=np.int32),
        np.array([0, 0, 5], dtype=np.float32),
        -1,
        0.8,
        terms={"tests": 1.0},
        unscored=("explanation",),
    )
    write_records(tmp_path / "e.parquet", [episode])
    (read,) = read_records(tmp_path / "e.parquet", Episode)
    for field in dataclasses.fields(Episode):
        np.testing.assert_array_equal(getattr(read, field.name), getattr(episode, field.name))
    assert read.token_ids.dtype == np.int32 and read.rewards.dtype == np.float32 and read.loss_mask.dtype == np.bool_


def test_lone_surrogates_are_stored_as_replacements(tmp_path: Path) -> None:
    write_records(tmp_path / "n.parquet", [dataclasses.replace(NOTE, id="a\ud800b\x00")])
    assert read_records(tmp_path / "n.parquet", Note)[0].id == "a?b\x00"


def test_folder_is_read_by_name_and_leaves_out_unfinished_files(tmp_path: Path) -> None:
    for index in (1, 0):
        write_records(tmp_path / f"part-{index:06d}.parquet", [dataclasses.replace(NOTE, id=str(index))])
    (tmp_path / ".part-000002.parquet.x.tmp").write_bytes(b"half")
    assert [n.id for n in read_records(tmp_path, Note)] == ["0", "1"]


def test_no_records_need_a_class_and_keep_their_schema(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no class"):
        write_records(tmp_path / "n.parquet", [])
    write_records(tmp_path / "n.parquet", [], Note)
    assert read_records(tmp_path / "n.parquet", Note) == []
    assert pq.read_schema(tmp_path / "n.parquet").equals(schema_of(Note))


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "n.parquet"
    write_records(path, [NOTE])
    with pytest.raises((pa.ArrowInvalid, pa.ArrowTypeError)):
        write_records(path, [dataclasses.replace(NOTE, pair=("no number",))])  # type: ignore[arg-type]
    assert read_records(path, Note) == [NOTE]
    assert [p.name for p in tmp_path.iterdir()] == ["n.parquet"]


def test_other_records_are_refused(tmp_path: Path) -> None:
    write_records(tmp_path / "n.parquet", [NOTE])
    with pytest.raises(BadInput, match=r"n\.parquet.*'Note'.*Attempt"):
        read_records(tmp_path / "n.parquet", Attempt)


def test_another_schema_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_records(tmp_path / "n.parquet", [NOTE])
    monkeypatch.setattr(tables, "SCHEMA_VERSION", 2)
    with pytest.raises(BadInput, match="version"):
        read_records(tmp_path / "n.parquet", Note)


def test_added_field_with_default_reads_old_files_and_one_without_does_not(tmp_path: Path) -> None:
    table = to_table([NOTE])
    pq.write_table(table.drop_columns(["maybe"]), tmp_path / "old.parquet")
    assert read_records(tmp_path / "old.parquet", Note) == [NOTE]
    pq.write_table(table.drop_columns(["weights"]), tmp_path / "older.parquet")
    with pytest.raises(BadInput, match="'weights'"):
        read_records(tmp_path / "older.parquet", Note)


def test_missing_and_broken_files_are_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file"):
        read_records(tmp_path / "none.parquet", Note)
    with pytest.raises(BadInput, match=r"^foo://x: cannot be read .*expected a path or an object store's URI"):
        read_records("foo://x", Note)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(BadInput, match="not a readable Parquet"):
        read_records(tmp_path / "broken.parquet", Note)


def test_uri_of_a_file_system_is_written_and_read(tmp_path: Path) -> None:
    uri = f"file://{tmp_path}/n.parquet"
    write_records(uri, [NOTE])
    assert read_records(uri, Note) == [NOTE]


def test_field_without_an_arrow_form_is_an_error_of_ours() -> None:
    @dataclass(frozen=True)
    class Odd:
        value: complex

    Odd.__annotations__["value"] = complex
    with pytest.raises(TypeError, match="complex"):
        schema_of(Odd)


def test_a_stored_verdict_counts_all_tests_and_tells_of_the_first_failures() -> None:
    states = [TestStatus.PASSED, TestStatus.FAILED, TestStatus.NOT_RUN] * (MOST_TOLD + 1)
    tests = tuple(TestResult(i, i == 0, status, "call", "1", "2") for i, status in enumerate(states))
    kept = Verdict(Status.FAILED, tests, feedback="wrong").kept
    assert [(t.index, t.public, t.status) for t in kept.tests] == [(t.index, t.public, t.status) for t in tests]
    assert (kept.n_passed, kept.n_tests, kept.feedback) == (MOST_TOLD + 1, len(tests), "wrong")
    told = [t for t in kept.tests if t.call or t.expected or t.got]
    assert told == [t for t in tests if t.status is not TestStatus.PASSED][:MOST_TOLD]
