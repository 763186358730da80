"""Whole runs on a simulated S3: the driver killed, its machine's disk lost, and the run gone on with elsewhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from actors.node_copies import model_folder
from actors.places import RemotePath
from launch.parts import Parts
from launch.rundir import find_run, read_parts
from ledex_ray.records import Attempt
from tests.cluster.isolation import ROOT, isolated
from tests.cluster.object_store import SECRET, simulated_s3

SMALL = [
    "run=far", "model.dtype=float32", "problems.limit=2", "rollout.kv_cache_gb=0.25", "rollout.max_num_seqs=8",
    "synthesis.solve.n=2", "synthesis.solve.max_tokens=16", "synthesis.refine.max_tokens=16", "sandbox.actors=1",
    "ppo.prompts_per_iteration=2", "ppo.sampling.max_tokens=16", "ppo.minibatch_episodes=4", "ppo.validate_every=1",
    "evaluation.sampling.max_tokens=16", "evaluation.modes=[direct]",
]  # fmt: skip


class Machines:
    """Drivers of one run, each on a disk of its own, that write to one log."""

    def __init__(self, folder: Path, runs: str, recipe: list[str]) -> None:
        self.folder, self.recipe = folder, recipe
        self.environment = os.environ | {"LEDEX_RUNS": runs}
        self.log = folder / "log"
        self.started = 0

    def start(self) -> subprocess.Popen[bytes]:
        self.started += 1
        work = {"LEDEX_WORK": str(self.folder / f"disk-{self.started}")}
        command = [sys.executable, "-m", "launch.cli", "run", "smoke", *self.recipe]
        with self.log.open("ab") as log:
            return subprocess.Popen(command, cwd=ROOT, env=self.environment | work, stdout=log, stderr=log)

    def kill_when(self, condition: Callable[[], bool]) -> None:
        """Starts a driver, and kills it at that moment."""
        driver, deadline = self.start(), time.monotonic() + 1500
        while not condition():
            assert driver.poll() is None, self.log.read_text()[-6000:]
            assert time.monotonic() < deadline, "the moment to kill never came"
            time.sleep(0.2)
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()

    def finish(self) -> None:
        assert self.start().wait(1500) == 0, self.log.read_text()[-6000:]


@pytest.mark.slow
@isolated
def test_a_run_on_s3_is_killed_and_goes_on_from_an_empty_disk(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with simulated_s3() as s3:
        monkeypatch.setenv("LEDEX_RUNS", s3.url)
        run = RemotePath.parse(s3.url) / "far"
        part = run / "synthesis" / "solve" / "part-000000.parquet"
        machines = Machines(tmp_path, s3.url, [f"model={tiny_llama}", "stages=[synthesize]", *SMALL])
        machines.kill_when(part.exists)
        kept = set(run.files())
        monkeypatch.setenv("LEDEX_WORK", str(tmp_path / "reader"))
        first = [attempt.text for attempt in Parts(find_run("far")[0] / "synthesis" / "solve", Attempt).read()]
        machines.finish()
        assert kept <= set(run.files()) and (run / "synthesis" / "DONE.json").exists()
        attempts = Parts(find_run("far")[0] / "synthesis" / "solve", Attempt).read()
        assert len({attempt.id for attempt in attempts}) == len(attempts)
        assert [attempt.text for attempt in attempts][: len(first)] == first
        _holds_no_secret(tmp_path, run)


@pytest.mark.acceptance
@isolated
def test_every_stage_on_s3_killed_in_the_midst_of_sft_and_ppo(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranks and engines share no folder with the driver: what they load is at the URL alone."""
    with simulated_s3() as s3:
        monkeypatch.setenv("LEDEX_RUNS", s3.url)
        run = RemotePath.parse(s3.url) / "far"
        steps = [
            "sft.batch_size=1",
            "sft.epochs=4",
            "sft.checkpoint_every=1",
        ]  # a kill finds it in its midst
        machines = Machines(tmp_path, s3.url, [f"model={tiny_llama}", *steps, *SMALL])
        machines.kill_when((run / "sft" / "checkpoints" / "000001" / "MANIFEST.json").exists)
        machines.kill_when((run / "ppo" / "checkpoints" / "000001" / "MANIFEST.json").exists)
        machines.finish()
        monkeypatch.setenv("LEDEX_WORK", str(tmp_path / "reader"))
        root, _ = find_run("far")
        assert [row["step"] for row in read_parts(root / "ppo" / "metrics")] == [1, 2]
        trained = [row["step"] for row in read_parts(root / "sft" / "metrics")]
        assert trained == list(range(1, len(trained) + 1))
        for stage in ("sft", "ppo"):
            assert (model_folder(str(run / stage / "model")) / "model.safetensors").exists()
            assert len((run / stage / "model").iterdir()) == 1
        assert "far" in (root / "report" / "report.html").read_text()
        assert "sft: resumed after step" in machines.log.read_text()
        assert "ppo: going on after iteration 1" in machines.log.read_text()
        _holds_no_secret(tmp_path, run)


def _holds_no_secret(folder: Path, run: RemotePath) -> None:
    for name in run.files():
        (run / name).get(folder / "file")
        assert SECRET.encode() not in (folder / "file").read_bytes(), name
    assert SECRET not in (folder / "log").read_text()
