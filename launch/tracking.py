"""Metrics to the run directory and to wandb. The files in the run directory are the source; wandb mirrors them."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

from launch.rundir import RunDirectory, read_parts, write_part

log = logging.getLogger(__name__)


class Tracker:
    """Writes one numbered part a step and mirrors it to wandb, grouped as "stage/metric"."""

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self._wandb = _start_wandb(run)

    def log(self, stage: str, step: int, metrics: Mapping[str, Any]) -> None:
        """Stores the metrics of one step of a stage; the same step written again replaces itself."""
        write_part(self.run.root / stage / "metrics", step, [{"step": step, **metrics}])
        if self._wandb is not None:
            numbers = {f"{stage}/{k}": v for k, v in metrics.items() if isinstance(v, int | float)}
            self._wandb.log({f"{stage}/step": step, **numbers})

    def history(self, stage: str) -> list[dict[str, Any]]:
        """Every step logged so far for a stage."""
        return read_parts(self.run.root / stage / "metrics")

    def forget_after(self, stage: str, step: int) -> None:
        """Drops the parts after a step: they belong to work that a resume does again."""
        for part in (self.run.root / stage / "metrics").glob("*.jsonl"):
            if int(part.stem) > step:
                part.unlink()

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
