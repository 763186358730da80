"""One episode as a dialogue: an answer and, while it fails a public test, what that test said and another answer.

The episode is worth what its last answer is worth (LeDex, section 3.3; several turns as in RLEF, arXiv 2410.02089).
Credit goes to turns by what each gained: R(r_1) at the first turn's last token, then R(r_t) - R(r_(t-1)). The sum is
R(r_T), so with gamma 1 no policy is better under this than under the last reward alone (Ng et al., 1999), and a turn
that breaks a good answer is blamed for it. R(e) is the first explanation's: E_w explains w and nothing later. A turn
without code that parses, if not the last, costs RLEF's 0.2 in units of our scale (method.md, 5). With one turn all
of this is method.md, section 2. Token ids are never re-tokenised: a later prompt is all that came before, and more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from actors.generation import Completion
from actors.sandbox import ScoreResult
from ledex_ray.chat import Renderer
from ledex_ray.episodes import Episode
from ledex_ray.evaluation import failed_tests
from ledex_ray.problems import Problem
from ledex_ray.prompts import follow_up, refine_prompt
from ledex_ray.records import Instruction, Status, TestStatus, Verdict
from reward.compose import HIGHEST, Reward, place

NO_CODE = -0.2 * HIGHEST
FROM_THE_FIRST = ("explanation_similarity", "reward_explanation")


@dataclass(frozen=True)
class Assignment:
    """One prompt of an iteration: a wrong solution, how its refinement is asked for, what answers are held against."""

    id: str
    problem: Problem
    wrong_code: str
    instruction: Instruction
    prompt_ids: tuple[int, ...]
    references: tuple[str, ...]  # R_w: canonical solutions and correct refinements
    explanations: tuple[str, ...]  # E_w: explanations of correct refinements


@dataclass(frozen=True)
class Turn:
    """An answer, and what it is worth. `start` is where it begins in the dialogue's tokens, `asked` what it answers."""

    start: int
    asked: str
    completion: Completion
    result: ScoreResult
    reward: Reward

    @property
    def last(self) -> int:
        """Index of the answer's last token."""
        return self.start + len(self.completion.token_ids) - 1


@dataclass
class Dialogue:
    """One member of an assignment's group while it is being sampled."""

    assignment: Assignment
    index: int
    token_ids: list[int] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    asked: str = ""  # what the next answer answers; "" for the first, and where nothing more was asked

    def __post_init__(self) -> None:
        self.token_ids = self.token_ids or list(self.assignment.prompt_ids)

    @property
    def id(self) -> str:
        """Of the episode."""
        return f"{self.assignment.id}/{self.index}"

    @property
    def turn_id(self) -> str:
        """Of the answer that comes next; the first one's is the episode's."""
        return f"{self.id}/turn{len(self.turns) + 1}" if self.turns else self.id

    def answer(self, completion: Completion, result: ScoreResult, reward: Reward) -> None:
        """Adds an answer that was judged."""
        self.turns.append(Turn(len(self.token_ids), self.asked, completion, result, reward))
        self.token_ids += completion.token_ids
        self.asked = ""

    @property
    def unanswered(self) -> bool:
        """A turn was asked for and the engines gave it up: an infrastructure fault, never a reward."""
        return bool(self.asked)

    def ask_again(self, renderer: Renderer, room: int) -> bool:
        """Whether there is something to say to the last answer; then it has been said.

        Public tests alone speak: where they pass, or `room` tokens do not hold the dialogue with what is said, it ends,
        as it does after an answer that was cut off or that could not be judged.
        """
        turn, problem = self.turns[-1], self.assignment.problem
        verdict = turn.result.verdict
        if verdict is None or verdict.status is Status.INFRA or turn.completion.finish_reason == "length":
            return False
        if self.unanswered:
            return False
        has_code = bool(turn.result.terms.answer.code)
        if all(t.status is TestStatus.PASSED for t in verdict.tests if t.public):
            return False
        message = follow_up(problem, verdict.feedback if has_code else None, self.assignment.instruction)
        prompt = refine_prompt(problem, self.assignment.wrong_code, "", self.assignment.instruction)
        ids = renderer.follow_up_ids(prompt, message)
        if len(self.token_ids) + len(ids) > room:
            return False
        self.token_ids += ids
        self.asked = message.content
        return True


def build_episode(dialogue: Dialogue, temperature: float, renderer: Renderer) -> Episode:
    """The episode of a dialogue: R(e) at the first explanation's last token, each turn's gain at its own last token."""
    first, last = dialogue.turns[0], dialogue.turns[-1]
    length = len(dialogue.token_ids)
    mask = np.zeros(length, dtype=np.bool_)
    log_probs = np.zeros(length, dtype=np.float32)
    versions = np.full(length, -1, dtype=np.int32)
    for turn in dialogue.turns:
        answer = slice(turn.start, turn.last + 1)
        mask[answer] = True
        log_probs[answer] = turn.completion.log_probs
        versions[answer] = turn.completion.weight_versions
    end_character = first.result.terms.answer.explanation_span[1]
    explanation_end = (
        first.start + renderer.token_at(first.completion.token_ids, end_character) if end_character else -1
    )
    scored = not dialogue.unanswered and all(turn.reward.scored for turn in dialogue.turns)
    assignment, single = dialogue.assignment, len(dialogue.turns) == 1
    reasons = [reason for turn in dialogue.turns for reason in turn.reward.unscored]
    reasons += ["turn: given up by the engines"] if dialogue.unanswered else []
    # What a dialogue would have come to that lost a turn is not known: a fault, as a verdict that was lost.
    verdict = Status.INFRA if dialogue.unanswered else last.result.verdict and last.result.verdict.status
    terms = dict(last.reward.terms)
    if not single:
        terms |= {name: first.reward.terms[name] for name in FROM_THE_FIRST if name in first.reward.terms}
    return Episode(
        id=dialogue.id,
        group_id=assignment.id,
        problem_id=assignment.problem.id,
        instruction=assignment.instruction,
        token_ids=np.asarray(dialogue.token_ids, dtype=np.int32),
        loss_mask=mask,
        behaviour_log_probs=log_probs,
        weight_versions=versions,
        rewards=_rewards(dialogue.turns, length, explanation_end, scored),
        explanation_end=explanation_end,
        temperature=temperature,
        scored=scored,
        truncated=last.completion.finish_reason == "length",
        terms=terms,
        unscored=tuple(dict.fromkeys(reasons)),
        text="\n\n".join(part for turn in dialogue.turns for part in (turn.asked, turn.completion.text) if part),
        verdict=verdict or "",
        answer="" if single else last.completion.text,
        **_judged(last.result.verdict),
    )


def _judged(verdict: Verdict | None) -> dict[str, Any]:
    """What the judge says of an answer, for whoever looks at the episode later."""
    if verdict is None:
        return {}
    failed = failed_tests(verdict)
    return {"feedback": verdict.feedback_all, "n_tests": len(verdict.tests), "failed_tests": failed}


def _rewards(turns: Sequence[Turn], length: int, explanation_end: int, scored: bool) -> np.ndarray:
    rewards = np.zeros(length, dtype=np.float32)
    if not scored:
        return rewards
    first = turns[0]
    rewards[: first.last + 1] = place(first.reward, first.last + 1, explanation_end)
    for before, turn in pairwise(turns):
        rewards[turn.last] += turn.reward.refinement - before.reward.refinement
        if not before.result.terms.parses:
            rewards[before.last] += NO_CODE
    return rewards
