"""The report and the comparison of runs: what they count, and how they look in a real browser."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from launch.compare import Run, compare, differences, short_names
from launch.costs import costs, stage_gpus
from launch.figures_answers import bins_of, flow_of, read_episodes, rounds_curve
from launch.measures import every_figure, measure
from launch.report import kept, report
from launch.rundir import RunDirectory, write_part
from ledex_ray.errors import BadInput
from ledex_ray.evaluation import Sample
from ledex_ray.problems import CallTest, Problem
from ledex_ray.published import BENCHMARKS, PUBLISHED, backbone_of
from ledex_ray.recipes import recipe_from_tree
from ledex_ray.tables import write_records
from tests.evaluation.browser import Page
from tests.evaluation.sample_run import HOSTILE, RIGHT, WRONG, sample, write_run

TREE = {"evaluation": {"sampling": {"n": 2}, "k": [1, 2], "modes": ["explain"], "rounds": 2, "bootstrap": 100}}
PROBLEMS = {f"own/p{n}": Problem(f"own/p{n}", "", (CallTest("()", "1"),), benchmark="own") for n in range(6)}


def answers(repaired: int, feedback: str = "public") -> list[Sample]:
    """Two wrong first samples of six problems, refined twice with an explanation; some are right in the end."""
    found = []
    for number, problem in enumerate(PROBLEMS):
        for index in range(2):
            first = sample(index, "initial", WRONG, "", problem, id=f"{problem}/{index}", problem_id=problem)
            error = "NameError" if index else "wrong value"
            found.append(sample(index, "initial", WRONG, "", problem, id=first.id, problem_id=problem, error=error))
            changes = {"problem_id": problem, "feedback_from": feedback, "explanation": HOSTILE, "n_prompt_tokens": 70}
            code = RIGHT if number < repaired else HOSTILE
            once = sample(index, "explain", code, HOSTILE, first.id, id=f"{first.id}/{feedback}/1", **changes)
            found.append(once)
            if not once.passed:
                code = RIGHT if number == repaired else WRONG
                again = changes | {"round": 2, "id": f"{first.id}/{feedback}/2"}
                found.append(sample(index, "explain", code, "", once.id, **again))
    return found


@pytest.fixture
def run(runs_dir: Path) -> Iterator[RunDirectory]:
    yield from finished(runs_dir, "one", 2)


def finished(runs_dir: Path, name: str, repaired: int, **changes: object) -> Iterator[RunDirectory]:
    """A run with training data, episodes, metrics, and an evaluation in which so many problems were repaired."""
    write_run(runs_dir / name)
    (runs_dir / name / "recipe.yaml").unlink()
    run = RunDirectory.open(recipe_from_tree({"run": name, **TREE, **changes}))
    for step in (1, 2, 3):
        metrics = {"step": step, "reward": step / repaired, "codebleu": 0.5, "kl": 0.1 * step, "tokens": 100}
        write_part(run.root / "ppo/metrics", step, [metrics])
    for stage, seconds in (("synthesize", 60), ("ppo", 1800), ("ppo", 1800), ("evaluate", 30)):
        run.event("stage_finished", stage=stage, seconds=seconds)
    samples = answers(repaired)
    folder = run.path("evaluation/heldout/x").parent
    write_records(folder / "samples.parquet", samples)
    evaluation = measure(samples, PROBLEMS, run.recipe.evaluation, {"prompt": "m"}, "public")
    (folder / "evaluation.json").write_text(json.dumps(evaluation.to_json()))
    overlap = {"evaluated": "own/p0", "trained": "t<script>", "kind": "near", "similarity": 0.8}
    (folder / "contamination.json").write_text(json.dumps([overlap]))
    counts = {"samples": len(samples), "weak_verdicts": 0, "infra": 0, "too_long": 0, "bug_set": "abc"}
    run.finish("evaluation/heldout", counts | {"contaminated": 1})
    yield run
    run.close()


def test_each_kind_of_error_is_followed_to_its_end() -> None:
    flow = flow_of(answers(2), "prompt")
    assert set(flow) == {"wrong value", "NameError"}
    assert flow["NameError"] == flow["wrong value"] == Counter({"fixed": 2, "another error": 4})


def test_rounds_are_drawn_only_where_there_are_several(run: RunDirectory) -> None:
    results = json.loads((run.root / "evaluation/heldout/evaluation.json").read_text())["results"]
    assert rounds_curve(results) is not None
    assert rounds_curve([r for r in results if r["round"] < 2]) is None


def test_calibration_bins_hold_every_answer_once() -> None:
    pairs = [(-7.0, False), (-5.0, False), (-0.1, True), (0.1, False), (4.9, True), (5.0, True), (11.0, True)]
    centres, shares, counts = bins_of(pairs, (-5.0, 5.0))
    assert counts == [2, 1, 1, 3] and shares == [0.0, 1.0, 0.0, 1.0]
    assert centres == pytest.approx([-6.0, -0.1, 0.1, 20.9 / 3])


def test_episodes_are_read_without_their_tokens(run: RunDirectory) -> None:
    episodes = read_episodes(run.root / "ppo/episodes")
    assert [e["passed"] for e in episodes] == [True, False, False, True]
    assert episodes[0]["terms"] == {"tests_passed": 0.5, "codebleu": 0.25}


def test_costs_count_each_prompt_once_and_each_answer_once(runs_dir: Path) -> None:
    gpus = {"rollout": {"gpus": 1, "actors": 2}, "learner": {"gpus": 1, "ranks": 4}}
    (run,) = finished(runs_dir, "gpus", 2, **gpus)
    found = {c.stage: c for c in costs(run.root, run.recipe)}
    assert found["synthesize"].verdicts == 6 and found["synthesize"].written == 3 * 20 + 3 * 40
    assert found["synthesize"].read == 10 + 2 * 30  # one problem, two wrong solutions
    assert found["ppo"].trained == 300 and found["ppo"].seconds == 3600 and found["ppo"].gpu_hours == 6.0
    assert found["evaluate"].gpu_hours == pytest.approx(2 * 30 / 3600)
    twice = run.recipe.model_copy(update={"ppo": run.recipe.ppo.model_copy(update={"epochs": 2})})
    assert {c.stage: c.trained for c in costs(run.root, twice)}["ppo"] == 600


def test_hours_are_those_of_the_gpus_that_a_try_held_and_killed_tries_are_said(runs_dir: Path) -> None:
    (run,) = finished(runs_dir, "resumed", 2)
    began = {"event": "stage_started", "stage": "ppo"}
    ended = {"event": "stage_finished", "stage": "ppo", "seconds": 3600}
    write_part(run.root / "events", 7, [began, began, ended | {"gpus": 8}, began, ended | {"gpus": 4}, began])
    (ppo,) = [c for c in costs(run.root, run.recipe) if c.stage == "ppo"]
    assert (ppo.gpu_hours, ppo.killed) == (12.0, 1)  # the last one may be under way
    report(run)
    assert "not in the table: ppo 1." in (run.root / "report/report.html").read_text()


def test_every_worker_of_an_engine_holds_its_gpus() -> None:
    recipe = recipe_from_tree({"rollout": {"gpus": 1, "actors": 2, "tensor_parallel": 4}, "learner": {"gpus": 1}})
    assert [stage_gpus(recipe, stage) for stage in ("evaluate", "sft", "ppo")] == [8, 9, 9]
    alone = recipe.model_copy(update={"stages": ("sft",)})
    assert stage_gpus(alone, "sft") == 1  # no engine was started before it


def test_costs_count_the_parts_of_a_release_that_wrote_less(run: RunDirectory) -> None:
    (part,) = (run.root / "synthesis/refine").glob("part-*.parquet")
    table = pq.read_table(part)
    place = table.column_names.index("provenance")
    field = table.field(place)
    less = field.with_type(pa.struct([inner for inner in field.type if inner.name != "revision"]))
    assert less.type.num_fields == field.type.num_fields - 1
    older = table.set_column(place, less, pa.array(table["provenance"].to_pylist(), less.type))
    before = costs(run.root, run.recipe)[0]
    pq.write_table(older, part.with_name("part-000001.parquet"))
    assert costs(run.root, run.recipe)[0].verdicts == before.verdicts + 3


def test_the_papers_figures_stand_beside_its_own_backbones_alone() -> None:
    assert backbone_of("bigcode/starcoder") == backbone_of("/models/starcoder-15b/") == "StarCoder-15B"
    assert backbone_of("codellama/CodeLlama-7b-hf") == backbone_of("codellama/CodeLlama-7b-hf@main") == "CodeLlama-7B"
    for other in (
        "bigcode/starcoderbase",
        "smollm2-135m",
        "codellama/CodeLlama-7b-Instruct-hf",
        "mine/codellama-7b-sft",
    ):
        assert backbone_of(other) == ""
    for rows in PUBLISHED.values():
        for row in rows:
            assert len(row.figures) == len(BENCHMARKS) and all(0 < one < (ten or 100) < 100 for one, ten in row.figures)


def test_a_browser_shows_the_report_on_a_desk_on_a_phone_and_in_the_dark(run: RunDirectory, page: Page) -> None:
    report(run)
    page.messages.clear()
    for width, dark in ((1280, False), (390, True)):
        page.size(width, 900, phone=width < 600)
        page.dark(dark)
        page.open((run.root / "report/report.html").as_uri())
        assert page.value("document.documentElement.scrollWidth") <= width
        assert page.value("[...document.images].every(i => i.complete && i.naturalWidth > 100)")
        assert page.value("document.images.length") >= 6 and page.value("window.pwned === undefined")
        assert "nearly the same text" in page.value("document.body.textContent")
    page.dark(False)
    assert page.heard() == []


def test_runs_are_compared_by_problem_and_by_recipe(run: RunDirectory, runs_dir: Path, tmp_path: Path) -> None:
    (other,) = finished(runs_dir, "two", 4, reward={"arm": "hardened"})
    out = tmp_path / "arms.html"
    _, rows = compare(["one", str(other.root)], out)
    modes = ["initial", "explain, then revise, first round", "explain, then revise"]
    assert [row[:2] for row in rows] == [[f"{name}: prompt", mode] for name in ("one", "two") for mode in modes]
    html = out.read_text()
    assert "reward.arm: &#39;paper&#39; -&gt; &#39;hardened&#39;" in html
    # Round 1 repairs 2 of 6 problems in the first run and 4 in the other.
    assert "<td>explain</td><td>own repair rate</td><td>two</td><td>+33.3 [" in html
    assert html.count("data:image/png") == 2 and "http" not in html.replace("http-equiv", "")
    with pytest.raises(BadInput, match="no such run"):
        compare(["one", "three"], out)


def test_runs_of_one_name_keep_their_figures_apart(runs_dir: Path, tmp_path: Path) -> None:
    for folder, repaired in (("a", 1), ("b", 4)):
        list(finished(runs_dir, "same", repaired))
        (tmp_path / folder).mkdir()
        (runs_dir / "same").rename(tmp_path / folder / "same")
    out = tmp_path / "page.html"
    header, rows = compare([str(tmp_path / folder / "same") for folder in "ab"], out)
    initial = header.index("own repair rate, own bugs")
    by_model = {row[0]: row[initial].split()[0] for row in rows if row[1] == "explain, then revise, first round"}
    assert by_model == {"a/same: prompt": "16.7", "b/same: prompt": "66.7"}
    assert "<td>own repair rate</td><td>b/same</td><td>+50.0 [" in out.read_text()
    with pytest.raises(BadInput, match=r"^RUN: is named twice, got '/"):
        compare([str(tmp_path / "a/same"), str(tmp_path / "a/../a/same")], out)


def test_a_name_is_as_long_as_it_takes_to_be_told_apart() -> None:
    roots = [Path(path) for path in ("/q", "/x/q", "/x/y/q", "/z/y/q", "/z/other")]
    assert short_names(roots) == ["/q", "x/q", "x/y/q", "z/y/q", "other"]


def test_the_comparison_goes_into_a_file(run: RunDirectory, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is no file"):
        compare(["one", "one"], tmp_path)


def on_fixed_bugs(name: str, repaired: int, bug_set: str) -> Run:
    """A run that has refined one fixed bug of each problem."""
    recipe = recipe_from_tree({"run": name, **TREE})
    changes = {"bugs": "fixed", "feedback_from": "public"}
    fixed = [
        sample(0, "explain", RIGHT if n < repaired else WRONG, "", "bug", id=f"bug/{n}", problem_id=problem, **changes)
        for n, problem in enumerate(PROBLEMS)
    ]
    benchmarks = dict.fromkeys(PROBLEMS, "own")
    found = every_figure([*answers(repaired), *fixed], benchmarks, recipe.evaluation, {"prompt": "m"}, "public")
    return Run(name, Path(name), recipe, {}, found, bug_set)


def test_fixed_bugs_are_compared_only_where_both_runs_refined_the_same() -> None:
    def fixed(other: Run) -> list[str]:
        return [row[2] for row in differences(on_fixed_bugs("one", 2, "abc"), other) if "fixed" in row[2]]

    assert fixed(on_fixed_bugs("two", 4, "abc")) == ["own repair rate (fixed bugs)", "own copy rate (fixed bugs)"]
    assert fixed(on_fixed_bugs("two", 4, "def")) == fixed(on_fixed_bugs("two", 4, "")) == []


def test_problems_are_paired_only_where_both_runs_read_the_same_file() -> None:
    first, other = on_fixed_bugs("one", 2, "abc"), on_fixed_bugs("two", 4, "abc")
    for left, right, paired in (("x", "x", True), ("x", "y", False), ("x", "", True)):
        runs = [
            replace(run, problems={"own": frozenset({hash})} if hash else {})
            for run, hash in ((first, left), (other, right))
        ]
        assert bool(differences(*runs)) is paired


def shown(name: str, repaired: dict[Literal["public", "all"], int], feedback: Literal["public", "all"]) -> Run:
    """A run that has shown its models feedback of these kinds, `feedback` being its recipe's own."""
    recipe = recipe_from_tree({"run": name, **TREE, "problems": {"feedback": feedback}})
    samples = {s.id: s for kind, right in repaired.items() for s in answers(right, kind)}
    benchmarks = dict.fromkeys(PROBLEMS, "own")
    found = every_figure(list(samples.values()), benchmarks, recipe.evaluation, {"prompt": "m"}, feedback)
    return Run(name, Path(name), recipe, {}, found)


