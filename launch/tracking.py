"""Metrics to the run directory, to wandb, and to Ray's Prometheus endpoint.

The files in the run directory are the source; the others mirror them, wandb as "stage/group/metric", Prometheus as
gauges `ledex_STAGE_METRIC` with the run, and for figures of one actor that actor, as tags.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from typing import Any

import ray
from ray.util.metrics import Gauge

from launch.rundir import RunDirectory, read_parts, write_part
from ledex_ray.metric_groups import grouped

log = logging.getLogger(__name__)


class Tracker:
    """Writes one numbered part a step and mirrors it to wandb, grouped as "stage/metric"."""

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self._wandb = _start_wandb(run)
        self._gauges: dict[str, Gauge] = {}

    def log(self, stage: str, step: int, metrics: Mapping[str, Any]) -> None:
        """Stores the metrics of one step of a stage; the same step written again replaces itself."""
        write_part(self.run.root / stage / "metrics", step, [{"step": step, **metrics}])
        numbers = {k: v for k, v in metrics.items() if isinstance(v, int | float)}
        if self._wandb is not None:
            self._wandb.log({f"{stage}/step": step, **{f"{stage}/{grouped(k)}": v for k, v in numbers.items()}})
        if ray.is_initialized():
            for name, value in {"step": step, **numbers}.items():
                self._gauge(stage, name, float(value))

    def history(self, stage: str) -> list[dict[str, Any]]:
        """Every step logged so far for a stage."""
        return read_parts(self.run.root / stage / "metrics")

    def forget_after(self, stage: str, step: int) -> None:
        """Drops the parts after a step: they belong to work that a resume does again."""
        for part in (self.run.root / stage / "metrics").glob("*.jsonl"):
            if int(part.stem) > step:
                part.unlink()

    def _gauge(self, stage: str, name: str, value: float) -> None:
        metric, _, actor = name.partition("/")
        known = f"ledex_{stage}_{re.sub(r'[^A-Za-z0-9_]', '_', metric)}"
        if known not in self._gauges:
            self._gauges[known] = Gauge(known, f"{metric} of {stage}, latest", tag_keys=("run", "actor"))
        self._gauges[known].set(value, {"run": self.run.recipe.run, "actor": actor})

    def close(self) -> None:
        """Ends the wandb run."""
        if self._wandb is not None:
            import wandb

            self._wandb.finish()
            wandb.teardown()


def _start_wandb(run: RunDirectory) -> Any:
    wanted = run.recipe.tracking.wandb
    if wanted == "disabled":
        return None
    mode = wanted if wanted != "auto" else ("online" if os.environ.get("WANDB_API_KEY") else "offline")
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_DISABLE_GIT", "true")
    import wandb

    started = wandb.init(
        project=run.recipe.tracking.project,
        name=run.recipe.run,
        id=run.recipe.run,
        resume="allow" if mode == "online" else None,
        dir=str(run.path("wandb", "x").parent.parent),
        config=run.recipe.model_dump(mode="json"),
        mode=mode,
        settings=wandb.Settings(x_disable_stats=True, console="off"),
    )
    for stage in ("sft", "ppo", "evaluation"):
        started.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
    return started
