"""Sandbox actors: read an answer, run its code against the tests, in batches. No torch, no model.

Each actor owns one judge and one scorer, whose children do what is dangerous; this process only supervises. A client
(picklable) sends requests through the pool: a batch lost with its actor is done elsewhere, a verdict INFRA is tried by
other actors, then returned as INFRA. Not covered: isolation (reward/judge), what the terms are worth (reward/compose).
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray

from actors import watchdog
from actors.pool import Dropped
from actors.ray_pool import RayPool, Service
from actors.usage import Busy, Usage
from ledex_ray.answers import Answer
from ledex_ray.config import SandboxConfig
from ledex_ray.problems import Limits, Problem
from ledex_ray.records import Status, TestResult, TestStatus, Verdict
from reward.judge import Judge, JudgeConfig, StartFailed
from reward.scorer import Scorer
from reward.terms import TextJob, TextTerms

log = logging.getLogger(__name__)

LEASES = 2  # batches in an actor's hands: one worked on, one waiting
READY_SECONDS = 300.0  # on a cluster that grows, a node has to come up first


@dataclass(frozen=True)
class ScoreRequest:
    """One answer to read (`job`) and, if `execute`, to run against the problem's tests. `id` is unique in a call."""

    id: str
    problem: Problem
    job: TextJob
    execute: bool = True


@dataclass(frozen=True)
class ScoreResult:
    """What reading and running gave. `verdict` is None where execution was not asked for."""

    id: str
    terms: TextTerms
    verdict: Verdict | None


@dataclass(frozen=True)
class SandboxInfo:
    """What one sandbox says of itself."""

    pid: int
    node_id: str
    tier: str
    children: tuple[int, ...]


class SandboxActor:
    """One judge and one scorer. An actor that cannot get a sound judge ends, and Ray starts another."""

    def __init__(self, config: SandboxConfig) -> None:
        watchdog.arm()
        self._config = config
        self._may_take_until = time.monotonic()
        self._judge = self._new_judge()
        self._scorer = Scorer()
        self._busy = Busy()
        self._incarnation, self._served = uuid.uuid4().hex, 0

    @ray.method(concurrency_group="control")
    def ready(self) -> SandboxInfo:
        """What this sandbox is; returns once it serves."""
        node_id = ray.get_runtime_context().get_node_id()
        return SandboxInfo(os.getpid(), node_id, self._judge.tier, tuple(self._judge.pids()))

    @ray.method(concurrency_group="control")
    def stalled_seconds(self) -> float:
        """How long the present run of a program has been over its time; 0 while idle or within it."""
        return max(0.0, time.monotonic() - self._may_take_until) if self._busy.in_hand else 0.0

    @ray.method(concurrency_group="control")
    def usage(self) -> Usage:
        """What this sandbox has done."""
        return Usage(self._incarnation, self._busy.seconds, self._served)

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreResult]:
        """One result a request, in order; never raises for what an answer says or does."""
        self._on_step(0.0)
        with self._busy:
            return [self._score(request) for request in requests]

    def _score(self, request: ScoreRequest) -> ScoreResult:
        terms = self._scorer.score([request.job])[0]
        verdict = self._verdict(request.problem, terms.answer) if request.execute else None
        self._on_step(0.0)
        self._served += 1
        return ScoreResult(request.id, terms, verdict)

    def _on_step(self, seconds: float) -> None:
        """Something moves, and may now be silent for so long."""
        self._may_take_until = time.monotonic() + seconds

    def _verdict(self, problem: Problem, answer: Answer) -> Verdict:
        if not answer.code:
            return no_code(problem, self._judge.tier)
        if problem.limits is None:
            problem = replace(problem, limits=Limits(self._config.cpu_seconds, self._config.memory_mb))
        verdict = self._judge.judge(problem, answer.code)
        if not self._judge.sound:
            log.error("the judge misjudges its canaries; replaced")
            self._judge.close()
            self._judge = self._new_judge()
        return verdict

    def _new_judge(self) -> Judge:
        try:
            return Judge(judge_config(self._config), self._on_step)
        except StartFailed as failure:
            log.critical("sandbox actor ends: %s", failure)
            os._exit(70)


def judge_config(config: SandboxConfig) -> JudgeConfig:
    """What a recipe says of the judge itself."""
    return JudgeConfig(python=config.python or "", floor=config.floor, packages=config.packages)


def no_code(problem: Problem, tier: str) -> Verdict:
    """The verdict on an answer in which no code was found: every test counts, none was run."""
    tests = tuple(
        TestResult(index, index < problem.n_public, TestStatus.NOT_RUN) for index in range(len(problem.tests))
    )
    return Verdict(Status.ERROR, tests, tier=tier, feedback="no code", feedback_all="no code")


class SandboxClient:
    """Scores through the sandboxes it was given. Holds handles and settings alone, so it can be sent anywhere.

    With a `board` (sandbox_group.py) it says there how much waits, wherever it runs, and takes on the sandboxes that
    are added for it.
    """

    def __init__(self, actors: Mapping[str, Any], config: SandboxConfig, board: Any = None) -> None:
        self._actors = dict(actors)
        self._config = config
        self._board = board

    def score(
        self, requests: Iterable[ScoreRequest | None], called_off: Callable[[], bool] = lambda: False
    ) -> Iterator[ScoreResult]:
        """One result a request, as they finish; `requests` is read no faster than sandboxes work.

        A None among the requests: there is none now, and there may be one soon. A verdict INFRA says that several
        actors failed at it: never a reward. Raises ValueError for an id given twice, NoMembers when no sandbox comes
        back in time, CalledOff.
        """
        name = uuid.uuid4().hex
        pool: RayPool[ScoreRequest, ScoreResult] = RayPool(self._actors, self._service(name))
        try:
            items = (None if request is None else (request.id, request) for request in requests)
            for request_id, result in pool.map(items, called_off):
                yield _given_up(request_id, result) if isinstance(result, Dropped) else result
        finally:
            if self._board is not None:
                self._board.leave.remote(name)

    def _service(self, name: str) -> Service[ScoreRequest, ScoreResult]:
        config, board = self._config, self._board
        return Service(
            call=lambda actor, items: actor.score.remote(items),
            # Progress is by program, so the silence allowed does not grow with the batch.
            seconds=lambda n: config.deadline_seconds,
            ready_seconds=READY_SECONDS,
            kind="sandbox",
            batch_size=config.batch_size,
            leases_per_member=LEASES,
            accept=lambda result: result.verdict is None or result.verdict.status is not Status.INFRA,
            members=None if board is None else lambda waiting, holds: board.post.remote(name, waiting, holds),
        )


def _given_up(request_id: str, dropped: Dropped) -> ScoreResult:
    """The result of a request that ended three calls: an infrastructure fault, whatever the answer was."""
    reason = f"given up: {'; '.join(dropped.strikes)}"
    terms = TextTerms(request_id, Answer(), unscored=(reason,))
    return ScoreResult(request_id, terms, Verdict(Status.INFRA, feedback=reason, feedback_all=reason))
