"""What an engine that hangs cannot do: keep its actor waiting."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
import ray

from actors import rollout_actor
from actors.generation import WeightsRef
from actors.rollout import RolloutGroup
from actors.rollout_actor import RolloutActor
from tests.actors.helpers import SETTINGS


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


class Asked:
    """An engine that counts how often it is asked whether it is there."""

    def __init__(self) -> None:
        self.times = 0

    def info(self) -> int:
        self.times += 1
        return self.times


def test_an_engine_that_never_comes_back_is_waited_for_once(ray_session: None) -> None:
    actor: Any = ray.remote(Asked)
    alive, lost = (actor.options(num_cpus=0).remote() for _ in range(2))
    group = RolloutGroup.__new__(RolloutGroup)
    group.config = SETTINGS
    group._absent, group._engines = {}, {"alive": alive, "lost": lost}
    assert group.wait_until_serving() == [alive, lost]
    group.config = SETTINGS.model_copy(update={"ready_seconds": 3.0})
    ray.kill(lost)
    with pytest.raises(ray.exceptions.RayActorError):
        while True:  # what was already on its way is still answered
            ray.get(lost.info.remote(), timeout=30)
    assert group.wait_until_serving() == [alive]
    before = ray.get(alive.info.remote())
    assert before > 3  # asked again and again while the other might have come back
    assert group.wait_until_serving() == [alive]
    assert ray.get(alive.info.remote()) == before + 2
    group._engines = {"alive": alive}
    assert group.wait_until_serving() == [alive] and not group._absent
