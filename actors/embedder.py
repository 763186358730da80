"""The explanation encoder in an actor of its own, so that one copy serves the whole run, and its client."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray

from actors import watchdog
from actors.pool import Dropped
from actors.ray_pool import RayPool, Service

Pair = tuple[str, Sequence[str]]
"""An explanation and the reference explanations it is held against."""

READY_SECONDS = 300.0


@dataclass(frozen=True)
class EmbedderInfo:
    """What the embedder says of itself."""

    pid: int
    node_id: str


# Idempotent: a call lost with the process is run again by Ray.
@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=3, concurrency_groups={"control": 1})  # type: ignore[call-overload]
class EmbedderActor:
    """Similarities of explanations by the encoder in the directory `path`."""

    def __init__(self, path: str, device: str | None = None) -> None:
        from reward.explanation import ExplanationScorer

        watchdog.arm()
        self._scorer = ExplanationScorer(path, device=device)
        self._begun: float | None = None

    @ray.method(concurrency_group="control")
    def ready(self) -> EmbedderInfo:
        """What this embedder is; returns once it serves."""
        return EmbedderInfo(os.getpid(), ray.get_runtime_context().get_node_id())

    @ray.method(concurrency_group="control")
    def stalled_seconds(self) -> float:
        """How long the present call has been worked on; 0 while idle."""
        begun = self._begun
        return 0.0 if begun is None else time.monotonic() - begun

    def similarity(self, pairs: Sequence[Pair]) -> list[float | None]:
        """S_ex of each (explanation, reference explanations), in [-1, 1]; None without a reference."""
        self._begun = time.monotonic()
        try:
            return self._scorer.similarity(pairs)
        finally:
            self._begun = None

    def similarities(self, batches: Sequence[Sequence[Pair]]) -> list[list[float | None]]:
        """`similarity` of each batch."""
        return [self.similarity(pairs) for pairs in batches]


class EmbedderClient:
    """Similarities with a deadline: an encoder that hangs is ended, and asked again when it is back."""

    def __init__(self, actor: Any, deadline_seconds: float = 120.0) -> None:
        self._actor = actor
        self._service: Service[Sequence[Pair], list[float | None]] = Service(
            call=lambda actor, batches: actor.similarities.remote(batches),
            seconds=lambda n: deadline_seconds,
            ready_seconds=READY_SECONDS,
            kind="embedder",
        )

    def similarity(self, pairs: Sequence[Pair]) -> list[float | None]:
        """S_ex of each pair; all None where the encoder failed three times, or where a pair has no reference.

        Raises NoMembers when the encoder does not come back.
        """
        pool: RayPool[Sequence[Pair], list[float | None]] = RayPool({"embedder": self._actor}, self._service)
        ((_, result),) = pool.map([("pairs", pairs)])
        return [None] * len(pairs) if isinstance(result, Dropped) else result
