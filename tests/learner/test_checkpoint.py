"""A checkpoint exists when its manifest does and its files are what the manifest says."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.checkpoint import MANIFEST, commit, new_directory, newest, record


def save(root: Path, step: int, keep: int = 5) -> Path:
    directory = new_directory(root)
    assert isinstance(directory, Path)
    (directory / "policy").mkdir()
    shards = [directory / "policy" / "shard_0.pt", directory / "rank_0.pkl"]
    for shard in shards:
        shard.write_bytes(f"{shard.name} of step {step}".encode())
    commit(directory, [record(directory, s) for s in shards], {"step": step}, world_size=1, keep=keep)
    return directory


def test_the_newest_complete_one_is_loaded(tmp_path: Path) -> None:
    save(tmp_path, 1)
    directory = save(tmp_path, 2)
    found = newest(tmp_path)
    assert found is not None
    assert (found.directory, found.driver_state, found.world_size) == (directory, {"step": 2}, 1)


def test_none_where_there_is_none(tmp_path: Path) -> None:
    assert newest(tmp_path / "missing") is None
    assert newest(tmp_path) is None


@pytest.mark.parametrize("damage", ["no manifest", "half a manifest", "missing file", "short file", "one bit"])
def test_a_torn_one_is_passed_over(tmp_path: Path, damage: str) -> None:
    whole, torn = save(tmp_path, 1), save(tmp_path, 2)
    shard = torn / "policy" / "shard_0.pt"
    if damage == "no manifest":
        (torn / MANIFEST).unlink()
    elif damage == "half a manifest":
        text = (torn / MANIFEST).read_text()
        (torn / MANIFEST).write_text(text[: len(text) // 2])
    elif damage == "missing file":
        shard.unlink()
    elif damage == "short file":
        shard.write_bytes(shard.read_bytes()[:-1])
    else:
        shard.write_bytes(bytes([shard.read_bytes()[0] ^ 1]) + shard.read_bytes()[1:])
    found = newest(tmp_path)
    assert found is not None and found.directory == whole


def test_a_torn_ones_place_is_cleared_before_the_next(tmp_path: Path) -> None:
    save(tmp_path, 1)
    torn = new_directory(tmp_path)
    assert isinstance(torn, Path)
    (torn / "half.pt").write_bytes(b"x")
    save(tmp_path, 3)
    found = newest(tmp_path)
    assert found is not None and found.driver_state == {"step": 3}
    assert not list(tmp_path.rglob("half.pt"))


def test_the_newest_few_are_kept(tmp_path: Path) -> None:
    for step in range(5):
        save(tmp_path, step, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000004", "000005"]
