"""One answer in full: what was asked, what was wrong, the fix beside it, its tests, its reward."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from launch.browse.diff import Row, side_by_side
from launch.browse.index import RunIndex
from launch.browse.tokens import Token, answer_tokens, load_tokenizer, prompt_text
from launch.problem_sets import CONTAMINATED
from launch.shown import Shown, shown
from ledex_ray import answers
from ledex_ray.config import Recipe
from ledex_ray.errors import BadInput
from ledex_ray.problems import Problem
from ledex_ray.prompts import PROMPT_VERSION, Prompt, refine_prompt, show_test, solve_prompt
from ledex_ray.readers import load_problems, needs_expected, resolve_expected
from ledex_ray.records import SAMPLED, Instruction
from reward.scorer import Scorer
from reward.terms import TextJob

MOST_CHARACTERS, MOST_LINES = 20_000, 400
MOST_TESTS = 200
INSTRUCTIONS = {"direct": Instruction.DIRECT, "explain": Instruction.EXPLAIN}


@dataclass(frozen=True)
class Section:
    """A text under its heading. `field` names it for the raw view; code keeps its line breaks and a fixed pitch."""

    title: str
    body: Shown
    field: str = ""
    is_code: bool = False
    folded: bool = False


@dataclass(frozen=True)
class JudgedTest:
    """One test of the answer, failed ones first."""

    number: int
    status: str
    public: bool
    call: str
    expected: str
    got: str
    error: str


@dataclass(frozen=True)
class Answer:
    """All that the page of one answer shows."""

    light: Mapping[str, Any]
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    diff: Sequence[Row]
    tests: Sequence[JudgedTest]
    n_tests: int
    tokens: Sequence[Token]
    terms: Sequence[tuple[str, str]]
    raw: Mapping[str, str]  # whole texts by field


class Reader:
    """Reads answers of one run; the tokenizer and the problems are loaded when first needed."""

    def __init__(self, index: RunIndex, recipe: Recipe) -> None:
        self.index, self.recipe = index, recipe
        self._tokenizer: Any = None
        self._scorer, self._turn = Scorer(), threading.Lock()  # pages are drawn by several threads

    @property
    def tokenizer(self) -> Any:
        self._tokenizer = self._tokenizer or load_tokenizer(self.index.root)  # a run that is followed may have none yet
        return self._tokenizer

    @cached_property
    def problems(self) -> dict[str, Problem]:
        """Problems by the id that the run's files use; those that cannot be read here are left out."""
        wanted = self.recipe.problems
        found: dict[str, Problem] = {}
        for spec in dict.fromkeys((*wanted.train_sets, wanted.validation)):
            found |= {p.id: p for p in _readable(spec)}
        for spec in wanted.heldout:
            for problem in _readable(spec):
                for benchmark in (problem.benchmark, problem.benchmark + CONTAMINATED):  # by what the run allowed
                    id = f"{benchmark}/{problem.id}"
                    found[id] = replace(problem, id=id)
        return found

    def _asked(self, light: Mapping[str, Any]) -> Problem | None:
        """The problem of an answer as the run had it; None where its tests are not known in full here."""
        problem = self.problems.get(light["problem"])
        return None if problem is None or needs_expected(problem) else problem

    def answer(self, file: str, row: int) -> Answer | None:
        """The answer at a place of the run; None where the index has none there."""
        light = self.index.row(file, row)
        if light is None:
            return None
        full = self.index.full(file, row)
        if light["stage"] == "ppo":
            return self._episode(light, full)
        if light["stage"] == "evaluation":
            return self._sample(light, full)
        return self._attempt(light, full)

    def _attempt(self, light: Mapping[str, Any], full: Mapping[str, Any]) -> Answer:
        """A first solution, or a refinement of one."""
        verdict, made, wrong = full["verdict"], full["provenance"], self._parent(light)
        shots, problem = self.recipe.synthesis.shots, self._asked(light)
        feedback = self._feedback(wrong["verdict"]) if wrong else ""
        prompt: Prompt | None = None
        if problem and made["source"] in SAMPLED:
            asked = INSTRUCTIONS.get(light["mode"])
            if asked is None:
                prompt = solve_prompt(problem, shots)
            elif wrong:
                prompt = refine_prompt(problem, wrong["code"], feedback, asked, shots)
        facts = [
            ("written by", f"{made['source']} {made['model']}".strip()),
            ("temperature, seed", f"{made['temperature']:g}, {made['seed']}"),
            ("tokens", f"{made['n_prompt_tokens']} read, {made['n_tokens']} written"),
            *_verdict_facts(verdict),
        ]
        if made.get("revision"):  # parts of an older release have none
            facts.insert(1, ("revision", made["revision"]))
        if made["prompt_version"] not in ("", PROMPT_VERSION):
            facts.append(("prompt", "written for an older version: the text below is today's"))
        return self._assembled(
            light,
            facts,
            prompt_text=_as_text(prompt),
            wrong_code=wrong["code"] if wrong else "",
            feedback=feedback,
            explanation=full.get("explanation", ""),
            code=full["code"],
            text=full["text"],
            own_feedback=self._feedback(verdict),
            tests=verdict["tests"],
        )

    def _sample(self, light: Mapping[str, Any], full: Mapping[str, Any]) -> Answer:
        """An answer of an evaluation."""
        problem, asked, parent = self._asked(light), full["mode"], self._parent(light)
        feedback = full.get("shown_feedback") or (parent["feedback"] if parent and _told(asked) else "")
        shots = self.recipe.evaluation.shots if full["stage"] == "prompt" else 0
        prompt: Prompt | None = None
        if problem and asked in ("initial", "resample"):
            prompt = solve_prompt(problem, shots)
        elif problem and (feedback or not _told(asked)):
            instruction = INSTRUCTIONS.get(asked, Instruction.EXPLAIN)
            prompt = refine_prompt(problem, full["wrong_code"], feedback, instruction, shots)
        facts = [
            ("model", f"{full['label']} ({full['stage']})"),
            ("bugs, round", f"{full['bugs']}, {full['round']}"),
            ("tokens", f"{full['n_prompt_tokens']} read, {full['n_tokens']} written"),
        ]
        if full.get("n_tests"):
            facts.append(("tests", f"{full['n_passed']} of {full['n_tests']} passed"))
        if full["weak"]:
            facts.append(("verdict", "weak: the program could have forged it"))
        assembled = self._assembled(
            light,
            facts,
            prompt_text=_as_text(prompt),
            wrong_code=full["wrong_code"],
            feedback=feedback,
            explanation=full["explanation"],
            code=full["code"],
            text=full["text"],
            own_feedback=full["feedback"],
            tests=full.get("failed_tests") or (),  # a sample keeps the first few
        )
        return replace(assembled, n_tests=full.get("n_tests") or 0)

    def _episode(self, light: Mapping[str, Any], full: Mapping[str, Any]) -> Answer:
        """An answer of PPO, token by token."""
        wrong, problem = self._parent(light), self.problems.get(light["problem"])
        entry_point = problem.entry_point if problem else ""
        parsed = self._parsed(full.get("answer") or full["text"], full["instruction"], entry_point)
        tokens = answer_tokens(full, self.tokenizer)
        versions = sorted({t.version for t in tokens})
        facts = [
            ("group", full["group_id"]),
            ("temperature", f"{full['temperature']:g}"),
            ("tokens", f"{len(full['token_ids']) - sum(full['loss_mask'])} read, {sum(full['loss_mask'])} written"),
            ("weights", "version " + ", ".join(map(str, versions))),
        ]
        if light["reward"] is not None:
            facts.append(("reward", f"{light['reward']:+.3f}"))
        if full["truncated"]:
            facts.append(("cut off", "by the length limit"))
        if not full["scored"]:
            facts.append(("unscored", "left out of the update"))
        if full["unscored"]:
            facts.append(("not scored", ", ".join(full["unscored"])))
        assembled = self._assembled(
            light,
            facts,
            prompt_text=prompt_text(full, self.tokenizer),
            wrong_code=wrong["code"] if wrong else "",
            feedback=self._feedback(wrong["verdict"]) if wrong else "",
            explanation=parsed.explanation,
            code=parsed.code,
            text=full["text"],
            own_feedback=full.get("feedback") or "",
            tests=json.loads(full.get("failed_tests") or "[]"),
        )
        terms = [(name, f"{value:.4g}") for name, value in json.loads(full["terms"]).items()]
        return replace(assembled, tokens=tokens, terms=terms, n_tests=full.get("n_tests") or 0)

    def _parsed(self, text: str, instruction: str, entry_point: str) -> answers.Answer:
        """Explanation and code of an answer; neither where it is over the scorer's limits."""
        job = TextJob("answer", text=text, instruction=instruction, entry_point=entry_point, codebleu=False)
        with self._turn:
            (terms,) = self._scorer.score([job])
        return terms.answer

    def _parent(self, light: Mapping[str, Any]) -> dict[str, Any] | None:
        """The wrong solution that was to be refined, in full."""
        found = self.index.by_id(light["parent"]) if light["parent"] else None
        return self.index.full(found["file"], found["row"]) if found else None

    def _feedback(self, verdict: Mapping[str, Any]) -> str:
        return str(verdict["feedback_all" if self.recipe.problems.feedback == "all" else "feedback"])

    def _assembled(
        self,
        light: Mapping[str, Any],
        facts: Sequence[tuple[str, str]],
        *,
        prompt_text: str,
        wrong_code: str,
        feedback: str,
        explanation: str,
        code: str,
        text: str,
        own_feedback: str,
        tests: Sequence[Mapping[str, Any]],
    ) -> Answer:
        raw = {
            "prompt": prompt_text,
            "wrong_code": wrong_code,
            "feedback": feedback,
            "explanation": explanation,
            "code": code,
            "own_feedback": own_feedback,
            "text": text,
        }
        body = {field: shown(whole, MOST_CHARACTERS, MOST_LINES) for field, whole in raw.items()}
        both = bool(wrong_code.strip() and code.strip())
        sections = [
            Section("Prompt", body["prompt"], "prompt", is_code=True, folded=True),
            Section("Wrong code", body["wrong_code"], "wrong_code", is_code=True, folded=both),
            Section("Feedback that was shown", body["feedback"], "feedback"),
            Section("Explanation", body["explanation"], "explanation"),
            Section("Code", body["code"], "code", is_code=True, folded=both),
            Section("What the judge says of it", body["own_feedback"], "own_feedback"),
            Section("The answer as it was written", body["text"], "text", is_code=True, folded=True),
        ]
        return Answer(
            light=light,
            facts=facts,
            sections=[s for s in sections if s.body.text],
            diff=side_by_side(body["wrong_code"].text, body["code"].text) if both else (),
            tests=judged_tests(tests, self._asked(light)),
            n_tests=len(tests),
            tokens=(),
            terms=(),
            raw=raw,
        )


