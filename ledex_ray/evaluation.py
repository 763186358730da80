"""What an evaluation writes: one row an answer, and the fixed bug set."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Bug:
    """A wrong solution of a held-out problem with its feedback, frozen for all models (METHOD, section 8)."""

    id: str
    problem_id: str
    code: str
    feedback: str


@dataclass(frozen=True)
class Sample:
    """One answer of one model under one mode, with its verdict."""

    id: str
    parent_id: str  # the problem, for first solutions; the wrong sample or bug that was to be refined
    problem_id: str
    index: int
    label: str  # of the model
    stage: str  # prompt, sft or sft+rl
    mode: str  # initial, direct, explain, resample, random_feedback or no_feedback
    round: int
    bugs: str  # "own", "fixed" or "null"
    passed: bool
    weak: bool
    status: str
    copied: bool  # equal to the wrong code by AST
    n_prompt_tokens: int
    n_tokens: int
    normal_hash: str  # equal for programs that are equal by AST
    wrong_code: str
    feedback: str
    explanation: str
    code: str
    text: str

    @property
    def key(self) -> tuple[str, str, int, str]:
        """What is measured together: (label, mode, round, bugs)."""
        return self.label, self.mode, self.round, self.bugs

    @property
    def cost(self) -> int:
        """Prompt and generated tokens: what equal cost is measured in."""
        return self.n_prompt_tokens + self.n_tokens
