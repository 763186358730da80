"""An actor that Ray cannot reach, though its process is there: calls on it fail quickly, and none stays silent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

KEEPALIVE_MS = "2000"  # Ray's own is minutes: so long the connection to a stopped process lives
CODE = """
import os, signal, sys, time
import ray
from actors.local_ray import start_ray
from actors.sandbox import ScoreRequest
from actors.sandbox_group import SandboxGroup
from ledex_ray.config import SandboxConfig
from ledex_ray.problems import AssertTest, Problem
from reward.terms import TextJob

problem = Problem(id="add", text="Add.", tests=(AssertTest("assert add(1, 2) == 3"),), entry_point="add")
jobs = [TextJob(id=str(i), code="def add(a, b):\\n    return a + b\\n", entry_point="add") for i in range(4)]
start_ray()
group = SandboxGroup(SandboxConfig(actors=1, floor="C", deadline_seconds=10.0))
(actor,) = group.actors.values()
pid = ray.get(actor.ready.remote()).pid
os.kill(pid, signal.SIGSTOP)
failed_within = 60.0
while failed_within > 5:  # seconds: at first Ray waits for its connection, and for a new one
    asked = time.monotonic()
    try:
        ray.get(actor.ready.remote(), timeout=60)
    except ray.exceptions.ActorUnavailableError as error:
        failed_within = time.monotonic() - asked if "failed to connect" in str(error) else 60.0
verdicts = [result.verdict for result in group.client().score(ScoreRequest(j.id, problem, j) for j in jobs)]
assert [verdict.passed for verdict in verdicts] == [True] * 4, verdicts
assert not os.path.exists(f"/proc/{pid}")
group.shutdown()
"""


@pytest.mark.slow
def test_a_stopped_actor_is_named_and_ended_though_ray_has_given_its_connection_up() -> None:
    sides = ("client_keepalive", "keepalive")  # who calls, and who is called
    short = {f"RAY_grpc_{side}_{what}_ms": KEEPALIVE_MS for side in sides for what in ("time", "timeout")}
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env={**os.environ, **short},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr.count("state=T") == 1, done.stderr[-2000:]
