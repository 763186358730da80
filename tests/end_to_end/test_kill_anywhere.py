"""The driver killed again and again at random moments: what ends on disk is what an undisturbed run leaves."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from launch.parts import Parts
from launch.rundir import read_parts
from ledex_ray.evaluation import Sample
from ledex_ray.records import Attempt, Refinement
from ledex_ray.tables import read_records
from tests.end_to_end.test_smoke import PATIENCE_SECONDS, ledex

pytestmark = pytest.mark.acceptance

KILLS = 12


@pytest.mark.parametrize("seed", [0, 1])
def test_kills_at_random_moments_lose_and_double_nothing(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    process = ledex("quickstart", "--smoke", runs=tmp_path)
    for _ in range(KILLS):
        time.sleep(rng.uniform(20, 90))
        if process.poll() is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process = ledex("quickstart", "--smoke", runs=tmp_path)
    assert process.wait(PATIENCE_SECONDS) == 0, (tmp_path / "log.txt").read_text()[-4000:]
    root = tmp_path / "smoke"
    attempts = Parts(root / "synthesis/solve", Attempt).read()
    assert set(Counter(a.problem_id for a in attempts if a.provenance.source == "model").values()) == {4}
    for ids in (
        [a.id for a in attempts],
        [r.id for r in Parts(root / "synthesis/refine", Refinement).read()],
        [s.id for s in read_records(root / "evaluation/heldout/samples.parquet", Sample)],
    ):
        assert len(ids) == len(set(ids)) > 0
    assert [row["step"] for row in read_parts(root / "ppo/metrics")] == [1, 2]
    assert [row["step"] for row in read_parts(root / "sft/metrics")] == list(
        range(1, len(read_parts(root / "sft/metrics")) + 1)
    )
    assert not list(root.rglob(".*.tmp"))
