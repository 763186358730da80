"""How far the sandbox pool scales: throughput against the ideal for 1 to 64 sandboxes, and the driver's CPU a verdict.

    python -m benchmarks.pool_scaling [--sandboxes 1,4,16,64] [--seconds 15] [--scale 20]

The pool, its client, Ray and the records that travel are the real ones. The sandboxes are stand-ins that sleep as long
as real verdicts took (recorded first, on this machine, from the bundled problems and their mutants) instead of working,
so that more of them run than there are cores; eight share a process, as sleeping takes no CPU. The ideal is the sum of
the sleeps over the number of sandboxes. `driver CPU` is this process with the client in it: what bounds one driver.
Not measured: the network between nodes, and real sandboxes that share a memory bus.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import ray
import typer
from rich.console import Console
from rich.table import Table

from actors.local_ray import start_ray
from actors.sandbox import SandboxClient, SandboxInfo, ScoreRequest, ScoreResult
from ledex_ray.config import SandboxConfig
from ledex_ray.mutants import mutants
from ledex_ray.problems import Problem
from reward.judge import Judge, JudgeConfig, ready_problems
from reward.scorer import Scorer
from reward.terms import TextJob

PER_PROCESS = 8
BATCH = 16


class SleepingSandboxes:
    """Eight stand-ins: each verdict is a recorded one, and takes as long as that did."""

    def __init__(self, results: Sequence[ScoreResult], seconds: Sequence[float]) -> None:
        self._results, self._seconds = results, seconds
        self._locks = [threading.Lock() for _ in range(PER_PROCESS)]

    def ready(self) -> SandboxInfo:
        return SandboxInfo(os.getpid(), ray.get_runtime_context().get_node_id(), "none", ())

    def stalled_seconds(self) -> float:
        return 0.0

    def score(self, slot: int, requests: Sequence[ScoreRequest]) -> list[ScoreResult]:
        found = []
        with self._locks[slot]:  # a sandbox works on one batch at a time
            for request in requests:
                which = int(request.id) % len(self._results)
                time.sleep(self._seconds[which])
                recorded = self._results[which]
                found.append(ScoreResult(request.id, recorded.terms, recorded.verdict))
        return found


class Slot:
    """One stand-in of a process, called as a sandbox actor's handle is."""

    def __init__(self, process: Any, slot: int) -> None:
        self._actor_id, self.ready, self.stalled_seconds = process._actor_id, process.ready, process.stalled_seconds
        self.score = self
        self._call, self._slot = process.score, slot

    def remote(self, requests: Sequence[ScoreRequest]) -> ray.ObjectRef:
        return self._call.remote(self._slot, requests)


def record(count: int) -> tuple[list[ScoreRequest], list[ScoreResult], list[float]]:
    """Requests with the results that a real judge and scorer gave them, and how long each took."""
    pairs: list[tuple[Problem, str]] = []
    for problem in ready_problems("bundled@train"):
        for right in problem.canonical_solutions[:1]:
            pairs += [(problem, right), *((problem, mutant.source) for mutant in mutants(right)[::7])]
    random.Random(0).shuffle(pairs)
    requests, results, seconds = [], [], []
    scorer = Scorer()
    with Judge(JudgeConfig(floor="none")) as judge:
        for index, (problem, code) in enumerate(pairs[:count]):
            job = TextJob(
                str(index), code=code, entry_point=problem.entry_point, references=problem.canonical_solutions
            )
            started = time.perf_counter()
            terms = scorer.score([job])[0]
            verdict = judge.judge(problem, code)
            seconds.append(time.perf_counter() - started)
            requests.append(ScoreRequest(str(index), problem, job))
            results.append(ScoreResult(str(index), terms, verdict))
    return requests, results, seconds


