"""What comes from the hub is pinned by commit: with no hub here, by its client offline, over a cache made by hand.

What comes from files is pinned by their content.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from launch.adapters import merged
from launch.model_cache import resolve_encoder, resolve_model, revision_of
from launch.problem_sets import pin_problem_sets
from launch.report import versions
from launch.rundir import RunDirectory
from ledex_ray.errors import BadInput
from ledex_ray.readers import sources
from ledex_ray.recipes import recipe_from_tree

OLD, NEW = "a" * 40, "b" * 40
NAME = "owner/name"


class Cache:
    """The cache of huggingface_hub with one model at two commits: `main` and `v1` are the old one, `v2` the new."""

    def __init__(self, folder: Path) -> None:
        self.model = folder / "models--owner--name"
        for commit in (OLD, NEW):
            (self.model / "snapshots" / commit).mkdir(parents=True)
            (self.model / "snapshots" / commit / "config.json").write_text("{}")
        self.point("main", OLD)
        self.point("v1", OLD)
        self.point("v2", NEW)

    def point(self, revision: str, commit: str) -> None:
        (self.model / "refs").mkdir(exist_ok=True)
        (self.model / "refs" / revision).write_text(commit)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return Cache(tmp_path / "hub")


def opened(name: str = NAME, run: str = "pinned", **more: Any) -> RunDirectory:
    """A run whose first stage has begun."""
    run_directory = RunDirectory.open(recipe_from_tree({"run": run, "model": {"name": name}, **more}))
    run_directory.event("stage_started", stage="synthesize")
    return run_directory


def test_a_run_writes_down_the_commit_of_each_model_beside_the_releases(runs_dir: Path, cache: Cache) -> None:
    run = opened()
    assert resolve_model(NAME, run.pins).name == OLD
    assert resolve_encoder(f"{NAME}@v2", run.pins).name == NEW
    run.close()
    written = json.loads((run.root / "versions.json").read_text())
    assert written["hub"] == {NAME: OLD, f"{NAME}@v2": NEW} and written["python"]
    assert versions(run.root)[NAME] == OLD and "hub" not in versions(run.root)


def test_a_resumed_run_takes_what_it_began_with_and_a_new_one_what_the_branch_points_to(
    runs_dir: Path, cache: Cache
) -> None:
    first = opened()
    resolve_model(NAME, first.pins)
    first.close()
    cache.point("main", NEW)
    again, other = opened(), opened(run="other")
    assert resolve_model(NAME, again.pins).name == OLD
    assert resolve_model(NAME, other.pins).name == NEW
    again.close()
    other.close()


def test_a_run_whose_commit_is_not_to_be_had_any_more_says_which(runs_dir: Path, cache: Cache) -> None:
    first = opened()
    resolve_model(NAME, first.pins)
    first.close()
    cache.point("main", NEW)
    shutil.rmtree(cache.model / "snapshots" / OLD)
    again = opened()
    with pytest.raises(BadInput, match=f"none of commit {OLD}, which this run began with"):
        resolve_model(NAME, again.pins)
    again.close()


def test_another_revision_in_the_recipe_is_another_recipe(runs_dir: Path) -> None:
    opened(f"{NAME}@v1").close()
    with pytest.raises(BadInput, match=r"model\.name: 'owner/name@v1' -> 'owner/name@v2'"):
        opened(f"{NAME}@v2")


@pytest.mark.parametrize(("name", "commit"), [(f"{NAME}@v2", NEW), (f"{NAME}@{NEW}", NEW), (f"{NAME}@main", OLD)])
def test_a_hub_id_may_name_a_branch_a_tag_or_a_commit(cache: Cache, name: str, commit: str) -> None:
    folder = resolve_model(name)
    assert folder.name == revision_of(folder) == commit


def test_a_revision_that_the_hub_has_not_is_refused(cache: Cache) -> None:
    with pytest.raises(BadInput, match="owner/name@v3: no such directory here, and the hub gave none"):
        resolve_model(f"{NAME}@v3")


def test_what_is_no_hub_snapshot_has_a_revision_only_where_this_machine_made_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEDEX_CACHE", str(tmp_path / "cache"))
    assert revision_of(tmp_path / "cache" / "smollm2-135m-0.1.2-1") == "smollm2-135m-0.1.2-1"
    assert revision_of(tmp_path / "mine") == ""


@pytest.mark.parametrize(("revision", "name"), [("v2", f"{NAME}@v2"), (None, NAME)])
def test_the_base_of_an_adapter_is_taken_at_the_revision_that_it_names(
    tmp_path: Path, revision: str | None, name: str
) -> None:
    config = {"base_model_name_or_path": NAME, "revision": revision}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    asked: list[str] = []

    def base(name: str) -> Path:
        asked.append(name)
        raise BadInput(name, "is not here")

    with pytest.raises(BadInput):
        merged(tmp_path, tmp_path / "cache", base)
    assert asked == [name]


SPECS = {"train": "mbpp@train", "validation": "bundled@validation", "heldout": ["mbppplus@test"]}


def test_every_data_set_of_the_hub_is_pinned_by_a_commit_in_the_table() -> None:
    assert [s.hub.path for s in sources.SETS.values() if not re.fullmatch("[0-9a-f]{40}", s.hub.revision)] == []


def test_a_data_set_is_pinned_by_its_commit_on_the_hub_or_by_the_content_of_its_file(
    runs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mbpp.jsonl").write_text("{}")
    monkeypatch.setenv("LEDEX_DATA", str(tmp_path))
    run = opened(problems=SPECS)
    pin_problem_sets(run.recipe, run.pins)
    run.close()
    pinned = json.loads((run.root / "versions.json").read_text())["hub"]
    assert pinned["datasets/evalplus/mbppplus"] == sources.SETS["mbppplus"].hub.revision
    assert set(pinned) == {"datasets/evalplus/mbppplus", "problems/mbpp@train", "problems/bundled@validation"}
    again = opened(problems=SPECS)
    pin_problem_sets(again.recipe, again.pins)
    (tmp_path / "mbpp.jsonl").write_text("{ }")
    with pytest.raises(BadInput, match=f"problems/mbpp@train: the run began with {pinned['problems/mbpp@train']}"):
        pin_problem_sets(again.recipe, again.pins)
    again.close()


@pytest.mark.parametrize("began_with_files", [True, False])
def test_a_run_does_not_go_on_with_problems_from_another_place(
    runs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, began_with_files: bool
) -> None:
    (tmp_path / "mbpp.jsonl").write_text("{}")

    def files(there: bool) -> None:
        monkeypatch.setenv("LEDEX_DATA", str(tmp_path) if there else "")

    files(began_with_files)
    run = opened(problems=SPECS)
    pin_problem_sets(run.recipe, run.pins)
    run.close()
    files(not began_with_files)
    again = opened(problems=SPECS)
    with pytest.raises(BadInput, match="problems 'mbpp@train': the run began with this set from"):
        pin_problem_sets(again.recipe, again.pins)
    again.close()


def test_a_run_does_not_go_on_with_another_revision_of_its_problems(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LEDEX_DATA", raising=False)
    run = opened(problems=SPECS)
    pin_problem_sets(run.recipe, run.pins)
    run.close()
    known = sources.SETS["mbpp"]
    later = dataclasses.replace(known, hub=dataclasses.replace(known.hub, revision=NEW))
    monkeypatch.setitem(sources.SETS, "mbpp", later)  # as a later release of ours might have it
    again = opened(problems=SPECS)
    with pytest.raises(
        BadInput, match=f"datasets/google-research-datasets/mbpp: the run began with {known.hub.revision}"
    ):
        pin_problem_sets(again.recipe, again.pins)
    again.close()
