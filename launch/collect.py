"""From trajectories to scored episodes: prompt, sample, judge, compare, compose (LeDex, section 3.3).

Each group of answers is scored while others are still being sampled, and the judge does not wait for the encoder.
An infrastructure fault leaves an episode unscored; it is never a reward.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from actors.embedder import EmbedderClient
from actors.generation import Generation, GenerationRequest, WeightsRef
from actors.ray_pool import CalledOff
from actors.sandbox import ScoreRequest, ScoreResult
from actors.score_stream import ScoreStream
from launch.dialogue import Assignment, Dialogue, build_episode
from launch.fleet import Fleet
from launch.jobs import item_seed
from ledex_ray.chat import Renderer
from ledex_ray.config import Recipe, SamplingConfig
from ledex_ray.episodes import Episode
from ledex_ray.problems import Problem
from ledex_ray.prompts import refine_prompt
from ledex_ray.records import Instruction, Trajectory
from reward.arms import resolve_arm
from reward.compose import Arm, compose, references_for
from reward.terms import TextJob

log = logging.getLogger(__name__)

ENCODER_SECONDS = 120.0  # of silence; a sandbox's where that is shorter
THREADS = 8  # groups that are compared with the encoder at a time; each thread only waits for actors


class Assignments:
    """An endless, seeded order over (wrong solution, instruction): position p is the same in every run.

    Those whose prompt leaves no room for an answer are left out, and counted in `too_long`.
    """

    def __init__(
        self,
        trajectories: Sequence[Trajectory],
        problems: Mapping[str, Problem],
        renderer: Renderer,
        recipe: Recipe,
        arm: Arm,
        max_prompts: int | None = None,
    ) -> None:
        self._problems, self._renderer, self._recipe, self._arm = problems, renderer, recipe, arm
        self._lap: tuple[int, list[int]] = -1, []
        longest = recipe.model.max_length - recipe.ppo.sampling.max_tokens
        pairs = [
            (t, Instruction(name))
            for t in trajectories
            if t.attempt.problem_id in problems
            for name in recipe.ppo.instructions
        ]
        self._pairs = [pair for pair in pairs if len(self._prompt_ids(*pair)) <= longest]
        self.too_long = len(pairs) - len(self._pairs)
        if self.too_long:
            log.warning(
                "ppo: %d of %d prompts do not fit into model.max_length=%d beside an answer of "
                "ppo.sampling.max_tokens=%d, and are left out",
                self.too_long, len(pairs), recipe.model.max_length, recipe.ppo.sampling.max_tokens,
            )  # fmt: skip
        if max_prompts is not None and max_prompts < len(self._pairs):
            self._pairs = random.Random(f"{recipe.ppo.seed}/prompts").sample(self._pairs, max_prompts)

    def __len__(self) -> int:
        return len(self._pairs)

    def take(self, start: int, count: int) -> list[Assignment]:
        """The assignments at positions [start, start + count)."""
        return [self._at(position) for position in range(start, start + count)]

    def _order(self, lap: int) -> list[int]:
        """The order of the pairs in a lap over all of them; the latest lap's is kept."""
        latest, order = self._lap  # two batches may be asked for at a time
        if latest != lap:
            order = list(range(len(self._pairs)))
            random.Random(f"{self._recipe.ppo.seed}/{lap}").shuffle(order)
            self._lap = lap, order
        return order

    def _at(self, position: int) -> Assignment:
        lap, index = divmod(position, len(self._pairs))
        trajectory, instruction = self._pairs[self._order(lap)[index]]
        problem, verified = self._problems[trajectory.attempt.problem_id], trajectory.verified
        limit = self._recipe.reward.max_references
        return Assignment(
            id=f"{position:08d}/{trajectory.attempt.id}/{instruction}",
            problem=problem,
            wrong_code=trajectory.attempt.code,
            instruction=instruction,
            prompt_ids=self._prompt_ids(trajectory, instruction),
            references=references_for(self._arm, problem.canonical_solutions, [r.code for r in verified], limit),
            explanations=tuple(dict.fromkeys(r.explanation for r in verified if r.explanation))[:limit],
        )

    def _prompt_ids(self, trajectory: Trajectory, instruction: Instruction) -> tuple[int, ...]:
        problem = self._problems[trajectory.attempt.problem_id]
        prompt = refine_prompt(problem, trajectory.attempt.code, trajectory.feedback, instruction)
        return tuple(self._renderer.prompt_ids(prompt))


