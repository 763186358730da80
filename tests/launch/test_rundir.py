"""A run resumes under its own recipe, is refused to another, and keeps what was written whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.parts import Parts, PartWriter
from launch.rundir import RunDirectory, read_json, read_parts, write_part
from ledex_ray.config import Recipe
from ledex_ray.dotted import flatten
from ledex_ray.errors import BadInput
from ledex_ray.evaluation import Bug
from ledex_ray.recipes import WHERE_AND_HOW_FAST, load_recipe, recipe_from_tree


def test_the_same_recipe_opens_the_same_run(runs_dir: Path) -> None:
    first = RunDirectory.open(Recipe())
    first.finish("sft", {"step": 3})
    first.close()
    again = RunDirectory.open(Recipe())
    assert again.root == first.root and again.done("sft") and again.summary("sft") == {"step": 3}
    again.close()


def begin() -> None:
    """A run whose first stage has begun."""
    run = RunDirectory.open(Recipe())
    run.path("synthesis", "solve")
    run.close()


def test_a_run_that_no_stage_has_begun_takes_another_recipe(runs_dir: Path) -> None:
    RunDirectory.open(recipe_from_tree({"problems": {"train": "jsonl:no-such-file"}})).close()
    RunDirectory.open(Recipe()).close()
    assert load_recipe(runs_dir / Recipe().run / "recipe.yaml") == Recipe()


def test_another_recipe_is_refused_and_names_the_keys(runs_dir: Path) -> None:
    begin()
    with pytest.raises(BadInput, match=r"sft\.epochs: 2 -> 5"):
        RunDirectory.open(recipe_from_tree({"sft": {"epochs": 5}}))


def test_a_run_goes_on_with_more_sandboxes_or_other_hardware(runs_dir: Path) -> None:
    begin()
    tree = {"sandbox": {"actors": 64}, "learner": {"ranks": 2, "threads": 1}, "rollout": {"actors": 4}}
    RunDirectory.open(recipe_from_tree(tree)).close()
    stored = load_recipe(runs_dir / Recipe().run / "recipe.yaml")
    assert (stored.sandbox.actors, stored.learner.ranks, stored.rollout.actors) == (64, 2, 4)
    with pytest.raises(BadInput, match=r"differing keys: sft\.epochs: \d+ -> 9;") as refused:
        RunDirectory.open(recipe_from_tree({**tree, "sandbox": {"actors": 8}, "sft": {"epochs": 9}}))
    assert "sandbox" not in str(refused.value)
    assert load_recipe(runs_dir / Recipe().run / "recipe.yaml") == stored


def test_what_may_differ_are_keys_of_a_recipe() -> None:
    whole = recipe_from_tree({"synthesis": {"teacher": "t", "endpoint": {}}})
    assert set(flatten(whole.model_dump(mode="json"))) >= WHERE_AND_HOW_FAST


def test_fresh_starts_a_numbered_run_and_leaves_the_old_one(runs_dir: Path) -> None:
    RunDirectory.open(Recipe()).close()
    second = RunDirectory.open(recipe_from_tree({"sft": {"epochs": 5}}), fresh=True)
    second.close()
    third = RunDirectory.open(Recipe(), fresh=True)
    third.close()
    assert [second.root.name, third.root.name] == ["run-2", "run-3"]
    RunDirectory.open(recipe_from_tree({"run": "run-2", "sft": {"epochs": 5}})).close()


def test_two_drivers_cannot_hold_one_run(runs_dir: Path) -> None:
    held = RunDirectory.open(Recipe())
    with pytest.raises(BadInput, match="another process"):
        RunDirectory.open(Recipe())
    held.close()
    RunDirectory.open(Recipe()).close()


def test_metrics_are_numbered_parts_and_a_step_replaces_itself(tmp_path: Path) -> None:
    for step, loss in ((1, 0.5), (2, 0.4), (2, 0.3), (10, 0.1)):
        write_part(tmp_path / "metrics", step, [{"step": step, "loss": loss}])
    assert [(r["step"], r["loss"]) for r in read_parts(tmp_path / "metrics")] == [(1, 0.5), (2, 0.3), (10, 0.1)]


def test_a_damaged_line_of_a_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "000003.jsonl").write_text('{"step": 3}\n{"step": ')
    with pytest.raises(BadInput, match=r"000003\.jsonl:2: is not JSON"):
        read_parts(tmp_path)
    (tmp_path / "DONE.json").write_bytes(b"\xff\x00" * 100)
    with pytest.raises(BadInput, match=r"DONE\.json: is not JSON"):
        read_json(tmp_path / "DONE.json")


def test_parts_hold_whole_items_and_a_torn_one_is_not_read(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "bugs", Bug)
    with PartWriter(parts, every_seconds=0) as writer:
        writer.add([Bug("a", "p", "x", ""), Bug("b", "p", "y", "")])
        writer.add([Bug("c", "q", "z", "wrong")])
    (tmp_path / "bugs" / ".part-000009.parquet.tmp").write_bytes(b"torn")
    assert [b.id for b in parts.read()] == ["a", "b", "c"]
    parts.append([Bug("d", "q", "", "")])
    assert [b.id for b in Parts(tmp_path / "bugs", Bug).read()] == ["a", "b", "c", "d"]