def judged_tests(tests: Sequence[Mapping[str, Any]], problem: Problem | None) -> list[JudgedTest]:
    """The tests, those that did not pass first, at most MOST_TESTS.

    A verdict keeps the texts of the first failed tests alone; the call of the others is the problem's own.
    """
    ordered = sorted(tests, key=lambda t: (t["status"] == "passed", t["status"] == "not_run", t["index"]))

    def short(text: str) -> str:
        return shown(text, 1000, 12).text

    def call(test: Mapping[str, Any]) -> str:
        known = problem is not None and test["index"] < len(problem.tests)
        return test["call"] or (show_test(problem, problem.tests[test["index"]]) if problem and known else "")

    return [
        JudgedTest(
            number=t["index"] + 1,
            status=t["status"],
            public=t["public"],
            call=short(call(t)),
            expected=short(t["expected"]),
            got=short(t["got"]),
            error=short(t["error"]),
        )
        for t in ordered[:MOST_TESTS]
    ]


def _verdict_facts(verdict: Mapping[str, Any]) -> list[tuple[str, str]]:
    passed = sum(t["status"] == "passed" for t in verdict["tests"])
    facts = [
        ("tests", f"{passed} of {len(verdict['tests'])} passed"),
        (
            "judged in",
            f"{verdict['cpu_seconds']:.3f} s of CPU, {verdict['peak_memory_mb']:.0f} MB, tier {verdict['tier']}",
        ),
    ]
    return [*facts, ("verdict", "weak: the program could have forged it")] if verdict["weak"] else facts


def _told(mode: str) -> bool:
    """Whether this way to refine shows the feedback of the answer that it refines."""
    return mode in INSTRUCTIONS


def _as_text(prompt: Prompt | None) -> str:
    return "\n\n".join(f"[{m.role}]\n{m.content}" for m in prompt) if prompt else ""


def _readable(spec: str) -> list[Problem]:
    """The problems of a SPEC, with what the cache has of their expected values: nothing is run for a look at them."""
    try:
        return resolve_expected(load_problems(spec), None)
    except BadInput:
        return []  # a run may be looked at where its problems are not: its prompts are then not shown
