"""Judging many programs on this machine: a few workers in threads, verdicts in the order of the input."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path

from ledex_ray.problems import Problem
from ledex_ray.records import Verdict

from .config import JudgeConfig
from .worker import Judge


def cores() -> int:
    """CPU cores that this process may use, from its affinity and the cgroup's quota; at least 1."""
    count = len(os.sched_getaffinity(0))
    quota = Path("/sys/fs/cgroup/cpu.max")
    legacy = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")
    if quota.exists():
        limit, period = quota.read_text().split()
    elif all(path.exists() for path in legacy):
        limit, period = (path.read_text().strip() for path in legacy)
    else:
        return count
    if limit in ("max", "-1"):
        return count
    return max(1, min(count, int(limit) // int(period)))


def judge_many(
    pairs: Iterable[tuple[Problem, str]], workers: int = 0, config: JudgeConfig | None = None
) -> Generator[Verdict]:
    """Verdicts in the order of the pairs (problem, program); `workers` 0 means one a core.

    Pairs are taken a little ahead of the verdicts that were fetched. Raises what starting a Judge raises.
    """
    workers = workers or cores()
    if workers == 1:
        with Judge(config) as judge:
            for problem, program in pairs:
                yield judge.judge(problem, program)
        return
    tasks: queue.SimpleQueue[tuple[int, Problem, str] | None] = queue.SimpleQueue()
    results: queue.SimpleQueue[tuple[int, Verdict | BaseException]] = queue.SimpleQueue()

    def serve(judge: Judge) -> None:
        while (task := tasks.get()) is not None:
            index, problem, program = task
            try:
                results.put((index, judge.judge(problem, program)))
            except BaseException as error:  # handed to the caller, who is waiting for this index
                results.put((index, error))

    with contextlib.ExitStack() as judges:
        started = [judges.enter_context(Judge(config)) for _ in range(workers)]
        threads = [threading.Thread(target=serve, args=(judge,), daemon=True) for judge in started]
        for thread in threads:
            thread.start()
        try:
            yield from _in_order(iter(pairs), tasks, results, ahead=4 * workers)
        finally:
            with contextlib.suppress(queue.Empty):  # after an interrupt nobody waits for what has not begun
                while True:
                    tasks.get_nowait()
            for _ in threads:
                tasks.put(None)
            for thread in threads:
                thread.join()


def _in_order(
    pairs: Iterator[tuple[Problem, str]],
    tasks: queue.SimpleQueue[tuple[int, Problem, str] | None],
    results: queue.SimpleQueue[tuple[int, Verdict | BaseException]],
    ahead: int,
) -> Iterator[Verdict]:
    sent = given = 0
    exhausted = False
    waiting: dict[int, Verdict] = {}
    while True:
        while not exhausted and sent - given < ahead:
            pair = next(pairs, None)
            if pair is None:
                exhausted = True
            else:
                tasks.put((sent, *pair))
                sent += 1
        if given == sent:
            return
        while given not in waiting:
            index, outcome = results.get()
            if isinstance(outcome, BaseException):
                raise outcome
            waiting[index] = outcome
        yield waiting.pop(given)
        given += 1