def test_differences_say_what_feedback_was_shown() -> None:
    one, other = (shown(name, {"public": 1, "all": n}, "public") for name, n in (("one", 2), ("two", 5)))
    found = {row[1]: row[4].split()[0] for row in differences(one, other) if row[2] == "own repair rate"}
    assert found["explain"] == "+0.0" and found["explain (feedback of all tests)"] == "+50.0"
    ways = [row[1:3] for row in differences(one, other)]
    assert len(ways) == len(set(ways)) and ("explain (round 2, feedback of all tests)", "own pass@1") in ways


def test_first_answers_are_compared_whatever_feedback_refinements_are_shown() -> None:
    one, other = shown("one", {"public": 1}, "public"), shown("two", {"all": 1}, "all")
    assert {row[1] for row in differences(one, other)} == {"initial"}


def test_the_comparison_says_where_fixed_bugs_differ(run: RunDirectory, runs_dir: Path, tmp_path: Path) -> None:
    for name, bug_set in (("two", "abc"), ("three", "def")):
        (other,) = finished(runs_dir, name, 4)
        other.finish("evaluation/heldout", {"bug_set": bug_set})
    compare(["one", "two", "three"], tmp_path / "page.html")
    assert "That of three is\nnot that of one" in (tmp_path / "page.html").read_text()


def test_the_comparison_says_where_a_file_of_problems_was_edited(runs_dir: Path, tmp_path: Path) -> None:
    for name, text in (("one", "a"), ("two", "a"), ("three", "b")):
        (other,) = finished(runs_dir, name, 4, problems={"heldout": ["jsonl:mine.jsonl"]})
        other.pins.pin("problems/jsonl:mine.jsonl", text)
    compare(["one", "two", "three"], tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text()
    assert "three read its problems of jsonl from other files than one" in html and "two read" not in html


def test_a_browser_shows_the_comparison(run: RunDirectory, runs_dir: Path, tmp_path: Path, page: Page) -> None:
    list(finished(runs_dir, "two", 4))
    compare(["one", "two"], tmp_path / "comparison.html")
    page.messages.clear()
    page.size(390, 844, phone=True)
    page.open((tmp_path / "comparison.html").as_uri())
    assert page.value("document.documentElement.scrollWidth") <= 390
    page.size(1280, 900)
    assert page.heard() == []


def test_a_stage_that_measured_nothing_claims_no_measure() -> None:
    assert kept({"best_loss": None, "best_step": 12}, {}) == []
    assert "step 12" in kept({"best_loss": 0.5, "best_step": 12}, {})[0]
