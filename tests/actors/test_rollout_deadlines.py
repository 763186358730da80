"""What an engine that hangs cannot do: keep its actor waiting."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from actors import rollout_actor
from actors.generation import WeightsRef
from actors.rollout_actor import RolloutActor


class Hung:
    """An engine whose own process no longer answers."""

    async def pause_generation(self, **_: Any) -> None:
        await asyncio.Event().wait()


def test_an_engine_that_hangs_while_it_loads_weights_ends_its_actor(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []
    monkeypatch.setattr(rollout_actor, "_die", ended.append)
    actor = RolloutActor.__new__(RolloutActor)
    actor._held, actor._streamed = WeightsRef(0, "/first"), False
    actor._update, actor._load_seconds, actor._llm = asyncio.Lock(), 0.05, Hung()

    async def load() -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(actor.load("/weights", 3), 1.0)

    asyncio.run(load())
    assert ended == ["loading /weights: never finished"]
