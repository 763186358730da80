"""The report shows what the files hold, and a model's text as text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.measures import measure
from launch.report import examples, report
from launch.rundir import RunDirectory, write_part
from ledex_ray.recipes import recipe_from_tree
from ledex_ray.tables import write_records
from tests.launch.test_measures import CONFIG, PROBLEMS, SAMPLES, sample

RIGHT = "def f(a):\n    return a + 1\n"
HOSTILE = "<script>alert(1)</script>\x1b[31mred\u202egnirts " + "x" * 200_000


@pytest.fixture
def run(runs_dir: Path) -> Iterator[RunDirectory]:
    """A run with PPO metrics and an evaluation in which a model wrote hostile text."""
    run = RunDirectory.open(recipe_from_tree({"run": "shown"}))
    for step in (1, 2, 3):
        write_part(run.root / "ppo/metrics", step, [{"step": step, "reward": -1.0 + step, "codebleu": 0.5, "kl": 0.1}])
    run.finish("ppo", {"iteration": 3})
    answers = [sample("h", "p1", True, "explain", explanation=HOSTILE, code=HOSTILE, wrong_code="def f(): pass")]
    samples = [*SAMPLES, *answers]
    folder = run.path("evaluation/heldout/x").parent
    write_records(folder / "samples.parquet", samples)
    evaluation = measure(samples, PROBLEMS, CONFIG, {"m": "model"}, "public")
    (folder / "evaluation.json").write_text(json.dumps(evaluation.to_json()))
    counts = {"samples": len(samples), "weak_verdicts": 7, "infra": 0, "too_long": 0, "bug_set": "abc"}
    run.finish("evaluation/heldout", counts)
    yield run
    run.close()


def test_model_text_is_text(run: RunDirectory) -> None:
    report(run)
    html = (run.root / "report/report.html").read_text()
    assert "&lt;script&gt;alert(1)" in html and "<script" not in html
    assert "\x1b" not in html and "\u202e" not in html and "\\u001b[31mred" in html
    assert "x" * 10_000 not in html
    assert "\x1b" not in (run.root / "report/report.md").read_text()


def test_a_repair_is_shown_as_the_lines_that_it_changes() -> None:
    wrong = "def f(a):\n    return a - 1\n"
    fixed, _ = examples([sample("x", "p", True, "explain", explanation="Off.", code=RIGHT, wrong_code=wrong)])
    assert fixed[0].diff == (
        ("same", "@@ -1,2 +1,2 @@"),
        ("same", " def f(a):"),
        ("removed", "-    return a - 1"),
        ("added", "+    return a + 1"),
    )


def test_the_table_and_the_curves_are_in_one_file(run: RunDirectory) -> None:
    report(run)
    html = (run.root / "report/report.html").read_text()
    assert "explain, then revise" in html and "of which 7 have a verdict" in html
    assert html.count('src="data:image/png;base64,') == len(list((run.root / "report").glob("*.png"))) >= 4
    assert "http" not in html.replace("http-equiv", "")


def test_a_run_without_results_still_has_a_report(runs_dir: Path) -> None:
    run = RunDirectory.open(recipe_from_tree({"run": "empty"}))
    report(run)
    assert "empty" in (run.root / "report/report.md").read_text()
    run.close()
