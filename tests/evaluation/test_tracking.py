"""What goes to wandb, MLflow and TensorBoard, read back from the files that they wrote; the dashboard on wandb."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from examples.wandb_dashboard import dashboard
from launch.rundir import RunDirectory, read_parts
from launch.tracking import Tracker, evenly
from ledex_ray.errors import BadInput
from ledex_ray.metric_groups import grouped
from ledex_ray.recipes import recipe_from_tree
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
    stages = ("ppo", "evaluation")
    assert run.id and runs == {f"told-{run.id}-{stage}": ("told", stage) for stage in stages}
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


def test_a_wandb_that_cannot_be_reached_is_kept_offline(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import wandb

    from launch.wandb_runs import WandbRuns

    begin = wandb.init

    def without_a_network(**options: Any) -> Any:
        if options["mode"] == "online":
            raise wandb.errors.CommError("no route to host")
        return begin(**options)

    monkeypatch.setattr(wandb, "init", without_a_network)
    mirror = WandbRuns(run, "online")
    for stage in ("sft", "ppo"):
        mirror.log(stage, 1, {"loss": 1.0})
    mirror.close()
    assert len(list(run.root.glob("wandb/offline-run-*/*.wandb"))) == 2
    assert sum("no route to host" in record.message for record in caplog.records) == 1


def test_tensorboard_has_the_curves(run: RunDirectory) -> None:
    tracker = Tracker(run)
    tracker.log("sft", 1, {"loss": 0.5})
    tracker.close()
    (events,) = (run.root / "tensorboard").glob("events.out.tfevents.*")
    assert b"sft/policy/loss" in events.read_bytes()


def test_a_step_that_a_resume_does_again_is_told_to_mirrors_once_and_stored_anew(run: RunDirectory) -> None:
    told: list[tuple[int, float]] = []

    class Heard:
        def log(self, stage: str, step: int, numbers: Mapping[str, float]) -> None:
            told.append((step, numbers["policy/loss"]))

        def close(self, failed: Collection[str] = ()) -> None:
            pass

    for steps in (range(1, 4), range(2, 6)):  # killed after step 3, resumed after step 1
        tracker = Tracker(run)
        tracker._mirrors = [Heard()]  # type: ignore[list-item]
        tracker.forget_after("sft", steps[0] - 1)
        for step in steps:
            tracker.log("sft", step, {"loss": step + steps[0] / 10})
        tracker.close()
    assert told == [(1, 1.1), (2, 2.1), (3, 3.1), (4, 4.2), (5, 5.2)]
    assert [row["loss"] for row in read_parts(run.root / "sft" / "metrics")] == [1.1, 2.2, 3.2, 4.2, 5.2]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An MLflow store in a folder of this test: what a server would answer, by MLflow's own code."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return (tmp_path / "mlruns").as_uri()


def mlflow_runs(store: str) -> dict[str, Any]:
    """The MLflow runs of the project by stage."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("ledex-ray")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    stages = {r.data.tags["ledex_stage"]: r for r in found}
    assert len(stages) == len(found)
    return stages


def told(runs_dir: Path, name: str, store: str) -> Iterator[RunDirectory]:
    yield from finished(runs_dir, name, 2, tracking={"wandb": "disabled", "mlflow": store})


def test_mlflow_has_a_run_a_stage_with_curves_figures_answers_and_the_report(runs_dir: Path, store: str) -> None:
    from mlflow import MlflowClient

    from launch.report import report

    for run in told(runs_dir, "told", store):
        tracker = Tracker(run)
        for step in (1, 2):
            tracker.log("ppo", step, {"reward": step / 2, "tokens_per_second/rollout-0": 3.0, "note": "no number"})
        run.finish("ppo", {"iteration": 2})
        tracker.publish("ppo")
        tracker.publish("evaluate")
        report(run)
        tracker.publish("report")
        tracker.close()
    runs, client = mlflow_runs(store), MlflowClient(tracking_uri=store)
    assert {stage: (r.info.run_name, r.info.status) for stage, r in runs.items()} == {
        "ppo": ("told ppo", "FINISHED"),
        "evaluation": ("told evaluation", "FINISHED"),
    }
    curve = client.get_metric_history(runs["ppo"].info.run_id, "reward/reward")
    assert [(m.step, m.value) for m in curve] == [(1, 0.5), (2, 1.0)]
    assert set(runs["ppo"].data.metrics) == {"reward/reward", "utilisation/tokens_per_second/rollout-0"}
    assert any(name.endswith("pass_at_k_1") for name in runs["evaluation"].data.metrics)
    files = {f.path for f in client.list_artifacts(runs["evaluation"].info.run_id)}
    assert files == {"recipe.yaml", "answers.json", "report"}
    answers = Path(client.download_artifacts(runs["evaluation"].info.run_id, "answers.json")).read_text()
    assert "return a + b" in answers and "\x1b" not in answers and "\\\\u001b[31m" in answers


def test_a_resumed_stage_goes_on_in_the_same_mlflow_run(runs_dir: Path, store: str) -> None:
    from mlflow import MlflowClient

    for run in told(runs_dir, "again", store):
        for step in (1, 2):
            tracker = Tracker(run)
            tracker.log("sft", step, {"loss": 1 / step})
            tracker.close()
    (made,) = mlflow_runs(store).values()
    history = MlflowClient(tracking_uri=store).get_metric_history(made.info.run_id, "policy/loss")
    assert [m.step for m in history] == [1, 2]


