"""The SFT data set: correct solutions, and verified refinements under both instructions (LeDex, section 3.2).

The wrong code stands in the chat history as the assistant's own turn and carries no loss; the answer alone does.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ledex_ray.chat import Renderer
from ledex_ray.config import SFTConfig
from ledex_ray.episodes import SupervisedExample
from ledex_ray.problems import Problem
from ledex_ray.prompts import Prompt, explained_answer, fenced, refine_prompt, solve_prompt
from ledex_ray.records import Attempt, Instruction, Trajectory


def supervised_examples(
    problems: Mapping[str, Problem],
    attempts: Sequence[Attempt],
    trajectories: Sequence[Trajectory],
    renderer: Renderer,
    config: SFTConfig,
    max_length: int,
) -> list[SupervisedExample]:
    """Distinct examples in a seeded order, at most `max_examples_per_problem` of each kind a problem.

    Weak verdicts are left out; examples longer than `max_length` tokens too.
    """
    texts: dict[tuple[str, str], dict[str, tuple[Prompt, str]]] = {}
    for kind, problem_id, prompt, answer in _texts(problems, attempts, trajectories, config):
        if kind in config.kinds:
            texts.setdefault((kind, problem_id), {})[f"{prompt}{answer}"] = (prompt, answer)
    examples: list[SupervisedExample] = []
    for (kind, problem_id), distinct in sorted(texts.items()):
        chosen = list(distinct.values())
        random.Random(f"{config.seed}/{kind}/{problem_id}").shuffle(chosen)
        for index, (prompt, answer) in enumerate(chosen[: config.max_examples_per_problem]):
            example = _example(f"{kind}/{problem_id}/{index}", kind, prompt, answer, renderer)
            if len(example.token_ids) <= max_length:
                examples.append(example)
    random.Random(config.seed).shuffle(examples)
    return examples


def _texts(
    problems: Mapping[str, Problem],
    attempts: Iterable[Attempt],
    trajectories: Iterable[Trajectory],
    config: SFTConfig,
) -> Iterable[tuple[str, str, Prompt, str]]:
    for attempt in attempts:
        if attempt.problem_id in problems and attempt.verdict.passed and not attempt.verdict.weak:
            yield "solve", attempt.problem_id, solve_prompt(problems[attempt.problem_id]), fenced(attempt.code)
    if config.canonical:
        for problem in problems.values():
            for code in problem.canonical_solutions:
                yield "solve", problem.id, solve_prompt(problem), fenced(code)
    for trajectory in trajectories:
        wrong = trajectory.attempt
        if wrong.problem_id not in problems:
            continue
        problem = problems[wrong.problem_id]
        for refinement in trajectory.verified:
            direct = refine_prompt(problem, wrong.code, trajectory.feedback, Instruction.DIRECT)
            yield "direct", problem.id, direct, fenced(refinement.code)
            if refinement.explanation:
                explain = refine_prompt(problem, wrong.code, trajectory.feedback, Instruction.EXPLAIN)
                yield "explain", problem.id, explain, explained_answer(refinement.explanation, refinement.code)


def _example(id: str, kind: str, prompt: Prompt, answer: str, renderer: Renderer) -> SupervisedExample:
    prompt_ids, answer_ids = renderer.prompt_ids(prompt), renderer.answer_ids(answer)
    mask = np.zeros(len(prompt_ids) + len(answer_ids), dtype=np.bool_)
    mask[len(prompt_ids) :] = True
    return SupervisedExample(id, np.asarray([*prompt_ids, *answer_ids], dtype=np.int32), mask, kind)
