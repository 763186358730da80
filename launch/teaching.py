"""Refinements by a teacher at an endpoint: ask, judge, record. The tokens are the endpoint's own count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from actors.sandbox import SandboxClient, ScoreRequest
from launch.console import log
from launch.endpoint import Endpoint, Question, Reply
from launch.jobs import executed, item_seed
from ledex_ray.config import Recipe
from ledex_ray.problems import Problem
from ledex_ray.prompts import PROMPT_VERSION, refine_prompt
from ledex_ray.records import Attempt, Instruction, Provenance, Refinement
from reward.terms import TextJob


def taught(
    recipe: Recipe,
    endpoint: Endpoint,
    problems: Mapping[str, Problem],
    wrong: Sequence[tuple[Attempt, str]],
    sandbox: SandboxClient,
) -> Iterator[list[Refinement]]:
    """The judged refinements of each (wrong attempt, feedback), one list an attempt, as they come."""
    attempts = {attempt.id: attempt for attempt, _ in wrong}
    refused = 0
    for batch in endpoint.ask([_question(recipe, problems[a.problem_id], a, feedback) for a, feedback in wrong]):
        for question, reply in batch:
            if reply.error:
                kept = f" after {len(reply.texts)} of {question.n} answers" if reply.texts else ""
                log.warning("the endpoint refuses a question%s: %s", kept, reply.error)
                refused += not reply.texts
        answered = {attempts[question.id]: reply for question, reply in batch if reply.texts}
        yield from _judged(answered, recipe, problems, sandbox)
    if refused:
        log.warning("%d of %d questions were refused and are left out", refused, len(wrong))
    log.info("teacher %s: %d questions asked, %d known from before", endpoint.model, endpoint.asked, endpoint.kept)


def _question(recipe: Recipe, problem: Problem, attempt: Attempt, feedback: str) -> Question:
    sampling = recipe.synthesis.refine
    return Question(
        id=attempt.id,
        prompt=refine_prompt(problem, attempt.code, feedback, Instruction.EXPLAIN, recipe.synthesis.shots),
        n=sampling.n,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_tokens,
        seed=_seed(recipe, attempt),
    )


def _seed(recipe: Recipe, attempt: Attempt) -> int:
    """The attempt's own, in the 32 bits with a sign that some endpoints take."""
    return item_seed(recipe.synthesis.seed, attempt.id) % 2**30


def _judged(
    answered: Mapping[Attempt, Reply], recipe: Recipe, problems: Mapping[str, Problem], sandbox: SandboxClient
) -> Iterator[list[Refinement]]:
    requests = [
        ScoreRequest(f"{attempt.id}@{n}", problems[attempt.problem_id], _job(attempt, problems, text, n), execute=True)
        for attempt, reply in answered.items()
        for n, text in enumerate(reply.texts)
    ]
    scores = {result.id: result for result in sandbox.score(requests)}
    for attempt, reply in answered.items():
        rows = []
        for n, text in enumerate(reply.texts):
            score = scores[f"{attempt.id}@{n}"]
            # The endpoint counts all answers together: each gets an even share, and the first what is over.
            share, over = divmod(reply.written, len(reply.texts))
            made = Provenance(
                source="teacher",
                model=recipe.synthesis.teacher or "",
                prompt_version=PROMPT_VERSION,
                temperature=recipe.synthesis.refine.temperature,
                seed=_seed(recipe, attempt),
                n_prompt_tokens=reply.read,
                n_tokens=share + (over if n == 0 else 0),
                revision=reply.served,
            )
            rows.append(
                Refinement(
                    id=f"{attempt.id}/{Instruction.EXPLAIN}{n}",
                    attempt_id=attempt.id,
                    problem_id=attempt.problem_id,
                    index=n,
                    instruction=Instruction.EXPLAIN,
                    text=text,
                    explanation=score.terms.answer.explanation,
                    code=score.terms.answer.code,
                    verdict=executed(score),
                    provenance=made,
                    copied=score.terms.copied,
                )
            )
        yield rows


def _job(attempt: Attempt, problems: Mapping[str, Problem], text: str, number: int) -> TextJob:
    return TextJob(
        id=f"{attempt.id}@{number}",
        text=text,
        instruction=Instruction.EXPLAIN,
        entry_point=problems[attempt.problem_id].entry_point,
        wrong_code=attempt.code,
        codebleu=False,
    )


def teacher_cost(refinements: Sequence[Refinement], recipe: Recipe) -> dict[str, int | float]:
    """What the endpoint was asked in all, over every process that worked on the run; {} without an endpoint."""
    endpoint = recipe.synthesis.endpoint
    if endpoint is None:
        return {}
    own = [r for r in refinements if r.provenance.source == "teacher"]
    read = sum({r.attempt_id: r.provenance.n_prompt_tokens for r in own}.values())
    written = sum(r.provenance.n_tokens for r in own)
    cost = (read * endpoint.price_read + written * endpoint.price_written) / 1e6
    return {"teacher_tokens_read": read, "teacher_tokens_written": written, "teacher_cost": round(cost, 4)}
