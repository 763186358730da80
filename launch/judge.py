"""`ledex judge`: samples in, verdicts out, on this machine's cores or on a cluster's sandboxes.

Formats and exit codes are those of DESIGN.md, "Files that others may rely on". Bad lines are named on standard error
and get no verdict; what a sample's code does never stops the run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from launch.console import console, task
from ledex_ray.errors import BadInput
from ledex_ray.problems import Limits, Problem
from ledex_ray.readers.tasks import by_task_id, resolve_task_id
from ledex_ray.records import Status, TestResult, Verdict
from reward.judge import JudgeConfig, StartFailed, TooWeak, judge_many, ready_problems
from reward.judge.many import cores

log = logging.getLogger(__name__)

DONE, FAILED, BAD_INPUT = 0, 1, 2
SHOWN_BAD_LINES = 20
KS = (1, 5, 10, 100)


@dataclass(frozen=True)
class Sample:
    """A program to judge: the n-th of its task, and the line it came from (None for a canonical solution)."""

    problem: Problem
    program: str
    index: int
    line: int | None


def judge(
    problems: Annotated[str, typer.Option(metavar="SPEC", help="humaneval, mbpp, jsonl:FILE, ...; may end in @SPLIT.")],
    samples: Annotated[
        str | None,
        typer.Argument(metavar="[SAMPLES]", help="JSONL of task_id and solution or completion; - for stdin."),
    ] = None,
    canonical: Annotated[bool, typer.Option("--canonical", help="Judge the problems' own solutions.")] = False,
    out: Annotated[Path | None, typer.Option(help="Where verdicts go; standard output if not given.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Sandboxes at once; 0 means one a core.")] = 0,
    cpu_seconds: Annotated[float | None, typer.Option(help="CPU limit of a program, over the problem's own.")] = None,
    memory: Annotated[int | None, typer.Option(metavar="MB", help="Memory limit of a program, likewise.")] = None,
    address: Annotated[str | None, typer.Option(metavar="RAY", help="Judge on this Ray cluster's sandboxes.")] = None,
) -> None:
    """Judge programs by their problems' tests, isolated; one verdict a line.

    Example: ledex judge --problems humaneval samples.jsonl --out verdicts.jsonl
    """
    _check(samples, canonical, cpu_seconds, memory, out)
    loaded = [_with_limits(problem, cpu_seconds, memory) for problem in ready_problems(problems)]
    bad = BadLines(samples or "")
    source = _canonical(loaded) if canonical else read_samples(samples or "-", loaded, bad)
    n = sum(len(p.canonical_solutions) for p in loaded) if canonical else _n_lines(samples or "-")
    try:
        tally = _judge_all(source, n, problems, out, workers, address)
    except (TooWeak, StartFailed) as error:
        console.print(f"ledex judge: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(FAILED) from None
    finally:
        bad.report()
    tally.report()
    raise SystemExit(BAD_INPUT if bad.count else FAILED if tally.statuses[Status.INFRA] else DONE)


def _check(
    samples: str | None, canonical: bool, cpu_seconds: float | None, memory: int | None, out: Path | None
) -> None:
    if (samples is None) == (not canonical):
        raise BadInput("ledex judge", "give either SAMPLES or --canonical", given=samples)
    if cpu_seconds is not None and not 0 < cpu_seconds < 86_400:
        raise BadInput("--cpu-seconds", "out of range", given=cpu_seconds, expected="seconds, above 0")
    if memory is not None and not 64 <= memory <= 1 << 20:
        raise BadInput("--memory", "out of range", given=memory, expected="megabytes, 64 or more")
    if samples not in (None, "-") and not Path(samples).is_file():
        raise BadInput(samples, "no such file", expected="a JSONL file, or - for standard input")
    if out is not None and not out.parent.is_dir():
        raise BadInput(str(out), "its folder does not exist")


def _with_limits(problem: Problem, cpu_seconds: float | None, memory: int | None) -> Problem:
    """The problem with the flags' limits over its own; unchanged where no flag was given."""
    if cpu_seconds is None and memory is None:
        return problem
    own = problem.limits or Limits()
    cpu = own.cpu_seconds if cpu_seconds is None else cpu_seconds
    return dataclasses.replace(problem, limits=Limits(cpu, own.memory_mb if memory is None else memory))


class BadLines:
    """Lines that cannot be judged: named on standard error, the first few in full, the rest counted."""

    def __init__(self, source: str) -> None:
        self._source, self.count = source, 0

    def add(self, line: int, problem: str) -> None:
        self.count += 1
        if self.count <= SHOWN_BAD_LINES:
            where = f"{self._source}:{line}"
            console.print(f"{where}: {problem}", style="yellow", markup=False, highlight=False, soft_wrap=True)

    def report(self) -> None:
        if self.count > SHOWN_BAD_LINES:
            console.print(f"{self._source}: {self.count - SHOWN_BAD_LINES} more bad lines", style="yellow")


def read_samples(source: str, problems: Iterable[Problem], bad: BadLines) -> Iterator[Sample]:
    """The good lines of a samples file in its order; the others go to `bad`."""
    index = by_task_id(problems)
    seen: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        lines: IO[bytes] = sys.stdin.buffer if source == "-" else stack.enter_context(open(source, "rb"))
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                problem, program = _sample(line, index)
            except ValueError as error:
                bad.add(number, str(error))
                continue
            yield Sample(problem, program, seen[problem.id], number)
            seen[problem.id] += 1


