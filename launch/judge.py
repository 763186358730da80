"""`ledex judge`: samples in, verdicts out, on this machine's cores or on a cluster's sandboxes.

Formats and exit codes: docs/files.md. Bad lines are named on standard error
and get no verdict; what a sample's code does never stops the run.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from launch.console import console, task
from launch.samples import (
    BAD_INPUT,
    DONE,
    FAILED,
    SHOWN_BAD_LINES,
    BadLines,
    Packages,
    Sample,
    check_flags,
    count_lines,
    judged,
    output,
    read_samples,
    verdict_row,
    with_limits,
)
from ledex_ray.errors import BadInput
from ledex_ray.problems import Problem
from ledex_ray.records import Status, Verdict
from reward.judge import JudgeConfig, StartFailed, TooWeak, ready_problems

log = logging.getLogger(__name__)

KS = (1, 5, 10, 100)


def judge(
    problems: Annotated[str, typer.Option(metavar="SPEC", help="humaneval, mbpp, jsonl:FILE, ...; may end in @SPLIT.")],
    samples: Annotated[
        str | None,
        typer.Argument(metavar="[SAMPLES]", help="JSONL of task_id and solution or completion; - for stdin."),
    ] = None,
    canonical: Annotated[bool, typer.Option("--canonical", help="Judge the problems' own solutions.")] = False,
    out: Annotated[Path | None, typer.Option(help="Where verdicts go; standard output if not given.")] = None,
    workers: Annotated[int, typer.Option(min=0, max=1024, help="Sandboxes at once; 0 means one a core.")] = 0,
    cpu_seconds: Annotated[float | None, typer.Option(help="CPU limit of a program, over the problem's own.")] = None,
    memory: Annotated[int | None, typer.Option(metavar="MB", help="Memory limit of a program, likewise.")] = None,
    address: Annotated[str | None, typer.Option(metavar="RAY", help="Judge on this Ray cluster's sandboxes.")] = None,
    packages: Packages = None,
) -> None:
    """Judge programs by their problems' tests, isolated; one verdict a line.

    Exit 1 where a program could not be judged or, with --canonical, does not pass; 2 where input is bad.

    Example: ledex judge --problems humaneval samples.jsonl --out verdicts.jsonl
    """
    check_flags(problems, samples, canonical, cpu_seconds, memory, out)
    bad = BadLines(samples or "")
    config = JudgeConfig(packages=tuple(packages or ()))
    try:
        loaded = [with_limits(problem, cpu_seconds, memory) for problem in ready_problems(problems, config)]
        source = _canonical(loaded) if canonical else read_samples(samples or "-", loaded, bad)
        n = sum(len(p.canonical_solutions) for p in loaded) if canonical else count_lines(samples or "-")
        if canonical and not n:
            raise BadInput("--canonical", "no problem has canonical_solutions", given=problems)
        tally = _judge_all(source, n, problems, out, lambda pairs: judged(pairs, config, address, workers))
    except (TooWeak, StartFailed) as error:
        console.print(f"ledex judge: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(FAILED) from None
    finally:
        bad.report()
    tally.report()
    raise SystemExit(BAD_INPUT if bad.count else FAILED if tally.infra or tally.broken else DONE)


def _canonical(problems: Iterable[Problem]) -> Iterator[Sample]:
    for problem in problems:
        for index, program in enumerate(problem.canonical_solutions):
            yield Sample(problem, program, index, None)


class Tally:
    """What the summary says."""

    def __init__(self, title: str) -> None:
        self.title, self.n = title, 0
        self.statuses: Counter[Status] = Counter()
        self._weak = 0
        self._passed: defaultdict[str, list[bool]] = defaultdict(list)
        self.infra: list[str] = []
        self.broken: list[str] = []  # problems' own solutions that fail

    def add(self, sample: Sample, verdict: Verdict) -> None:
        self.n += 1
        self.statuses[verdict.status] += 1
        self._weak += verdict.weak
        if verdict.status is Status.INFRA:  # no verdict on the program: it takes no part in pass@k
            self.infra.append(f"INFRA {sample.problem.id}: {verdict.tests[0].error if verdict.tests else ''}")
        else:
            self._passed[sample.problem.id].append(verdict.passed)
            if sample.line is None and not verdict.passed:
                self.broken.append(f"{verdict.status} {sample.problem.id}, index {sample.index}")

    def report(self) -> None:
        from ledex_ray.passk import mean_pass_at_k  # on call: it imports scipy, for which judging need not wait

        counts = ", ".join(f"{status} {self.statuses[status]}" for status in Status if self.statuses[status])
        lines = [f"{self.title}: {self.n} programs of {len(self._passed)} tasks: {counts}; weak {self._weak}"]
        least = min(map(len, self._passed.values()), default=0)
        counted = {task_id: (len(passed), sum(passed)) for task_id, passed in self._passed.items()}
        rates = [f"pass@{k} {mean_pass_at_k(counted, k):.4f}" for k in KS if k <= least]
        if rates:
            lines.append(" ".join(rates))
        lines += self.infra[:SHOWN_BAD_LINES] + self.broken[:SHOWN_BAD_LINES]
        for text in lines:
            console.print(text, markup=False, highlight=False, soft_wrap=True)


def _judge_all(
    samples: Iterator[Sample],
    n: int,
    title: str,
    out: Path | None,
    judging: Callable[[Iterator[tuple[Problem, str]]], Generator[Verdict]],
) -> Tally:
    """Judges every sample and writes a line for each, in order; `out` appears whole or not at all."""
    tally = Tally(title)
    taken: list[Sample] = []

    def pairs() -> Iterator[tuple[Problem, str]]:
        for sample in samples:
            taken.append(sample)
            yield sample.problem, sample.program

    verdicts = judging(pairs())
    with output(out) as file, task(f"judging {title}", n) as progress, contextlib.closing(verdicts):
        for verdict in verdicts:
            sample = taken.pop(0)
            file.write(json.dumps(verdict_row(sample, verdict)) + "\n")
            tally.add(sample, verdict)
            progress.advance(note=f"passed {tally.statuses[Status.PASSED]} of {tally.n}")
        if tally.n == 0:
            raise BadInput(title, "there is nothing to judge", expected="at least one good line")
    return tally
