"""Evaluation on held-out problems: initial samples, refinements of the failing ones, and the honest baselines.

For each model: n first samples a problem; for each failing one a refinement, directly and with an explanation; fresh
samples at equal cost (METHOD, section 6); refinements of one fixed bug set, the same for all models (section 8).
Resumes at the items that no part holds. What is made of the samples is in `launch.measures`.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from launch.console import log, task
from launch.fleet import Fleet
from launch.jobs import Item, Judged, sample_and_judge
from launch.measures import measure
from launch.parts import Parts, PartWriter
from launch.problem_sets import heldout_problems
from launch.rundir import RunDirectory, write_atomically
from launch.synthesize import fits, pick_wrong, refine_item, shown_feedback, solve_item, to_attempt
from ledex_ray.config import EvaluationConfig, Recipe, SamplingConfig
from ledex_ray.errors import BadInput
from ledex_ray.evaluation import Bug, Sample
from ledex_ray.problems import Problem
from ledex_ray.records import Attempt, Instruction, Provenance, Status, Verdict
from ledex_ray.tables import read_records, write_records

STAGE = "evaluation/heldout"
REFINING = {"direct": Instruction.DIRECT, "explain": Instruction.EXPLAIN}
CONTROLS = ("random_feedback", "no_feedback")


@dataclass(frozen=True)
class Candidate:
    """A model to measure."""

    label: str
    stage: str  # prompt, sft or sft+rl
    path: Path
    version: int  # of its weights on the engines; unique in the run


@dataclass(frozen=True)
class Ask:
    """One way to ask for one kind of sample."""

    mode: str
    round: int
    bugs: str  # null, own or fixed
    items: list[Item]

    def key(self, model: Candidate) -> tuple[str, str, int, str]:
        """What the samples of it have in common (`Sample.key`)."""
        return model.label, self.mode, self.round, self.bugs


def evaluate(run: RunDirectory, fleet: Fleet) -> None:
    """Runs or resumes the stage over every model that the run has trained."""
    models = candidates(run, fleet)
    evaluate_models(run, fleet, models)


def candidates(run: RunDirectory, fleet: Fleet) -> list[Candidate]:
    """The untrained model and what each finished training stage left."""
    found = [Candidate("prompt", "prompt", fleet.model_path, 0)]
    for version, (stage, label) in enumerate((("sft", "sft"), ("ppo", "sft+rl")), start=1):
        path = run.root / stage / "model"
        if stage in run.recipe.stages:
            if not run.done(stage):
                raise BadInput(
                    f"run {run.recipe.run}",
                    f"has no finished {stage} stage to evaluate",
                    expected=f"`ledex {stage} RECIPE` first, or `ledex run RECIPE`",
                )
            found.append(Candidate(label, label, path, 1_000_000 + version))
    return found


def evaluate_models(run: RunDirectory, fleet: Fleet, models: Sequence[Candidate]) -> None:
    """Samples, judges and measures these models on the recipe's held-out problems."""
    recipe = run.recipe
    evaluator = _Evaluator(run, fleet, heldout_problems(recipe))
    for model in models:
        evaluator.sample(model)
    samples = evaluator.parts.read()
    write_records(run.path(STAGE, "samples.parquet"), samples)
    names = {m.label: model_name(m, recipe) for m in models}
    evaluation = measure(samples, evaluator.problems, recipe.evaluation, names, recipe.problems.feedback)
    write_atomically(run.path(STAGE, "evaluation.json"), json.dumps(evaluation.to_json(), indent=1))
    if evaluator.too_long:
        log.warning("evaluation: %d prompts do not fit in model.max_length and were left out", evaluator.too_long)
    bugs = run.path(STAGE, "bugs.parquet")
    run.finish(
        STAGE,
        {
            "samples": len(samples),
            "models": [m.label for m in models],
            "weak_verdicts": sum(s.weak for s in samples),
            "infra": sum(s.status == Status.INFRA for s in samples),
            "too_long": evaluator.too_long,
            "bug_set": hashlib.sha256(repr(read_records(bugs, Bug)).encode()).hexdigest()[:12],
        },
    )


def model_name(model: Candidate, recipe: Recipe) -> str:
    """What the files call a model: the base model's name, and what this run made of it."""
    return recipe.model.name if model.stage == "prompt" else f"{recipe.model.name}+{recipe.run}/{model.label}"


