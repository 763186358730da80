"""The real encoder in its actor: similarities, and an encoder that is stopped."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import ray

from actors.embedder import EmbedderActor, EmbedderClient
from launch.model_cache import resolve_encoder

pytestmark = pytest.mark.slow

PAIRS = (
    ("The loop stops one element too early.", ("The last element is never visited by the loop.",)),
    ("The loop stops one element too early.", ("Paris is the capital of France.",)),
    ("", ("The last element is never visited by the loop.",)),
    ("The loop stops one element too early.", ()),
)


@pytest.fixture(scope="module")
def embedder(ray_session: None) -> Iterator[Any]:
    actor = EmbedderActor.remote(str(resolve_encoder("minilm")))  # type: ignore[attr-defined]
    yield actor
    ray.kill(actor)


def test_nearer_explanations_score_higher(embedder: Any) -> None:
    near, far, missing, unknown = EmbedderClient(embedder).similarity(PAIRS)
    assert near is not None and far is not None
    assert near > far + 0.2
    assert missing == 0.0 and unknown is None


def test_a_stopped_encoder_is_ended_and_answers_when_it_is_back(embedder: Any) -> None:
    before = ray.get(embedder.ready.remote(), timeout=120)
    expected = EmbedderClient(embedder).similarity(PAIRS)
    os.kill(before.pid, signal.SIGSTOP)
    assert EmbedderClient(embedder, deadline_seconds=3.0).similarity(PAIRS) == pytest.approx(expected, abs=1e-5)
    assert ray.get(embedder.ready.remote(), timeout=120).pid != before.pid
