"""From judged samples to the figures of an evaluation: pass@k, repair and copy rates, the resample baseline, pairs.

What is compared (method.md, 6 and 8): each model against the less trained ones, in each mode and on the fixed bug
set; and within each model its refinements against fresh samples at equal cost, against the same without feedback or
with another problem's, and feedback of all tests against that of the public ones. Infrastructure faults are left out.
A wrong sample whose refinement is one, or whose prompt is too long to ask for one, or that too few fresh samples came
back to pay for, stays wrong in pass@k, whatever it is held against, and is in no repair rate.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ledex_ray.comparison import STAGES, Comparison, Evaluation, Key, Metric, Result, compared, measured, share_problems
from ledex_ray.config import EvaluationConfig
from ledex_ray.evaluation import Sample
from ledex_ray.passk import Tally, tally_of
from ledex_ray.problems import Problem
from ledex_ray.records import Status

KINDS: tuple[Literal["public", "all"], ...] = ("public", "all")
Place = tuple[str, Metric, int | None]  # benchmark, metric, k


@dataclass(frozen=True)
class Measured:
    """A result with the tally it came from, so that two can be paired by problem."""

    result: Result
    tally: Tally

    @property
    def place(self) -> Place:
        return self.result.benchmark, self.result.metric, self.result.k


def measure(
    samples: Sequence[Sample],
    problems: Mapping[str, Problem],
    config: EvaluationConfig,
    models: Mapping[str, str],
    feedback: Literal["all", "public"],
) -> Evaluation:
    """Every figure and every comparison of an evaluation.

    `models` maps labels to names of models, the untrained one first; `feedback` is the recipe's own kind, which results
    carry that show none.
    """
    found = every_figure(samples, {id: p.benchmark for id, p in problems.items()}, config, models, feedback)
    return Evaluation(tuple(m.result for m in found), tuple(_comparisons(found, config, next(iter(models), ""))))


def every_figure(
    samples: Sequence[Sample],
    benchmarks: Mapping[str, str],
    config: EvaluationConfig,
    models: Mapping[str, str],
    feedback: Literal["all", "public"],
) -> list[Measured]:
    """Every figure of an evaluation with the tally it came from; `benchmarks` maps problems to their sets."""
    default = config.feedback[0] if config.feedback else feedback
    found: list[Measured] = []
    for benchmark in sorted(set(benchmarks.values())):
        chosen = [s for s in samples if benchmarks[s.problem_id] == benchmark]
        for label, model in models.items():
            own = [s for s in chosen if s.label == label]
            if own:
                first = Key(
                    label=label,
                    model=model,
                    stage=own[0].stage,  # type: ignore[arg-type]
                    mode="initial",
                    round=0,
                    bugs=None,
                    feedback=default,
                    temperature=config.sampling.temperature,
                    seed=config.seed,
                )
                found += _Model(first, benchmark, own, config).results()
    return found


@dataclass(frozen=True)
class _Model:
    """The samples of one model on one benchmark."""

    first: Key
    benchmark: str
    samples: Sequence[Sample]
    config: EvaluationConfig

    def results(self) -> list[Measured]:
        initial = _judged(s for s in self.samples if s.mode == "initial")
        found = self._pass_at_k(self.first, initial, {s.id for s in initial if s.passed}, _tokens(initial))
        for mode in ("direct", "explain", "random_feedback", "no_feedback"):
            for kind in dict.fromkeys((self.first.feedback, *KINDS)):
                found += self._refined(replace(self.first, mode=mode, feedback=kind), initial)
        if "resample" in self.config.modes:
            found += self._resampled(initial)
        return found

    def _asked(self, key: Key, bugs: str) -> list[Sample]:
        """The samples of one way to refine, faults among them."""
        chosen = (s for s in self.samples if (s.mode, s.bugs) == (key.mode, bugs))
        return [s for s in chosen if (s.feedback_from or self.first.feedback) == key.feedback]

    def _refined(self, base: Key, initial: Sequence[Sample]) -> list[Measured]:
        found: list[Measured] = []
        own = self._asked(base, "own")
        right, origin = {s.id for s in initial if s.passed}, {s.id: s.id for s in initial}
        wrong = {s.parent_id: s.problem_id for s in own if s.round == 1 and s.parent_id in origin}
        lost: set[str] = (
            set()
        )  # to a fault: in no rate, and still wrong in pass@k, or failing problems alone would leave it
        for round in range(1, max((s.round for s in own), default=0) + 1):
            for s in (s for s in own if s.round == round):
                if s.parent_id not in origin:
                    continue  # its parent is an infrastructure fault, which is in no figure
                origin[s.id] = origin[s.parent_id]
                right |= {origin[s.id]} if s.passed else set()
                lost |= {origin[s.id]} if s.status == Status.INFRA else set()
            asked = _judged(s for s in own if s.round <= round)
            key = replace(base, round=round, bugs="own")
            found += self._pass_at_k(key, initial, right, _tokens([*initial, *asked]))
            fixed = tally_of((problem, id in right) for id, problem in wrong.items() if id not in lost)
            found += self._measured(key, "repair_rate", fixed, _tokens(asked))
            found += self._copy_rate(key, [s for s in asked if s.round == round])
        fixed_bugs = _judged(self._asked(base, "fixed"))
        key = replace(base, round=1, bugs="fixed")
        repaired = tally_of((s.problem_id, s.passed) for s in fixed_bugs)
        return (
            found + self._measured(key, "repair_rate", repaired, _tokens(fixed_bugs)) + self._copy_rate(key, fixed_bugs)
        )

    def _resampled(self, initial: Sequence[Sample]) -> list[Measured]:
        """Fresh samples in place of each refinement. The wrong samples of a problem share its fresh ones, which is fair
        to each alone but not to several together: there is a pass@1, and no pass@k of more.
        """
        fresh = _judged(s for s in self.samples if s.mode == "resample")
        explained = self._asked(replace(self.first, mode="explain"), "own")
        refined = {s.parent_id: s for s in _judged(explained) if s.round == 1}
        outcome = resample_outcomes(refined.values(), fresh, self.config.seed)
        if not outcome:
            return []
        right = {s.id for s in initial if s.passed or outcome.get(s.id)}
        key = replace(self.first, mode="resample", round=1, bugs="own")
        tally = tally_of((refined[id].problem_id, passed) for id, passed in outcome.items())
        spent = _tokens(refined[id] for id in outcome)  # what each refinement cost was granted to fresh samples
        pass_at_k = self._pass_at_k(key, initial, right, _tokens(initial) + spent)
        return [m for m in pass_at_k if m.result.k == 1] + self._measured(key, "repair_rate", tally, spent)

    def _pass_at_k(self, key: Key, initial: Sequence[Sample], right: set[str], tokens: int) -> list[Measured]:
        tally = tally_of((s.problem_id, s.id in right) for s in initial)
        found = []
        for k in self.config.k:
            enough = {problem: (n, c) for problem, (n, c) in tally.items() if n >= k}
            found += self._measured(key, "pass_at_k", enough, tokens, k)
        return found

    def _copy_rate(self, key: Key, asked: Sequence[Sample]) -> list[Measured]:
        copied = tally_of((s.problem_id, s.copied) for s in asked)
        return self._measured(key, "copy_rate", copied, _tokens(asked))

    def _measured(self, key: Key, metric: Metric, tally: Tally, tokens: int, k: int | None = None) -> list[Measured]:
        if not tally:
            return []
        result = measured(
            key,
            self.benchmark,
            metric,
            tally,
            k=k,
            tokens=tokens,
            bootstrap_seed=self.config.seed,
            resamples=self.config.bootstrap,
        )
        return [Measured(result, tally)]


def resample_outcomes(refined: Iterable[Sample], fresh: Sequence[Sample], seed: int) -> dict[str, bool]:
    """For each refined wrong sample, by its id, whether fresh samples of the same cost would have held a right one.

    A seeded walk through the problem's fresh samples until their tokens reach what the refinement used; the one that
    crosses the budget counts with probability equal to the share of it that was left (method.md, section 6). Where too
    few of them came back to pay for that (faults, or shorter ones than usual) nothing is known, and nothing returned.
    """
    pools: dict[str, list[Sample]] = defaultdict(list)
    for sample in sorted(fresh, key=lambda s: s.id):
        pools[sample.problem_id].append(sample)
    outcome = {}
    for refinement in refined:
        rng = random.Random(f"{seed}/{refinement.parent_id}")
        pool = pools[refinement.problem_id]
        left, found = float(refinement.cost), False
        for sample in rng.sample(pool, len(pool)):
            share = min(1.0, left / sample.cost)
            found |= sample.passed and rng.random() < share
            left -= sample.cost
            if left <= 0:
                outcome[refinement.parent_id] = found
                break
    return outcome


def _comparisons(found: Sequence[Measured], config: EvaluationConfig, first: str) -> Iterable[Comparison]:
    """The pairs that answer a question: was anything learned, does debugging beat sampling again, is feedback used?"""
    by_key = {(m.result.key, m.place): m for m in found}
    asked = [m for m in found if m.result.key.mode != "resample" and m.result.metric != "copy_rate"]
    for b in asked:
        for a in asked:
            same = a.place == b.place and _way(a.result.key) == _way(b.result.key)
            if same and _less_trained(a.result.key, b.result.key, first) and _comparable(a, b):
                yield _compare(a, b, config)
    for m in asked:
        for baseline in _baselines(m.result.key):
            against = by_key.get((baseline, m.place))
            if against is not None and _comparable(against, m):
                yield _compare(against, m, config)


def _comparable(a: Measured, b: Measured) -> bool:
    """Not where each failed other problems: of their own bugs' repair, nothing can be paired then."""
    return share_problems(a.tally, b.tally, a.result.k)


