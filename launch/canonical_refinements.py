"""The canonical solution as the refinement of the model's own wrong ones: a second teacher that costs nothing.

A small model repairs few of its own failures, and seeded bugs (seeding.py) are unlike them: one edit away from right,
so that most of an answer is a copy. These show it when to write a solution anew. Off in the paper's recipes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from actors.sandbox import SandboxClient, ScoreRequest
from launch.jobs import executed
from ledex_ray.problems import Problem
from ledex_ray.prompts import explained_answer
from ledex_ray.records import Attempt, Instruction, Provenance, Refinement, Verdict
from ledex_ray.rewrite_explanations import explain_rewrite, nearest
from reward.terms import TextJob

SOURCE = "canonical"
PROBLEMS_A_CALL = 200  # what a kill costs
MOST_CANONICALS = 20  # of a problem that are run; CodeContests has hundreds


def canonical_refinements(
    problems: Mapping[str, Problem], wrong: Sequence[tuple[Attempt, str]], sandbox: SandboxClient
) -> Iterator[Refinement]:
    """One refinement for each (wrong attempt, feedback) whose problem has a canonical solution that passes here."""
    by_problem: dict[str, list[tuple[Attempt, str]]] = {}
    for attempt, feedback in wrong:
        by_problem.setdefault(attempt.problem_id, []).append((attempt, feedback))
    ids = list(by_problem)
    for start in range(0, len(ids), PROBLEMS_A_CALL):
        block = [problems[id] for id in ids[start : start + PROBLEMS_A_CALL]]
        for id, passing in passing_canonicals(block, sandbox, MOST_CANONICALS).items():
            yield from (_refinement(attempt, feedback, passing) for attempt, feedback in by_problem[id] if passing)


def _refinement(attempt: Attempt, feedback: str, passing: Mapping[str, Verdict]) -> Refinement:
    code = nearest(attempt.code, list(passing))
    explanation = explain_rewrite(attempt.code, code, feedback)
    return Refinement(
        id=f"{attempt.id}/{SOURCE}",
        attempt_id=attempt.id,
        problem_id=attempt.problem_id,
        index=0,
        instruction=Instruction.EXPLAIN,
        text=explained_answer(explanation, code),
        explanation=explanation,
        code=code,
        verdict=passing[code],
        provenance=Provenance(source=SOURCE),
    )


def passing_canonicals(
    problems: Sequence[Problem], sandbox: SandboxClient, most: int | None = None
) -> dict[str, dict[str, Verdict]]:
    """By problem those of its first `most` (default: all) canonical solutions that pass, with their verdicts."""
    requests = []
    for problem in problems:
        for index, code in enumerate(problem.canonical_solutions[:most]):
            job = TextJob(id=f"{problem.id}#{index}", code=code, entry_point=problem.entry_point, codebleu=False)
            requests.append(ScoreRequest(job.id, problem, job, execute=True))
    results = {result.id: executed(result) for result in sandbox.score(requests)}
    return {
        problem.id: {
            code: verdict
            for index, code in enumerate(problem.canonical_solutions[:most])
            if (verdict := results[f"{problem.id}#{index}"]).passed and not verdict.weak
        }
        for problem in problems
    }
