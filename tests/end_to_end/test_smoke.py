"""`ledex quickstart --smoke`: every real engine, killed twice on the way, and what it leaves on disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from launch.parts import Parts
from launch.rundir import read_parts
from ledex_ray.episode_store import EpisodeStore
from ledex_ray.evaluation import Sample
from ledex_ray.records import Attempt, Refinement, Status
from ledex_ray.tables import read_records

pytestmark = pytest.mark.slow

PATIENCE_SECONDS = 1500.0  # a bound on waiting, not a claim about speed


def ledex(*arguments: str, runs: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from launch.cli import main; main()", *arguments]
    environment = os.environ | {"LEDEX_RUNS": str(runs), "WANDB_MODE": "offline"}
    log = (runs / "log.txt").open("a")
    return subprocess.Popen(command, env=environment, stdout=log, stderr=log, text=True, start_new_session=True)


def kill_when(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert process.poll() is None, f"ended by itself with {process.returncode}"
        assert time.monotonic() < deadline, "the moment to kill never came"
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished smoke run whose driver was killed in synthesis and between two PPO iterations."""
    runs = tmp_path_factory.mktemp("runs")
    root = runs / "smoke"
    kill_when(ledex("quickstart", "--smoke", runs=runs), lambda: any((root / "synthesis/solve").glob("part-*")))
    kill_when(ledex("quickstart", "--smoke", runs=runs), lambda: any((root / "ppo/metrics").glob("*.jsonl")))
    last = ledex("quickstart", "--smoke", runs=runs)
    assert last.wait(PATIENCE_SECONDS) == 0, (runs / "log.txt").read_text()[-4000:]
    return root


def test_every_problem_was_solved_once(smoke: Path, smollm2: Path) -> None:
    attempts = Parts(smoke / "synthesis/solve", Attempt).read()
    own = Counter(a.problem_id for a in attempts if a.provenance.source == "model")
    assert len(own) == 8 and set(own.values()) == {4}
    assert {a.provenance.revision for a in attempts if a.provenance.source == "model"} == {smollm2.name}
    assert _distinct([a.id for a in attempts])
    assert not any(a.verdict.status is Status.INFRA for a in attempts)


def test_every_refinement_belongs_to_a_wrong_attempt(smoke: Path) -> None:
    attempts = {a.id: a for a in Parts(smoke / "synthesis/solve", Attempt).read()}
    refinements = Parts(smoke / "synthesis/refine", Refinement).read()
    assert refinements and _distinct([r.id for r in refinements])
    assert all(not attempts[r.attempt_id].verdict.passed for r in refinements)
    assert all(r.verdict.passed for r in refinements if r.provenance.source == "seeded")


def test_each_ppo_iteration_was_committed_once_with_its_terms(smoke: Path) -> None:
    history = read_parts(smoke / "ppo/metrics")
    assert [row["step"] for row in history] == [1, 2]
    for name in ("reward", "tests_passed", "codebleu", "kl", "engine_gap_mean"):
        assert all(name in row for row in history), name
    for iteration in (0, 1):
        episodes = EpisodeStore(smoke / "ppo/episodes").read(iteration)
        assert episodes and _distinct([e.id for e in episodes])
        assert {int(v) for e in episodes for v in e.weight_versions[e.loss_mask]} == {iteration}


def test_both_trained_models_are_plain_directories(smoke: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for stage in ("sft", "ppo"):
        AutoTokenizer.from_pretrained(smoke / stage / "model")
        AutoModelForCausalLM.from_pretrained(smoke / stage / "model")
        assert not (smoke / stage / "checkpoints").exists()  # nothing goes on from those of a finished stage


def test_the_evaluation_has_every_model_mode_and_baseline(smoke: Path) -> None:
    results = json.loads((smoke / "evaluation/heldout/evaluation.json").read_text())
    assert results["schema"] == 1
    assert {r["stage"] for r in results["results"]} == {"prompt", "sft", "sft+rl"}
    assert {r["mode"] for r in results["results"]} == {"initial", "direct", "explain", "resample"}
    assert {r["metric"] for r in results["results"]} == {"pass_at_k", "repair_rate", "copy_rate"}
    assert all(r["low"] <= r["value"] <= r["high"] for r in results["results"])
    samples = read_records(smoke / "evaluation/heldout/samples.parquet", Sample)
    assert _distinct([s.id for s in samples])
    first = Counter((s.label, s.problem_id) for s in samples if s.mode == "initial")
    assert set(first.values()) == {2} and len(first) == 24


def test_the_report_is_one_file_with_the_table_and_the_curves(smoke: Path) -> None:
    html = (smoke / "report/report.html").read_text()
    assert "Held-out problems" in html and html.count("data:image/png;base64,") >= 4
    assert "http://" not in html and "https://" not in html
    assert (smoke / "report/reward.png").stat().st_size > 1000
    assert "Held-out problems" in (smoke / "report/report.md").read_text()


def test_wandb_holds_an_offline_run(smoke: Path) -> None:
    assert list(smoke.glob("wandb/offline-run-*/*.wandb"))


def test_a_finished_run_is_not_done_again(smoke: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in smoke.rglob("*.parquet")}
    assert ledex("quickstart", "--smoke", runs=smoke.parent).wait(300) == 0
    assert {p: p.stat().st_mtime_ns for p in smoke.rglob("*.parquet")} == before


def test_another_recipe_under_the_same_name_is_refused(smoke: Path) -> None:
    assert ledex("quickstart", "--smoke", "sft.epochs=3", runs=smoke.parent).wait(300) == 2
    assert "sft.epochs: 1 -> 3" in (smoke.parent / "log.txt").read_text()


def _distinct(ids: Sequence[str]) -> bool:
    return len(set(ids)) == len(ids)
