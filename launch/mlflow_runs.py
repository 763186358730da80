"""A run on an MLflow server: one MLflow run a stage, with curves, figures, answers, the recipe and the report.

The files in the run directory are the source; this mirrors them, and a resumed stage goes on in the same MLflow run. No
credential is written anywhere: MLflow reads MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD or
MLFLOW_TRACKING_TOKEN. A server that goes away while the run trains costs the mirror, not the run.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from launch.rundir import RunDirectory
from ledex_ray.errors import BadInput
from ledex_ray.recipes import dump_recipe

log = logging.getLogger(__name__)

MOST_AT_ONCE = 500  # metrics a request; the server takes 1,000
_FORBIDDEN = re.compile(r"[^\w\-./ ]")  # in the name of a metric


class MlflowRuns:
    """The MLflow runs of one run directory, each begun when its stage first has something to say.

    BadInput at once where the package is missing or no server answers at `tracking.mlflow`.
    """

    def __init__(self, run: RunDirectory, uri: str) -> None:
        # MLflow's own patience is minutes a request, while the learner waits.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        try:
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException
        except ModuleNotFoundError as error:
            raise BadInput(
                "recipe key 'tracking.mlflow'",
                f"this needs {error.name}",
                expected="the extra `mlflow`, ledex-ray[mlflow]",
            ) from error
        self.run, self._failure = run, MlflowException
        self._begun: dict[str, str] = {}
        self._lost = False
        try:
            self._client = MlflowClient(tracking_uri=uri)
            self._experiment = self._find_experiment(run.recipe.tracking.project)
        except MlflowException as error:
            raise BadInput(
                "recipe key 'tracking.mlflow'",
                f"no MLflow server answers ({' '.join(str(error).split())[:200]})",
                given=uri,
                expected="the address of a server that runs, e.g. http://127.0.0.1:5000",
            ) from error

    def log(self, stage: str, step: int, numbers: Mapping[str, float]) -> None:
        """One point of each curve."""
        self._send(lambda: self._log(stage, step, numbers))

    def summarize(self, stage: str, figures: Mapping[str, Any]) -> None:
        """Figures that stand for the whole stage."""
        numbers = {name: float(value) for name, value in figures.items() if isinstance(value, int | float)}
        self._send(lambda: self._log(stage, 0, numbers))

    def table(self, stage: str, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A table of answers as a JSON file."""
        text = json.dumps({"columns": list(columns), "data": [list(row) for row in rows]})
        self._send(lambda: self._client.log_text(self._of(stage), text, f"{name}.json"))

    def artifact(self, stage: str, name: str, kind: str, path: Path) -> None:
        """A file, kept with the run."""
        self._send(lambda: self._client.log_artifact(self._of(stage), str(path), name))

    def close(self, failed: Collection[str] = ()) -> None:
        """Ends every MLflow run that was begun, those of the stages `failed` as such."""
        for stage, id in self._begun.items():
            self._send(partial(self._client.set_terminated, id, "FAILED" if stage in failed else "FINISHED"))
        self._begun.clear()

    def _log(self, stage: str, step: int, numbers: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now, id = int(1000 * time.time()), self._of(stage)
        metrics = [Metric(_FORBIDDEN.sub("_", name), float(value), now, step) for name, value in numbers.items()]
        for start in range(0, len(metrics), MOST_AT_ONCE):
            self._client.log_batch(id, metrics=metrics[start : start + MOST_AT_ONCE])

    def _send(self, send: Callable[[], object]) -> None:
        if self._lost:
            return
        try:
            send()
        except (self._failure, OSError) as error:  # OSError: its artifact store's
            self._lost = True
            log.warning("MLflow no longer answers, and is told nothing more: %s", " ".join(str(error).split())[:300])

    def _find_experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        return found.experiment_id if found is not None else self._client.create_experiment(name)

    def _of(self, stage: str) -> str:
        if stage not in self._begun:
            self._begun[stage] = self._begin(stage)
        return self._begun[stage]

    def _begin(self, stage: str) -> str:
        recipe = self.run.recipe
        tags = {"ledex_run": recipe.run, "ledex_stage": stage, "ledex_id": self.run.id}
        wanted = " and ".join(f"tags.{name} = '{value}'" for name, value in tags.items())
        found = self._client.search_runs([self._experiment], wanted, max_results=1)
        if found:
            self._client.update_run(found[0].info.run_id, status="RUNNING")
            return str(found[0].info.run_id)
        made = self._client.create_run(self._experiment, tags=tags, run_name=f"{recipe.run} {stage}")
        self._client.log_text(made.info.run_id, dump_recipe(recipe), "recipe.yaml")
        return str(made.info.run_id)
