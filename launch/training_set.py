"""The problems that a run trains on: those whose verdicts cannot be forged (method.md, section 2).

What makes a verdict weak is the tests (they need objects shared with the program), so a problem's canonical solution
tells. Its problem then enters no stage of training: no synthesis, no supervised example, no prompt of PPO, no R_w.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable

from actors.sandbox import SandboxClient, ScoreRequest
from launch.console import log, task
from launch.fleet import Fleet
from launch.jobs import executed
from launch.problem_sets import training_problems
from launch.rundir import RunDirectory, read_json, write_atomically
from ledex_ray.problems import Problem
from ledex_ray.records import Status
from reward.terms import TextJob

KEEP_SECONDS = 10.0  # what a kill may cost


def training_set(run: RunDirectory, fleet: Fleet) -> dict[str, Problem]:
    """The training problems of the run's recipe by id, without those judged weakly; how many that were is logged.

    With `reward.allow_weak` all of them. What was judged is kept in the run directory, and judged once.
    """
    problems = training_problems(run.recipe)
    if run.recipe.reward.allow_weak:
        return problems
    weak = weak_problems(run, problems.values(), fleet.sandbox.client())
    if weak:
        shown = ", ".join(sorted(weak)[:8]) + (", ..." if len(weak) > 8 else "")
        log.warning(
            "%d of %d training problems are left out: their canonical solution's verdict is weak (%s)",
            len(weak), len(problems), shown,
        )  # fmt: skip
    return {id: problem for id, problem in problems.items() if id not in weak}


def weak_problems(run: RunDirectory, problems: Iterable[Problem], sandbox: SandboxClient) -> set[str]:
    """Ids of the problems whose first canonical solution is judged weakly; INFRA is not kept, and asked again."""
    file = run.path("synthesis", "canonical.json")
    known: dict[str, bool] = read_json(file) if file.exists() else {}
    keys = {_key(problem): problem for problem in problems if problem.canonical_solutions}
    new = {key: problem for key, problem in keys.items() if key not in known}
    if new:
        with task("canonical solutions", len(new)) as bar:
            kept = time.monotonic()
            for result in sandbox.score(_request(key, problem) for key, problem in new.items()):
                verdict = executed(result)
                if verdict.status is not Status.INFRA:
                    known[result.id] = verdict.weak
                if time.monotonic() - kept > KEEP_SECONDS:
                    write_atomically(file, json.dumps(known, indent=0))
                    kept = time.monotonic()
                bar.advance()
        write_atomically(file, json.dumps(known, indent=0))
    return {problem.id for key, problem in keys.items() if known.get(key)}


def _request(key: str, problem: Problem) -> ScoreRequest:
    code = problem.canonical_solutions[0]
    return ScoreRequest(key, problem, TextJob(key, code=code, codebleu=False, read=False))


def _key(problem: Problem) -> str:
    """The problem with everything that its verdict depends on."""
    return f"{problem.id} {hashlib.sha256(repr(problem).encode()).hexdigest()[:16]}"
