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

    def publish(self, stage: str, numbers: Mapping[str, float]) -> None:
        """Sets each metric's gauge."""
        if not ray.is_initialized():
            return
        for name, value in numbers.items():
            metric, _, actor = name.partition("/")
            known = f"ledex_{stage}_{re.sub(r'[^A-Za-z0-9_]', '_', metric)}"
            if known not in self._known:
                self._known[known] = Gauge(known, f"{metric} of {stage}, latest", tag_keys=("run", "actor"))
            self._known[known].set(float(value), {"run": self._run, "actor": actor})
