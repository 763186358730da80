"""The reward of given programs in one call, on this machine: judge, scorer, encoder and arm put together.

    from reward.scoring import Candidate, score_many
    for scored in score_many([Candidate(problem, code, wrong_code=wrong)], arm="hardened"):
        scored.reward.refinement, scored.verdict.n_passed, scored.terms.codebleu

Training does not go through here: there the same pieces run in Ray actors (actors/sandbox.py, actors/embedder.py).
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from ledex_ray.errors import BadInput
from ledex_ray.problems import Problem
from ledex_ray.records import Verdict
from reward.arms import resolve_arm
from reward.compose import Arm, Reward, compose, references_for
from reward.judge import JudgeConfig, judge_many
from reward.scorer import Scorer
from reward.terms import PACKAGE_WEIGHTS, TextJob, TextTerms, Weights

Similarity = Callable[[Sequence[tuple[str, Sequence[str]]]], Sequence[float | None]]
"""S_ex of (explanation, reference explanations) pairs, as `ExplanationScorer.similarity` gives it."""
Judging = Callable[[Iterable[tuple[Problem, str]]], Iterator[Verdict]]

_CHUNK = 32  # answers scored and embedded together


@dataclass(frozen=True)
class Candidate:
    """A whole program to score, with what is known about the wrong code that it refines.

    R_w is `references` and the problem's canonical solutions. `explanation` None: none was asked for.
    """

    problem: Problem
    code: str
    wrong_code: str | None = None
    references: tuple[str, ...] = ()
    explanation: str | None = None
    reference_explanations: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scored:
    """A reward with everything that it was made from; `verdict` is None where the arm executes nothing."""

    candidate: Candidate
    verdict: Verdict | None
    terms: TextTerms
    similarity: float | None
    reward: Reward


def score_many(
    candidates: Iterable[Candidate],
    arm: str | Arm = "paper",
    *,
    similarity: Similarity | None = None,
    weights: Weights = PACKAGE_WEIGHTS,
    max_references: int = 10,
    allow_weak: bool = False,
    workers: int = 0,
    judging: Judging | None = None,
) -> Iterator[Scored]:
    """The scored candidates, in order, a little behind their input.

    Of references and reference explanations the first `max_references` count, as in training. Without `similarity`
    explanations stay unscored. `judging` replaces the local judge. Raises BadInput for an unknown
    arm, weights that do not sum to 1, and a candidate without wrong code under `hardened`.
    """
    chosen = resolve_arm(arm) if isinstance(arm, str) else arm
    check_weights(weights)
    judging = judging or (lambda pairs: judge_many(pairs, workers, JudgeConfig()))
    taken: list[Candidate] = []

    def pairs() -> Iterator[tuple[Problem, str]]:
        for candidate in candidates:
            if chosen.repaired and not chosen.is_users and candidate.wrong_code is None:
                raise BadInput(candidate.problem.id, f"arm {chosen.name} needs the wrong code that was refined")
            taken.append(candidate)
            yield candidate.problem, candidate.code

    verdicts: Iterator[Verdict | None]
    verdicts = judging(pairs()) if chosen.executes else (None for _ in pairs())
    with Scorer() as scorer, contextlib.ExitStack() as stack:
        if hasattr(verdicts, "close"):
            stack.callback(verdicts.close)
        while chunk := list(itertools.islice(verdicts, _CHUNK)):
            ours, taken[: len(chunk)] = taken[: len(chunk)], []
            jobs = [_job(i, candidate, chosen, weights, max_references) for i, candidate in enumerate(ours)]
            similarities = _similarities(ours, similarity, max_references)
            for candidate, verdict, terms, value in zip(ours, chunk, scorer.score(jobs), similarities, strict=True):
                explain = candidate.explanation is not None
                reward = compose(chosen, terms, verdict, value, explain=explain, allow_weak=allow_weak)
                yield Scored(candidate, verdict, terms, value, reward)


def check_weights(weights: Sequence[float], where: str = "reward.codebleu_weights") -> None:
    """Raises BadInput unless these are four weights of CodeBLEU: none negative, sum 1."""
    if len(weights) != 4 or not all(w >= 0 for w in weights) or abs(sum(weights) - 1) > 1e-6:
        raise BadInput(where, "are no weights", given=tuple(weights), expected="four numbers from 0 with sum 1")


def _job(index: int, candidate: Candidate, arm: Arm, weights: Weights, max_references: int) -> TextJob:
    return TextJob(
        id=str(index),
        code=candidate.code,
        entry_point=candidate.problem.entry_point,
        wrong_code=candidate.wrong_code,
        references=references_for(arm, candidate.problem.canonical_solutions, candidate.references, max_references),
        weights=weights,
        repaired=arm.repaired,
    )


def _similarities(candidates: Sequence[Candidate], similarity: Similarity | None, limit: int) -> Sequence[float | None]:
    asked = [i for i, c in enumerate(candidates) if c.explanation is not None and c.reference_explanations]
    found: list[float | None] = [None] * len(candidates)
    if similarity is not None and asked:
        pairs = [(candidates[i].explanation or "", candidates[i].reference_explanations[:limit]) for i in asked]
        for i, value in zip(asked, similarity(pairs), strict=True):
            found[i] = value
    return found