def test_a_stage_that_an_error_or_ctrl_c_ends_has_failed_for_mlflow_until_a_resume_finishes_it(
    runs_dir: Path, store: str
) -> None:
    def states() -> dict[str, str]:
        return {stage: r.info.status for stage, r in mlflow_runs(store).items()}

    for run in told(runs_dir, "cut", store):
        with pytest.raises(KeyboardInterrupt), Tracker(run) as tracker:
            tracker.log("sft", 1, {"loss": 1.0})
            tracker.publish("sft")
            tracker.log("ppo", 1, {"reward": 0.5})
            raise KeyboardInterrupt
        assert states() == {"sft": "FINISHED", "ppo": "FAILED"}
        with Tracker(run) as tracker:
            tracker.log("ppo", 2, {"reward": 0.75})
            tracker.publish("ppo")
        assert states() == {"sft": "FINISHED", "ppo": "FINISHED"}


def test_a_stage_that_an_error_ends_has_failed_for_wandb(run: RunDirectory) -> None:
    with pytest.raises(RuntimeError), Tracker(run) as tracker:
        tracker.log("sft", 1, {"loss": 1.0})
        tracker.publish("sft")
        tracker.log("ppo", 1, {"reward": 0.5})
        raise RuntimeError("the learner is lost")
    ends = {}
    for file in run.root.glob("wandb/offline-run-*/*.wandb"):
        found = records(file)
        (stage,) = {r.run.job_type for r in found if r.HasField("run")}
        ends[stage] = [r.exit.exit_code for r in found if r.HasField("exit")]
    assert ends == {"sft": [0], "ppo": [1]}


def test_a_server_that_does_not_answer_is_refused_at_the_door(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for run in told(runs_dir, "nobody", "http://127.0.0.1:9"):
        with pytest.raises(BadInput, match=r"tracking\.mlflow.*no MLflow server answers.*127\.0\.0\.1:9"):
            Tracker(run)


def test_a_store_that_goes_away_costs_the_mirror_and_not_the_run(
    runs_dir: Path, store: str, caplog: pytest.LogCaptureFixture
) -> None:
    for run in told(runs_dir, "lost", store):
        tracker = Tracker(run)
        tracker.log("sft", 1, {"loss": 1.0})
        for kept in Path(store.removeprefix("file://")).glob("*/*/meta.yaml"):
            shutil.rmtree(kept.parent)
        for step in (2, 3):
            tracker.log("sft", step, {"loss": 0.5})
        tracker.close()
        assert [row["step"] for row in read_parts(run.root / "sft" / "metrics")] == [1, 2, 3]
    assert sum("MLflow no longer answers" in record.message for record in caplog.records) == 1


def test_an_artifact_store_that_refuses_costs_the_mirror_and_not_the_run(
    runs_dir: Path, store: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mlflow import MlflowClient

    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError("/mlflow")

    monkeypatch.setattr(MlflowClient, "log_text", refused)
    for run in told(runs_dir, "refused", store):
        tracker = Tracker(run)
        tracker.log("sft", 1, {"loss": 1.0})
        tracker.close()
        assert [row["step"] for row in read_parts(run.root / "sft" / "metrics")] == [1]
    assert sum("MLflow no longer answers" in record.message for record in caplog.records) == 1


def test_credentials_in_an_mlflow_address_are_refused_and_not_repeated() -> None:
    with pytest.raises(BadInput, match="MLFLOW_TRACKING_PASSWORD") as refused:
        recipe_from_tree({"tracking": {"mlflow": "https://me:secret@host/mlflow"}})
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "metric",
    ["reward_refinement", "verdict_infra", "kl_coef", "explained_variance", "behaviour_gap_max", "retries_rollout",
     "tokens_per_second/rollout-0"],
)  # fmt: skip
def test_the_dashboard_has_a_panel_for_every_kind_of_metric(metric: str) -> None:
    panels = [panel for section in dashboard("me", "ledex-ray").sections for panel in section.panels]
    shown = [panel for panel in panels if re.match(panel.metric_regex, f"ppo/{grouped(metric)}")]
    assert shown and all(panel.x == "ppo/step" for panel in shown)


def test_a_table_has_as_many_answers_of_each_kind_as_there_are_or_fit() -> None:
    answers = ["a"] * 50 + ["b"] * 3 + ["c"] * 50
    found = evenly(list(enumerate(answers)), lambda row: row[1], 13)
    assert [name for _, name in found] == ["a"] * 5 + ["b"] * 3 + ["c"] * 5
    assert [place for place, _ in found] == [0, 1, 2, 3, 4, 50, 51, 52, 53, 54, 55, 56, 57]
    assert evenly("ab", str, 9) == ["a", "b"]


def test_nothing_is_told_where_the_recipe_says_so(runs_dir: Path) -> None:
    run = RunDirectory.open(recipe_from_tree({"run": "quiet", **TREE, "tracking": {"wandb": "disabled"}}))
    tracker = Tracker(run)
    tracker.log("sft", 1, {"loss": 0.5})
    tracker.publish("report")
    tracker.close()
    run.close()
    assert not (run.root / "wandb").exists() and not (run.root / "tensorboard").exists()
    assert read_parts(run.root / "sft" / "metrics") == [{"step": 1, "loss": 0.5}]
