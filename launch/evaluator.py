"""The sampling of one evaluation: first solutions, refinements of the failing ones, and the honest baselines.

For each model: n first samples a problem; for each failing one a refinement a round, directly and with an explanation,
also under the controls (no feedback, another problem's feedback: method.md, section 6); fresh samples at equal cost;
refinements of one fixed bug set, the same for all models (section 8). Resumes at the items that no part holds.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from actors.places import Place
from actors.rollout import RolloutGroup
from launch.bug_set import named_bugs
from launch.console import log, task
from launch.fleet import Fleet
from launch.jobs import Item, Judged, item_seed, sample_and_judge
from launch.parts import Parts, PartWriter
from launch.rundir import RunDirectory, read_json, write_atomically
from launch.synthesize import fits, pick_wrong, refine_item, solve_item, to_attempt
from ledex_ray.chat import Renderer
from ledex_ray.config import EvaluationConfig, Recipe, SamplingConfig
from ledex_ray.evaluation import Bug, Sample, error_type, failed_tests
from ledex_ray.problems import Problem
from ledex_ray.records import Attempt, Instruction, Provenance, Status, Verdict
from ledex_ray.tables import read_records, write_records

STAGE = "evaluation/heldout"
REFINING = {"direct": Instruction.DIRECT, "explain": Instruction.EXPLAIN}
REFINEMENTS = ("direct", "explain", "random_feedback", "no_feedback")
Feedback = Literal["public", "all"]


@dataclass(frozen=True)
class Candidate:
    """A model to measure."""

    label: str
    stage: str  # prompt, sft or sft+rl
    path: Place
    version: int  # of its weights on the run's engines; unique in the run
    other: str = ""  # hub id or path of a model that gets engines of its own; `path` and `version` are then unused


@dataclass(frozen=True)
class Ask:
    """One way to ask for one kind of sample."""

    mode: str
    round: int
    bugs: str  # null, own or fixed
    kind: str  # of feedback: public, all, or "" for first solutions
    items: Sequence[Item]
    shown: Mapping[str, str]  # the feedback in the prompt, by item

    def key(self, model: Candidate) -> tuple[str, str, int, str, str]:
        """What the samples of it have in common (`Sample.key`)."""
        return model.label, self.mode, self.round, self.bugs, self.kind


class Evaluator:
    """Every answer of an evaluation becomes a `Sample` row in a part."""

    def __init__(self, run: RunDirectory, fleet: Fleet, problems: Mapping[str, Problem]) -> None:
        self.run, self.fleet, self.problems = run, fleet, problems
        self.recipe: Recipe = run.recipe
        self.config: EvaluationConfig = run.recipe.evaluation
        self.too_long = 0  # prompts that do not fit the context: left out, and said so
        self.parts = Parts(run.path(STAGE, "parts", "x").parent, Sample, run.commit)
        self.renderer: Renderer = fleet.renderer
        self.engines: RolloutGroup | None = None  # None: the run's own

    @cached_property
    def _known(self) -> dict[tuple[str, str, int, str, str], list[Sample]]:
        """The samples that there are, by what they have in common."""
        found: dict[tuple[str, str, int, str, str], list[Sample]] = {}
        for sample in self.parts.read():
            found.setdefault(sample.key, []).append(sample)
        return found

    def sample(self, model: Candidate) -> None:
        """Everything that is asked of one model, in the order in which it depends on itself.

        The first refinements, of its own failures and of the fixed bugs, are sampled in one stream: those of one
        wrong solution differ in their last sentences alone, so that the engine computes the rest of the prompt once.
        """
        finished = self.run.path(STAGE, "sampled", f"{model.label}.json")
        if model.other and finished.exists():
            self.too_long += read_json(finished).get("too_long", 0)
            return  # a resumed evaluation starts no engines to find out that there is nothing to ask
        too_long_before = self.too_long
        with self._serving(model):
            shots = self.config.shots if model.stage == "prompt" else 0
            first = [
                solve_item(p, self.renderer, self.config.sampling, self.config.seed, shots)
                for p in self.problems.values()
            ]
            (initial,) = self._collect(model, [Ask("initial", 0, "null", "", first, {})])
            bugs = self._bug_set(model, initial)
            one = self.config.sampling.model_copy(update={"n": 1})
            several = self.config.sampling.model_copy(update={"n": self.config.bug_refinements})
            ways = self._ways()
            failing = {way: [s for s in initial if _still_wrong(s)] for way in ways}
            for round in range(1, self.config.rounds + 1):
                asks = [
                    self._refinements(way, round, "own", [_as_bug(s) for s in failing[way]], one, shots) for way in ways
                ]
                if round == 1:
                    asks += [self._refinements(way, 1, "fixed", bugs, several, shots) for way in ways]
                for way, answers in zip(ways, self._collect(model, asks), strict=False):  # the fixed bugs come after
                    by_parent = {s.parent_id: s for s in answers}
                    found = [by_parent[s.id] for s in failing[way] if s.id in by_parent]
                    failing[way] = [answer for answer in found if _still_wrong(answer)]
            if "resample" in self.config.modes:
                self._resample(model, initial, shots)
        if model.other:
            write_atomically(finished, json.dumps({"model": model.other, "too_long": self.too_long - too_long_before}))

    def warn(self) -> None:
        """Says what was left out."""
        if self.too_long:
            log.warning("evaluation: %d prompts do not fit in model.max_length and were left out", self.too_long)

    @contextmanager
    def _serving(self, model: Candidate) -> Iterator[None]:
        """The engines and the renderer that this model is asked through."""
        if not model.other:
            yield
            return
        self.fleet.end_engines()  # the recipe's place is for one set of them
        with self.fleet.teacher(model.other) as (engines, renderer):
            self.engines, self.renderer = engines, renderer
            try:
                yield
            finally:
                self.engines, self.renderer = None, self.fleet.renderer

    def _ways(self) -> list[tuple[str, Feedback]]:
        """The (mode, feedback) pairs to refine under; showing none needs no second pass."""
        kinds = feedback_kinds(self.recipe)
        asked = [mode for mode in REFINEMENTS if mode in self.config.modes]
        return [(mode, kind) for kind in kinds for mode in asked if kind == kinds[0] or mode != "no_feedback"]

    def _refinements(
        self,
        way: tuple[str, Feedback],
        round: int,
        bugs: str,
        wrong: Sequence[Bug],
        sampling: SamplingConfig,
        shots: int,
    ) -> Ask:
        mode, kind = way
        feedbacks = {bug.problem_id: feedback_of(bug, kind) for bug in wrong if feedback_of(bug, kind)}
        shown = {bug.id: shown_to(bug, mode, kind, feedbacks) for bug in wrong}
        items = [
            refine_item(
                bug.id,
                self.problems[bug.problem_id],
                bug.code,
                shown[bug.id],
                REFINING.get(mode, Instruction.EXPLAIN),
                self.renderer,
                sampling,
                self.config.seed,
                shots,
            )
            for bug in wrong
        ]
        return Ask(mode, round, bugs, kind, items, shown)

    def _resample(self, model: Candidate, initial: Sequence[Sample], shots: int) -> None:
        """Fresh solutions of the problems with failures, enough to cost what the refinement of each did."""
        kind = feedback_kinds(self.recipe)[0]
        costs = {s.parent_id: s.cost for s in self._known.get((model.label, "explain", 1, "own", kind), ())}
        by_problem: dict[str, list[Sample]] = {}
        for sample in initial:
            if sample.status != Status.INFRA:
                by_problem.setdefault(sample.problem_id, []).append(sample)
        items = []
        for problem in self.problems.values():
            own = by_problem.get(problem.id, [])
            budget = max((costs.get(s.id, 0) for s in own), default=0)
            if not budget:
                continue
            usual = sum(s.cost for s in own) / len(own)
            enough = self.config.sampling.model_copy(update={"n": max(2, round(1.5 * budget / usual + 1))})
            items.append(solve_item(problem, self.renderer, enough, self.config.seed, shots))
        self._collect(model, [Ask("resample", 1, "own", "", items, {})])

    def _bug_set(self, model: Candidate, initial: Sequence[Sample]) -> list[Bug]:
        """The fixed bug set: distinct wrong solutions of the untrained model, frozen with their feedback."""
        path, named = self.run.path(STAGE, "bugs.parquet"), self.config.bug_set
        if not path.exists() and named is not None:
            write_records(path, named_bugs(named, self.problems), Bug)
        if not path.exists():
            if model.stage != "prompt" or model.other:
                raise RuntimeError("the fixed bug set comes from the untrained model, which must be sampled first")
            wrong = pick_wrong([_as_attempt(s) for s in initial], self.config.bugs_per_problem)
            by_id = {s.id: s for s in initial}
            write_records(path, [replace(_as_bug(by_id[a.id]), code=a.code) for a in wrong], Bug)
        return read_records(path, Bug)

    def _collect(self, model: Candidate, asks: Sequence[Ask]) -> list[list[Sample]]:
        """For each ask the samples of its items, from the parts where they are there, else from the engine."""
        stored = {ask.key(model): {s.parent_id for s in self._known.get(ask.key(model), ())} for ask in asks}
        left: dict[str, tuple[Ask, Item]] = {}
        asked = 0
        for ask in asks:
            fitting = [i for i in ask.items if fits(i, self.recipe.model.max_length)]
            asked += len(fitting)
            self.too_long += len(ask.items) - len(fitting)
            for item in fitting:
                if item.id not in stored[ask.key(model)]:
                    left[f"{item.id}@{ask.mode}/{ask.bugs}/{ask.kind}"] = ask, item
        if left:
            if not model.other:
                self.fleet.serve(model.path, model.version)
            jobs = [  # seeds by way to ask, not by model: what differs between models is what was learned
                replace(item, id=id, seed=item_seed(self.config.seed, *ask.key(model)[1:], item.id))
                for id, (ask, item) in left.items()
            ]
            jobs.sort(key=lambda job: job.id)  # side by side what begins alike
            passed = total = 0
            given_up = []
            with task(f"evaluation: {model.label}, {_title(asks)}", len(jobs)) as bar, PartWriter(self.parts) as writer:
                for judged in sample_and_judge(
                    jobs, self.problems, self.fleet, self.engines, answered=asked - len(jobs)
                ):
                    ask, item = left[judged.item.id]
                    told = replace(judged, item=item)
                    rows = [_sample(told, i, model, ask) for i in range(len(judged.completions))]
                    if not rows:
                        given_up.append((ask, _unanswered(item, 0, model, ask)))
                    writer.add(rows)
                    self._known.setdefault(ask.key(model), []).extend(rows)
                    passed, total = passed + sum(r.passed for r in rows), total + len(rows)
                    bar.advance(note=f"{passed}/{total} pass")
                for ask, row in given_up:  # few enough to go on without: the next try of the stage would ask them again
                    writer.add([row])
                    self._known.setdefault(ask.key(model), []).append(row)
        return [sorted(self._known.get(ask.key(model), ()), key=lambda s: s.id) for ask in asks]


def feedback_kinds(recipe: Recipe) -> tuple[Feedback, ...]:
    """The kinds of feedback that refinements are measured under; the first is the one baselines go with."""
    return tuple(dict.fromkeys(recipe.evaluation.feedback)) or (recipe.problems.feedback,)


def feedback_of(bug: Bug, kind: Feedback) -> str:
    """The frozen feedback of a bug from one kind of tests."""
    return bug.feedback_all if kind == "all" else bug.feedback


def another_feedback(bug: Bug, feedbacks: Mapping[str, str]) -> str:
    """The feedback of another problem, chosen by the bug's id: the random-feedback control (RLEF)."""
    others = sorted(id for id in feedbacks if id != bug.problem_id)
    return feedbacks[others[zlib.crc32(bug.id.encode()) % len(others)]] if others else ""