class _Evaluator:
    """The sampling of one evaluation: every answer becomes a `Sample` row in a part."""

    def __init__(self, run: RunDirectory, fleet: Fleet, problems: Mapping[str, Problem]) -> None:
        self.run, self.fleet, self.problems = run, fleet, problems
        self.recipe: Recipe = run.recipe
        self.config: EvaluationConfig = run.recipe.evaluation
        self.feedbacks: dict[str, str] = {}
        self.too_long = 0  # prompts that do not fit the context: left out, and said so
        self.parts = Parts(run.path(STAGE, "parts", "x").parent, Sample)

    def sample(self, model: Candidate) -> None:
        """Everything that is asked of one model, in the order in which it depends on itself.

        The first refinements, of its own failures and of the fixed bugs, are sampled in one stream: those of one
        wrong solution differ in their last sentence alone, so that the engine computes the rest of the prompt once.
        """
        first = [
            solve_item(p, self.fleet.renderer, self.config.sampling, self.config.seed) for p in self.problems.values()
        ]
        (initial,) = self._collect(model, [Ask("initial", 0, "null", first)])
        bugs = self._bug_set(model, initial)
        one = self.config.sampling.model_copy(update={"n": 1})
        several = self.config.sampling.model_copy(update={"n": self.config.bug_refinements})
        modes = [mode for mode in ("direct", "explain", *CONTROLS) if mode in self.config.modes]
        failing = {mode: [s for s in initial if _still_wrong(s)] for mode in modes}
        for round in range(1, self.config.rounds + 1):
            asks = [self._refinements(mode, round, "own", [_as_bug(s) for s in failing[mode]], one) for mode in modes]
            if round == 1:
                asks += [self._refinements(mode, 1, "fixed", bugs, several) for mode in modes]
            for mode, answers in zip(modes, self._collect(model, asks), strict=False):
                by_parent = {s.parent_id: s for s in answers}
                found = [by_parent[s.id] for s in failing[mode] if s.id in by_parent]
                failing[mode] = [answer for answer in found if _still_wrong(answer)]
        if "resample" in self.config.modes:
            self._resample(model, initial)

    def _refinements(self, mode: str, round: int, kind: str, bugs: Sequence[Bug], sampling: SamplingConfig) -> Ask:
        self.feedbacks = {bug.problem_id: bug.feedback for bug in bugs if bug.feedback}
        return Ask(mode, round, kind, [self._refinement(bug, mode, sampling) for bug in bugs])

    def _refinement(self, bug: Bug, mode: str, sampling: SamplingConfig) -> Item:
        feedback = bug.feedback
        if mode == "no_feedback":
            feedback = ""
        elif mode == "random_feedback":
            feedback = another_feedback(bug, self.feedbacks)
        instruction = REFINING.get(mode, Instruction.EXPLAIN)
        return refine_item(
            bug.id,
            self.problems[bug.problem_id],
            bug.code,
            feedback,
            instruction,
            self.fleet.renderer,
            sampling,
            self.config.seed,
        )

    def _resample(self, model: Candidate, initial: Sequence[Sample]) -> None:
        """Fresh solutions of the problems with failures, enough to cost what the refinement of each did."""
        costs = {
            s.parent_id: s.cost
            for s in self.parts.read()
            if (s.label, s.mode, s.bugs) == (model.label, "explain", "own")
        }
        items = []
        for problem in self.problems.values():
            own = [s for s in initial if s.problem_id == problem.id]
            budget = max((costs.get(s.id, 0) for s in own), default=0)
            if not budget:
                continue
            usual = sum(s.cost for s in own) / len(own)
            enough = self.config.sampling.model_copy(update={"n": max(2, round(1.5 * budget / usual + 1))})
            items.append(solve_item(problem, self.fleet.renderer, enough, self.config.seed))
        self._collect(model, [Ask("resample", 1, "own", items)])

    def _bug_set(self, model: Candidate, initial: Sequence[Sample]) -> list[Bug]:
        """The fixed bug set: distinct wrong solutions of the untrained model, frozen with their feedback."""
        path = self.run.path(STAGE, "bugs.parquet")
        if not path.exists():
            if model.stage != "prompt":
                raise RuntimeError("the fixed bug set comes from the untrained model, which must be sampled first")
            wrong = pick_wrong([_as_attempt(s) for s in initial], self.config.bugs_per_problem)
            feedback = {s.id: s.feedback for s in initial}
            write_records(path, [Bug(a.id, a.problem_id, a.code, feedback[a.id]) for a in wrong], Bug)
        return read_records(path, Bug)

    def _collect(self, model: Candidate, asks: Sequence[Ask]) -> list[list[Sample]]:
        """For each ask the samples of its items, from the parts where they are there, else from the engine."""
        stored = {(s.key, s.parent_id) for s in self.parts.read()}
        left: dict[str, tuple[Ask, Item]] = {}
        for ask in asks:
            key = ask.key(model)
            fitting = [i for i in ask.items if fits(i, self.recipe.model.max_length)]
            self.too_long += len(ask.items) - len(fitting)
            for item in fitting:
                if (key, item.id) not in stored:
                    left[f"{item.id}@{ask.mode}/{ask.bugs}"] = ask, item
        if left:
            self.fleet.serve(model.path, model.version)
            jobs = [replace(item, id=id, seed=self._seed(ask.key(model), item)) for id, (ask, item) in left.items()]
            jobs.sort(key=lambda job: job.id)  # side by side what begins alike
            passed = total = 0
            with task(f"evaluation: {model.label}, {_title(asks)}", len(jobs)) as bar, PartWriter(self.parts) as writer:
                for judged in sample_and_judge(jobs, self.problems, self.fleet):
                    ask, item = left[judged.item.id]
                    told = replace(judged, item=item)
                    rows = [self._sample(told, i, model, ask) for i in range(len(judged.completions))]
                    writer.add(rows)
                    passed, total = passed + sum(r.passed for r in rows), total + len(rows)
                    bar.advance(note=f"{passed}/{total} pass")
        found = [[s for s in self.parts.read() if s.key == ask.key(model)] for ask in asks]
        return [sorted(samples, key=lambda s: s.id) for samples in found]

    def _seed(self, key: tuple[str, str, int, str], item: Item) -> int:
        """A seed of its own for each item and way to ask: the engine gives the n answers of a request seeds in a row,
        so that equal or neighbouring seeds would draw the same answers again. Not by model: what differs is learned.
        """
        return zlib.crc32(f"{self.config.seed}/{key[1:]}/{item.id}".encode())

    def _sample(self, judged: Judged, index: int, model: Candidate, ask: Ask) -> Sample:
        attempt = to_attempt(judged, index, model.label)
        terms = judged.scores[index].terms
        return Sample(
            id=f"{judged.item.id}@{model.label}/{ask.mode}{ask.round}/{ask.bugs}/{index}",
            parent_id=judged.item.id,
            problem_id=judged.item.problem_id,
            index=index,
            label=model.label,
            stage=model.stage,
            mode=ask.mode,
            round=ask.round,
            bugs=ask.bugs,
            passed=attempt.verdict.passed,
            weak=attempt.verdict.weak,
            status=attempt.verdict.status,
            copied=terms.copied,
            n_prompt_tokens=len(judged.item.prompt_ids),
            n_tokens=attempt.provenance.n_tokens,
            normal_hash=terms.normal_hash,
            wrong_code=judged.item.wrong_code,
            feedback=shown_feedback(self.recipe, attempt),
            explanation=terms.answer.explanation,
            code=attempt.code,
            text=attempt.text,
        )


def _title(asks: Sequence[Ask]) -> str:
    return " and ".join(dict.fromkeys(ask.mode for ask in asks))


def another_feedback(bug: Bug, feedbacks: Mapping[str, str]) -> str:
    """The feedback of another problem, chosen by the bug's id: the random-feedback control (RLEF)."""
    others = sorted(id for id in feedbacks if id != bug.problem_id)
    return feedbacks[others[zlib.crc32(bug.id.encode()) % len(others)]] if others else ""


def _still_wrong(sample: Sample) -> bool:
    """Whether an answer is a wrong solution: an infrastructure fault is none."""
    return not sample.passed and sample.status != Status.INFRA


def _as_bug(sample: Sample) -> Bug:
    # An answer without code is still what the model said: it stands in the history as it is.
    return Bug(sample.id, sample.problem_id, sample.code or sample.text, sample.feedback)


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
