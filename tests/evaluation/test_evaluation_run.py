"""An evaluation by `ledex run` and real engines: every control, two rounds, both feedbacks, another model beside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from ledex_ray.chat import Renderer
from ledex_ray.comparison import article_table
from ledex_ray.evaluation import Sample
from ledex_ray.prompts import solve_prompt
from ledex_ray.tables import read_records
from reward.judge import judge_many, ready_problems

pytestmark = pytest.mark.acceptance

SETTINGS = (
    "run=measured",
    "stages=[evaluate, report]",
    "problems.limit=6",
    "evaluation.shots=1",
    "evaluation.rounds=2",
    "evaluation.feedback=[public, all]",
    "evaluation.modes=[direct, explain, resample, random_feedback, no_feedback]",
    "evaluation.sampling.max_tokens=64",
    "tracking.wandb=disabled",
)


def evaluate(runs: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from launch.cli import main; main()", "run", "smoke", *SETTINGS, *more]
    environment = os.environ | {"LEDEX_RUNS": str(runs)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=2400, check=False)


@pytest.fixture(scope="module")
def measured(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    done = evaluate(runs, f"evaluation.models.other={smollm2}")
    assert done.returncode == 0, done.stderr[-4000:]
    return runs / "measured"


@pytest.fixture(scope="module")
def samples(measured: Path) -> list[Sample]:
    return read_records(measured / "evaluation/heldout/samples.parquet", Sample)


def test_untrained_models_are_asked_after_worked_examples(samples: list[Sample], smollm2: Path) -> None:
    renderer = Renderer(AutoTokenizer.from_pretrained(smollm2))
    expected = {
        f"bundled/{p.id}": len(renderer.prompt_ids(solve_prompt(p, shots=1))) for p in ready_problems("bundled@heldout")
    }
    first = [s for s in samples if s.mode == "initial"]
    assert first and all(s.n_prompt_tokens == expected[s.problem_id] for s in first)


def test_each_wrong_sample_is_refined_in_every_way_until_it_is_right(samples: list[Sample]) -> None:
    assert len({s.id for s in samples}) == len(samples)
    by_id = {s.id: s for s in samples}
    for label in ("prompt", "other"):
        own = [s for s in samples if s.label == label]
        wrong = {s.id for s in own if s.mode == "initial" and not s.passed}
        assert wrong
        for mode in ("direct", "explain", "random_feedback"):
            for kind in ("public", "all"):
                asked = [s for s in own if (s.mode, s.bugs, s.feedback_from) == (mode, "own", kind)]
                assert {s.parent_id for s in asked if s.round == 1} == wrong
                still = {s.id for s in asked if s.round == 1 and not s.passed}
                assert {s.parent_id for s in asked if s.round == 2} == still
                for s in asked:
                    given = {p.problem_id for p in own if s.shown_feedback in (p.feedback, p.feedback_all)}
                    if mode == "random_feedback":
                        assert given - {s.problem_id} or not s.shown_feedback
                    else:
                        parent = by_id[s.parent_id]
                        assert s.shown_feedback == (parent.feedback_all if kind == "all" else parent.feedback)
        assert {s.shown_feedback for s in own if s.mode == "no_feedback"} == {""}


def test_all_models_meet_the_same_bugs_with_the_same_feedback(samples: list[Sample]) -> None:
    met: dict[tuple[str, str, str], set[tuple[str, str]]] = {}
    for s in samples:
        if s.bugs == "fixed":
            met.setdefault((s.label, s.mode, s.feedback_from), set()).add((s.parent_id, s.shown_feedback))
    for (label, mode, kind), pairs in met.items():
        assert pairs == met["prompt", mode, kind], (label, mode, kind)


def test_every_way_and_every_control_has_its_figure_and_its_difference(measured: Path) -> None:
    found: dict[str, list[dict[str, Any]]] = json.loads((measured / "evaluation/heldout/evaluation.json").read_text())
    header, rows = article_table(found)
    print("\n".join("  ".join(row) for row in (header, *rows)))
    ways = {(r["label"], r["mode"], r["feedback"]) for r in found["results"]}
    for label in ("prompt", "other"):
        assert {(label, m, k) for m in ("direct", "explain", "random_feedback") for k in ("public", "all")} <= ways
        assert {(label, m, "public") for m in ("initial", "resample", "no_feedback")} <= ways
    pairs = Counter((c["a"]["mode"], c["b"]["mode"]) for c in found["comparisons"])
    for control in ("random_feedback", "no_feedback", "resample"):
        assert pairs[control, "explain"] >= 2
    assert any(c["a"]["label"] == "prompt" and c["b"]["label"] == "other" for c in found["comparisons"])


def test_our_own_judge_gives_the_sample_files_the_same_verdicts(measured: Path, samples: list[Sample]) -> None:
    problems = {p.id: p for p in ready_problems("bundled@heldout")}
    path = measured / "evaluation/heldout/samples/bundled.other.explain.public.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    right = sum(v.passed for v in judge_many((problems[row["task_id"]], row["solution"]) for row in rows))
    results = json.loads((measured / "evaluation/heldout/evaluation.json").read_text())["results"]
    (figure,) = [
        r["value"] for r in results
        if (r["label"], r["mode"], r["round"], r["feedback"], r["k"]) == ("other", "explain", 2, "public", 1)
    ]  # fmt: skip
    assert len(rows) == 12 and right / len(rows) == pytest.approx(figure)


def test_the_report_shows_the_rounds(measured: Path) -> None:
    assert (measured / "report/rounds.png").exists() and (measured / "report/flow.png").exists()


def test_a_finished_evaluation_asks_nothing_again(measured: Path, smollm2: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in measured.rglob("part-*.parquet")}
    done = evaluate(measured.parent, f"evaluation.models.other={smollm2}")
    assert done.returncode == 0 and "already finished" in done.stderr
    assert {p: p.stat().st_mtime_ns for p in measured.rglob("part-*.parquet")} == before