def shown_to(bug: Bug, mode: str, kind: Feedback, feedbacks: Mapping[str, str]) -> str:
    """The feedback that a prompt shows of a wrong code; `feedbacks` holds one a problem.

    Where its own is empty (a problem without public tests) the random one is too: the controls are held against it.
    """
    own = "" if mode == "no_feedback" else feedback_of(bug, kind)
    return another_feedback(bug, feedbacks) if own and mode == "random_feedback" else own


def _title(asks: Sequence[Ask]) -> str:
    words = dict.fromkeys(ask.mode for ask in asks)
    return " and ".join(words) + (f", round {asks[0].round}" if asks[0].round > 1 else "")


def _sample(judged: Judged, index: int, model: Candidate, ask: Ask) -> Sample:
    attempt = to_attempt(judged, index, model.label)
    terms = judged.scores[index].terms
    return replace(
        _unanswered(judged.item, index, model, ask),
        passed=attempt.verdict.passed,
        weak=attempt.verdict.weak,
        status=attempt.verdict.status,
        copied=terms.copied,
        n_tokens=attempt.provenance.n_tokens,
        normal_hash=terms.normal_hash,
        feedback=attempt.verdict.feedback,
        explanation=terms.answer.explanation,
        code=attempt.code,
        text=attempt.text,
        feedback_all=attempt.verdict.feedback_all,
        error=error_type(attempt.verdict),
        n_passed=attempt.verdict.n_passed,
        n_tests=attempt.verdict.n_tests,
        failed_tests=failed_tests(attempt.verdict),
    )


