"""The SFT data set: correct solutions, and verified refinements under both instructions (LeDex, section 3.2).

The wrong code stands in the chat history as the assistant's own turn and carries no loss; the answer alone does.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ledex_ray.chat import Renderer
from ledex_ray.config import SFTConfig
from ledex_ray.episodes import SupervisedExample
from ledex_ray.problems import Problem
from ledex_ray.prompts import Prompt, explained_answer, fenced, refine_prompt, solve_prompt
from ledex_ray.records import Attempt, Instruction, Trajectory

log = logging.getLogger(__name__)


def supervised_examples(
    problems: Mapping[str, Problem],
    attempts: Sequence[Attempt],
    trajectories: Sequence[Trajectory],
    renderer: Renderer,
    config: SFTConfig,
    max_length: int,
) -> list[SupervisedExample]:
    """Distinct examples in a seeded order, at most `max_examples_per_problem` of each kind a problem.

    Both instructions get the same refinements of a problem, and the ids of such a pair differ in their kind alone.
    Weak verdicts are left out, and with a warning examples longer than `max_length` tokens.
    """
    texts: dict[tuple[str, str], dict[str, tuple[str, Prompt, str]]] = {}
    for kind, problem_id, about, prompt, answer in _texts(problems, attempts, trajectories, config):
        if kind in config.kinds:
            place = hashlib.sha256(f"{config.seed}/{about}".encode("utf-8", "replace")).hexdigest()[:16]
            texts.setdefault((kind, problem_id), {}).setdefault(f"{prompt}{answer}", (place, prompt, answer))
    examples: list[SupervisedExample] = []
    too_long = 0
    for (kind, problem_id), distinct in sorted(texts.items()):
        chosen = sorted(distinct.values(), key=lambda found: found[0])
        for place, prompt, answer in chosen[: config.max_examples_per_problem]:
            example = _example(f"{kind}/{problem_id}/{place}", kind, prompt, answer, renderer)
            if len(example.token_ids) <= max_length:
                examples.append(example)
            else:
                too_long += 1
    if too_long:
        log.warning("%d examples do not fit in model.max_length=%d and are left out", too_long, max_length)
    random.Random(config.seed).shuffle(examples)
    return examples


def _texts(
    problems: Mapping[str, Problem],
    attempts: Iterable[Attempt],
    trajectories: Iterable[Trajectory],
    config: SFTConfig,
) -> Iterable[tuple[str, str, str, Prompt, str]]:
    """(kind, problem id, what it is about, prompt, answer)."""
    for attempt in attempts:
        if attempt.problem_id in problems and attempt.verdict.passed and not attempt.verdict.weak:
            prompt = solve_prompt(problems[attempt.problem_id])
            yield "solve", attempt.problem_id, attempt.code, prompt, fenced(attempt.code)
    if config.canonical:
        for problem in problems.values():
            for code in problem.canonical_solutions:
                yield "solve", problem.id, code, solve_prompt(problem), fenced(code)
    for trajectory in trajectories:
        wrong = trajectory.attempt
        if wrong.problem_id not in problems:
            continue
        problem = problems[wrong.problem_id]
        for refinement in trajectory.verified:
            direct = refine_prompt(problem, wrong.code, trajectory.feedback, Instruction.DIRECT)
            yield "direct", problem.id, refinement.id, direct, fenced(refinement.code)
            if refinement.explanation:
                explain = refine_prompt(problem, wrong.code, trajectory.feedback, Instruction.EXPLAIN)
                answer = explained_answer(refinement.explanation, refinement.code)
                yield "explain", problem.id, refinement.id, explain, answer


def _example(id: str, kind: str, prompt: Prompt, answer: str, renderer: Renderer) -> SupervisedExample:
    prompt_ids, answer_ids = renderer.prompt_ids(prompt), renderer.answer_ids(answer)
    mask = np.zeros(len(prompt_ids) + len(answer_ids), dtype=np.bool_)
    mask[len(prompt_ids) :] = True
    return SupervisedExample(id, np.asarray([*prompt_ids, *answer_ids], dtype=np.int32), mask, kind)
