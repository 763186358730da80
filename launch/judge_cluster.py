"""Judging on a Ray cluster's sandboxes: the same pairs in, the same verdicts out, in the order of the input."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from itertools import chain, islice

import ray

from actors.capacity import make_room
from actors.local_ray import start_ray
from actors.sandbox import READY_SECONDS, ScoreRequest
from actors.sandbox_group import SandboxGroup
from ledex_ray.config import SandboxConfig
from ledex_ray.placement import Demand
from ledex_ray.problems import Limits, Problem
from ledex_ray.records import Verdict
from reward.judge import refuse
from reward.judge.verdicts import rejected
from reward.terms import TextJob


def judge_on_cluster(
    pairs: Iterator[tuple[Problem, str]], address: str, workers: int, packages: tuple[str, ...] = ()
) -> Generator[Verdict]:
    """Verdicts in the order of the pairs. `workers` 0 means one sandbox a core of the cluster, no more than programs.

    What is refused at the door is not sent. Raises BadInput where the cluster has no place for the sandboxes,
    `actors.ray_pool.NoMembers` when none of them comes up.
    """
    start_ray(address)
    most = workers or max(1, int(ray.cluster_resources().get("sandbox", 1)))
    first = list(islice(pairs, most))  # Ray calls a sandbox a crash that is ended while it still starts
    sandboxes = max(1, len(first))
    make_room([Demand("sandbox", ({"sandbox": 1},) * (sandboxes if workers else 1), "SPREAD")], READY_SECONDS)
    default = Limits()
    config = SandboxConfig(
        floor="C",
        packages=packages,
        actors=sandboxes,
        cpu_seconds=default.cpu_seconds,
        memory_mb=default.memory_mb,
    )
    waiting: dict[int, Verdict] = {}
    sent = given = 0

    def requests() -> Iterator[ScoreRequest]:
        nonlocal sent
        for problem, program in chain(first, pairs):
            reason = refuse(program)
            if reason:
                waiting[sent] = rejected(problem, reason, "")
            else:
                yield ScoreRequest(str(sent), problem, TextJob(str(sent), code=program, codebleu=False, read=False))
            sent += 1

    group = SandboxGroup(config)
    try:
        for result in group.client().score(requests()):
            assert result.verdict is not None, "execution was asked for"
            waiting[int(result.id)] = result.verdict
            while given in waiting:
                yield waiting.pop(given)
                given += 1
        while given in waiting:
            yield waiting.pop(given)
            given += 1
    finally:
        group.shutdown()
