"""The explanation encoder in an actor of its own, so that one copy serves the whole run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import ray

from actors import watchdog


@dataclass(frozen=True)
class EmbedderInfo:
    """What the embedder says of itself."""

    pid: int
    node_id: str


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=3)  # idempotent: a call lost with the process is run again
class EmbedderActor:
    """Similarities of explanations by the encoder in the directory `path`."""

    def __init__(self, path: str, device: str | None = None) -> None:
        from reward.explanation import ExplanationScorer

        watchdog.arm()
        self._scorer = ExplanationScorer(path, device=device)

    def ready(self) -> EmbedderInfo:
        """What this embedder is; returns once it serves."""
        return EmbedderInfo(os.getpid(), ray.get_runtime_context().get_node_id())

    def similarity(self, pairs: Sequence[tuple[str, Sequence[str]]]) -> list[float | None]:
        """S_ex of each (explanation, reference explanations), in [-1, 1]; None without a reference."""
        return self._scorer.similarity(pairs)
