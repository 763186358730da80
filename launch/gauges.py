"""A run's latest figures on Ray's Prometheus endpoint, as gauges `ledex_STAGE_METRIC`.

Tags are the run, and for figures of one actor ("metric/actor") that actor. Without a Ray session nothing is published.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import ray
from ray.util.metrics import Gauge


class Gauges:
    """The gauges of one run, each made when its metric is first seen."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._known: dict[str, Gauge] = {}
        self._actors: dict[str, set[str]] = {}  # stage -> figures of single actors that it has published

    def publish(self, stage: str, numbers: Mapping[str, float]) -> None:
        """Sets each metric's gauge; that of an actor which has none any more, to 0."""
        if not ray.is_initialized():
            return
        known_actors = self._actors.setdefault(stage, set())
        gone = dict.fromkeys(known_actors - numbers.keys(), 0.0)
        known_actors |= {name for name in numbers if "/" in name}
        for name, value in (gone | dict(numbers)).items():
            metric, _, actor = name.partition("/")
            known = f"ledex_{stage}_{re.sub(r'[^A-Za-z0-9_]', '_', metric)}"
            if known not in self._known:
                self._known[known] = Gauge(known, f"{metric} of {stage}, latest", tag_keys=("run", "actor"))
            self._known[known].set(float(value), {"run": self._run, "actor": actor})