class Collector:
    """Samples and scores assignments with the actors of a fleet."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet, self._recipe = fleet, fleet.recipe
        self.arm = resolve_arm(self._recipe.reward.arm)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="score")

    def collect(
        self,
        assignments: Sequence[Assignment],
        sampling: SamplingConfig,
        weights: WeightsRef,
        seed: int,
        *,
        execute: bool | None = None,
        turns: int = 1,
        called_off: Callable[[], bool] = lambda: False,
        sampled: Callable[[], None] = lambda: None,
    ) -> Iterator[list[Episode]]:
        """One group of episodes for each assignment, as they finish; an assignment that was given up has none.

        `execute` runs the tests even under an arm that does not need them (for a pass rate). With several `turns` an
        answer that fails a public test is followed by another. `sampled` is called when the engines have nothing more
        to do, while the last answers are still being scored. Raises CalledOff.
        """
        sample = partial(self._sampled, sampling=sampling, weights=weights, seed=seed, called_off=called_off)
        execute = turns > 1 or (self.arm.executes if execute is None else execute)
        groups = {a.id: [Dialogue(a, index) for index in range(sampling.n)] for a in assignments}
        after = [lambda: None] * (turns - 1) + [sampled]  # by turn
        answered = list(sample(groups, execute, sampled=after[0]))
        room = self._recipe.model.max_length - sampling.max_tokens
        for turn in range(1, turns):
            members = [dialogue for group in answered for dialogue in group]
            # Each goes on from its own answer, so from here they are groups of one.
            asked = {d.turn_id: [d] for d in members if d.ask_again(self._fleet.renderer, room)}
            for _ in sample(asked, execute, sampled=after[turn]):
                pass
        for group in answered:
            yield [build_episode(dialogue, sampling.temperature, self._fleet.renderer) for dialogue in group]

    def _sampled(
        self,
        groups: Mapping[str, list[Dialogue]],
        execute: bool,
        *,
        sampling: SamplingConfig,
        weights: WeightsRef,
        seed: int,
        called_off: Callable[[], bool],
        sampled: Callable[[], None],
    ) -> Iterator[list[Dialogue]]:
        """Each group of equal prompts with one more answer a member, judged; a group that was given up is left out."""
        requests = [
            GenerationRequest(
                id=id,
                prompt_ids=tuple(group[0].token_ids),
                n=len(group),
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_tokens,
                seed=item_seed(seed, id),
                stop=self._fleet.renderer.stop,
            )
            for id, group in groups.items()
        ]
        scoring: list[Future[list[Dialogue]]] = []
        with ScoreStream(self._fleet.sandbox.client()) as stream:
            for generation in self._fleet.rollout.client(weights).generate(requests, called_off):
                if generation.error:
                    log.warning("assignment_given_up id=%s reason=%s", generation.id, generation.error)
                    continue
                scoring.append(self.score(groups[generation.id], generation, stream, execute))
            sampled()
            for scored in scoring:
                if called_off():
                    raise CalledOff("scores called off")
                yield scored.result()

    def score(
        self, group: list[Dialogue], generation: Generation, stream: ScoreStream, execute: bool
    ) -> Future[list[Dialogue]]:
        """The group, each dialogue with its answer of the generation and what that earned."""
        answers = zip(group, generation.completions, strict=True)
        asked = [stream.submit(self._request(dialogue, completion.text, execute)) for dialogue, completion in answers]
        return self._threads.submit(self._rewarded, group, generation, asked)

    def _rewarded(
        self, group: list[Dialogue], generation: Generation, asked: Sequence[Future[ScoreResult]]
    ) -> list[Dialogue]:
        assignment, first = group[0].assignment, not group[0].turns
        explain = first and assignment.instruction is Instruction.EXPLAIN
        results = [score.result() for score in asked]
        similarities = self._similarities(assignment, results) if explain else [None] * len(results)
        answered = zip(group, generation.completions, results, similarities, strict=True)
        for dialogue, completion, result, similarity in answered:
            reward = compose(
                self.arm,
                result.terms,
                result.verdict,
                similarity,
                explain=explain,
                allow_weak=self._recipe.reward.allow_weak,
            )
            if explain and assignment.explanations and similarity is None:  # the encoder is lost: no reward, never 0
                reward = replace(reward, scored=False, unscored=(*reward.unscored, "explanation: encoder lost"))
            dialogue.answer(completion, result, reward)
        return group

    def _request(self, dialogue: Dialogue, text: str, execute: bool) -> ScoreRequest:
        assignment = dialogue.assignment
        job = TextJob(
            id=dialogue.turn_id,
            text=text,
            instruction=assignment.instruction,
            entry_point=assignment.problem.entry_point,
            wrong_code=assignment.wrong_code,
            references=assignment.references,
            codebleu=self.arm.codebleu,
            weights=self._recipe.reward.codebleu_weights,
            repaired=self.arm.repaired,
        )
        return ScoreRequest(job.id, assignment.problem, job, execute=execute)

    def _similarities(self, assignment: Assignment, results: Sequence[ScoreResult]) -> list[float | None]:
        if not assignment.explanations:
            return [None] * len(results)
        pairs = [(r.terms.answer.explanation, assignment.explanations) for r in results]
        deadline_seconds = min(ENCODER_SECONDS, self._recipe.sandbox.deadline_seconds)
        return EmbedderClient(self._fleet.embedder, deadline_seconds).similarity(pairs)
