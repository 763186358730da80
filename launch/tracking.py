"""Metrics to the run directory, whose files are the source, and from there to wandb, TensorBoard and Prometheus."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from launch.gauges import Gauges
from launch.rundir import RunDirectory, write_part
from launch.wandb_runs import WandbRuns, wandb_mode
from ledex_ray.episode_store import EpisodeStore
from ledex_ray.evaluation import Sample
from ledex_ray.metric_groups import grouped
from ledex_ray.tables import read_records

MOST_ROWS = 200  # of a table of answers
ANSWERS = ("problem", "model", "mode", "verdict", "wrong code", "feedback", "explanation", "code")
EPISODES = ("problem", "instruction", "verdict", "reward", "answer")


class Tracker:
    """Writes one numbered part a step and mirrors it, grouped by stage."""

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        mode = wandb_mode(run.recipe.tracking.wandb)
        self._wandb = None if mode == "disabled" else WandbRuns(run, mode)
        self._tensorboard: Any = None
        self._gauges = Gauges(run.recipe.run)

    def log(self, stage: str, step: int, metrics: Mapping[str, Any]) -> None:
        """Stores the metrics of one step of a stage; the same step written again replaces itself."""
        write_part(self.run.root / stage / "metrics", step, [{"step": step, **metrics}])
        numbers = {k: v for k, v in metrics.items() if isinstance(v, int | float)}
        if self._wandb is not None:
            self._wandb.log(stage, step, {grouped(name): value for name, value in numbers.items()})
        if self.run.recipe.tracking.tensorboard:
            for name, value in numbers.items():
                self._board().add_scalar(f"{stage}/{grouped(name)}", value, step)
            self._board().flush()
        self._gauges.publish(stage, {"step": step, **numbers})

    def forget_after(self, stage: str, step: int) -> None:
        """Drops the parts after a step: they belong to work that a resume does again."""
        for part in (self.run.root / stage / "metrics").glob("*.jsonl"):
            if int(part.stem) > step:
                part.unlink()

    def publish(self, stage: str) -> None:
        """Mirrors what a finished stage has left: its figures, a table of its answers, the report."""
        if self._wandb is None:
            return
        if stage == "synthesize":
            counts = {k: v for k, v in self.run.summary("synthesis").items() if isinstance(v, int | float)}
            self._wandb.summarize("synthesis", counts)
        elif stage == "ppo":
            self._publish_episodes(self._wandb)
        elif stage == "evaluate":
            self._publish_evaluation(self._wandb)
        elif stage == "report":
            report = self.run.root / "report" / "report.html"
            self._wandb.artifact("evaluation", "report", "report", report)

    def close(self) -> None:
        """Ends what was begun."""
        if self._wandb is not None:
            self._wandb.close()
        if self._tensorboard is not None:
            self._tensorboard.close()

    def _board(self) -> Any:
        if self._tensorboard is None:
            from tensorboardX import SummaryWriter

            self._tensorboard = SummaryWriter(str(self.run.path("tensorboard", "x").parent))
        return self._tensorboard

    def _publish_episodes(self, wandb: WandbRuns) -> None:
        steps = [int(p.stem) for p in (self.run.root / "ppo" / "episodes").glob("[0-9]*.parquet")]
        last = (EpisodeStore(self.run.root / "ppo" / "episodes").read(max(steps)) if steps else None) or []
        rows = [(e.problem_id, e.instruction, e.verdict, e.score if e.scored else None, e.text) for e in last]
        wandb.table("ppo", "last_answers", EPISODES, rows[:MOST_ROWS])

    def _publish_evaluation(self, wandb: WandbRuns) -> None:
        folder = self.run.root / "evaluation" / "heldout"
        figures = {}
        for r in json.loads((folder / "evaluation.json").read_text())["results"]:
            metric = r["metric"] + (f"_{r['k']}" if r["k"] else "") + (f"_{r['bugs']}" if r["bugs"] else "")
            figures[f"{r['benchmark']}/{r['label']}/{r['mode']}{r['round'] or ''}/{r['feedback']}/{metric}"] = r[
                "value"
            ]
        wandb.summarize("evaluation", figures)
        samples = read_records(folder / "samples.parquet", Sample)
        refined = [s for s in samples if s.wrong_code and s.code][:MOST_ROWS]
        rows = [
            (s.problem_id, s.label, s.mode, s.status, s.wrong_code, s.shown_feedback, s.explanation, s.code)
            for s in refined
        ]
        wandb.table("evaluation", "answers", ANSWERS, rows)
