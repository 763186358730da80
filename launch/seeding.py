"""Seeded bugs as trajectories: one-edit mutants of canonical solutions that the judge finds wrong (method.md, 7).

The canonical solution is the refinement, and the explanation is written from the edit and the failing test.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator, Sequence
from typing import Literal

from actors.sandbox import SandboxClient, ScoreRequest, ScoreResult
from launch.jobs import executed
from ledex_ray.mutants import Mutant, explain, mutants
from ledex_ray.problems import Problem
from ledex_ray.prompts import explained_answer, fenced
from ledex_ray.records import Attempt, Instruction, Provenance, Refinement, Status, Trajectory
from ledex_ray.syntax import UNREADABLE
from reward.terms import TextJob

CANDIDATES = 3  # mutants judged for each one wanted: some are equivalent, and different edits must survive
PROBLEMS_A_CALL = 16


def seeded_trajectories(
    problems: Sequence[Problem], sandbox: SandboxClient, count: int, seed: int, feedback: Literal["all", "public"]
) -> Iterator[list[Trajectory]]:
    """For each problem, at most `count` seeded bugs with their fix; empty where its canonical solution is weak."""
    for start in range(0, len(problems), PROBLEMS_A_CALL):
        block = [p for p in problems[start : start + PROBLEMS_A_CALL] if _mutable(p)]
        chosen = {p.id: _choose(p, count * CANDIDATES, seed) for p in block}
        requests = [
            _request(p, index, code)
            for p in block
            for index, code in enumerate((p.canonical_solutions[0], *(m.source for m in chosen[p.id])))
        ]
        results = {result.id: result for result in sandbox.score(requests)}
        for problem in block:
            verdicts = [results[_id(problem, n)] for n in range(len(chosen[problem.id]) + 1)]
            yield _trajectories(problem, chosen[problem.id], verdicts, count, feedback)


def _mutable(problem: Problem) -> bool:
    """Whether there is a canonical solution in this Python to start from (APPS has some in Python 2)."""
    try:
        return bool(problem.canonical_solutions) and bool(ast.parse(problem.canonical_solutions[0]))
    except UNREADABLE:
        return False


def _choose(problem: Problem, count: int, seed: int) -> list[Mutant]:
    found = mutants(problem.canonical_solutions[0].lstrip("\n"))  # as a prompt shows it: explanations count its lines
    random.Random(f"{seed}/{problem.id}").shuffle(found)
    return found[:count]


def _id(problem: Problem, index: int) -> str:
    return f"{problem.id}#seeded{index}"


def _request(problem: Problem, index: int, code: str) -> ScoreRequest:
    job = TextJob(id=_id(problem, index), code=code, entry_point=problem.entry_point, codebleu=False)
    return ScoreRequest(job.id, problem, job, execute=True)


def _trajectories(
    problem: Problem,
    chosen: Sequence[Mutant],
    results: Sequence[ScoreResult],
    count: int,
    feedback: Literal["all", "public"],
) -> list[Trajectory]:
    canonical, *mutated = (executed(result) for result in results)
    if not canonical.passed or canonical.weak:
        return []
    found: list[Trajectory] = []
    for index, (mutant, verdict) in enumerate(zip(chosen, mutated, strict=True)):
        if verdict.status in (Status.PASSED, Status.INFRA, Status.REJECTED):
            continue
        shown = verdict.feedback_all if feedback == "all" else verdict.feedback
        right = problem.canonical_solutions[0]
        explanation = explain(mutant, right, shown)
        origin = Provenance(source="seeded", model=mutant.operator)
        attempt = Attempt(
            id=f"{problem.id}#seeded{index}",
            problem_id=problem.id,
            index=index,
            text=fenced(mutant.source),
            code=mutant.source,
            verdict=verdict,
            provenance=origin,
            normal_hash=results[index + 1].terms.normal_hash,
        )
        refinement = Refinement(
            id=f"{attempt.id}/{Instruction.EXPLAIN}0",
            attempt_id=attempt.id,
            problem_id=problem.id,
            index=0,
            instruction=Instruction.EXPLAIN,
            text=explained_answer(explanation, right),
            explanation=explanation,
            code=right,
            verdict=canonical,
            provenance=origin,
        )
        found.append(Trajectory(attempt, shown, (refinement,)))
        if len(found) == count:
            break
    return found
