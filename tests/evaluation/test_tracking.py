"""What goes to wandb and TensorBoard, read back from the files that they wrote."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launch.rundir import RunDirectory, read_parts
from launch.tracking import Tracker
from ledex_ray.config import recipe_from_tree
from tests.evaluation.test_reports import TREE, finished

pytestmark = pytest.mark.slow

BLOCK, WHOLE, LAST = 32768, 1, 4


@pytest.fixture
def run(runs_dir: Path) -> Iterator[RunDirectory]:
    tracking = {"tracking": {"wandb": "offline", "tensorboard": True}}
    yield from finished(runs_dir, "told", 2, **tracking)


def records(file: Path) -> list[Any]:
    """Every record of an offline run: a 7-byte header, then LevelDB's log format."""
    from wandb.proto import wandb_internal_pb2

    data, place, found, part = file.read_bytes(), 7, [], b""
    while place + 7 <= len(data):
        left = BLOCK - place % BLOCK
        if left < 7:  # a block's end too short for a header
            place += left
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        part += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (WHOLE, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(part)
            found.append(record)
            part = b""
    return found


def test_stages_are_runs_of_one_group_with_curves_tables_and_the_report(run: RunDirectory) -> None:
    from launch.report import report

    tracker = Tracker(run)
    for step in (1, 2):
        tracker.log("ppo", step, {"reward": step / 2, "note": "no number"})
    run.finish("ppo", {"iteration": 2})
    tracker.publish("ppo")
    tracker.publish("evaluate")
    report(run)
    tracker.publish("report")
    tracker.close()
    files = list(run.root.glob("wandb/offline-run-*/*.wandb"))
    runs = {r.run.run_id: (r.run.run_group, r.run.job_type) for f in files for r in records(f) if r.HasField("run")}
    assert runs == {"told-ppo": ("told", "ppo"), "told-evaluation": ("told", "evaluation")}
    history: dict[str, list[str]] = {}
    for record in (r for f in files for r in records(f) if r.HasField("history")):
        for item in record.history.item:
            history.setdefault(item.key or ".".join(item.nested_key), []).append(item.value_json)
    assert [float(v) for v in history["ppo/reward/reward"]] == [0.5, 1.0] and not any(
        "note" in name for name in history
    )
    tables = {name: history.get(f"{name}._type") for name in ("ppo/last_answers", "evaluation/answers")}
    assert tables == {name: ['"table-file"'] for name in tables}
    artifacts = {r.artifact.name: r.artifact.type for f in files for r in records(f) if r.HasField("artifact")}
    artifacts |= {
        r.request.log_artifact.artifact.name: r.request.log_artifact.artifact.type
        for f in files for r in records(f) if r.request.HasField("log_artifact")
    }  # fmt: skip
    assert artifacts.get("told-report") == "report"
    shown = "".join(p.read_text() for p in run.root.glob("wandb/offline-run-*/files/media/table/**/*.json"))
    assert "return a + b" in shown and "\x1b" not in shown and "\\\\u001b[31m" in shown


def test_tensorboard_has_the_curves(run: RunDirectory) -> None:
    tracker = Tracker(run)
    tracker.log("sft", 1, {"loss": 0.5})
    tracker.close()
    (events,) = (run.root / "tensorboard").glob("events.out.tfevents.*")
    assert b"sft/policy/loss" in events.read_bytes()


def test_nothing_is_told_where_the_recipe_says_so(runs_dir: Path) -> None:
    run = RunDirectory.open(recipe_from_tree({"run": "quiet", **TREE, "tracking": {"wandb": "disabled"}}))
    tracker = Tracker(run)
    tracker.log("sft", 1, {"loss": 0.5})
    tracker.publish("report")
    tracker.close()
    run.close()
    assert not (run.root / "wandb").exists() and not (run.root / "tensorboard").exists()
    assert read_parts(run.root / "sft" / "metrics") == [{"step": 1, "loss": 0.5}]
