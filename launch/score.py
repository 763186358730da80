"""`ledex score`: samples in; verdict, CodeBLEU, explanation similarity and composed reward out, one line a sample.

Files and exit codes are those of `ledex judge` (docs/files.md). Each line of SAMPLES may also carry "wrong_solution",
"explanation", "references" and "reference_explanations". The encoder is loaded only if some line needs it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from launch.console import console, task
from launch.samples import (
    BAD_INPUT,
    DONE,
    FAILED,
    BadLines,
    Packages,
    Sample,
    check_flags,
    count_lines,
    judged,
    output,
    read_lines,
    verdict_row,
    with_limits,
)
from ledex_ray.errors import BadInput
from ledex_ray.problems import Problem
from ledex_ray.records import Status, Verdict
from reward.arms import resolve_arm
from reward.compose import Arm
from reward.judge import JudgeConfig, StartFailed, TooWeak, ready_problems
from reward.scoring import Candidate, Scored, check_weights, score_many
from reward.terms import PACKAGE_WEIGHTS, Weights


def score(
    samples: Annotated[str, typer.Argument(metavar="SAMPLES", help="JSONL of task_id, solution, ...; - for stdin.")],
    problems: Annotated[str, typer.Option(metavar="SPEC", help="humaneval, mbpp, jsonl:FILE, ...; may end in @SPLIT.")],
    arm: Annotated[str, typer.Option(help="paper, tests_only, codebleu_only, hardened, or module:function.")] = "paper",
    out: Annotated[Path | None, typer.Option(help="Where lines go; standard output if not given.")] = None,
    weights: Annotated[str, typer.Option(help="CodeBLEU's four weights.")] = ",".join(map(str, PACKAGE_WEIGHTS)),
    encoder: Annotated[str, typer.Option(help="Sentence encoder: minilm, a hub id or a path.")] = "minilm",
    allow_weak: Annotated[bool, typer.Option("--allow-weak", help="Reward verdicts that could be forged.")] = False,
    workers: Annotated[int, typer.Option(min=0, max=1024, help="Sandboxes at once; 0 means one a core.")] = 0,
    cpu_seconds: Annotated[float | None, typer.Option(help="CPU limit of a program, over the problem's own.")] = None,
    memory: Annotated[int | None, typer.Option(metavar="MB", help="Memory limit of a program, likewise.")] = None,
    address: Annotated[str | None, typer.Option(metavar="RAY", help="Judge on this Ray cluster's sandboxes.")] = None,
    packages: Packages = None,
) -> None:
    """Score programs as training would: verdict, CodeBLEU, explanation, reward; one line a sample.

    Example: ledex score --problems mbpp@test --arm hardened refinements.jsonl --out rewards.jsonl
    """
    check_flags(problems, samples, False, cpu_seconds, memory, out)
    chosen = resolve_arm(arm, "--arm")
    parsed_weights = _weights(weights)
    bad = BadLines(samples)
    config = JudgeConfig(packages=tuple(packages or ()))
    taken: list[Sample] = []
    try:
        loaded = [with_limits(problem, cpu_seconds, memory) for problem in ready_problems(problems, config)]
        rows = read_lines(samples, loaded, bad, partial(_candidate, arm=chosen))
        scored = score_many(
            _remembering(rows, taken),
            chosen,
            similarity=_LazyEncoder(encoder),
            weights=parsed_weights,
            allow_weak=allow_weak,
            judging=lambda pairs: judged(iter(pairs), config, address, workers),
        )
        tally = _write_all(scored, taken, chosen, out, count_lines(samples), f"{arm} on {problems}")
    except (TooWeak, StartFailed) as error:
        console.print(f"ledex score: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(FAILED) from None
    finally:
        bad.report()
    tally.report()
    raise SystemExit(BAD_INPUT if bad.count else FAILED if tally.infra else DONE)


class _LazyEncoder:
    """The encoder, loaded when the first explanation with references is met."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._similarity: Any = None

    def __call__(self, pairs: Sequence[tuple[str, Sequence[str]]]) -> Sequence[float | None]:
        if self._similarity is None:
            from launch.model_cache import resolve_encoder

            path = resolve_encoder(self._name, where="--encoder")
            try:
                from reward.explanation import ExplanationScorer

                self._similarity = ExplanationScorer(path).similarity
            except ImportError as error:
                raise BadInput("--encoder", f"explanations need {error.name}", expected="the extra `train`") from error
        found: Sequence[float | None] = self._similarity(pairs)
        return found


