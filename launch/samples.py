"""Samples in, verdict lines out: what `ledex judge` and `ledex score` share.

Formats: docs/files.md. Bad lines are named on standard error and skipped.
"""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any, TypeVar

import typer

from launch.console import console
from ledex_ray.errors import BadInput
from ledex_ray.problems import Limits, Problem
from ledex_ray.readers import local_set
from ledex_ray.readers.tasks import by_task_id, resolve_task_id
from ledex_ray.records import TestResult, Verdict
from reward.judge import JudgeConfig, judge_many
from reward.judge.many import cores

T = TypeVar("T")

DONE, FAILED, BAD_INPUT = 0, 1, 2
SHOWN_BAD_LINES = 20


@dataclass(frozen=True)
class Sample:
    """A program to judge: the n-th of its task, and the line it came from (None for a canonical solution)."""

    problem: Problem
    program: str
    index: int
    line: int | None


Packages = Annotated[
    list[str] | None,
    typer.Option("--packages", metavar="DIR", help="Folder of packages that programs may import; may be repeated."),
]


def check_flags(
    problems: str,
    samples: str | None,
    canonical: bool,
    cpu_seconds: float | None,
    memory: int | None,
    out: Path | None,
) -> None:
    if (samples is None) == (not canonical):
        raise BadInput(
            "SAMPLES or --canonical", "give one of them" + (", not both" if canonical else ""), given=samples
        )
    if cpu_seconds is not None and not 0 < cpu_seconds < 86_400:
        raise BadInput("--cpu-seconds", "out of range", given=cpu_seconds, expected="seconds, above 0")
    if memory is not None and not 64 <= memory <= 1 << 20:
        raise BadInput("--memory", "out of range", given=memory, expected="megabytes, 64 or more")
    if samples not in (None, "-"):
        wanted = "a JSONL file, or - for standard input"
        if Path(samples).is_dir():
            raise BadInput(samples, "is a folder", expected=wanted)
        if not Path(samples).exists():  # it may be a pipe
            raise BadInput(samples, "no such file", expected=wanted)
    if out is not None and not out.parent.is_dir():
        raise BadInput(str(out), "its folder does not exist")
    if out is not None and out.is_dir():
        raise BadInput("--out", "is a folder", given=str(out), expected="a file, which may exist already")
    read = [path for path in (Path(samples or "-"), local_set(problems)) if path is not None]
    if out is not None and out.is_file() and any(path.is_file() and path.samefile(out) for path in read):
        raise BadInput("--out", "is one of the files that are read", given=str(out), expected="another file")


def with_limits(problem: Problem, cpu_seconds: float | None, memory: int | None) -> Problem:
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
    return (sample for sample, _ in read_lines(source, problems, bad, lambda line, problem, program: None))


def count_lines(source: str) -> int:
    """How many lines a file has, for the progress bar; 0 for standard input and pipes, which are read once."""
    if source == "-" or not Path(source).is_file():
        return 0
    with open(source, "rb") as file:
        return sum(1 for _ in file)


def read_lines(
    source: str, problems: Iterable[Problem], bad: BadLines, rest: Callable[[bytes, Problem, str], T]
) -> Iterator[tuple[Sample, T]]:
    """Each good line's sample, and what `rest` makes of the line; a ValueError of its makes the line a bad one."""
    index = by_task_id(problems)
    seen: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        lines: IO[bytes] = sys.stdin.buffer if source == "-" else stack.enter_context(open(source, "rb"))
        for number, line in enumerate(lines, start=1):
            line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if not line.strip():
                continue
            try:
                problem, program = parse_sample(line, index)
                made = rest(line, problem, program)
            except ValueError as error:
                bad.add(number, str(error))
                continue
            yield Sample(problem, program, seen[problem.id], number), made
            seen[problem.id] += 1


def parse_sample(line: bytes, index: dict[str, Problem]) -> tuple[Problem, str]:
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


def judged(
    pairs: Iterator[tuple[Problem, str]], config: JudgeConfig, address: str | None, workers: int
) -> Generator[Verdict]:
    """Verdicts in the order of the pairs, from this machine's cores or, with an address, a cluster's sandboxes."""
    if not address:
        yield from judge_many(pairs, workers or cores(), config)
        return
    from launch.judge_cluster import judge_on_cluster  # on call: only this way imports Ray

    yield from judge_on_cluster(pairs, address, workers, config.packages)


@contextlib.contextmanager
def output(out: Path | None) -> Iterator[IO[str]]:
    """Standard output, or a temporary file that becomes `out` when all is written; a device or pipe is written to.

    Standard output then holds the results alone: what else is printed from here on (Ray's messages, which come when
    they come) goes to standard error.
    """
    if out is None:
        results, sys.stdout = sys.stdout, sys.stderr
        yield results
        results.flush()
        return
    if out.exists() and not out.is_file():
        with out.open("w", encoding="utf-8") as file:
            yield file
        return
    out = out.resolve()  # where a link leads, not over the link
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
    except BaseException:  # also an interrupt: nothing half-written stays, and the error goes on
        os.unlink(name)
        raise


def verdict_row(sample: Sample, verdict: Verdict) -> dict[str, object]:
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