def _unanswered(item: Item, index: int, model: Candidate, ask: Ask) -> Sample:
    """The row of an item that the engines gave up: an infrastructure fault, which is in no figure."""
    return Sample(
        id=f"{item.id}@{model.label}/{ask.mode}{ask.round}/{ask.bugs}/{ask.kind}/{index}",
        parent_id=item.id,
        problem_id=item.problem_id,
        index=index,
        label=model.label,
        stage=model.stage,
        mode=ask.mode,
        round=ask.round,
        bugs=ask.bugs,
        passed=False,
        weak=False,
        status=Status.INFRA,
        copied=False,
        n_prompt_tokens=len(item.prompt_ids),
        n_tokens=0,
        normal_hash="",
        wrong_code=item.wrong_code,
        feedback="",
        explanation="",
        code="",
        text="",
        feedback_from=ask.kind,
        shown_feedback=ask.shown.get(item.id, ""),
        error=error_type(Verdict(Status.INFRA)),
    )


def _still_wrong(sample: Sample) -> bool:
    """Whether an answer is a wrong solution: an infrastructure fault is none."""
    return not sample.passed and sample.status != Status.INFRA


def _as_bug(sample: Sample) -> Bug:
    # An answer without code is still what the model said: it stands in the history as it is.
    code = sample.code or sample.text
    return Bug(sample.id, sample.problem_id, code, sample.feedback, sample.feedback_all)


def _as_attempt(sample: Sample) -> Attempt:
    return Attempt(
        id=sample.id,
        problem_id=sample.problem_id,
        index=sample.index,
        text=sample.text,
        code=sample.code,
        verdict=Verdict(Status(sample.status)),
        provenance=Provenance("model"),
        normal_hash=sample.normal_hash,
    )