def _sample(line: bytes, index: dict[str, Problem]) -> tuple[Problem, str]:
    """The problem and the whole program of one line; ValueError says what is wrong with it."""
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON ({type(error).__name__}: {str(error)[:100]})") from None
    if not isinstance(row, dict):
        raise ValueError(f"is not a JSON object but {type(row).__name__}")
    if "task_id" not in row:
        raise ValueError("field 'task_id' is missing")
    problem = resolve_task_id(row["task_id"], index)
    if problem is None:
        raise ValueError(f"task_id {str(row['task_id'])[:80]!r} is no problem of the set")
    given = [name for name in ("solution", "completion") if row.get(name) is not None]
    if len(given) != 1:
        raise ValueError("needs either 'solution' or 'completion'" + (", has both" if given else ""))
    text = row[given[0]]
    if not isinstance(text, str):
        raise ValueError(f"field '{given[0]}' is not a string but {type(text).__name__}")
    if given == ["solution"]:
        return problem, text
    if not problem.prompt:
        raise ValueError(f"problem {problem.id} has no prompt that a 'completion' could be appended to")
    return problem, problem.prompt + text


def _n_lines(source: str) -> int:
    """How many lines a file has, for the progress bar; 0 for standard input."""
    if source == "-":
        return 0
    with open(source, "rb") as file:
        return sum(1 for _ in file)


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
        self._infra: list[str] = []

    def add(self, sample: Sample, verdict: Verdict) -> None:
        self.n += 1
        self.statuses[verdict.status] += 1
        self._weak += verdict.weak
        if verdict.status is Status.INFRA:  # no verdict on the program: it takes no part in pass@k
            self._infra.append(f"{sample.problem.id}: {verdict.tests[0].error if verdict.tests else ''}")
        else:
            self._passed[sample.problem.id].append(verdict.passed)

    def report(self) -> None:
        from ledex_ray.passk import mean_pass_at_k  # on call: it imports scipy, for which judging need not wait

        counts = ", ".join(f"{status} {self.statuses[status]}" for status in Status if self.statuses[status])
        lines = [f"{self.title}: {self.n} programs of {len(self._passed)} tasks: {counts}; weak {self._weak}"]
        least = min(map(len, self._passed.values()), default=0)
        counted = {task_id: (len(passed), sum(passed)) for task_id, passed in self._passed.items()}
        rates = [f"pass@{k} {mean_pass_at_k(counted, k):.4f}" for k in KS if k <= least]
        if rates:
            lines.append(" ".join(rates))
        lines += [f"INFRA {line}" for line in self._infra[:SHOWN_BAD_LINES]]
        for text in lines:
            console.print(text, markup=False, highlight=False, soft_wrap=True)


def _judge_all(
    samples: Iterator[Sample], n: int, title: str, out: Path | None, workers: int, address: str | None
) -> Tally:
    """Judges every sample and writes a line for each, in order; `out` appears whole or not at all."""
    tally = Tally(title)
    taken: list[Sample] = []

    def pairs() -> Iterator[tuple[Problem, str]]:
        for sample in samples:
            taken.append(sample)
            yield sample.problem, sample.program

    verdicts = (
        _on_cluster(pairs(), address, workers) if address else judge_many(pairs(), workers or cores(), JudgeConfig())
    )
    with _output(out) as file, task(f"judging {title}", n) as progress, contextlib.closing(verdicts):
        for verdict in verdicts:
            sample = taken.pop(0)
            file.write(json.dumps(_row(sample, verdict)) + "\n")
            tally.add(sample, verdict)
            progress.advance(note=f"passed {tally.statuses[Status.PASSED]} of {tally.n}")
        if tally.n == 0:
            raise BadInput(title, "there is nothing to judge", expected="at least one good line")
    return tally


def _on_cluster(pairs: Iterator[tuple[Problem, str]], address: str, workers: int) -> Generator[Verdict]:
    from launch.judge_cluster import judge_on_cluster  # on call: only this way imports Ray

    yield from judge_on_cluster(pairs, address, workers)


@contextlib.contextmanager
def _output(out: Path | None) -> Iterator[IO[str]]:
    """Standard output, or a temporary file that becomes `out` when all is written."""
    if out is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    descriptor, name = tempfile.mkstemp(prefix=f".{out.name}.", dir=out.parent)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, out)
    except BaseException:
        os.unlink(name)
        raise


def _row(sample: Sample, verdict: Verdict) -> dict[str, object]:
    """One output line, with the problem's own id."""
    return {
        "task_id": sample.problem.id,
        "index": sample.index,
        "line": sample.line,
        "status": str(verdict.status),
        "passed": verdict.passed,
        "n_passed": verdict.n_passed,
        "n_tests": verdict.n_tests,
        "weak": verdict.weak,
        "tier": verdict.tier,
        "tests": [_test_row(test) for test in verdict.tests],
        "feedback": verdict.feedback,
        "cpu_seconds": verdict.cpu_seconds,
        "wall_seconds": verdict.wall_seconds,
        "peak_memory_mb": verdict.peak_memory_mb,
    }


def _test_row(test: TestResult) -> dict[str, object]:
    return {**dataclasses.asdict(test), "status": str(test.status)}


if __name__ == "__main__":
    from launch.cli import main  # the same conversion of errors into exit codes

    sys.argv.insert(1, "judge")
    main()
