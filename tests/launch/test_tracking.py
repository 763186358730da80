"""Where a step's metrics can be read: the run directory, and Ray's Prometheus endpoint."""

from __future__ import annotations

import time
import urllib.request
from pathlib import Path

import pytest
import ray

from launch.rundir import RunDirectory, read_parts
from launch.tracking import Tracker
from ledex_ray.episode_metrics import describe
from ledex_ray.metric_groups import grouped
from ledex_ray.recipes import recipe_from_tree


@pytest.mark.slow
def test_a_step_is_in_the_run_directory_and_on_rays_prometheus_endpoint(runs_dir: Path, ray_session: None) -> None:
    run = RunDirectory.open(recipe_from_tree({"run": "gauges", "tracking": {"wandb": "disabled"}}))
    tracker = Tracker(run)
    tracker.log("ppo", 7, {"kl": 0.25, "tokens_per_second/rollout-1": 12.5})
    assert read_parts(run.root / "ppo" / "metrics")[0]["kl"] == 0.25
    port = ray.nodes()[0]["MetricsExportPort"]
    text = ""
    deadline = time.monotonic() + 90
    while "ledex_ppo_tokens_per_second" not in text and time.monotonic() < deadline:
        time.sleep(1)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    lines = [line for line in text.splitlines() if line.startswith("ray_ledex_ppo_") and 'run="gauges"' in line]
    values = {line.split("{")[0]: (float(line.split()[-1]), 'actor="rollout-1"' in line) for line in lines}
    assert values["ray_ledex_ppo_kl"] == (0.25, False) and values["ray_ledex_ppo_step"] == (7.0, False)
    assert values["ray_ledex_ppo_tokens_per_second"] == (12.5, True)
    tracker.close()
    run.close()


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("reward_refinement", "reward"),
        ("verdict_infra", "verdict"),
        ("kl_coef", "policy"),
        ("lr", "policy"),
        ("explained_variance", "value"),
        ("behaviour_gap_max", "staleness"),
        ("tokens_per_second/rollout-0", "utilisation"),
        ("busy_sandbox", "utilisation"),
        ("retries_rollout", "health"),
        ("never_heard_of", "other"),
    ],
)
def test_metrics_are_grouped_by_topic(name: str, group: str) -> None:
    assert grouped(name) == f"{group}/{name}"


def test_the_number_of_infrastructure_faults_is_told_also_when_it_is_none() -> None:
    assert describe([])["verdict_infra"] == 0
