"""A run at a URL: what is seen of it when uploads are cut off, who may write it, and what an empty disk makes of it.

On a folder by file:// and on a simulated S3. Not covered: AWS and Google themselves, and a storage that is slow.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from actors import checkpoint, places
from actors.node_copies import copy_of, model_folder, outgoing_model
from actors.places import Place, RemotePath, place
from launch import lease
from launch.best_model import BestModel
from launch.cli import app
from launch.lease import Lease, LeaseLost
from launch.run_store import RunStore, mirror
from launch.rundir import RunDirectory, find_run, write_part
from ledex_ray.config import Recipe
from ledex_ray.errors import BadInput
from ledex_ray.recipes import recipe_from_tree
from tests.cluster.isolation import ROOT
from tests.cluster.object_store import BUCKET, S3, simulated_s3


@pytest.fixture(autouse=True)
def own_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEDEX_WORK", str(tmp_path / "work"))
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 0.1)
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(lease, "STALE_SECONDS", 3.0)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with simulated_s3() as server:
        yield server


@pytest.fixture(params=["file", "s3"])
def runs(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RemotePath:
    """An empty place for runs, which LEDEX_RUNS names."""
    found = place((tmp_path / "bucket").as_uri() if request.param == "file" else request.getfixturevalue("s3").url)
    assert isinstance(found, RemotePath)
    found = found / tmp_path.name
    monkeypatch.setenv("LEDEX_RUNS", str(found))
    return found


def begun(recipe: Recipe) -> RunDirectory:
    """A run of which one stage has finished, open."""
    run = RunDirectory.open(recipe)
    run.finish("synthesize", {})
    return run


def lose_disk() -> None:
    """What this machine knew of any run is gone, as on a new one."""
    shutil.rmtree(os.environ["LEDEX_WORK"], ignore_errors=True)


def test_a_url_that_does_not_answer_is_bad_input_before_anything_is_run(s3: S3, tmp_path: Path) -> None:
    """The command itself: nothing listens; the bucket is not there; the folder cannot be written."""
    closed = s3.url.rpartition(":")[0] + ":9"
    missing = s3.url.replace(f"//{BUCKET}/", "//missing/")
    (tmp_path / "file").write_text("no folder")
    for url in (closed, missing, (tmp_path / "file" / "runs").as_uri()):
        environment = os.environ | {"LEDEX_RUNS": url}
        done = subprocess.run(
            [sys.executable, "-m", "launch.cli", "run", "smoke"],
            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 2, done.stderr
        assert "cannot be reached or written" in done.stderr and url.partition("?")[0] in done.stderr
        assert "rollout" not in done.stderr


# What is seen


class Cut(BaseException):
    """The power goes."""


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["write", "write", "remove", "finish", "commit"]),
        st.sampled_from(["a/0.jsonl", "a/1.jsonl", "b/0.jsonl", "b/1.jsonl"]),
        st.binary(max_size=8),
    ),
    max_size=12,
)


def _names(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name[0] != "."}


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, uploads=st.integers(0, 8))
def test_cut_off_after_any_upload_a_finished_stage_has_all_its_files(
    steps: list[tuple[str, str, bytes]], uploads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory() as scratch, monkeypatch.context() as patch:
        patch.setattr(lease, "SETTLE_SECONDS", 0.0)
        remote, folder = RemotePath.parse(Path(scratch, "url").as_uri()), Path(scratch, "folder")
        folder.mkdir()
        store = RunStore.open(remote, folder)
        left, put = [uploads], RemotePath.put

        def put_until_cut(self: RemotePath, local: Path) -> None:
            if not left[0]:
                raise Cut
            left[0] -= 1
            put(self, local)

        patch.setattr(RemotePath, "put", put_until_cut)
        written: dict[str, set[bytes]] = {}
        try:
            for kind, name, content in steps:
                stage = folder / name.partition("/")[0]
                stage.mkdir(exist_ok=True)
                finished = (stage / "DONE.json").exists()
                if kind == "write" and not finished:
                    (folder / name).write_bytes(content)
                    written.setdefault(name, set()).add(content)
                elif kind == "remove" and not finished:
                    (folder / name).unlink(missing_ok=True)
                elif kind == "finish":
                    (stage / "DONE.json").write_text(json.dumps(sorted(path.name for path in stage.glob("*.jsonl"))))
                elif kind == "commit":
                    store.commit()
            store.commit()
            assert mirror(remote, Path(scratch, "all")).keys() == _names(folder)
        except Cut:
            pass
        seen = Path(scratch, "seen")
        seen.mkdir()
        mirror(remote, seen)
        for path in seen.rglob("*.jsonl"):
            assert path.read_bytes() in written[path.relative_to(seen).as_posix()]
        for done in seen.rglob("DONE.json"):
            assert all((done.parent / name).exists() for name in json.loads(done.read_text()))
        store._lease.release()


UPLOAD = """
import sys
from pathlib import Path
from actors.places import place
place(sys.argv[1]).put(Path(sys.argv[2]))
"""


def test_an_upload_that_is_killed_is_not_seen(s3: S3, tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(2 * 2**30)
    target = place(s3.url)
    assert isinstance(target, RemotePath)
    target = target / "killed" / "large"
    uploading = subprocess.Popen([sys.executable, "-c", UPLOAD, str(target), str(large)], cwd=ROOT)
    deadline = time.monotonic() + 120
    while not s3.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads"):
        assert time.monotonic() < deadline and uploading.poll() is None
        time.sleep(0.05)
    uploading.kill()
    uploading.wait()
    assert not target.exists() and target.parent.files() == {}


def test_a_run_is_resumed_on_another_machine_from_what_was_committed(runs: RemotePath) -> None:
    first = RunDirectory.open(Recipe())
    write_part(first.root / "sft" / "metrics", 1, [{"step": 1}])
    write_part(first.root / "sft" / "metrics", 2, [{"step": 2}])
    first.finish("sft", {"step": 2})
    write_part(first.root / "ppo" / "metrics", 1, [{"step": 1}])  # and never committed
    first._store._lease.release()  # type: ignore[union-attr]  # the machine is lost; a takeover is tested elsewhere
    first._lock.close()
    lose_disk()
    second = RunDirectory.open(Recipe())
    assert second.summary("sft") == {"step": 2} and not second.done("ppo")
    assert [path.name for path in sorted((second.root / "sft" / "metrics").iterdir())] == [
        "000001.jsonl",
        "000002.jsonl",
    ]
    assert not (second.root / "ppo" / "metrics").exists()
    (second.root / "sft" / "metrics" / "000002.jsonl").unlink()
    second.close()
    assert not (runs / "run" / "sft" / "metrics" / "000002.jsonl").exists()
    assert set((runs / "run").files()) == {"recipe.yaml", "versions.json", "sft/DONE.json", "sft/metrics/000001.jsonl"}


def test_what_this_machine_had_besides_is_dropped_and_what_differs_is_fetched(runs: RemotePath) -> None:
    run = RunDirectory.open(Recipe())
    (run.root / "a").write_text("old")
    run.close()
    (run.root / "b").write_text("of a run that another machine went on with")
    (runs / "run" / "a").write_text("new")
    again = RunDirectory.open(Recipe())
    assert (again.root / "a").read_text() == "new" and not (again.root / "b").exists()
    again.close()


def test_another_recipe_is_refused_and_fresh_takes_the_next_name(runs: RemotePath) -> None:
    run = RunDirectory.open(Recipe())
    run.event("stage_started", stage="synthesize")
    run.close()
    lose_disk()
    other = recipe_from_tree({"sft": {"epochs": 5}})
    with pytest.raises(BadInput, match=r"sft\.epochs: 2 -> 5"):
        RunDirectory.open(other)
    fresh = RunDirectory.open(other, fresh=True)
    fresh.close()
    assert fresh.recipe.run == "run-2" and (runs / "run-2" / "recipe.yaml").exists()


def test_a_run_is_found_by_its_name_and_by_its_url(runs: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDirectory.open(Recipe())
    run.finish("sft", {"step": 2})
    run.close()
    assert (find_run("run")[0] / "sft" / "DONE.json").exists()
    with pytest.raises(BadInput, match="no such run, got 'yours'; expected a run directory, or one of run"):
        find_run("yours")
    monkeypatch.setenv("LEDEX_RUNS", "")
    root, recipe = find_run(str(runs / "run"))
    assert recipe == Recipe() and (root / "sft" / "DONE.json").exists()


def test_a_storage_that_fails_for_a_moment_ends_no_run(runs: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDirectory.open(Recipe())
    put, failures = RemotePath.put, [OSError("503 slow down"), OSError("connection reset")]

    def failing(self: RemotePath, local: Path) -> None:
        if failures:
            raise failures.pop()
        put(self, local)

    monkeypatch.setattr(places, "RETRY_SECONDS", (0.0, 0.0))
    monkeypatch.setattr(RemotePath, "put", failing)
    run.finish("sft", {"step": 2})
    assert not failures and (runs / "run" / "sft" / "DONE.json").exists()
    failures += [OSError("403 access denied")] * 3
    with pytest.raises(OSError, match="403"):
        run.finish("ppo", {})
    run.close()


def test_the_report_of_a_run_is_written_where_the_run_lies(runs: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    begun(Recipe()).close()
    monkeypatch.setenv("LEDEX_RUNS", "")
    lose_disk()
    done = CliRunner().invoke(app, ["report", str(runs / "run")])
    assert done.exit_code == 0, done.output
    assert f"Run directory: {runs / 'run'}, on this machine: {copy_of(runs / 'run', 'runs')}" in done.output
    assert {"report/report.html", "report/report.md", "report/DONE.json"} <= set((runs / "run").files())


def test_runs_at_urls_with_options_are_compared(runs: RemotePath, tmp_path: Path) -> None:
    for name in ("one", "two"):
        RunDirectory.open(Recipe(run=name)).close()
    page = tmp_path / "page.html"
    done = CliRunner().invoke(app, ["report", str(runs / "one"), str(runs / "two"), "--out", str(page)])
    assert done.exit_code == 0, done.output
    assert "<h1>one, two</h1>" in page.read_text()


def test_a_copy_at_a_url_is_reported_on_and_no_other_run_is_begun(runs: RemotePath) -> None:
    run = begun(Recipe())
    for name in ("recipe.yaml", "versions.json", "synthesize/DONE.json"):
        (runs / "baseline" / name).put(run.root / name)
    run.close()
    before = set((runs / "run").files())
    for name in ("baseline", str(runs / "baseline")):
        done = CliRunner().invoke(app, ["report", name])
        assert done.exit_code == 0, done.output
    assert "report/report.html" in (runs / "baseline").files() and set((runs / "run").files()) == before
    assert isinstance(CliRunner().invoke(app, ["report", "smoke"]).exception, BadInput)
    assert not (runs / "smoke").exists()


# Who may write


def test_two_drivers_on_two_machines_cannot_hold_one_run(
    runs: RemotePath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = RunDirectory.open(Recipe())
    monkeypatch.setenv("LEDEX_WORK", str(tmp_path / "elsewhere"))
    with pytest.raises(BadInput, match=r"is being written by another driver .*process"):
        RunDirectory.open(Recipe())
    held.close()
    RunDirectory.open(Recipe()).close()


def test_a_dead_drivers_run_is_taken_over_and_it_may_write_no_more(runs: RemotePath, tmp_path: Path) -> None:
    frozen = Lease(runs / "run", tmp_path / "note")
    frozen.take()
    frozen._over.set()  # it stops to beat, and does not know
    frozen._beating.join()
    run = RunDirectory.open(Recipe())
    with pytest.raises(LeaseLost, match="taken over"):
        frozen.check()
    frozen.release()
    run.commit()
    run.close()
    with pytest.raises(LeaseLost):
        frozen.check()


def test_a_killed_driver_is_followed_at_once_on_its_own_machine(
    runs: RemotePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = RunDirectory.open(Recipe())
    assert killed._store is not None
    killed._store._lease._over.set()
    killed._lock.close()
    monkeypatch.setattr(Lease, "_outwait", None)  # waiting would be an error
    RunDirectory.open(Recipe()).close()


# Models and checkpoints


def write_model(where: Place, text: str) -> None:
    with outgoing_model(where) as folder:
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(text)


def test_the_best_model_changes_with_the_checkpoint_that_counts_it(runs: RemotePath) -> None:
    path = runs / "run" / "sft" / "model"
    best = BestModel(path)
    with pytest.raises(BadInput, match="holds no complete model"):
        model_folder(str(path))
    write_model(best.staged(9), "nine")
    best.settle(9)
    write_model(best.staged(10), "ten")  # and a kill before its checkpoint
    assert (model_folder(str(path)) / "config.json").read_text() == "nine"
    best.settle(9)
    write_model(best.staged(11), "eleven")
    best.settle(11)
    (path / "000012" / "config.json").write_text("of an interrupted upload")
    assert (model_folder(str(path)) / "config.json").read_text() == "eleven"
    assert [folder.name for folder in copy_of(path, "models").iterdir() if folder.is_dir()] == ["000011"]
    best.settle(0)
    assert path.files() == {}


def test_a_model_written_again_under_its_number_is_fetched_again(runs: RemotePath) -> None:
    path = runs / "run" / "sft" / "model"
    for text in ("one", "two"):
        write_model(path / "000001", text)
        assert (model_folder(str(path)) / "config.json").read_text() == text


def test_checkpoints_at_a_url_are_whole_or_not_there_and_the_newest_are_kept(runs: RemotePath, tmp_path: Path) -> None:
    root = runs / "run" / "sft" / "checkpoints"
    assert checkpoint.newest(root) is None
    shard = tmp_path / "rank_00000.pkl"
    for step in range(4):
        directory = checkpoint.new_directory(root)
        shard.write_text(f"shard of step {step}")
        assert isinstance(directory, RemotePath)
        (directory / shard.name).put(shard)
        checkpoint.commit(directory, [checkpoint.record(tmp_path, shard)], {"step": step}, world_size=1, keep=2)
    assert sorted(path.name for path in root.iterdir()) == ["000003", "000004"]
    (root / "000004" / shard.name).write_text("short")
    found = checkpoint.newest(root)
    assert found is not None and found.driver_state == {"step": 2}
    (root / "000005" / "torn.pt").write_text("x")
    assert checkpoint.new_directory(root).name == "000006" and not (root / "000005").exists()
