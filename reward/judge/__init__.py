"""Isolated execution of programs that a model wrote: `Judge` gives verdicts, `judge_many` many of them.

A plain library without Ray or torch. docs/judge.md says what is defended against and how.
"""

from .canonical import CanonicalRunner, ready_problems
from .config import JudgeConfig, Tier, check_packages, find_python
from .many import judge_many
from .process import StartFailed
from .tiers import TooWeak, available_tiers, choose_tier
from .worker import Judge, refuse

__all__ = [
    "CanonicalRunner",
    "Judge",
    "JudgeConfig",
    "StartFailed",
    "Tier",
    "TooWeak",
    "available_tiers",
    "check_packages",
    "choose_tier",
    "find_python",
    "judge_many",
    "ready_problems",
    "refuse",
]
