"""Ray's own autoscaler over real raylets on one machine: what a run's demands add, and that it goes again.

The nodes are fake as far as the cloud goes (Ray's FakeMultiNodeProvider); raylets, scheduler, autoscaler, sandboxes and
their pool are the real ones.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

from actors.capacity import make_room
from actors.sandbox import ScoreRequest, ScoreResult
from actors.sandbox_group import SandboxGroup
from ledex_ray.config import SandboxConfig
from ledex_ray.errors import BadInput
from ledex_ray.placement import Demand
from ledex_ray.problems import AssertTest, Problem
from reward.terms import TextJob
from tests.cluster.isolation import isolated, ray_command

ADD = Problem("add", "Add.", (AssertTest("assert add(1, 2) == 3"),), "add")
SLOW = "def add(a, b):\n    import time\n    time.sleep(0.4)\n    return a + b\n"
STORE = 80_000_000  # bytes of each node's object store


@contextmanager
def autoscaling_cluster(folder: Path, worker_types: Mapping[str, Mapping[str, float]]) -> Iterator[None]:
    """A head without CPUs, and up to two nodes of each type that come by demand; this process is its driver."""
    types: dict[str, Any] = {
        name: {
            "resources": {**resources, "object_store_memory": STORE},
            "node_config": {},
            "min_workers": 0,
            "max_workers": 2,
        }
        for name, resources in worker_types.items()
    }
    types["ray.head.default"] = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    provider = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
    config = {
        "cluster_name": "fake",
        "max_workers": 8,
        "upscaling_speed": 10.0,
        "idle_timeout_minutes": 0.1,
        # No node is reached by SSH, and a node that goes is told to first: as Ray's own fake cluster is set up.
        "provider": {
            "type": "external",
            "module": provider,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "foreground_node_launch": True,
            "worker_rpc_drain": True,
        },
        "auth": {},
        "docker": {},
        "head_node_type": "ray.head.default",
        "available_node_types": types,
        **{key: [] for key in ("initialization_commands", "setup_commands", "head_setup_commands")},
        **{key: [] for key in ("worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands")},
        **{key: [] for key in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
    }
    file = folder / "cluster.json"
    file.write_text(json.dumps(config))
    start = ["start", "--head", "--num-cpus=0", f"--object-store-memory={STORE}", f"--autoscaling-config={file}"]
    # The dashboard is off: nothing here asks it, and it would take the memory of three nodes.
    environment = {
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
    }
    ray_command(*start, "--include-dashboard=false", env=environment)
    try:
        ray.init("auto", log_to_driver=False)
        yield
    finally:
        ray.shutdown()
        ray_command("stop", "--force")  # sees this namespace's processes alone


def _kinds() -> Counter[str]:
    """Living workers by what they offer."""
    kinds: Counter[str] = Counter()
    for node in ray.nodes():
        if node["Alive"]:
            kinds.update(kind for kind in ("sandbox", "GPU") if node["Resources"].get(kind))
    return kinds


def _until(condition: Callable[[], bool], seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, _kinds()
        time.sleep(0.5)


@pytest.mark.acceptance
@isolated
def test_sandbox_demand_adds_sandbox_nodes_alone_which_go_and_gpu_demand_gpu_nodes_alone(tmp_path: Path) -> None:
    """One test: a cluster takes long to start, and each step begins where the one before has ended."""
    with autoscaling_cluster(tmp_path, {"sandbox": {"CPU": 0, "sandbox": 1}, "gpu": {"CPU": 1, "GPU": 1}}):
        make_room([Demand("sandbox", ({"sandbox": 1},))], deadline_seconds=120)  # brings the first node up
        assert _kinds() == {"sandbox": 1}

        config = SandboxConfig(actors=1, max_actors=2, batch_size=2, idle_seconds=3.0, floor="none")
        group = SandboxGroup(config)
        requests = (ScoreRequest(f"r{i}", ADD, TextJob(f"r{i}", code=SLOW, entry_point="add")) for i in range(10_000))
        results = group.client().score(requests)
        seen: list[ScoreResult] = []
        deadline = time.monotonic() + 120
        while _kinds()["sandbox"] < 2 or len(seen) < 40:
            seen.append(next(results))
            assert time.monotonic() < deadline, (_kinds(), len(seen))
        assert _kinds() == {"sandbox": 2}  # the queue brought the second one, and no GPU
        results.close()  # type: ignore[attr-defined]
        assert all(r.verdict is not None and r.verdict.passed for r in seen)
        assert len({r.id for r in seen}) == len(seen)
        _until(lambda: len(group.actors) == 1)  # nothing waits: the pool shrinks, and its node with it
        _until(lambda: _kinds() == {"sandbox": 1})
        group.shutdown()
        _until(lambda: not _kinds())

        make_room([Demand("learner", ({"GPU": 1},))], deadline_seconds=120)
        assert _kinds() == {"GPU": 1}
        _until(lambda: not _kinds())

        with pytest.raises(BadInput, match=r"no place for learner \(1 x GPU 4\): it has .*is starting nothing"):
            make_room([Demand("learner", ({"GPU": 4},))], deadline_seconds=600, idle_seconds=5.0)
        assert not _kinds()
