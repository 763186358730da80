"""Problem sets by SPEC: names, paths and splits, and rows that are read a few at a time."""

from __future__ import annotations

import dataclasses
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ledex_ray.errors import BadInput
from ledex_ray.readers import files, load_problems, parse_spec, sources
from tests.science.rows import CONTEST, GOOD, write


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("humanevil", "is no known set"),
        ("prob.jsonl", "or FORMAT:PATH; did you mean jsonl:prob.jsonl"),
        ("prob.jsonl.gz@train", "did you mean jsonl:prob.jsonl.gz@train"),
        ("csv:x", "unknown format, got 'csv'"),
        ("jsonl:", "has no path"),
        ("mbpp@dev", "unknown split, got 'dev'; expected train or validation"),
        ("bundled@test", "has no such split"),
    ],
)
def test_wrong_spec_is_refused(spec: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        load_problems(spec)


def test_path_may_hold_an_at_sign() -> None:
    assert parse_spec("jsonl:/a@b/c.jsonl").path == Path("/a@b/c.jsonl")
    assert parse_spec("jsonl:/a@b/c.jsonl@train").split == "train"
    assert parse_spec("apps:/").path == Path("/")


def test_a_split_that_no_file_can_have_is_told_from_a_missing_file(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    for wrong in (f"jsonl:{path}@dev", f"apps:{tmp_path}@dev"):
        with pytest.raises(BadInput, match="has an unknown split, got 'dev'; expected train or validation or test"):
            parse_spec(wrong)
    path.rename(tmp_path / "problems.jsonl@dev")
    assert parse_spec(f"jsonl:{path}@dev").path == tmp_path / "problems.jsonl@dev"
    with pytest.raises(BadInput, match="no such file"):
        load_problems(f"jsonl:{path}@trian")


def test_split_of_a_file_is_taken(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD | {"split": "train"}, GOOD | {"id": "own/2", "split": "heldout"})
    assert [p.id for p in load_problems(f"jsonl:{path}@heldout")] == ["own/2"]
    with pytest.raises(BadInput, match="expected heldout or train"):
        load_problems(f"jsonl:{path}@test")


def test_unknown_place_names_the_folder_and_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEDEX_DATA", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(BadInput, match=r"mbpp\.jsonl.*LEDEX_DATA.*google-research-datasets/mbpp on the hub"):
        load_problems("mbpp")


def test_bundled_splits_make_up_the_whole() -> None:
    sizes = {split: len(load_problems(f"bundled@{split}")) for split in ("train", "validation", "heldout")}
    assert sum(sizes.values()) == len(load_problems("bundled")) >= 200
    assert all(p.benchmark == "bundled" and p.meta["difficulty"] in "123" for p in load_problems("bundled"))


def test_a_parquet_file_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("no")
    with pytest.raises(BadInput, match="is not a readable Parquet file"):
        load_problems(f"codecontests:{tmp_path / 'a.parquet'}")


BIG = "x" * 100_000


def contests(folder: Path) -> Path:
    """CodeContests as the hub has it, a Parquet file for each split, with wide rows: 30 MB in all."""
    for split, count in (("train", 200), ("test", 2), ("valid", 1)):
        wide = {"incorrect_solutions": {"language": [3], "solution": [BIG]}, "note": BIG}
        rows = [CONTEST | {"name": f"{split}_{n}"} | wide for n in range(count)]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}-00000-of-00001.parquet")
    named = [f"- {{split: {s}, path: {s}-*.parquet}}" for s in ("train", "test", "valid")]
    (folder / "README.md").write_text("\n".join(["---", "configs:", "- config_name: default", "  data_files:"]) + "\n")
    with (folder / "README.md").open("a") as readme:
        readme.write("".join(f"  {line}\n" for line in named) + "---\n")
    return folder


def most_held(rows: Iterable[tuple[str, dict[str, Any]]]) -> int:
    """Bytes of Python objects held at once while rows are read and let go; no row has the column that is unread."""
    tracemalloc.start()
    for _, row in rows:
        assert "incorrect_solutions" not in row
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_a_parquet_file_is_read_a_few_rows_at_a_time_and_without_wrong_solutions(tmp_path: Path) -> None:
    path = contests(tmp_path) / "train-00000-of-00001.parquet"
    places = [where for where, _ in files.rows(path)]
    assert places == [f"{path}:{number}" for number in range(1, 201)]
    assert most_held(files.rows(path)) < 100 * len(BIG)
    assert [p.id for p in load_problems(f"codecontests:{path}@train")][-1] == "CodeContests/train_199"


def test_of_a_set_on_the_hub_the_split_asked_for_is_read_row_by_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.delenv("LEDEX_DATA", raising=False)
    (tmp_path / "hub").mkdir()
    known = sources.SETS["codecontests"]
    local = dataclasses.replace(known.hub, path=str(contests(tmp_path / "hub")))
    monkeypatch.setitem(sources.SETS, "codecontests", dataclasses.replace(known, hub=local))
    assert [p.split for p in load_problems("codecontests")] == ["train"] * 200 + ["test"] * 2 + ["validation"]
    (found,) = sources.find("codecontests", "validation").rows
    assert found[0] == f"{local.path}/valid:1" and found[1]["split"] == "valid"
    assert len(load_problems("codecontests@test")) == 2
    assert most_held(sources.find("codecontests", "train").rows) < 100 * len(BIG)
    with pytest.raises(BadInput, match="no such split, got 'heldout'; expected test or train or validation"):
        load_problems("codecontests@heldout")


# Ids of samples