def _less_trained(a: Key, b: Key, first: str) -> bool:
    """Whether b's model is to be held against a's: it is further trained, or another one beside the run's own."""
    if a.stage == b.stage == "prompt":
        return a.label == first != b.label
    return STAGES.index(a.stage) < STAGES.index(b.stage)


def _baselines(key: Key) -> Iterable[Key]:
    """What a way to refine is held against, within its model."""
    if key.mode == "explain":
        yield replace(key, mode="random_feedback")
        yield replace(key, mode="no_feedback")
        if key.round == 1:
            yield replace(key, mode="resample")
    if key.mode in ("direct", "explain") and key.feedback == "all":
        yield replace(key, feedback="public")


def _way(key: Key) -> tuple[str, int, str | None, str]:
    return key.mode, key.round, key.bugs, key.feedback


def _compare(a: Measured, b: Measured, config: EvaluationConfig) -> Comparison:
    return compared(a.result, b.result, a.tally, b.tally, bootstrap_seed=config.seed, resamples=config.bootstrap)


def _judged(samples: Iterable[Sample]) -> list[Sample]:
    """These without infrastructure faults."""
    return [s for s in samples if s.status != Status.INFRA]


def _tokens(samples: Iterable[Sample]) -> int:
    return sum(s.cost for s in samples)
