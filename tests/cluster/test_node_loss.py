"""Nodes that are killed under a run: their work is done elsewhere, and nothing is lost or counted twice."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray

from actors.sandbox import ScoreRequest
from actors.sandbox_group import SandboxGroup
from launch.parts import Parts
from ledex_ray.config import SandboxConfig
from ledex_ray.problems import AssertTest, Problem
from ledex_ray.records import Attempt
from reward.terms import TextJob
from tests.cluster.isolation import ROOT, isolated

ADD = Problem("add", "Add.", (AssertTest("assert add(1, 2) == 3"),), "add")
SLOW = "def add(a, b):\n    import time\n    time.sleep(0.3)\n    return a + b\n"
STORE = 120_000_000
QUICK_TO_NOTICE = {  # Ray's own: half a minute
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 3,
}


@contextmanager
def cluster_of(*nodes: dict[str, Any]) -> Iterator[tuple[Any, list[Any]]]:
    """A head without CPUs and these nodes, real raylets each; the cluster and the nodes' handles."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False, "_system_config": QUICK_TO_NOTICE}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield cluster, [cluster.add_node(object_store_memory=STORE, **node) for node in nodes]
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.mark.slow
@isolated
def test_when_a_sandbox_node_is_killed_every_answer_still_gets_exactly_one_verdict(tmp_path: Path) -> None:
    node = {"num_cpus": 0, "resources": {"sandbox": 1}}
    with cluster_of(node, node) as (cluster, nodes):
        ray.init(cluster.address, log_to_driver=False)
        group = SandboxGroup(SandboxConfig(actors=2, batch_size=2, floor="none", deadline_seconds=20.0))
        infos = ray.get([actor.ready.remote() for actor in group.actors.values()], timeout=120)
        assert len({info.node_id for info in infos}) == 2
        requests = [ScoreRequest(f"r{i}", ADD, TextJob(f"r{i}", code=SLOW, entry_point="add")) for i in range(60)]
        seen = []
        for result in group.client().score(requests):
            seen.append(result)
            if len(seen) == 10:
                cluster.remove_node(nodes[0], allow_graceful=False)
        assert sorted(r.id for r in seen) == sorted(r.id for r in requests)
        assert all(r.verdict is not None and r.verdict.passed for r in seen)
        group.shutdown()


@pytest.mark.acceptance
@isolated
def test_the_smoke_pipeline_finishes_though_its_sandbox_node_and_then_its_engine_node_are_killed(
    tmp_path: Path,
) -> None:
    sandboxes, engines = {"num_cpus": 0, "resources": {"sandbox": 2}}, {"num_cpus": 2}
    with cluster_of(sandboxes, engines) as (cluster, (sandbox_node, engine_node)):
        run = tmp_path / "runs" / "smoke"
        environment = os.environ | {"LEDEX_RUNS": str(run.parent), "RAY_ADDRESS": cluster.address}
        command = [sys.executable, "-m", "launch.cli", "run", "smoke"]
        with (tmp_path / "log").open("w") as log:
            driver = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
            _wait(driver, run / "synthesis" / "solve", "*.parquet")
            cluster.remove_node(sandbox_node, allow_graceful=False)
            cluster.add_node(object_store_memory=STORE, **sandboxes)
            _wait(driver, run / "ppo" / "checkpoints", "*/MANIFEST.json")
            cluster.remove_node(engine_node, allow_graceful=False)
            cluster.add_node(object_store_memory=STORE, **engines)
            code = driver.wait(timeout=1500)
        text = (tmp_path / "log").read_text()
        assert code == 0, text[-6000:]
        attempts = [attempt.id for attempt in Parts(run / "synthesis" / "solve", Attempt).read()]
        assert len(attempts) == len(set(attempts))
        assert sum("#seeded" not in id for id in attempts) == 8 * 4
        assert sorted(int(part.stem) for part in (run / "ppo" / "metrics").glob("*.jsonl")) == [1, 2]
        assert (run / "report" / "report.html").exists()
        ray.init(cluster.address, log_to_driver=False)
        assert sum(not node["Alive"] for node in ray.nodes()) == 2


def _wait(driver: subprocess.Popen[bytes], folder: Path, pattern: str, seconds: float = 900.0) -> None:
    deadline = time.monotonic() + seconds
    while not (folder.is_dir() and any(folder.glob(pattern))):
        assert driver.poll() is None, f"the run ended before {folder}/{pattern}"
        assert time.monotonic() < deadline, f"no {folder}/{pattern}"
        time.sleep(0.5)
