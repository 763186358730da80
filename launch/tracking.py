"""Metrics to the run directory, whose files are the source; from there to wandb, MLflow, TensorBoard, Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from launch.gauges import Gauges
from launch.mlflow_runs import MlflowRuns
from launch.rundir import RunDirectory, read_json, write_part
from launch.shown import shown
from launch.wandb_runs import WandbRuns, wandb_mode
from ledex_ray.episode_store import EpisodeStore
from ledex_ray.evaluation import Sample
from ledex_ray.metric_groups import grouped
from ledex_ray.tables import read_records

MOST_ROWS, MOST_CHARACTERS, MOST_LINES = 200, 2000, 60  # of a table of answers, and of a text in it
ANSWERS = ("problem", "model", "mode", "verdict", "wrong code", "feedback", "explanation", "code")
EPISODES = ("problem", "instruction", "verdict", "reward", "answer")


T = TypeVar("T")


class Mirror(Protocol):
    """A place that is told what a run does, stage by stage."""

    def log(self, stage: str, step: int, numbers: Mapping[str, float]) -> None:
        """One point of each curve."""

    def summarize(self, stage: str, figures: Mapping[str, Any]) -> None:
        """Figures that stand for the whole stage."""

    def table(self, stage: str, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A table of answers."""

    def artifact(self, stage: str, name: str, kind: str, path: Path) -> None:
        """A file, kept with the run."""

    def close(self, failed: Collection[str] = ()) -> None:
        """Ends what was begun; these stages came to no good end."""


class Tracker:
    """Writes one numbered part a step and mirrors it, grouped by stage.

    As a context manager it tells the mirrors which stage an error or a signal has ended: one that was begun and is not
    published.
    """

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self._mirrors: list[Mirror] = []
        mode = wandb_mode(run.recipe.tracking.wandb)
        if mode != "disabled":
            self._mirrors.append(WandbRuns(run, mode))
        if run.recipe.tracking.mlflow is not None:
            self._mirrors.append(MlflowRuns(run, run.recipe.tracking.mlflow))
        self._tensorboard: Any = None
        self._told: dict[str, int] = {}  # by stage: the last step that mirrors had before a resume
        self._unfinished: set[str] = set()
        self._gauges = Gauges(run.recipe.run)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(failed=error is not None)

    def log(self, stage: str, step: int, metrics: Mapping[str, Any]) -> None:
        """Stores the metrics of one step of a stage; the same step written again replaces itself.

        Mirrors cannot take a point back: what they were told of a step stays, and it is not told them twice.
        """
        self._unfinished.add(stage)
        write_part(self.run.root / stage / "metrics", step, [{"step": step, **metrics}])
        numbers = {k: v for k, v in metrics.items() if isinstance(v, int | float)}
        self._gauges.publish(stage, {"step": step, **numbers})
        if step <= self._told.get(stage, -1):
            return
        for mirror in self._mirrors:
            mirror.log(stage, step, {grouped(name): value for name, value in numbers.items()})
        if self.run.recipe.tracking.tensorboard:
            for name, value in numbers.items():
                self._board().add_scalar(f"{stage}/{grouped(name)}", value, step)
            self._board().flush()

    def forget_after(self, stage: str, step: int) -> None:
        """Drops the parts after a step: they belong to work that a resume does again."""
        for part in (self.run.root / stage / "metrics").glob("*.jsonl"):
            if int(part.stem) > step:
                self._told[stage] = max(self._told.get(stage, -1), int(part.stem))
                part.unlink()

    def publish(self, stage: str) -> None:
        """Mirrors what a finished stage has left: its figures, a table of its answers, the report."""
        self._unfinished.discard(stage)
        if not self._mirrors:
            return
        if stage == "synthesize":
            counts = {k: v for k, v in self.run.summary("synthesis").items() if isinstance(v, int | float)}
            for mirror in self._mirrors:
                mirror.summarize("synthesis", counts)
        elif stage == "ppo":
            self._publish_episodes()
        elif stage == "evaluate":
            self._publish_evaluation()
        elif stage == "report":
            report = self.run.root / "report" / "report.html"
            for mirror in self._mirrors:
                mirror.artifact("evaluation", "report", "report", report)

    def close(self, failed: bool = False) -> None:
        """Ends what was begun; after a failure the stages that have not been published are told as failed."""
        for mirror in self._mirrors:
            mirror.close(self._unfinished if failed else ())
        if self._tensorboard is not None:
            self._tensorboard.close()

    def _board(self) -> Any:
        if self._tensorboard is None:
            from tensorboardX import SummaryWriter

            self._tensorboard = SummaryWriter(str(self.run.path("tensorboard", "x").parent))
        return self._tensorboard

    def _publish_episodes(self) -> None:
        steps = [int(p.stem) for p in (self.run.root / "ppo" / "episodes").glob("[0-9]*.parquet")]
        last = (EpisodeStore(self.run.root / "ppo" / "episodes").read(max(steps)) if steps else None) or []
        rows = [(e.problem_id, e.instruction, e.verdict, e.score if e.scored else None, e.text) for e in last]
        self._publish_table("ppo", "last_answers", EPISODES, rows)

    def _publish_evaluation(self) -> None:
        folder = self.run.root / "evaluation" / "heldout"
        figures = {}
        for r in read_json(folder / "evaluation.json")["results"]:
            metric = r["metric"] + (f"_{r['k']}" if r["k"] else "") + (f"_{r['bugs']}" if r["bugs"] else "")
            figures[f"{r['benchmark']}/{r['label']}/{r['mode']}{r['round'] or ''}/{r['feedback']}/{metric}"] = r[
                "value"
            ]
        for mirror in self._mirrors:
            mirror.summarize("evaluation", figures)
        samples = read_records(folder / "samples.parquet", Sample)
        refined = [s for s in samples if s.wrong_code and s.code]
        rows = [
            (s.problem_id, s.label, s.mode, s.status, s.wrong_code, s.shown_feedback, s.explanation, s.code)
            for s in evenly(refined, lambda s: (s.label, s.mode, s.passed), MOST_ROWS)
        ]
        self._publish_table("evaluation", "answers", ANSWERS, rows)

    def _publish_table(self, stage: str, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """The first rows; what a model wrote is cut and made printable."""
        cells = [[_cell(value) for value in row] for row in rows[:MOST_ROWS]]
        for mirror in self._mirrors:
            mirror.table(stage, name, columns, cells)


def evenly(items: Sequence[T], kind: Callable[[T], Hashable], most: int) -> list[T]:
    """At most so many of the items in their order, of each kind as many as of every other as far as there are."""
    turns: dict[Hashable, int] = {}
    order = []
    for place, item in enumerate(items):
        turns[kind(item)] = turn = turns.get(kind(item), 0) + 1
        order.append((turn, place))
    return [items[place] for place in sorted(place for _, place in sorted(order)[:most])]


def _cell(value: Any) -> Any:
    return shown(value, MOST_CHARACTERS, MOST_LINES).text if isinstance(value, str) else value
