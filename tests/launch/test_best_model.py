"""The best model changes together with the checkpoint that counts it, and is there at every moment."""

from __future__ import annotations

import math
import threading
from pathlib import Path

from actors.directories import put_in_place
from actors.places import Place
from launch.best_model import BestModel
from launch.debug_ppo import Progress


def write(folder: Place, text: str) -> None:
    assert isinstance(folder, Path)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(text)


def content(folder: Place) -> str:
    return (folder / "config.json").read_text()


def test_a_model_whose_checkpoint_was_never_written_is_not_kept(tmp_path: Path) -> None:
    best = BestModel(tmp_path / "model")
    write(best.staged(10), "ten")
    best.settle(10)
    write(best.staged(20), "twenty")  # and a kill before the checkpoint that says 20
    BestModel(tmp_path / "model").settle(10)
    assert content(best.path) == "ten"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_model_whose_checkpoint_was_written_is_kept_after_a_kill(tmp_path: Path) -> None:
    best = BestModel(tmp_path / "model")
    write(best.staged(10), "ten")
    best.settle(10)
    write(best.staged(20), "twenty")  # the checkpoint says 20, and then the kill
    BestModel(tmp_path / "model").settle(20)
    assert content(best.path) == "twenty"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_leftovers_of_interrupted_exports_are_removed_and_a_retired_model_comes_back(tmp_path: Path) -> None:
    write(tmp_path / ".model.abcdef" / "old", "retired")  # two renames, killed between them
    write(tmp_path / ".model.000030.ghijkl", "half an export")
    best = BestModel(tmp_path / "model")
    best.settle(0)
    assert content(best.path) == "retired"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_reader_finds_a_model_at_every_moment_of_its_replacement(tmp_path: Path) -> None:
    target, done, missed = tmp_path / "model", threading.Event(), []
    write(target, "0")

    def read() -> None:
        while not done.is_set():
            if not (target / "config.json").exists():
                missed.append(1)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(1, 1500):
        write(tmp_path / "new", str(number))
        put_in_place(tmp_path / "new", target)
    done.set()
    reader.join()
    assert not missed and content(target) == "1499"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_validation_without_verdicts_replaces_no_measured_model() -> None:
    progress = Progress(iteration=4)
    assert progress.validated(math.nan) and progress.best_iteration == 4, "nothing better is known"
    progress.iteration = 8
    assert progress.validated(0.5) and progress.best_rate == 0.5
    progress.iteration = 12
    assert not progress.validated(math.nan) and not progress.validated(0.4)
    assert (progress.best_rate, progress.best_iteration) == (0.5, 8)
    assert progress.validated(0.5), "of equals the later one, which has seen more"
