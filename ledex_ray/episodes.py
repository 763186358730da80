"""One sampled answer as the learner sees it, and one supervised example. Plain numpy, no torch.

Arrays have one entry a token, prompt and answer together ([L]). The last answer token carries R(r), the last
token of the explanation R(e) (LeDex, section 3.3); the KL penalty is added by the learner, never stored here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ledex_ray.records import TestResult

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Episode:
    """A prompt with one sampled answer, its engine log-probabilities and its rewards at token positions.

    `scored` is False where an infrastructure fault or a weak verdict left no trustworthy reward: such an episode
    has loss mask 0 everywhere in the update and stands outside its group's statistics.
    """

    id: str
    group_id: str  # same prompt and same instruction
    problem_id: str
    instruction: str
    token_ids: Ints  # [L]
    loss_mask: Bools  # [L] True on the tokens that the policy generated
    behaviour_log_probs: Floats  # [L] mu, from the engine, at the sampling temperature; 0 where loss_mask is False
    weight_versions: Ints  # [L] version of the weights that generated a token; -1 on prompt tokens
    rewards: Floats  # [L] task reward by token (R(e) at `explanation_end`, R(r) at the last token)
    explanation_end: int  # index into [L] of the last token of the explanation; -1 where there is none
    temperature: float
    scored: bool = True
    truncated: bool = False  # ended by the length cap, not by the end-of-sequence token
    terms: Mapping[str, float] = field(default_factory=dict)  # every reward term apart, for the curves
    unscored: tuple[str, ...] = ()  # reasons for terms that could not be scored
    text: str = ""  # all turns, with what was asked between them
    verdict: str = ""
    answer: str = ""  # the last turn's own text, where there were several
    feedback: str = ""  # what the judge says of that, of all tests
    n_tests: int = 0
    failed_tests: tuple[TestResult, ...] = ()  # the first few of them

    def __post_init__(self) -> None:
        length = len(self.token_ids)
        for name in ("loss_mask", "behaviour_log_probs", "weight_versions", "rewards"):
            if len(getattr(self, name)) != length:
                raise ValueError(f"episode {self.id}: {name} has {len(getattr(self, name))} entries, not {length}")
        if not self.loss_mask.any():
            raise ValueError(f"episode {self.id}: no generated token")

    @property
    def score(self) -> float:
        """The scalar that group estimators use: R(r) + R(e)."""
        return float(self.rewards.sum())


@dataclass(frozen=True, eq=False)
class SupervisedExample:
    """Token ids with the positions that carry loss: the answer alone, never the wrong code in the history."""

    id: str
    token_ids: Ints  # [L]
    loss_mask: Bools  # [L]
    kind: str = ""  # solve, direct or explain

    def __post_init__(self) -> None:
        if len(self.token_ids) != len(self.loss_mask):
            raise ValueError(f"example {self.id}: {len(self.loss_mask)} mask entries, {len(self.token_ids)} tokens")
        if not self.loss_mask[1:].any():
            raise ValueError(f"example {self.id}: no token carries loss")
