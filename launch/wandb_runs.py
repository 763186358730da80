"""A run on wandb: one wandb run a stage, grouped under the run's name, with curves, tables of answers, and the report.

The files in the run directory are the source; this mirrors them. No key is written anywhere: wandb reads
WANDB_API_KEY or its own login. Offline runs, and those of a server that cannot be reached, lie in the run directory
(`wandb sync runs/NAME/wandb/offline-run-*`).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from launch.console import log
from launch.rundir import RunDirectory

Mode = Literal["online", "offline", "disabled"]


class WandbRuns:
    """The wandb runs of one run directory, each begun when its stage first has something to say."""

    def __init__(self, run: RunDirectory, mode: Mode) -> None:
        self.run, self.mode = run, mode
        self._begun: dict[str, Any] = {}

    def log(self, stage: str, step: int, numbers: Mapping[str, float]) -> None:
        """One point of each curve."""
        self._of(stage).log({f"{stage}/step": step, **{f"{stage}/{name}": value for name, value in numbers.items()}})

    def summarize(self, stage: str, figures: Mapping[str, Any]) -> None:
        """Figures that stand for the whole stage."""
        self._of(stage).summary.update({f"{stage}/{name}": value for name, value in figures.items()})

    def table(self, stage: str, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A table of answers."""
        import wandb

        data = [list(row) for row in rows]
        self._of(stage).log({f"{stage}/{name}": wandb.Table(columns=list(columns), data=data)})

    def artifact(self, stage: str, name: str, kind: str, path: Path) -> None:
        """A file, kept with the run."""
        import wandb

        artifact = wandb.Artifact(f"{self.run.recipe.run}-{name}", type=kind)
        artifact.add_file(str(path))
        self._of(stage).log_artifact(artifact)

    def close(self, failed: Collection[str] = ()) -> None:
        """Ends every wandb run that was begun, those of the stages `failed` as such, and waits for their files."""
        if self._begun:
            import wandb

            for stage, begun in self._begun.items():
                begun.finish(exit_code=1 if stage in failed else 0)
            wandb.teardown()

    def _of(self, stage: str) -> Any:
        if stage not in self._begun:
            self._begun[stage] = self._begin(stage)
        return self._begun[stage]

    def _begin(self, stage: str) -> Any:
        import wandb

        try:
            return self._init(stage)
        except (wandb.Error, OSError) as error:
            if self.mode != "online":
                raise
            reason = " ".join(str(error).split())[:300]
            log.warning("wandb cannot be reached, its runs are kept offline (`wandb sync` sends them): %s", reason)
            self.mode = "offline"
            return self._init(stage)

    def _init(self, stage: str) -> Any:
        os.environ.setdefault("WANDB_SILENT", "true")
        os.environ.setdefault("WANDB_DISABLE_GIT", "true")
        import wandb

        recipe = self.run.recipe
        begun = wandb.init(
            project=recipe.tracking.project,
            group=recipe.run,
            job_type=stage,
            name=f"{recipe.run} {stage}",
            id="-".join(part for part in (recipe.run, self.run.id, stage) if part),
            resume="allow" if self.mode == "online" else None,
            reinit="create_new",
            dir=str(self.run.path("wandb", "x").parent.parent),
            config=recipe.model_dump(mode="json"),
            mode=self.mode,
            settings=wandb.Settings(x_disable_stats=True, console="off"),
        )
        begun.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
        return begun


def wandb_mode(wanted: Literal["auto", "offline", "online", "disabled"]) -> Mode:
    """online, offline or disabled; "auto" is online where a key is set."""
    return wanted if wanted != "auto" else ("online" if os.environ.get("WANDB_API_KEY") else "offline")
