"""One engine for every test that needs one: the tiny tied Llama in float32, so that comparisons are exact."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.rollout import RolloutGroup
from tests.actors.helpers import MODEL, SETTINGS


@pytest.fixture(scope="session")
def engines(ray_session: None, tiny_llama: Path) -> Iterator[RolloutGroup]:
    """A group of one engine that serves the tiny model as version 0."""
    group = RolloutGroup(SETTINGS, MODEL, tiny_llama)
    yield group
    group.shutdown()
