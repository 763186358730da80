"""`ledex report` of one run: it reports on the run that was named, and begins none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from launch.cli import app
from launch.rundir import RunDirectory
from ledex_ray.config import Recipe
from ledex_ray.errors import BadInput


def report(*arguments: str) -> str:
    """What the command says; raises what it raises."""
    done = CliRunner().invoke(app, ["report", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def begun(folder: Path, name: str = "quickstart") -> Path:
    """A run in this folder that has begun, and has trained nothing yet."""
    run = RunDirectory.open(Recipe(run=name), folder=folder)
    run.event("stage_started", stage="synthesize")
    run.close()
    return run.root


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.name != ".lock"}


def test_a_copy_is_reported_on_and_not_the_run_whose_name_its_recipe_has(runs_dir: Path, tmp_path: Path) -> None:
    other = begun(tmp_path)
    copy = shutil.copytree(other, tmp_path / "baseline")
    report(str(copy))
    assert "baseline" in (copy / "report/report.md").read_text().splitlines()[0]
    assert not (other / "report").exists()
    shutil.rmtree(other)
    report(str(copy))
    assert not other.exists()


def test_the_current_directory_is_a_run_and_none_is_begun_in_it(
    runs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = begun(tmp_path)
    before = files(root)
    monkeypatch.chdir(root)
    report(".")
    assert {name for name in files(root) - before if not name.startswith("report")} == set()
    assert (root / "report/report.html").exists()


@pytest.mark.parametrize("names", [["smoke"], ["smoke", "run=mine"], ["mine"]])
def test_a_run_that_is_not_there_is_bad_input_and_stays_so(runs_dir: Path, names: list[str]) -> None:
    with pytest.raises(BadInput, match="no such run"):
        report(*names)
    assert files(runs_dir) == set()


def test_a_recipe_names_its_run_as_overrides_have_it(runs_dir: Path) -> None:
    changes = ["sandbox.actors=3", "run=mine"]
    mine = begun(runs_dir, "mine")
    (recipe := runs_dir / "recipe.yml").write_text("run: run\n")
    report(str(recipe), *changes)
    assert (mine / "report/report.html").exists() and "actors: 3" in (mine / "recipe.yaml").read_text()


def test_overrides_that_say_what_is_computed_are_another_run(runs_dir: Path) -> None:
    root = begun(runs_dir, "mine")
    with pytest.raises(BadInput, match=r"differing keys: sft\.epochs: 2 -> 5"):
        report("mine", "sft.epochs=5")
    report("mine", "sandbox.actors=3")
    assert "actors: 3" in (root / "recipe.yaml").read_text()


def test_the_place_of_a_comparison_means_nothing_for_one_run(runs_dir: Path, tmp_path: Path) -> None:
    begun(runs_dir, "mine")
    with pytest.raises(BadInput, match=f"comparison of several runs; .*, got '{tmp_path / 'page.html'}'$"):
        report("mine", "--out", str(tmp_path / "page.html"))


def test_an_override_of_several_runs_is_refused_by_its_own_text(runs_dir: Path) -> None:
    with pytest.raises(BadInput, match=r"^override: makes no sense for several runs, got 'sft\.epochs=1'$"):
        report("mine", "other", "sft.epochs=1")