class _Tally:
    """What the summary says: the mean of each reward, and what was left unscored."""

    def __init__(self, title: str) -> None:
        self.title, self.n, self.infra = title, 0, 0
        self._rewards: list[float] = []
        self._passed = 0
        self._reasons: Counter[str] = Counter()

    def add(self, scored: Scored) -> None:
        self.n += 1
        self.infra += scored.verdict is not None and scored.verdict.status is Status.INFRA
        self._passed += scored.verdict is not None and scored.verdict.passed
        self._reasons.update(scored.reward.unscored)
        if scored.reward.scored:
            self._rewards.append(scored.reward.refinement)

    def report(self) -> None:
        mean = f"{sum(self._rewards) / len(self._rewards):+.3f}" if self._rewards else "none"
        lines = [
            f"{self.title}: {self.n} answers, {self._passed} passed, {len(self._rewards)} scored, mean R(r) {mean}"
        ]
        lines += [f"unscored {count}: {reason}" for reason, count in self._reasons.most_common(10)]
        for line in lines:
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def _weights(text: str) -> Weights:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise BadInput("--weights", "are no numbers", given=text, expected="e.g. 0.1,0.1,0.4,0.4") from None
    check_weights(values, "--weights")
    return (values[0], values[1], values[2], values[3])


def _candidate(line: bytes, problem: Problem, program: str, arm: Arm) -> Candidate:
    row: dict[str, Any] = json.loads(line)
    wrong = _text(row, "wrong_solution")
    if wrong is None and arm.repaired and not arm.is_users:
        raise ValueError(f"arm {arm.name} needs field 'wrong_solution'")
    return Candidate(
        problem,
        program,
        wrong_code=wrong,
        references=_texts(row, "references"),
        explanation=_text(row, "explanation"),
        reference_explanations=_texts(row, "reference_explanations"),
    )


def _text(row: dict[str, Any], name: str) -> str | None:
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"field '{name}' is not a string but {type(value).__name__}")
    return value


def _texts(row: dict[str, Any], name: str) -> tuple[str, ...]:
    value = row.get(name)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ValueError(f"field '{name}' is not a list of strings")
    return tuple(value)


def _remembering(rows: Iterator[tuple[Sample, Candidate]], taken: list[Sample]) -> Iterator[Candidate]:
    """The candidates; their samples are appended to `taken`, in the order in which the scores will come."""
    for sample, candidate in rows:
        taken.append(sample)
        yield candidate


def _write_all(scored: Iterator[Scored], taken: list[Sample], arm: Arm, out: Path | None, n: int, title: str) -> _Tally:
    tally = _Tally(title)
    with output(out) as file, task(f"scoring {title}", n) as progress:
        for item in scored:
            file.write(json.dumps(_line(taken.pop(0), item, arm)) + "\n")
            tally.add(item)
            progress.advance(note=f"{tally.n} scored")
        if tally.n == 0:
            raise BadInput(title, "there is nothing to score", expected="at least one good line")
    return tally


def _line(sample: Sample, scored: Scored, arm: Arm) -> dict[str, object]:
    """The verdict line of `ledex judge` and the reward; null where a term was not measured."""
    terms, reward = scored.terms, scored.reward
    line: dict[str, object] = verdict_row(sample, scored.verdict or Verdict(Status.INFRA))
    if scored.verdict is None:  # nothing was executed: nothing to say of the tests
        kept = ("task_id", "index", "line")
        line = {key: value if key in kept else [] if key == "tests" else None for key, value in line.items()}
    line |= {
        "arm": arm.name,
        "codebleu": asdict(terms.codebleu) if terms.codebleu else None,
        "explanation_similarity": scored.similarity,
        "reward_refinement": reward.refinement if reward.scored else None,
        "reward_explanation": reward.explanation if reward.scored else None,
        "unscored": list(reward.unscored),
    }
    if arm.repaired:
        line["codebleu_repaired"] = asdict(terms.codebleu_repaired) if terms.codebleu_repaired else None
        line["codebleu_wrong"] = asdict(terms.codebleu_wrong) if terms.codebleu_wrong else None
        line["copied"], line["renamed_copy"] = terms.copied, terms.renamed_copy
    return line