def measure(
    sandboxes: int,
    requests: Sequence[ScoreRequest],
    results: Sequence[ScoreResult],
    seconds: Sequence[float],
    target_seconds: float,
) -> dict[str, float]:
    """Throughput, the share of the ideal, and this process's CPU a verdict, over about `target_seconds`."""
    start = ray.remote(SleepingSandboxes).options(num_cpus=0, max_concurrency=4 * PER_PROCESS)
    processes: list[Any] = [start.remote(results, seconds) for _ in range(-(-sandboxes // PER_PROCESS))]
    actors = {f"sandbox-{i}": Slot(processes[i // PER_PROCESS], i % PER_PROCESS) for i in range(sandboxes)}
    ray.get([process.ready.remote() for process in processes])
    client = SandboxClient(actors, SandboxConfig(batch_size=BATCH))
    count = max(4 * BATCH * sandboxes, int(target_seconds * sandboxes / statistics.mean(seconds)))
    ids = [str(index) for index in range(count)]

    def stream() -> Iterator[ScoreRequest]:
        for index, item_id in enumerate(ids):
            request = requests[index % len(requests)]
            yield ScoreRequest(item_id, request.problem, request.job)

    for _ in client.score(ScoreRequest(str(i), requests[0].problem, requests[0].job) for i in range(sandboxes)):
        pass  # connections are made here, before the clock
    wall, cpu = time.perf_counter(), time.process_time()
    done = sum(1 for _ in client.score(stream()))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert done == count
    for process in processes:
        ray.kill(process)
    ideal = sum(seconds[int(i) % len(seconds)] for i in ids) / sandboxes
    return {
        "verdicts": count,
        "per_second": count / wall,
        "of_ideal": ideal / wall,
        "driver_cpu_ms": 1e3 * cpu / count,
        "driver_share": cpu / wall,
    }


def main(
    sandboxes: Annotated[str, typer.Option(help="How many, as a list.")] = "1,2,4,8,16,32,64",
    seconds: Annotated[float, typer.Option(help="About how long each is measured.")] = 15.0,
    recorded: Annotated[int, typer.Option(help="Verdicts to record.")] = 300,
    scale: Annotated[float, typer.Option(help="Sleep so many times as long: contest problems have many cases.")] = 1.0,
    out: Annotated[Path | None, typer.Option(help="Where the figures go as JSON.")] = None,
) -> None:
    """Measure and print a table, and what it means for more sandboxes than were measured."""
    console = Console()
    requests, results, latencies = record(recorded)
    latencies = [scale * seconds_each for seconds_each in latencies]
    mean = statistics.mean(latencies)
    tail = statistics.quantiles(latencies, n=100)[98]
    console.print(
        f"recorded {len(latencies)} verdicts, times {scale:g}: mean {1e3 * mean:.1f} ms, "
        f"median {1e3 * statistics.median(latencies):.1f} ms, 99th percentile {1e3 * tail:.0f} ms"
    )
    start_ray("local")
    table = Table(title=f"sandbox pool, batches of {BATCH}")
    for heading in ("sandboxes", "verdicts/s", "of ideal", "driver CPU ms a verdict", "driver busy"):
        table.add_column(heading, justify="right")
    figures: dict[int, dict[str, float]] = {}
    for count in map(int, sandboxes.split(",")):
        found = figures[count] = measure(count, requests, results, latencies, seconds)
        table.add_row(
            str(count),
            f"{found['per_second']:.0f}",
            f"{found['of_ideal']:.1%}",
            f"{found['driver_cpu_ms']:.2f}",
            f"{found['driver_share']:.0%}",
        )
    console.print(table)
    cost = figures[max(figures)]["driver_cpu_ms"] / 1e3
    reach, clients = mean / cost, 1000 / mean * cost
    console.print(
        f"A core of one client does {1 / cost:.0f} verdicts a second: {reach:.0f} sandboxes at {1e3 * mean:.0f} ms.\n"
        f"1,000 sandboxes keep {clients:.1f} cores of clients busy (Ray Data's tasks are clients too)."
    )
    if out:
        out.write_text(json.dumps({"latency_mean": mean, "sandboxes": figures}, indent=1))


if __name__ == "__main__":
    typer.run(main)
