"""The arm of a recipe by its name: one of the four, or a user's own function, checked before anything starts.

A user's function, `module:function`, takes one `reward.compose.Inputs` and returns R(r), or a pair (R(r), R(e)). It
gets every measured term, also for an answer without code. Where it raises on a real answer that episode is unscored.
"""

from __future__ import annotations

import importlib
import logging
import math
import os
import sys
from collections.abc import Callable
from typing import Any

from ledex_ray.answers import Answer
from ledex_ray.errors import BadInput
from ledex_ray.records import Status, TestResult, TestStatus, Verdict
from reward.compose import ARMS, Arm, Inputs, Unscorable
from reward.terms import CodeBleuScore, TextTerms

log = logging.getLogger(__name__)


def resolve_arm(name: str, where: str = "reward.arm") -> Arm:
    """The arm with this name. Raises BadInput for an unknown name and for a function that fails its trial call."""
    if name in ARMS:
        return ARMS[name]
    module_name, colon, function_name = name.partition(":")
    if not colon or not module_name or not function_name:
        raise BadInput(where, "unknown arm", given=name, expected=f"{', '.join(ARMS)}, or module:function")
    function = getattr(_import(module_name, name, where), function_name, None)
    if not callable(function):
        raise BadInput(where, f"{module_name} has no function {function_name}", given=name)
    for trial in _trials():
        _try(function, trial, name, where)
    return Arm(name, _guarded(function, name), repaired=True, is_users=True)


def _import(module_name: str, name: str, where: str) -> Any:
    here = os.getcwd()
    if here not in sys.path:  # an installed command does not look in its working directory by itself
        sys.path.append(here)
    try:
        return importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever the user's module raises on import is the user's input at fault
        raise BadInput(where, f"cannot import {module_name} ({type(error).__name__}: {error})", given=name) from error


def _try(function: Callable[[Inputs], Any], trial: Inputs, name: str, where: str) -> None:
    try:
        value = function(trial)
    except (Exception, SystemExit) as error:  # likewise
        raise BadInput(where, f"its trial call raised {type(error).__name__}: {error}", given=name) from error
    parts = value if isinstance(value, tuple) and len(value) == 2 else (value,)
    for i, part in enumerate(parts):
        if part is None and i == 1:
            continue
        if isinstance(part, bool) or not isinstance(part, int | float) or not math.isfinite(part):
            raise BadInput(
                where,
                f"{name} returned {value!r} in its trial call",
                expected="a finite number, or a pair (refinement, explanation or None)",
            )


def _guarded(function: Callable[[Inputs], Any], name: str) -> Callable[[Inputs], Any]:
    """The user's function, with an exception turned into an unscored episode that is logged and counted."""

    def refinement(inputs: Inputs) -> Any:
        try:
            return function(inputs)
        except (Exception, SystemExit) as error:  # a user's mistake on one answer must not end a run of many hours
            log.warning("reward_function_failed name=%s id=%s error=%r", name, inputs.terms.id, error)
            raise Unscorable(f"arm: raised {type(error).__name__}") from error

    return refinement


def _trials() -> list[Inputs]:
    """One answer that passes, one that fails, one without code or any optional term."""
    score = CodeBleuScore(0.5, 0.4, 0.5, 0.6, 0.5)
    good = TextTerms(
        "trial", Answer("It returned 2.", "def f(): return 1\n", (0, 14), (15, 33)), True, score, score, score
    )
    passed = Verdict(Status.PASSED, (TestResult(0, True, TestStatus.PASSED), TestResult(1, False, TestStatus.PASSED)))
    failed = Verdict(Status.FAILED, (TestResult(0, True, TestStatus.PASSED), TestResult(1, False, TestStatus.FAILED)))
    no_code = Verdict(Status.ERROR, (TestResult(0, True, TestStatus.NOT_RUN),))
    return [
        Inputs(good, passed, 0.8, True),
        Inputs(good, failed, None, False),
        Inputs(TextTerms("trial", Answer()), no_code, None, True),
    ]
