"""deploy/grafana/ledex.json shows metrics that are written: ours by name in the source, Ray's by name in Ray."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
import ray

ROOT = Path(__file__).resolve().parents[2]
RAYS = (
    "dashboard/modules/reporter/reporter_agent.py",
    "dashboard/modules/metrics/dashboards/default_dashboard_panels.py",
)


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((ROOT / "deploy" / "grafana" / "ledex.json").read_text())
    return loaded


def _queries(dashboard: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]


def _written() -> re.Pattern[str]:
    """Every string in our code, and every f-string with its gaps open: what a metric's name can be."""
    names: set[str] = set()
    for package in ("actors", "launch", "ledex_ray", "reward"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
                    names.add(re.escape(node.value))
                elif isinstance(node, ast.JoinedStr):
                    parts = [re.escape(str(p.value)) if isinstance(p, ast.Constant) else "[a-z_]+" for p in node.values]
                    if any(re.fullmatch(r"\w*[a-z]{2}_|_[a-z]{2}\w*", part) for part in parts):
                        names.add("".join(parts))
    return re.compile("|".join(sorted(names)))


def test_each_of_our_metrics_is_one_that_the_code_writes(dashboard: dict[str, Any]) -> None:
    written = _written()
    asked = {m for query in _queries(dashboard) for m in re.findall(r"ray_ledex_(?:sft|ppo|sandbox)_(\w+)", query)}
    assert len(asked) > 20
    assert {name for name in asked if not written.fullmatch(name) and not name.endswith("_")} == set()
    assert not written.fullmatch("a_metric_that_nobody_writes")


def test_each_of_rays_metrics_is_one_that_ray_writes(dashboard: dict[str, Any]) -> None:
    source = "".join((Path(ray.__file__).parent / file).read_text() for file in RAYS)
    asked = {m for query in _queries(dashboard) for m in re.findall(r"\bray_((?!ledex)\w+)", query)}
    assert asked and all(f'"{name}"' in source or f"ray_{name}" in source for name in asked)


def test_panels_do_not_overlap_and_each_says_what_it_shows(dashboard: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24 and not cells & taken
        taken |= cells
        assert panel["type"] == "row" or (panel["description"] and panel["targets"])
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
