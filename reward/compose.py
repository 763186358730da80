"""From terms to rewards: the arms, the placement on tokens. Pure functions that run in the driver.

`R(r)` is the refinement's reward and differs by arm; `R(e) = (50 S_ex - 35) / 3`, clipped to [-5, 5], is the
explanation's under every arm but a user's (LeDex, section 3.3; method.md, section 2). Each lies in [-5, 5].

What cannot be trusted is masked, never scored 0: a verdict INFRA, or a weak one unless `allow_weak`, gives a Reward
with `scored=False`. A term that is missing for another reason is named in `unscored`.

Not covered: measuring the terms (`reward.scorer`, `reward.judge`, `reward.explanation`), group statistics, the KL term.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ledex_ray.records import Status, Verdict
from reward.terms import TextTerms

LOWEST, HIGHEST = -5.0, 5.0
EXPLANATION_UNSCORED = "explanation_unscored"
"""The reason for R(e) = 0 where no reference explanation exists: counted, and left out of that term's curve."""


@dataclass(frozen=True)
class Inputs:
    """All that a reward may depend on; what a user's function is called with."""

    terms: TextTerms
    verdict: Verdict | None  # None under an arm that executes nothing
    similarity: float | None  # S_ex; None without a reference explanation
    explain: bool  # whether an explanation was asked for


@dataclass(frozen=True)
class Reward:
    """R(r) and R(e) of one answer, with every term apart.

    `explanation` is None where none was asked for. `scored` False: leave the episode out of the loss and out of its
    group's statistics; both rewards are then 0 and mean nothing.
    """

    refinement: float
    explanation: float | None
    unscored: tuple[str, ...] = ()
    scored: bool = True
    terms: Mapping[str, float] = field(default_factory=dict)


class Unscorable(ValueError):
    """An arm cannot be computed from these inputs; the message is the reason that `Reward.unscored` carries."""


@dataclass(frozen=True)
class Arm:
    """One way to make R(r), and what has to be measured for it."""

    name: str
    refinement: Callable[[Inputs], float | tuple[float, float | None]]
    executes: bool = True
    codebleu: bool = True
    repaired: bool = False  # needs the repaired CodeBLEU, hence the wrong code
    canonical_only: bool = False  # references are the canonical solutions alone
    is_users: bool = False  # also decides about answers without code and, if it returns a pair, about R(e)


def explanation_reward(similarity: float) -> float:
    """R(e) in [-5, 5] of S_ex: 0.4 gives -5, 0.7 gives 0, 1.0 gives 5."""
    return _clip((50.0 * similarity - 35.0) / 3.0)


def paper(inputs: Inputs) -> float:
    """5 (S_cb + S_ut) - 5 with the package's CodeBLEU."""
    return 5.0 * (_package_codebleu(inputs) + _pass_ratio(inputs)) - 5.0


def tests_only(inputs: Inputs) -> float:
    """10 S_ut - 5."""
    return 10.0 * _pass_ratio(inputs) - 5.0


def codebleu_only(inputs: Inputs) -> float:
    """10 S_cb - 5; nothing is executed."""
    return 10.0 * _package_codebleu(inputs) - 5.0


def hardened(inputs: Inputs) -> float:
    """5 (S_cb + S_ut) - 5 with `hardened_codebleu`; at most 0 unless every test passes, and then at least 0."""
    verdict = inputs.verdict
    value = 5.0 * (hardened_codebleu(inputs.terms) + _pass_ratio(inputs)) - 5.0
    return value if verdict is not None and verdict.passed else min(0.0, value)


def hardened_codebleu(terms: TextTerms) -> float:
    """What the answer gained over the wrong code, of what was to gain, less for an answer longer than the references.

    In [0, 1]. 0 for code that does not parse, is empty, or equals the wrong code up to variables' names. Raises
    Unscorable where the repaired CodeBLEU was not measured.
    """
    if terms.codebleu_repaired is None:
        raise Unscorable(_why_no_codebleu(terms))
    if not terms.parses or terms.copied or terms.renamed_copy:
        return 0.0
    start = terms.codebleu_wrong.score if terms.codebleu_wrong is not None else 0.0
    if start >= 1.0:
        return 0.0
    gain = max(0.0, (terms.codebleu_repaired.score - start) / (1.0 - start))
    # No reference that parses: nothing to measure length by.
    length = min(1.0, terms.n_ref_nodes / terms.n_nodes) if terms.n_ref_nodes and terms.n_nodes else 1.0
    return min(1.0, gain) * length


ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm("paper", paper),
        Arm("tests_only", tests_only, codebleu=False),
        Arm("codebleu_only", codebleu_only, executes=False, canonical_only=True),
        Arm("hardened", hardened, repaired=True),
    )
}


def compose(
    arm: Arm,
    terms: TextTerms,
    verdict: Verdict | None,
    similarity: float | None = None,
    *,
    explain: bool,
    allow_weak: bool = False,
) -> Reward:
    """The reward of one answer. Raises nothing for any answer; a user's function that fails leaves it unscored.

    `similarity` is S_ex, None without a reference explanation (or where the encoder failed).
    """
    inputs = Inputs(terms, verdict, similarity, explain)
    reasons = list(terms.unscored)
    explanation = _explanation(inputs, reasons)
    has_code = bool(terms.answer.code.strip())
    try:
        if not has_code and verdict is not None and verdict.status is Status.INFRA:
            raise Unscorable("tests: INFRA")  # the answer was not even read
        if not has_code and not arm.is_users:
            refinement = LOWEST
        else:
            if arm.executes:
                _refuse_untrusted(verdict, allow_weak)
            refinement, explanation = _given(arm.refinement(inputs), explanation)
    except Unscorable as reason:
        return Reward(0.0, 0.0 if explain else None, (*reasons, str(reason)), False, _measured(inputs))
    curves = _measured(inputs) | {"reward_refinement": refinement}
    if explanation is not None and EXPLANATION_UNSCORED not in reasons:
        curves["reward_explanation"] = explanation
    if arm.repaired and not arm.is_users:
        curves["hardened_codebleu"] = hardened_codebleu(terms) if has_code else 0.0
    return Reward(refinement, explanation, tuple(dict.fromkeys(reasons)), True, curves)


def place(reward: Reward, length: int, explanation_end: int) -> NDArray[np.float32]:
    """Rewards by token [length]: R(e) at `explanation_end`, R(r) at the last token, 0 elsewhere.

    An explanation that was asked for and is missing (`explanation_end` -1) has its R(e) at the last token. Raises
    ValueError for an index outside the answer.
    """
    if not -1 <= explanation_end < length:
        raise ValueError(f"explanation_end {explanation_end} is outside an episode of {length} tokens")
    tokens = np.zeros(length, dtype=np.float32)
    if reward.scored:
        tokens[-1] = reward.refinement
        if reward.explanation is not None:
            tokens[explanation_end] += reward.explanation
    return tokens


def references_for(arm: Arm, canonical: Sequence[str], refinements: Sequence[str], limit: int) -> tuple[str, ...]:
    """R_w: at most `limit` distinct references, canonical solutions and correct refinements by turns.

    Some problems have more canonical solutions than `limit`: neither kind may crowd out the other.
    """
    repairs = () if arm.canonical_only else refinements
    by_turns = chain.from_iterable(zip_longest(canonical, repairs, fillvalue=""))
    return tuple(dict.fromkeys(text for text in by_turns if text.strip()))[:limit]


def _explanation(inputs: Inputs, reasons: list[str]) -> float | None:
    if not inputs.explain:
        return None
    if inputs.similarity is None:
        reasons.append(EXPLANATION_UNSCORED)
        return 0.0
    return explanation_reward(inputs.similarity)


def _refuse_untrusted(verdict: Verdict | None, allow_weak: bool) -> None:
    if verdict is None:
        raise Unscorable("tests: not executed")
    if verdict.status is Status.INFRA:
        raise Unscorable("tests: INFRA")
    if verdict.weak and not allow_weak:
        raise Unscorable("tests: weak verdict")


def _given(value: Any, explanation: float | None) -> tuple[float, float | None]:
    """(R(r), R(e)) of what an arm gave: R(r) alone, or both. Raises Unscorable for anything else."""
    parts = value if isinstance(value, tuple) else (value, explanation)
    finite = [isinstance(part, int | float | np.number) and math.isfinite(part) for part in parts]
    if len(parts) != 2 or not finite[0] or not (finite[1] or parts[1] is None):
        raise Unscorable(f"arm: gave {value!r}, not a finite number or (R(r), R(e) or None)")
    return parts[0], parts[1]


def _package_codebleu(inputs: Inputs) -> float:
    if inputs.terms.codebleu is None:
        raise Unscorable(_why_no_codebleu(inputs.terms))
    return inputs.terms.codebleu.score


def _why_no_codebleu(terms: TextTerms) -> str:
    return next((reason for reason in terms.unscored if reason.startswith("codebleu")), "codebleu: not measured")


def _pass_ratio(inputs: Inputs) -> float:
    return inputs.verdict.pass_ratio if inputs.verdict is not None else 0.0


def _measured(inputs: Inputs) -> dict[str, float]:
    """Every measured term under the name of its curve."""
    terms, verdict = inputs.terms, inputs.verdict
    curves = {
        "no_code": float(not terms.answer.code.strip()),
        "parses": float(terms.parses),
        "copied": float(terms.copied),
        "renamed_copy": float(terms.renamed_copy),
    }
    if verdict is not None and verdict.status is not Status.INFRA:
        curves["tests_passed"] = verdict.pass_ratio
    if terms.codebleu is not None:
        curves |= {
            "codebleu": terms.codebleu.score,
            "codebleu_ngram": terms.codebleu.ngram,
            "codebleu_weighted_ngram": terms.codebleu.weighted_ngram,
            "codebleu_syntax": terms.codebleu.syntax,
            "codebleu_dataflow": terms.codebleu.dataflow,
        }
    if terms.codebleu_repaired is not None:
        curves["codebleu_repaired"] = terms.codebleu_repaired.score
    if inputs.explain and inputs.similarity is not None:
        curves["explanation_similarity"] = inputs.similarity
    return curves


def _clip(value: float) -> float:
    return max(LOWEST, min(HIGHEST, value))
